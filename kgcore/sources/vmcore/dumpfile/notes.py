# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ELF notes of a dump file."""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from kgcore.sources.vmcore.dumpfile.budget import Budget

__all__ = ("MAX_VMCOREINFO", "DumpNote", "parse_notes")

MAX_VMCOREINFO = 1 << 16
"""Bytes; the kernel's is a page (VMCOREINFO_BYTES)."""


_HEADER = Struct("<III")  # Elf_Nhdr: n_namesz, n_descsz, n_type; the same in both classes
_MEMORY = 256  # bytes that an object of each takes


class DumpNote(NamedTuple):
    """A note: ``name`` without its NUL (``CORE``, ``QEMU``, ``VMCOREINFO``), ``desc`` as it lies there."""

    name: bytes
    type: int
    desc: bytes


def parse_notes(data: bytes, budget: Budget) -> Iterator[DumpNote]:
    """The notes of a note segment, up to its end or to the first that does not fit into it.

    Name and descriptor are padded to 4 bytes, as Linux and QEMU do in both ELF classes. Empty headers, which the
    kernel leaves where a CPU saved nothing, are skipped.

    :param data: is paid for already.
    :raises TargetError: there are more of them than memory should be spent on.
    """
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
