# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ELF notes of a dump file."""

import re
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from kgcore.sources.vmcore.dumpfile.budget import Budget
from kgcore.sources.vmcore.dumpfile.source import Gap

__all__ = ("MAX_VMCOREINFO", "DumpNote", "parse_notes", "unreadable")

MAX_VMCOREINFO = 1 << 16
"""Bytes; the kernel's is a page (VMCOREINFO_BYTES)."""


_HEADER = Struct("<III")  # Elf_Nhdr: n_namesz, n_descsz, n_type; the same in both classes
_OWNER = re.compile(rb"VMCOREINFO\0")
_MEMORY = 256  # bytes that an object of each takes


class DumpNote(NamedTuple):
    """A note: ``name`` without its NUL (``CORE``, ``QEMU``, ``VMCOREINFO``), ``desc`` as it lies there."""

    name: bytes
    type: int
    desc: bytes


def parse_notes(data: bytes, budget: Budget, gaps: Sequence[Gap] = ()) -> Iterator[DumpNote]:
    """The notes of a note segment, up to its end or to the first that does not fit into it.

    Name and descriptor are padded to 4 bytes, as Linux and QEMU do in both ELF classes. Empty headers, which the
    kernel leaves where a CPU saved nothing, are skipped.

    :param data: is paid for already.
    :param gaps: what of the data could not be read. Nobody knows how many notes were there, and therefore which CPU
        those behind it are of: of them only VMCOREINFO is taken.
    :raises TargetError: there are more of them than memory should be spent on.
    """
    yield from _notes(data[: gaps[0].start] if gaps else data, budget)
    if gaps and (found := _OWNER.search(data, gaps[-1].end)) and found.start() >= gaps[-1].end + _HEADER.size:
        rest = _notes(data[found.start() - _HEADER.size :], budget)
        yield from (note for note in rest if note.name == b"VMCOREINFO")


def _notes(data: bytes, budget: Budget) -> Iterator[DumpNote]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        name_size, desc_size, kind = _HEADER.unpack_from(data, offset)
        name = offset + _HEADER.size
        desc = name + (name_size + 3 & ~3)
        offset = desc + (desc_size + 3 & ~3)
        if desc + desc_size > len(data):
            return
        if name_size:
            budget.spend(_MEMORY + desc_size + name_size, "its notes")
            yield DumpNote(data[name : name + name_size].rstrip(b"\0"), kind, data[desc : desc + desc_size])


def unreadable(parts: Sequence[str]) -> tuple[str, ...]:
    """What to tell of parts of a dump file that a disk error took, if it took any."""
    return (f"parts of the dump's {' and '.join(parts)} cannot be read (a disk error?)",) if parts else ()
