# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompress single blocks: pages of a kdump file, and pages that the kernel itself compressed (zram, zswap).

zlib is Python's own, lzo-rle is kgcore's. The other libraries are optional, and some come with drgn. kgcore uses
zstandard though Python has a zstd since 3.14: Python's makes a context for each call, which takes longer than
decompressing a page.
"""

import importlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from kgcore.errors import BrokenDump, KgcoreError
from kgcore.sources.vmcore.dumpfile import lzo_rle
from kgcore.sources.vmcore.dumpfile.clibraries import borrowed

__all__ = ("CannotDecompress", "Decompress", "NoDecompressor", "decompressor")

Decompress = Callable[[bytes | memoryview, int], bytes]
"""Data and the size they must have when unpacked -> unpacked. Raises CannotDecompress."""

_PACKAGES = {"lz4": "lz4", "lz4hc": "lz4", "snappy": "cramjam", "zstd": "zstandard"}
_DRIVERS = ("-generic", "-scomp", "-iaa")  # suffixes that crypto drivers add to the name of the algorithm

_ZSTD_LEAST_DICTIONARY = 8  # zstd ignores a shorter one
_WORKSPACE = 1 << 15  # bytes; libdeflate takes 12 KB


class CannotDecompress(BrokenDump):
    """A compressed block is damaged, or unpacks to the wrong size."""


class NoDecompressor(KgcoreError):
    """The compression is unknown, or the library for it is not installed; the message is a sentence."""


def decompressor(algorithm: str, dictionary: bytes | None = None) -> Decompress:
    """Return the function that unpacks blocks of a compression.

    :param algorithm: the kernel's name of the compression, or makedumpfile's (``zlib``, ``snappy``).
    :param dictionary: of zram's ``algorithm_params``; as in the kernel, only lz4, lz4hc and zstd use it.
    :raises NoDecompressor: the compression is unknown, or its library is not installed.
    """
    name = algorithm
    for driver in _DRIVERS:
        name = name.removesuffix(driver)
    if name not in _MAKERS:
        raise NoDecompressor(f"the compression {algorithm!r} is not supported")
    try:
        return _checked(_MAKERS[name](dictionary or None), name)
    except ImportError as error:
        with suppress(ImportError):
            if dictionary is None:
                return _checked(borrowed(name), name)
        if name == "lzo":
            return _checked(lzo_rle.decompress, name)
        lacking = f"needs the Python package {_PACKAGES[name]}: pip install 'kgcore[formats]'"
        raise NoDecompressor(f"decompressing {name} {lacking}") from error


def _checked(unpack: Callable[[bytes | memoryview, int], Any], name: str) -> Decompress:
    def checked(data: bytes | memoryview, size: int) -> bytes:
        try:
            unpacked = unpack(data, size)
        except MemoryError:
            raise
        except Exception as error:  # each library has its own exceptions
            raise CannotDecompress(f"{name} data cannot be decompressed: {error}") from error
        if len(unpacked) != size:
            raise CannotDecompress(f"{name} data have {len(unpacked)} bytes when decompressed, not {size}")
        return bytes(unpacked)

    return checked


def _stream(decompressor: Any, data: bytes | memoryview, size: int) -> bytes:
    """Unpack at most ``size + 1`` bytes. Ignore what follows the end of the stream, as the kernel's inflate does."""
    unpacked: bytes = decompressor.decompress(data, size + 1)
    if len(unpacked) <= size and not decompressor.eof:
        raise EOFError("the end is missing")
    return unpacked


def _zlib(_dictionary: bytes | None) -> Decompress:
    try:
        unpack = importlib.import_module("deflate").zlib_decompress  # takes half the time of zlib
    except ImportError:
        return lambda data, size: _stream(zlib.decompressobj(), data, size)

    def inflate(data: bytes | memoryview, size: int) -> Any:
        bytearray(_WORKSPACE)  # MemoryError here, not a signal: libdeflate's caller does not check its allocation
        return unpack(data, size or 1)  # 0 would mean any size

    return inflate


def _deflate(_dictionary: bytes | None) -> Decompress:
    """Unpack raw deflate, or zlib's format if zram's parameter deflate.winbits (newer than 6.12) was positive.

    The low bits of zlib's header say deflate. In raw deflate they would be a stored block with padding that is not 0.
    """
    return lambda data, size: _stream(zlib.decompressobj(15 if data and data[0] & 15 == 8 else -15), data, size)


def _lzo(_dictionary: bytes | None) -> Decompress:
    """Unpack version 0 of the format with lzallright, which knows no other, but is many times as fast as lzo_rle."""
    lzallright = importlib.import_module("lzallright")
    return lambda data, size: lzallright.LZOCompressor.decompress(data, output_size_hint=size)


def _lzo_rle(_dictionary: bytes | None) -> Decompress:
    return lzo_rle.decompress


def _lz4(dictionary: bytes | None) -> Decompress:
    block = importlib.import_module("lz4.block")
    return lambda data, size: block.decompress(data, uncompressed_size=size, dict=dictionary)


def _snappy(_dictionary: bytes | None) -> Decompress:
    snappy = importlib.import_module("cramjam").snappy

    def unpack(data: bytes | memoryview, size: int) -> bytes:
        unpacked = bytearray(size)  # otherwise the data would decide how much to allocate
        return bytes(unpacked[: snappy.decompress_raw_into(data, unpacked)])

    return unpack


def _zstd(dictionary: bytes | None) -> Decompress:
    zstd = importlib.import_module("zstandard")

    @cache  # made on first use: only then does a damaged dictionary raise
    def context() -> Any:
        if dictionary is None or len(dictionary) < _ZSTD_LEAST_DICTIONARY:
            return zstd.ZstdDecompressor()
        # Its magic number tells whether it is raw or trained.
        return zstd.ZstdDecompressor(dict_data=zstd.ZstdCompressionDict(dictionary))

    def unpack(data: bytes | memoryview, size: int) -> bytes:
        if zstd.frame_content_size(data) > size:  # otherwise zstd would allocate that much
            raise ValueError(f"more than {size} bytes when decompressed")
        unpacked: bytes = context().decompress(data, max_output_size=size)
        return unpacked

    return unpack


_MAKERS: dict[str, Callable[[bytes | None], Decompress]] = {
    "deflate": _deflate,
    "lz4": _lz4,
    "lz4hc": _lz4,  # compresses harder, to the same format
    "lzo": _lzo,
    "lzo-rle": _lzo_rle,
    "snappy": _snappy,
    "zlib": _zlib,
    "zlib-deflate": _zlib,
    "zstd": _zstd,
}
