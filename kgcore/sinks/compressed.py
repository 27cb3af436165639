# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compress a core in pieces, each by itself, so that several processes can do it.

A file of several zstd frames or gzip members is valid, and every tool unpacks it as one.
"""

import importlib
import zlib
from collections.abc import Callable
from typing import Literal, Self

from kgcore.errors import KgcoreError
from kgcore.sinks.base import BaseSink, Item, PartOutput, Sink

__all__ = ("SUFFIXES", "CompressedSink", "Compression", "require")

Compression = Literal["zstd", "gzip"]
_Encode = Callable[[bytes | bytearray], bytes]

SUFFIXES: dict[Compression, str] = {"zstd": ".zst", "gzip": ".gz"}

# Both at the fast end: the disk or the next reader waits for us.
_ZSTD_LEVEL = 3
_GZIP_LEVEL = 1
_FRAME = 8 << 20  # bytes that are compressed together
_ZEROS = bytes(1 << 20)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib.h: "add 16 to windowBits to write a simple gzip header"


class CompressedSink(BaseSink):
    """Compresses a core and passes it to another sink, whose ``with`` block this one enters and leaves.

    :param inner: the sink for the compressed bytes.
    :param compression: ``zstd`` or ``gzip``.
    :raises KgcoreError: the library for it is not installed.
    """

    packs = True

    def __init__(self, inner: Sink, compression: Compression) -> None:
        super().__init__()
        self.path = inner.path
        self._inner = inner
        self._encode = _encoder(compression)
        self._part = _Compressed(self._encode)
        self._zeros = self._encode(_ZEROS)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def write(self, data: bytes | memoryview) -> None:
        self._part.write(data)
        self._passed_on()

    def skip(self, length: int) -> None:
        self._part.skip(length)
        self._passed_on()

    def _passed_on(self) -> None:
        if self._part.full:
            self._flush()
        else:
            self.used = self._inner.used + self.most(self._part.pending, self._part.pending)

    def most(self, data: int, size: int) -> int:
        """See :meth:`Sink.most`. Random bytes grow a little; deflate shrinks zeros to a thousandth."""
        return data + data // 1024 + size // 512 + 4096

    def settle(self) -> None:
        """See :meth:`Sink.settle`."""
        self._flush()

    def restart(self) -> bool:
        """See :meth:`Sink.restart`."""
        if not self._inner.restart():
            return False
        self._part = _Compressed(self._encode)
        self.used = self._inner.used
        return True

    def part(self, offset: int) -> PartOutput:
        """See :meth:`Sink.part`."""
        return _Compressed(self._encode)

    def take(self, items: list[Item], size: int, stored: int) -> None:
        """See :meth:`Sink.take`."""
        self._flush()
        self._take(items)

    def _flush(self) -> None:
        self._take(self._part.items())

    def _take(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, int):
                whole, rest = divmod(item, len(_ZEROS))
                for _ in range(whole):
                    self._inner.write(self._zeros)
                if rest:
                    self._inner.write(self._encode(_ZEROS[:rest]))
            else:
                self._inner.write(item)
        self.used = self._inner.used

    def commit(self) -> None:
        """See :meth:`Sink.commit`."""
        self._flush()
        self._inner.commit()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._inner.abort()


class _Compressed:
    """A compressed part. Short holes are compressed with the data around them."""

    def __init__(self, encode: _Encode) -> None:
        self._encode = encode
        self._pending = bytearray()
        self._items: list[Item] = []

    @property
    def full(self) -> bool:
        """Whether there is enough of it to pass on."""
        return bool(self._items) or len(self._pending) >= _FRAME

    @property
    def pending(self) -> int:
        """Bytes that are not compressed yet."""
        return len(self._pending)

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data

    def skip(self, length: int) -> None:
        if length < len(_ZEROS):
            self._pending += bytes(length)
        else:
            self._items += (*self._frame(), length)

    def items(self) -> list[Item]:
        items, self._items = [*self._items, *self._frame()], []
        return items

    def _frame(self) -> list[Item]:
        pending, self._pending = self._pending, bytearray()
        return [self._encode(pending)] if pending else []


def require(compression: Compression) -> None:
    """Check that the library for a compression is installed, before any core is written.

    :raises KgcoreError: the library for it is not installed.
    """
    _encoder(compression)


def _encoder(compression: Compression) -> _Encode:
    """The compressor.

    :raises KgcoreError: the library for it is not installed.
    """
    if compression == "gzip":
        return _gzip
    try:
        zstd = importlib.import_module("zstandard")
    except ImportError as error:
        raise KgcoreError(
            "compressing with zstd needs the Python package zstandard",
            hint="pip install 'kgcore[formats]', or --compress gzip",
        ) from error
    compress: _Encode = zstd.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress
    return compress


def _gzip(data: bytes | bytearray) -> bytes:
    member = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return member.compress(data) + member.flush()
