# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dump files on the host: what a dump is, sparse copies, an ELF header that others can read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 16


@dataclass(frozen=True)
class Dump:
    """One dump of a fixture, or why it could not be made."""

    file: str
    format: str
    level: int
    compressor: str = "none"
    tool: str = "qemu"
    error: str = ""


def make_sparse(path: Path) -> None:
    """Turn the zero blocks of a file into holes."""
    temporary = path.with_name(path.name + ".sparse")
    zeros = bytes(CHUNK)
    with path.open("rb") as source, temporary.open("wb") as target:
        while data := source.read(CHUNK):
            if data == zeros[: len(data)]:
                target.seek(len(data), os.SEEK_CUR)
            else:
                target.write(data)
        target.truncate()
    temporary.replace(path)


@contextmanager
def readable_header(path: Path) -> Iterator[None]:
    """Give a QEMU dump an ordinary ELF header while makedumpfile reads it, then put the original back.

    QEMU 7.2 writes e_ehsize 8, and section headers between the ELF header and the program headers; makedumpfile
    looks for the program headers directly behind the ELF header and says "Can't get the number of PT_LOAD".
    """
    with path.open("r+b") as handle:
        start = handle.read(64)
        phoff, phnum = struct.unpack_from("<Q", start, 32)[0], struct.unpack_from("<H", start, 56)[0]
        end = phoff + 56 * phnum
        handle.seek(0)
        original = handle.read(end)
        header = bytearray(original[:64])
        struct.pack_into("<QQ", header, 32, 64, 0)  # e_phoff, e_shoff
        struct.pack_into("<HHHHHH", header, 52, 64, 56, phnum, 64, 0, 0)  # e_ehsize ... e_shstrndx
        handle.seek(0)
        handle.write(bytes(header) + original[phoff:])
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.write(original)
