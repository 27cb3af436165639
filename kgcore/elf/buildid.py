# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the GNU build id of an ELF file that may be incomplete."""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ("build_id",)

_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3
_OWNER = b"GNU\0"
# Of other files we need not know it.
_MAX_HEADERS = 256
_MAX_NOTES = 1 << 16
_MAX_ID = 64


class _Class(NamedTuple):
    """Where things are in Elf32 and Elf64 headers; the first four of the file's, the others of a program header."""

    header: int
    word: str
    table: int
    sizes: int
    entry: int
    offset: int
    filesz: int


_CLASSES = {1: _Class(52, "<I", 28, 42, 32, 4, 16), 2: _Class(64, "<Q", 32, 54, 56, 8, 32)}


def build_id(read: Callable[[int, int], bytes | None]) -> bytes | None:
    """Return the build id; None if the file has none, or that part of it is missing.

    :param read: ``read(offset, size)``: bytes of the file, fewer at its end; None if they are missing.
    """
    for note in _notes(read):
        at = 0
        while at + 12 <= len(note):
            namesz, descsz, kind = struct.unpack_from("<III", note, at)
            name, desc = at + 12, at + 12 + (namesz + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and note[name : name + namesz] == _OWNER and 0 < descsz <= _MAX_ID:
                found = note[desc : desc + descsz]
                return found if len(found) == descsz else None
            at = desc + (descsz + 3 & ~3)
    return None


def _notes(read: Callable[[int, int], bytes | None]) -> Iterator[bytes]:
    """The note segments."""
    head = read(0, 64) or b""
    elf = _CLASSES.get(head[4]) if head.startswith(b"\x7fELF") and len(head) > 5 and head[5] == 1 else None
    if elf is None or len(head) < elf.header:
        return
    (table,) = struct.unpack_from(elf.word, head, elf.table)
    size, count = struct.unpack_from("<HH", head, elf.sizes)
    if size != elf.entry or count > _MAX_HEADERS:
        return
    raw = read(table, size * count) or b""
    for at in range(0, len(raw) - size + 1, size):
        (kind,) = struct.unpack_from("<I", raw, at)
        (offset,) = struct.unpack_from(elf.word, raw, at + elf.offset)
        (filesz,) = struct.unpack_from(elf.word, raw, at + elf.filesz)
        if kind == _PT_NOTE and 0 < filesz <= _MAX_NOTES:
            yield read(offset, filesz) or b""
