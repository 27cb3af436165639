# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the ELF notes of a dump file."""

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
_OWNER = re.compile(rb"(?:CORE|QEMU|LINUX|VMCOREINFO)\0")
_MEMORY = 256  # bytes of memory for the object of each note


class DumpNote(NamedTuple):
    """A note: ``name`` without its NUL (``CORE``, ``QEMU``, ``VMCOREINFO``), ``desc`` as raw bytes."""

    name: bytes
    type: int
    desc: bytes


def parse_notes(data: bytes, budget: Budget, gaps: Sequence[Gap] = ()) -> Iterator[DumpNote]:
    """Yield the notes of a note segment, up to its end or to the first note that does not fit into it.

    Name and descriptor are padded to 4 bytes, as Linux and QEMU do in both ELF classes. Empty headers, which the
    kernel leaves where a CPU saved nothing, are skipped.

    :param data: the segment; the budget has paid for it already.
    :param gaps: the unreadable parts of the data.
    :raises TargetError: the notes would take more memory than the budget has.
    """
    if not gaps:
        yield from _notes(data, budget)
        return
    found = list(_between(data, budget, gaps))
    # Without a QEMU note, QEMU's NT_PRSTATUS look like the crash path's, whose numbers mean something else.
    whose = any(note.name == b"QEMU" for note in found)
    yield from (note for note in found if whose or note.name != b"CORE")


def _between(data: bytes, budget: Budget, gaps: Sequence[Gap]) -> Iterator[DumpNote]:
    yield from _notes(data[: gaps[0].start], budget)
    ends = [*(gap.start for gap in gaps[1:]), len(data)]
    for (_, start), end in zip(gaps, ends, strict=True):
        for owner in _OWNER.finditer(data, start + _HEADER.size, end):
            at = owner.start() - _HEADER.size
            if at % 4 == 0 and _HEADER.unpack_from(data, at)[0] == len(owner[0]):
                yield from _notes(data[at:end], budget)
                break


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
    """Return the notice about parts of a dump file that are unreadable; empty if there are no such parts."""
    return (f"parts of the dump's {' and '.join(parts)} are unreadable (a disk error?)",) if parts else ()
