# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompress with the C libraries that come with drgn, if the Python packages of the extra ``formats`` are missing.

drgn's libkdumpfile would unpack pages with them, but it maps the dump file: a bad sector, or a process that truncates
the file, would kill kgcore.
"""

import ctypes
import re
from collections.abc import Callable
from functools import cache
from pathlib import PurePath

__all__ = ("borrowed",)

Unpack = Callable[[bytes | memoryview, int], bytes]


def borrowed(name: str) -> Unpack:
    """Return the function that unpacks blocks of a compression (``zstd``, ``snappy``, ``lzo``).

    :raises ImportError: the library is not installed.
    """
    if name not in _MAKERS:
        raise ImportError(f"no C library for {name}")
    return _MAKERS[name]()


@cache
def _library(name: str, version: int) -> ctypes.CDLL:
    """Return the library that is loaded already (wheels have it under a name of their own), else the system's."""
    found = f"{name}.so.{version}"
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            path = line.rstrip(b"\n").partition(b"/")[2].decode(errors="surrogateescape")
            if re.match(rf"{name}[-.]", PurePath(path).name):
                found = f"/{path}"
                break
    try:
        return ctypes.CDLL(found)
    except OSError as error:
        raise ImportError(str(error)) from error


def _function(library: ctypes.CDLL, name: str, result: type, *arguments: type) -> Callable[..., int]:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise ImportError(str(error)) from error
    function.restype, function.argtypes = result, arguments
    called: Callable[..., int] = function
    return called


_SIZE = ctypes.POINTER(ctypes.c_size_t)


def _zstd() -> Unpack:
    """Return a function that unpacks zstd (zstd.h)."""
    library = _library("libzstd", 1)
    pointer, size_t = ctypes.c_char_p, ctypes.c_size_t
    unpack = _function(library, "ZSTD_decompress", size_t, ctypes.c_void_p, size_t, pointer, size_t)
    is_error = _function(library, "ZSTD_isError", ctypes.c_uint, size_t)

    def zstd(data: bytes | memoryview, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        count = unpack(buffer, size, bytes(data), len(data))
        if is_error(count):
            raise ValueError("they are damaged")
        return buffer.raw[:count]

    return zstd


def _snappy() -> Unpack:
    """Return a function that unpacks snappy (snappy-c.h)."""
    library = _library("libsnappy", 1)
    pointer, size_t = ctypes.c_char_p, ctypes.c_size_t
    unpack = _function(library, "snappy_uncompress", ctypes.c_int, pointer, size_t, ctypes.c_void_p, _SIZE)

    def snappy(data: bytes | memoryview, size: int) -> bytes:
        buffer, count = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
        if unpack(bytes(data), len(data), buffer, ctypes.byref(count)):
            raise ValueError("they are damaged")
        return buffer.raw[: count.value]

    return snappy


def _lzo() -> Unpack:
    """Return a function that unpacks LZO1X (lzo1x.h)."""
    library = _library("liblzo2", 2)
    pointer, size_t, nothing = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
    unpack = _function(library, "lzo1x_decompress_safe", ctypes.c_int, pointer, size_t, nothing, _SIZE, nothing)

    def lzo(data: bytes | memoryview, size: int) -> bytes:
        buffer, count = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
        if status := unpack(bytes(data), len(data), buffer, ctypes.byref(count), None):
            raise ValueError(f"lzo says {status}")
        return buffer.raw[: count.value]

    return lzo


_MAKERS: dict[str, Callable[[], Unpack]] = {"lzo": _lzo, "snappy": _snappy, "zstd": _zstd}
