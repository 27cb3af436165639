# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide as the kernel does: ``vma_dump_size`` in fs/coredump.c, by the bits of /proc/PID/coredump_filter.

The order of the tests is the kernel's (the same from 4.18 to 7.3); the first that matches decides. Which files have ELF
headers that are kept is not the same in all releases: an executable file, an ELF magic, or either (5.18, and 5.10.y).
"""

import stat
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import IntFlag

from kgcore.filters.base import LEFT_OUT, Keep, Peek, within
from kgcore.model.process import DEFAULT_MASK, VM_DONTDUMP, VM_HUGETLB, VM_IO, VM_READ, VM_SHARED, Vma

__all__ = ("CoredumpFilter", "Dump")

_ANY_EXEC = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Dump(IntFlag):
    """Bits of ``coredump_filter``: MMF_DUMP_* shifted down by MMF_DUMP_FILTER_SHIFT."""

    ANON_PRIVATE = 1 << 0
    ANON_SHARED = 1 << 1
    MAPPED_PRIVATE = 1 << 2
    MAPPED_SHARED = 1 << 3
    ELF_HEADERS = 1 << 4
    HUGETLB_PRIVATE = 1 << 5
    HUGETLB_SHARED = 1 << 6
    DAX_PRIVATE = 1 << 7
    DAX_SHARED = 1 << 8


@dataclass(frozen=True, slots=True)
class CoredumpFilter:
    """The kernel's decision by ``mask``.

    :ivar mask: sum of :class:`Dump` bits.
    :ivar dontdump: keep MADV_DONTDUMP memory too, as if it were not marked. The kernel cannot do this.
    :ivar page_size: bytes of a page: how much of an ELF file is kept for its headers.
    :ivar header_by_mode: executable files have ELF headers.
    :ivar header_by_magic: files that begin with an ELF magic have ELF headers.
    """

    mask: int = DEFAULT_MASK
    dontdump: bool = False
    _: KW_ONLY
    page_size: int
    header_by_mode: bool = True
    header_by_magic: bool = True

    def describe(self) -> Mapping[str, int | bool | str]:
        return {"name": "coredump_filter", "mask": self.mask, "dontdump": self.dontdump}

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        """Decide. Of what may be several things, keep as much as the kernel would keep of any of them."""
        if not vma.kinds:
            return within(vma, self._decide(vma, peek))
        keeps = [(kind, within(vma, self._decide(vma.as_kind(kind), peek))) for kind in vma.kinds]
        length = max(keep.length for _, keep in keeps)
        if not length:
            return Keep(0, LEFT_OUT)
        # DAX is rare: that it may be is reason enough to keep a mapping, and not worth a word
        if any(keep.length < length and not kind.dax for kind, keep in keeps):
            return Keep(length, "undecided")
        reasons = {keep.reason for _, keep in keeps}
        return Keep(length, reasons.pop() if len(reasons) == 1 else "of-unknown-kind")

    def _decide(self, vma: Vma, peek: Peek) -> Keep:
        if vma.name:  # always_dump_vma(): the gate VMA, vm_ops->name(), arch_vma_name()
            return Keep(vma.end - vma.start, "special")
        if vma.flags & VM_DONTDUMP and not self.dontdump:
            return Keep(0, "dontdump")
        shared = bool(vma.flags & VM_SHARED)
        if vma.file is not None and vma.file.dax:
            return self._whole_if(vma, Dump.DAX_SHARED if shared else Dump.DAX_PRIVATE)
        if vma.flags & VM_HUGETLB:
            return self._whole_if(vma, Dump.HUGETLB_SHARED if shared else Dump.HUGETLB_PRIVATE)
        if vma.flags & VM_IO:
            return Keep(0, "io")
        if shared:
            anonymous = vma.file is None or vma.file.nlink == 0
            return self._whole_if(vma, Dump.ANON_SHARED if anonymous else Dump.MAPPED_SHARED)
        if vma.anon and self.mask & Dump.ANON_PRIVATE:
            return self._whole_if(vma, Dump.ANON_PRIVATE)
        if vma.file is None:
            return Keep(0, "anon-private" if vma.anon else "untouched")
        if self.mask & Dump.MAPPED_PRIVATE:
            return self._whole_if(vma, Dump.MAPPED_PRIVATE)
        if self.mask & Dump.ELF_HEADERS and vma.pgoff == 0 and vma.flags & VM_READ:
            if self.header_by_mode and vma.file.mode & _ANY_EXEC:
                return Keep(self.page_size, "elf-header")
            if not self.header_by_magic:
                return Keep(0, "mapped-private")
            magic = peek(vma, vma.start, 4)
            if magic is None:
                # The kernel would have read the page. Keep it, so that it is told to be missing: it may be a header.
                return Keep(self.page_size, "maybe-elf-header")
            if magic == b"\x7fELF":
                return Keep(self.page_size, "elf-header")
        return Keep(0, "mapped-private")

    def _whole_if(self, vma: Vma, bit: Dump) -> Keep:
        name = (bit.name or "").lower().replace("_", "-")
        return Keep(vma.end - vma.start if self.mask & bit else 0, name)
