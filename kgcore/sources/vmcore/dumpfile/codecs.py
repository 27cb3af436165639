# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompression of single pages. zlib is Python's own; for the others a library may be installed or not."""

import importlib
import zlib
from collections.abc import Callable

from kgcore.errors import BrokenDump

__all__ = ("LIBRARIES", "Decompress", "decompressor")

Decompress = Callable[[bytes, int], bytes]
"""Data and the size it must have when unpacked -> unpacked; whatever exception the library raises if it is damaged."""

LIBRARIES = {"lzo": "lzallright", "snappy": "cramjam", "zstd": "cramjam"}


def decompressor(name: str) -> Decompress | None:
    """What unpacks that compression (``zlib``, ``lzo``, ``snappy``, ``zstd``); None if its library is not installed."""
    if name == "zlib":
        return _checked(lambda data, size: zlib.decompressobj().decompress(data, size + 1))
    try:
        library = importlib.import_module(LIBRARIES[name])
    except (KeyError, ImportError):
        return None
    if name == "lzo":
        return _checked(lambda data, size: bytes(library.LZOCompressor.decompress(data, output_size_hint=size)))
    if name == "snappy":
        return _checked(lambda data, size: bytes(library.snappy.decompress_raw(data)))
    return _checked(lambda data, size: bytes(library.zstd.decompress(data, output_len=size)))


def _checked(decompress: Decompress) -> Decompress:
    def checked(data: bytes, size: int) -> bytes:
        try:
            unpacked = decompress(data, size)
        except Exception as error:  # each library has its own
            raise BrokenDump(f"a page of the dump cannot be unpacked: {error}") from error
        if len(unpacked) != size:
            raise BrokenDump(f"a page of the dump has {len(unpacked)} bytes when unpacked")
        return unpacked

    return checked
