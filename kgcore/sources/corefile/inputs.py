# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bytes of a core by their place in it: out of a file, or out of what can only be read forward.

A pipe, a socket and a compressed file are streams; of a stream what was read of its beginning stays at hand, until
:meth:`Stream.go_on`.
"""

import gzip
import importlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from kgcore.errors import KgcoreError, TargetError
from kgcore.system.regular import read_at

__all__ = ("STDIN", "CoreFileInput", "Input", "Stream", "opened")

STDIN = "-"
_PIECE = 1 << 20
_MAGIC_SIZE = 4
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_WINDOW = 128 << 20  # bytes that zstd may go back by


class Input(Protocol):
    """The bytes of a core.

    :ivar forward: they can be read once, in order.
    :ivar size: how many there are; None: not known before they are read.
    :ivar trouble: why they end where they do, if that is known: they were damaged or could not be read.
    """

    forward: bool
    size: int | None
    trouble: str

    def read(self, at: int, size: int) -> bytes:
        """Read all of these bytes, fewer only at the end.

        :raises OSError: some of them cannot be read.
        """

    def data_from(self, at: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield the parts of a range, and whether each has bytes, or is certainly zeros: a hole."""


class CoreFileInput:
    """A file.

    :param descriptor: of it; it is closed by whoever opened it.
    """

    forward = False
    trouble = ""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size: int | None = os.fstat(descriptor).st_size

    def read(self, at: int, size: int) -> bytes:
        """See :meth:`Input.read`."""
        return read_at(self._descriptor, size, at)

    def data_from(self, at: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """See :meth:`Input.data_from`."""
        while at < end:
            start = stop = end
            with suppress(OSError):  # ENXIO: nothing but a hole is left
                start = min(max(os.lseek(self._descriptor, at, os.SEEK_DATA), at), end)
                stop = min(max(os.lseek(self._descriptor, start, os.SEEK_HOLE), start), end) if start < end else end
            if at < start:
                yield at, start, False
            if start < stop:
                yield start, stop, True
            at = stop


class Stream:
    """What can only be read forward.

    :param take: reads some bytes, at most as many as it is asked for; without any it is at the end.
    """

    forward = True

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take
        self._kept: bytearray | None = bytearray()
        self._at = 0
        self.size: int | None = None
        self.trouble = ""

    def read(self, at: int, size: int) -> bytes:
        """See :meth:`Input.read`.

        :raises ValueError: that is behind, and not kept.
        """
        if self._kept is not None:
            while len(self._kept) < at + size and (piece := self._more(min(at + size - len(self._kept), _PIECE))):
                self._kept += piece
            with memoryview(self._kept) as kept:
                return bytes(kept[at : at + size])
        if at < self._at:
            raise ValueError(f"the stream is at {self._at} already, and cannot go back to {at}")
        while self._at < at and self._more(min(at - self._at, _PIECE)):
            pass
        found = bytearray()
        while self._at < at + size and (piece := self._more(min(at + size - self._at, _PIECE))):
            found += piece
        return bytes(found)

    def _more(self, size: int) -> bytes:
        if self.trouble:
            return b""
        try:
            piece = self._take(size)
        except _Damaged as error:
            self.trouble = str(error)
            return b""
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return b""
        self._at += len(piece)
        return piece

    def go_on(self) -> None:
        """Keep no more of it."""
        self._kept = None

    def data_from(self, at: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """See :meth:`Input.data_from`. Of a stream nobody knows before it is read."""
        if at < end:
            yield at, end, True


class _Damaged(Exception):
    """The rest cannot be unpacked."""


@contextmanager
def opened(core: str | BinaryIO) -> Iterator[Input]:
    """Open the bytes of a core, unpacked.

    :param core: a path, ``-`` for standard input, or a file object.
    :raises TargetError: it does not exist, or is neither a file nor a pipe.
    """
    if not isinstance(core, str):
        yield _of_object(core)
        return
    name = "standard input" if core == STDIN else core
    try:
        descriptor = os.dup(0) if core == STDIN else os.open(core, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise TargetError(f"cannot open {name}: {error.strerror}") from error
    try:
        yield _of_descriptor(descriptor, name)
    except OSError as error:
        raise TargetError(f"cannot read {name}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)


def _of_object(file: BinaryIO) -> Input:
    """A file object: by its descriptor if that is of a whole file, else as a stream."""
    with suppress(OSError, AttributeError, ValueError):
        descriptor = file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and file.tell() == 0:
            return _of_descriptor(descriptor, "the file")
    return _unpacked(_Ahead(file.read))


def _of_descriptor(descriptor: int, name: str) -> Input:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode) or stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor)):
        raise TargetError(f"{name} is neither a file nor a pipe", hint="give a core, or - for one on standard input")
    ahead = _Ahead(lambda size: os.read(descriptor, size))
    whole = stat.S_ISREG(mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    if whole and not os.pread(descriptor, _MAGIC_SIZE, 0).startswith((_GZIP, _ZSTD)):
        return CoreFileInput(descriptor)
    return _unpacked(ahead)


class _Ahead:
    """Reads a stream whose first bytes somebody wants to see beforehand; what decompressors read from."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take
        self._first = b""

    def first(self, size: int) -> bytes:
        while len(self._first) < size and (piece := self._take(size - len(self._first))):
            self._first += piece
        return self._first

    def read(self, size: int = -1) -> bytes:
        if self._first:
            size = len(self._first) if size < 0 else size
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        return self._take(_PIECE if size < 0 else size)


def _unpacked(ahead: _Ahead) -> Stream:
    """
    :raises KgcoreError: the library is not installed.
    """
    head = ahead.first(_MAGIC_SIZE)
    if head.startswith(_GZIP):
        return Stream(_gunzip(ahead))
    if head.startswith(_ZSTD):
        return Stream(_unzstd(ahead))
    return Stream(ahead.read)


def _gunzip(ahead: _Ahead) -> Callable[[int], bytes]:
    stream = gzip.GzipFile(fileobj=ahead, mode="rb")  # type: ignore[call-overload]  # it needs only read()

    def take(size: int) -> bytes:
        try:
            return bytes(stream.read(size))
        except EOFError:
            raise _Damaged("the compressed core is cut off") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _Damaged(f"the compressed core is damaged: {error}") from error

    return take


def _unzstd(ahead: _Ahead) -> Callable[[int], bytes]:
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise KgcoreError(
            "decompressing zstd needs the Python package zstandard",
            hint="pip install 'kgcore[formats]', or decompress it: zstd -dc CORE | kgcore filter -",
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    stream = decompressor.stream_reader(ahead, read_across_frames=True, closefd=False)

    def take(size: int) -> bytes:
        try:
            return bytes(stream.read(size))
        except zstandard.ZstdError as error:
            raise _Damaged(f"the compressed core is damaged: {error}") from error

    return take
