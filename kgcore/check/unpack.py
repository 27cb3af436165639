# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a core that is compressed with gzip or zstd.

The headers of a core are at its beginning, and a few words at its end. So one pass keeps both; reading between them
costs another pass. Memory is bounded for any file.
"""

import gzip
import importlib
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from kgcore.errors import KgcoreError
from kgcore.system.regular import read_at
from kgcore.text import human_size

__all__ = ("Unpacked", "compression_of")

_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_HEAD = 64 << 20  # bytes kept of the beginning: headers and notes of a core with 70 000 mappings take 30 MiB
_TAIL = 1 << 16
_PIECE = 1 << 20
_WINDOW = 128 << 20  # what zstd needs to go back by, at most; by default it unpacks no more than this either
_PASSES = 4
# Untouched memory takes a thousandth of its size (gzip) or less (zstd): this much a small file may become, and so many
# times its size any other. It takes 10 s.
_ALWAYS, _RATIO = 8 << 30, 100
_WINDOW_READ = 1 << 14
_SKIPPABLE = 0x184D2A50
_RLE = 1  # a block of one byte repeated


def compression_of(head: bytes) -> str | None:
    """Return the compression by the first bytes of a file: ``gzip``, ``zstd``, or None."""
    return "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else None


class Unpacked:
    """A compressed file as a file object for reading.

    :ivar size: unpacked bytes, as far as the file can be unpacked.
    :ivar trouble: why that is not all of it; "" if it is.
    :ivar cut_off: the file ends early.
    """

    def __init__(self, file: BinaryIO, name: str, compression: str, wanted: bytes = b"") -> None:
        """
        :param name: of the file, for messages.
        :param wanted: the bytes that the content must begin with; otherwise only its beginning is unpacked.
        :raises KgcoreError: the library is not installed, or the content is too large.
        """
        self._file = file
        self._name = name
        self._stream = _gzip if compression == "gzip" else _zstd
        self._at = 0
        self._passes = 0
        self.trouble, self.cut_off = "", False
        self.size = 0
        self._head, self._tail = bytearray(), b""
        limit = _ALWAYS + _RATIO * os.fstat(file.fileno()).st_size
        for piece in self._pieces():
            if len(self._head) < _HEAD:
                self._head += piece[: _HEAD - len(self._head)]
            self._tail = (self._tail + piece)[-_TAIL:]
            self.size += len(piece)
            if not self._head.startswith(wanted):
                break
            if self.size > limit:
                much = f"{name} unpacks to more than {human_size(limit)}"
                raise KgcoreError(much, hint=f"decompress it with {compression} -d first")

    def _pieces(self) -> Iterator[bytes]:
        self._file.seek(0)
        try:
            yield from self._stream(self._file)
        except _CutOff:
            self.trouble, self.cut_off = "the compressed file is cut off", True
        except _Damaged as error:
            self.trouble = f"the compressed file is damaged: {error}"

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See :meth:`io.IOBase.seek`."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence])
        return self._at

    def tell(self) -> int:
        """See :meth:`io.IOBase.tell`."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See :meth:`io.RawIOBase.read`."""
        start = self._at
        end = max(start, self.size if size < 0 else min(start + size, self.size))
        self._at = end
        if end <= len(self._head):
            return bytes(self._head[start:end])
        if start >= self.size - len(self._tail):
            base = self.size - len(self._tail)
            return self._tail[start - base : end - base]
        return self._again(start, end)

    def _again(self, start: int, end: int) -> bytes:
        """
        :raises KgcoreError: there were too many passes.
        """
        self._passes += 1
        if self._passes > _PASSES or end - start > _HEAD:
            raise KgcoreError(f"{self._name} has its notes after its memory", hint="decompress it first")
        found, at = bytearray(), 0
        for piece in self._pieces():
            if at + len(piece) > start:
                found += piece[max(0, start - at) : end - at]
            at += len(piece)
            if at >= end:
                break
        return bytes(found)


class _CutOff(Exception):
    """The file ends early."""


class _Damaged(Exception):
    """The rest of the file cannot be unpacked."""


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        try:
            while piece := stream.read(_PIECE):
                yield piece
        except EOFError as error:
            raise _CutOff from error
        except (OSError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _Damaged(str(error)) from error


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise KgcoreError(
            "decompressing zstd needs the Python package zstandard",
            hint="pip install 'kgcore[formats]', or decompress it with zstd -d first",
        ) from error
    whole = _zstd_is_whole(file)
    file.seek(0)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as stream:
        try:
            while piece := stream.read(_PIECE):
                yield piece
        except zstandard.ZstdError as error:
            raise _Damaged(str(error)) from error
    if not whole:  # of which the library does not say a word
        raise _CutOff


def _zstd_is_whole(file: BinaryIO) -> bool:
    """Whether the last frame ends with the file, by the sizes in frames and blocks (RFC 8878)."""
    descriptor, end = file.fileno(), os.fstat(file.fileno()).st_size
    window, base = b"", 0

    def number(at: int, size: int) -> int:
        nonlocal window, base
        if not base <= at <= base + len(window) - size:
            window, base = read_at(descriptor, _WINDOW_READ, at), at
        if len(window) < at - base + size:
            raise EOFError
        return int.from_bytes(window[at - base : at - base + size], "little")

    at = 0
    try:
        while at < end:
            magic = number(at, 4)
            if magic & ~0xF == _SKIPPABLE:
                at += 8 + number(at + 4, 4)
                continue
            if magic != int.from_bytes(_ZSTD, "little"):
                return True  # it is damaged, which is found by unpacking
            flags = number(at + 4, 1)
            single = flags >> 5 & 1
            at += 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
            block = 0
            while not block & 1:  # the last one
                block = number(at, 3)
                at += 3 + (1 if block >> 1 & 3 == _RLE else block >> 3)
            at += 4 * (flags >> 2 & 1)
    except EOFError:
        return False
    return at == end
