# SPDX-License-Identifier: LGPL-2.1-or-later
"""The content of pages that no page-table entry points to.

It is what a page fault would bring in, as the kernel's own core dumper faults these pages in (get_dump_page(),
mm/gup.c): private anonymous memory is zeros, a file's page is in the page cache, a vdso's page in the kernel image.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.errors import BrokenDump
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_HUGETLB, Vma
from kgcore.sources.vmcore.kernelreads import in_words
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.extents import Extent, missing, zeros
from kgcore.sources.vmcore.memory.pagecache import CachedFile
from kgcore.sources.vmcore.memory.vvar import is_vvar, vvar_page

__all__ = ("Faults",)


class _Handler(Enum):
    """What answers a fault in a mapping."""

    ZEROS = 0  # none: anonymous memory, or the kernel gives up
    FILE = 1
    SPECIAL = 2  # _install_special_mapping()
    SECRET = 3  # memfd_secret(): the kernel lets nobody look
    UNKNOWN = 4


class _Behind(NamedTuple):
    """What is behind a mapping.

    :ivar file: for FILE only.
    """

    handler: _Handler
    file: CachedFile | None = None


class Faults:
    """The fault handlers of one address space."""

    def __init__(self, backing: Backing, mm: Object, task: Object | None = None) -> None:
        """
        :param mm: ``struct mm_struct *``
        :param task: ``struct task_struct *`` of a thread of the process; None: unknown.
        """
        self._backing = backing
        self._kernel = kernel = backing.kernel
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._mm = mm
        self._task = task
        self._known: dict[int, _Behind] = {}

    def secret(self, vma: Vma) -> bool:
        """Tell whether a mapping is of memfd_secret(): a hole in the kernel's cores (check_vma_flags(), mm/gup.c)."""
        return vma.file is not None and self._behind(vma).handler is _Handler.SECRET

    def file(self, vma: Vma) -> CachedFile | None:
        """Return the file whose pages faults in a mapping bring in; None if there is no file, or it is unknown."""
        return None if vma.file is None else self._behind(vma).file

    def bring(self, vma: Vma, address: int, length: int) -> Iterator[Extent]:
        """Yield the memory that faults would bring in for a range without page-table entries."""
        if vma.name == "[vdso]":
            yield from self._vdso(vma, address, length)
            return
        behind = self._behind(vma)
        if behind.handler is _Handler.ZEROS:
            yield zeros(address, length)
        elif behind.handler is _Handler.SPECIAL:
            yield from self._special(vma, address, length)
        elif behind.file is None:
            yield missing(address, length, Provenance.FILE)
        else:
            first = vma.pgoff + (address - vma.start >> self._page_shift)
            yield from self._backing.cache.extents(behind.file, first, length >> self._page_shift, address)

    def _behind(self, vma: Vma) -> _Behind:
        if vma.file is None and not vma.name:
            return _Behind(_Handler.ZEROS)  # there are many of these, and none has operations
        if vma.start not in self._known:
            try:
                self._known[vma.start] = self._look(vma)
            except FaultError:
                self._known[vma.start] = _Behind(_Handler.UNKNOWN)
        return self._known[vma.start]

    def _look(self, vma: Vma) -> _Behind:
        """Find out what is behind a mapping.

        :raises FaultError: the kernel's structures for it are not in the dump.
        """
        if (
            not vma.struct
        ):  # the gate VMA: what mode XONLY does not map (arch/x86/entry/vsyscall/vsyscall_64.c) is a hole
            return _Behind(_Handler.ZEROS if vma.file is None else _Handler.UNKNOWN)
        found = self._struct(vma)
        operations = found.vm_ops.read_()
        symbol = self._kernel.target.symbol_address
        if operations and operations.value_() == symbol("secretmem_vm_ops"):
            return _Behind(_Handler.SECRET)
        if not operations or not operations.fault:  # do_pte_missing(), and no_page_table() of mm/gup.c
            return _Behind(_Handler.ZEROS)
        if vma.file is not None:
            file = self._backing.cache.file(found.vm_file, hugetlb=bool(vma.flags & VM_HUGETLB))
            return _Behind(_Handler.FILE, file if file.mapping else None)
        special = operations.fault.value_() == symbol("special_mapping_fault")
        return _Behind(_Handler.SPECIAL if special else _Handler.UNKNOWN)

    def _struct(self, vma: Vma) -> Object:
        """Return the ``struct vm_area_struct *`` of a mapping."""
        return Object(self._kernel.prog, "struct vm_area_struct *", vma.struct)

    # Special mappings

    def _vdso(self, vma: Vma, address: int, length: int) -> Iterator[Extent]:
        """Yield memory of the vdso, whose pages are part of the kernel image."""
        try:
            physical, size = self._kernel.machine.vdso(self._mm)
        except FaultError as error:
            yield missing(address, length, Provenance.FILE, f"vdso: {in_words(error)}")
            return
        inside = max(0, min(length, vma.start - (-size // self._page_size) * self._page_size - address))
        if inside:
            at = physical + address - vma.start
            yield from self._backing.physical.extents(address, inside, at, Provenance.PAGE_CACHE)
        if inside < length:
            yield zeros(address + inside, length - inside)

    def _special(self, vma: Vma, address: int, length: int) -> Iterator[Extent]:
        """Yield memory of ``[uprobes]`` and the like, listed in ``vm_special_mapping::pages``.

        As special_mapping_fault() does.
        """
        end = address + length
        try:
            private = self._struct(vma).vm_private_data.value_()
            special = Object(self._kernel.prog, "struct vm_special_mapping *", private)
            if is_vvar(self._kernel, special):
                for at in range(address, end, self._page_size):
                    yield from self._vvar(vma, at)
                return
            pages = special.pages.read_()
            at = address
            while at < end and not special.fault:
                page = pages[vma.pgoff + (at - vma.start >> self._page_shift)].value_()
                if not page:
                    break
                yield from self._backing.physical.extents(at, self._page_size, self._kernel.machine.page_to_phys(page))
                at += self._page_size
        except FaultError:
            pass
        if at < end:
            yield missing(at, end - at, Provenance.FILE, "the kernel makes it on access")

    def _vvar(self, vma: Vma, address: int) -> Iterator[Extent]:
        """Yield a page of ``[vvar]``."""
        size = self._page_size
        try:
            page = vvar_page(self._kernel, self._task, vma.pgoff + (address - vma.start >> self._page_shift))
        except (FaultError, LookupError, BrokenDump) as error:
            why = in_words(error) if isinstance(error, FaultError) else str(error)
            yield missing(address, size, Provenance.FILE, f"a page of the vdso's data: {why}")
            return
        if page is None:
            yield zeros(address, size)
        else:
            yield from self._backing.physical.extents(address, size, page, Provenance.PAGE_CACHE)
