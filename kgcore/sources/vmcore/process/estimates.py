# SPDX-License-Identifier: LGPL-2.1-or-later
"""Estimates of how much of a process's memory a core with the default filter would have.

An estimate is the kernel's counters, less the memory that they count but the filter leaves out, found by the mappings.
"""

from drgn import FaultError, Object

from kgcore.errors import KgcoreError
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.lost import Lost
from kgcore.model.process import VM_HUGETLB, MappedFile, Vma
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.task.counters import Usage
from kgcore.sources.vmcore.task.vmas import vma_members

__all__ = ("Estimates",)

_LARGE = 64 << 20  # bytes of private memory; with more, look for MADV_DONTDUMP
_WALKED = 4 << 30  # bytes of one process's mappings whose page tables are walked; others count as resident
_MAPPINGS = 1 << 20


class Estimates:
    """Estimates core sizes; reads mappings only of processes with memory that the filter may leave out."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        structs = backing.kernel.structs
        self._filter = CoredumpFilter(page_size=backing.kernel.page_size)
        self._files = structs("struct file", "f_inode")
        self._inodes = structs("struct inode", "i_nlink", "i_mode")
        self._known: dict[int, tuple[MappedFile, bool]] = {}

    def resident(self, mm: int, usage: Usage) -> int:
        """Return the bytes for a core that are neither zeros nor swapped out.

        :param mm: address of a ``struct mm_struct``
        """
        counted = {"anon": usage.anon, "shmem": usage.shmem, "hugetlb": usage.hugetlb}
        if usage.shmem or usage.hugetlb or usage.anon >= _LARGE:
            try:
                left_out = self._left_out(Object(self._backing.kernel.prog, "struct mm_struct *", mm))
            except (FaultError, KgcoreError):
                left_out = {}
            for kind, size in left_out.items():
                counted[kind] -= min(counted[kind], size)
        return sum(counted.values())

    def _left_out(self, mm: Object) -> dict[str, int]:
        """Return the resident bytes that the filter leaves out, by the counter that includes them."""
        memory = VmcoreMemory(self._backing, mm)
        sizes = dict.fromkeys(("anon", "shmem", "hugetlb"), 0)
        budget = _WALKED
        for number, found in enumerate(vma_members(self._backing.kernel, mm)):
            if isinstance(found, Lost) or number > _MAPPINGS:
                break
            vma, in_memory = self._mapping(found)
            size = vma.end - vma.start
            if size <= 0 or self._filter(vma, lambda *_: None).length >= size:
                continue
            kind = "hugetlb" if vma.flags & VM_HUGETLB else "shmem" if in_memory else "anon"
            if kind == "anon" and not (vma.anon and vma.file is None):
                continue  # pages of files on a disk: none of these counters includes them
            if size <= budget:
                budget -= size
                size = memory.resident(vma.start, vma.end)
            sizes[kind] += size
        return sizes

    def _mapping(self, found: Members) -> tuple[Vma, bool]:
        """Return a mapping for the filter, and whether its file is only in memory (tmpfs, memfd, anonymous shared)."""
        file, in_memory = self._file(found["vm_file"]) if found["vm_file"] else (None, False)
        start, end, flags = found["vm_start"], found["vm_end"], found["vm_flags"]
        return Vma(start, end, flags, pgoff=found["vm_pgoff"], file=file, anon=bool(found["anon_vma"])), in_memory

    def _file(self, address: int) -> tuple[MappedFile, bool]:
        if address not in self._known:
            inode = self._inodes.read(self._files.read(address)["f_inode"])
            cached = self._backing.cache.file(Object(self._backing.kernel.prog, "struct file *", address))
            file = MappedFile(None, inode["i_nlink"], inode["i_mode"], cached.size)
            self._known[address] = file, cached.in_memory
        return self._known[address]
