# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process's memory out of the dump: page tables, page cache and what the dump file holds, put together.

What stands for a page that no page table points to follows the kernel's fault handlers, since its own core dumper
faults such
pages in (get_dump_page(), mm/gup.c): private anonymous memory is zeros, a file's page is what the page cache has.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.arch.paging import X86_64_4LEVEL, X86_64_5LEVEL, EntryKind, Leaf, walk
from kgcore.memory import Piece, Provenance, Run
from kgcore.model import VM_HUGETLB, VM_IO, VM_PFNMAP, Vma
from kgcore.sources.vmcore import pagecache
from kgcore.sources.vmcore.dumpfile import FrameState
from kgcore.sources.vmcore.kernel import Kernel
from kgcore.sources.vmcore.swapentry import SwapKind, SwapTypes
from kgcore.sources.vmcore.tasks import comm, is_kernel_thread
from kgcore.sources.vmcore.vmas import vma_structs

__all__ = ("VmcoreMemory",)

_PAGE_SHIFT = 12
_HUGE_PAGE = 1 << 21
_HUGE_ORDERS = (9, 18)  # 2 MiB, 1 GiB
_MAX_FRAME = 1 << 52 - _PAGE_SHIFT  # physical addresses have at most 52 bits
_PIECE = 1 << 20  # bytes read from the dump in one call

_NOT_STORED = {
    FrameState.EXCLUDED: (Provenance.EXCLUDED, ""),
    FrameState.CUT_OFF: (Provenance.EXCLUDED, "beyond the end of the cut-off dump"),
    FrameState.NO_RAM: (Provenance.UNREADABLE, "no RAM at that address"),
}


class _Extent(NamedTuple):
    """A run and, if it is PRESENT, where it lies; physically contiguous."""

    run: Run
    physical: int


class VmcoreMemory:
    """:class:`kgcore.memory.Memory` of one ``struct mm_struct``."""

    page_size = 1 << _PAGE_SHIFT

    def __init__(self, kernel: Kernel, mm: Object) -> None:
        """
        :param mm: ``struct mm_struct *``
        :raises BrokenDump: its page tables are not to be found.
        """
        self._kernel = kernel
        self._target = kernel.target
        self._mm = mm
        self._mode = X86_64_5LEVEL if kernel.five_level else X86_64_4LEVEL
        self._root = kernel.root_table(mm)
        self._swap_types = SwapTypes.of(kernel)
        self._cache = pagecache.PageCache(kernel)
        self._mappings: dict[int, int] = {}

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`kgcore.memory.Memory.runs`."""
        pending: Run | None = None
        for run, _ in self._extents(vma, start, end):
            if pending is None:
                pending = run
            elif run.provenance is pending.provenance and run.detail == pending.detail:
                pending = pending._replace(length=pending.length + run.length)
            else:
                yield pending
                pending = run
        if pending is not None:
            yield pending

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`kgcore.memory.Memory.read`."""
        for run, physical in self._extents(vma, start, end):
            if run.provenance is not Provenance.PRESENT:
                yield Piece(run, b"")
                continue
            for done in range(0, run.length, _PIECE):
                part = Run(run.address + done, min(_PIECE, run.length - done), Provenance.PRESENT)
                yield from self._read_present(part, physical + done)

    def _read_present(self, run: Run, physical: int) -> Iterator[Piece]:
        try:
            yield Piece(run, self._target.phys(physical, run.length))
            return
        except FaultError as error:
            if run.length == self.page_size:
                yield Piece(run._replace(provenance=Provenance.UNREADABLE, detail=str(error)), b"")
                return
        for done in range(0, run.length, self.page_size):
            page = Run(run.address + done, self.page_size, Provenance.PRESENT)
            yield from self._read_present(page, physical + done)

    # From page-table entries to provenance

    def _extents(self, vma: Vma, start: int, end: int) -> Iterator[_Extent]:
        """Cover [start, end) with extents, ascending."""
        if vma.flags & (VM_IO | VM_PFNMAP):
            # check_vma_flags(), mm/gup.c: not memory that a core could have
            yield _Extent(Run(start, end - start, Provenance.ZERO), 0)
            return
        leaves = walk(self._mode, self._root, start, end, self._read_table, self._kernel.encryption_mask)
        for leaf in leaves:
            yield from self._leaf(vma, leaf)

    def _read_table(self, address: int, size: int) -> bytes | None:
        for _, _, state in self._target.frames.runs(address >> _PAGE_SHIFT, (address >> _PAGE_SHIFT) + 1):
            if state is not FrameState.STORED:
                return None
        try:
            return self._target.phys(address, size)
        except FaultError:
            return None

    def _leaf(self, vma: Vma, leaf: Leaf) -> Iterator[_Extent]:
        if leaf.kind is EntryKind.PRESENT:
            yield from self._frames(leaf.address, leaf.length, leaf.value)
        elif leaf.kind is EntryKind.EMPTY:
            yield from self._absent(vma, leaf.address, leaf.length)
        elif leaf.kind is EntryKind.BROKEN:
            detail = f"page table at {leaf.value:#x} is not readable"
            yield _Extent(Run(leaf.address, leaf.length, Provenance.UNREADABLE, detail), 0)
        else:
            yield from self._swapped(vma, leaf)

    def _frames(self, address: int, length: int, physical: int) -> Iterator[_Extent]:
        """Memory that is mapped: is it in the dump file?"""
        first = physical >> _PAGE_SHIFT
        last = first + (length >> _PAGE_SHIFT)
        if not 0 <= first < last <= _MAX_FRAME:
            yield _Extent(Run(address, length, Provenance.UNREADABLE, "no RAM at that address"), 0)
            return
        for low, high, state in self._target.frames.runs(first, last):
            at = address + (low - first << _PAGE_SHIFT)
            size = high - low << _PAGE_SHIFT
            if state is FrameState.STORED:
                yield _Extent(Run(at, size, Provenance.PRESENT), low << _PAGE_SHIFT)
            else:
                yield from self._not_stored(at, low << _PAGE_SHIFT, size, state)

    def _not_stored(self, address: int, physical: int, length: int, state: FrameState) -> Iterator[_Extent]:
        """Frames that the file does not hold. The kernel's shared pages of zeros need no copy in it to be known."""
        provenance, detail = _NOT_STORED[state]
        at, end = physical, physical + length
        for zero, size in self._kernel.zero_pages:
            low, high = max(at, zero), min(end, zero + size)
            if low >= high:
                continue
            if at < low:
                yield _Extent(Run(address + at - physical, low - at, provenance, detail), 0)
            yield _Extent(Run(address + low - physical, high - low, Provenance.ZERO), 0)
            at = high
        if at < end:
            yield _Extent(Run(address + at - physical, end - at, provenance, detail), 0)

    def _swapped(self, vma: Vma, leaf: Leaf) -> Iterator[_Extent]:
        entry = self._swap_types.decode(leaf.value)
        if entry.kind is SwapKind.PAGE:
            yield from self._frames(leaf.address, leaf.length, entry.value << _PAGE_SHIFT)
        elif entry.kind is SwapKind.NONE:
            yield from self._absent(vma, leaf.address, leaf.length)
        elif entry.kind is SwapKind.GUARD:
            yield _Extent(Run(leaf.address, leaf.length, Provenance.ZERO), 0)
        elif entry.kind is SwapKind.SWAP:
            yield _Extent(Run(leaf.address, leaf.length, Provenance.SWAPPED, f"swap {entry.type}"), 0)
        else:
            yield _Extent(Run(leaf.address, leaf.length, Provenance.UNREADABLE, entry.kind.value), 0)

    # Pages without an entry

    def _absent(self, vma: Vma, address: int, length: int) -> Iterator[_Extent]:
        """Memory that no page table points to: what would a fault bring?"""
        if vma.name == "[vdso]":
            yield from self._vdso(vma, address, length)
        elif vma.file is None:
            # Anonymous memory; the gate page, which mode XONLY does not map (arch/x86/entry/vsyscall/vsyscall_64.c).
            yield from self._untouched(address, length)
        else:
            yield from self._file(vma, address, length)

    def _untouched(self, address: int, length: int) -> Iterator[_Extent]:
        """Zeros; but for the memory that khugepaged was moving, which has lost its page table for that moment."""
        end = address + length
        low = min(max(address, self._collapsing), end)
        high = min(max(address, self._collapsing + _HUGE_PAGE), end)
        for start, stop, provenance, detail in (
            (address, low, Provenance.ZERO, ""),
            (low, high, Provenance.UNREADABLE, "khugepaged was moving it"),
            (high, end, Provenance.ZERO, ""),
        ):
            if start < stop:
                yield _Extent(Run(start, stop - start, provenance, detail), 0)

    @cached_property
    def _collapsing(self) -> int:
        """Address of the huge page's worth that khugepaged was collapsing in this address space; beyond all if none.

        collapse_huge_page(), mm/khugepaged.c: with mmap_lock held for writing it takes the page table away, copies the
        pages, and maps the copy; ``khugepaged_scan.address`` says where it is.
        """
        try:
            owner = self._mm.mmap_lock.owner.counter.value_() & (1 << 64) - 1
            # Bit 0: RWSEM_READER_OWNED, kernel/locking/rwsem.c. A writer clears the word when it is done.
            if owner and not owner & 1:
                task = Object(self._kernel.prog, "struct task_struct *", owner & ~7)
                if is_kernel_thread(task) and comm(task) == b"khugepaged":
                    return int(self._kernel.prog["khugepaged_scan"].address.value_())
        except (FaultError, LookupError, AttributeError):
            pass  # kernels before 5.8 have mmap_sem; one without THP has no khugepaged
        return 1 << 64

    def _vdso(self, vma: Vma, address: int, length: int) -> Iterator[_Extent]:
        """The vdso's pages are part of the kernel image (vdso_fault(), arch/x86/entry/vdso/vma.c)."""
        try:
            image = self._mm.context.vdso_image
            data, size = image.data.value_(), -(-image.size.value_() // self.page_size) * self.page_size
            physical = self._kernel.kernel_image_to_phys(data)
        except FaultError as error:
            yield _Extent(Run(address, length, Provenance.FILE, f"vdso: {error}"), 0)
            return
        inside = max(0, min(length, vma.start + size - address))
        if inside:
            yield from self._frames(address, inside, physical + address - vma.start)
        if inside < length:
            yield _Extent(Run(address + inside, length - inside, Provenance.ZERO), 0)

    def _file(self, vma: Vma, address: int, length: int) -> Iterator[_Extent]:
        """Pages of a file, as the page cache has them; beyond its end there is nothing (SIGBUS)."""
        mapping = self._mapping(vma)
        if vma.file is None or mapping is None:
            yield _Extent(Run(address, length, Provenance.FILE), 0)
            return
        first = vma.pgoff + (address - vma.start >> _PAGE_SHIFT)
        end = first + (length >> _PAGE_SHIFT)
        file_end = vma.file.size + self.page_size - 1 >> _PAGE_SHIFT
        covered = max(first, min(end, file_end))
        shift = self._index_shift(vma)
        is_memory = bool(vma.flags & VM_HUGETLB) or self._is_shmem(mapping)

        def gap(low: int, high: int) -> Iterator[_Extent]:
            """Pages that the cache does not have: zeros in a file that lives in memory alone."""
            if high > low:
                provenance = Provenance.ZERO if is_memory else Provenance.FILE
                run = Run(address + (low - first << _PAGE_SHIFT), high - low << _PAGE_SHIFT, provenance)
                yield _Extent(run, 0)

        at = first
        if covered > first:
            for found in self._cache.pages(mapping, first >> shift, covered - 1 >> shift):
                low = max(found.first << shift, at)
                high = min(found.first + found.pages << shift, covered)
                if high <= low:
                    continue
                yield from gap(at, low)
                where, size = address + (low - first << _PAGE_SHIFT), high - low << _PAGE_SHIFT
                if found.kind is pagecache.EntryKind.PAGE:
                    inside = low - (found.first << shift)
                    yield from self._frames(where, size, found.value + (inside << _PAGE_SHIFT))
                elif found.kind is pagecache.EntryKind.LOST:
                    yield _Extent(Run(where, size, Provenance.FILE, "the page cache's tree is not readable"), 0)
                elif is_memory:
                    # shmem keeps swp_entry_t values, laid out otherwise than in page tables: 58 bits of offset
                    yield _Extent(Run(where, size, Provenance.SWAPPED, f"swap {found.value >> 1 >> 58}"), 0)
                else:
                    yield _Extent(Run(where, size, Provenance.FILE), 0)  # a shadow: it was evicted
                at = high
        yield from gap(at, covered)
        if end > covered:
            beyond = Run(address + (covered - first << _PAGE_SHIFT), end - covered << _PAGE_SHIFT, Provenance.ZERO)
            yield _Extent(beyond, 0)

    @cached_property
    def _structs(self) -> dict[int, Object]:
        """``struct vm_area_struct *`` by start."""
        structs: dict[int, Object] = {}
        for found in vma_structs(self._kernel, self._mm):
            if not isinstance(found, str):
                with suppress(FaultError):
                    structs.setdefault(found.vm_start.value_(), found)
        return structs

    def _mapping(self, vma: Vma) -> int | None:
        """Address of the ``struct address_space`` behind a VMA; None if it cannot be found."""
        if vma.start not in self._mappings:
            try:
                found = self._structs.get(vma.start)
                self._mappings[vma.start] = 0 if found is None else found.vm_file.f_mapping.value_()
            except FaultError:
                self._mappings[vma.start] = 0
        return self._mappings[vma.start] or None

    def _index_shift(self, vma: Vma) -> int:
        """The page cache counts hugetlbfs in huge pages until a08c7193e4f1 "mm/filemap: remove hugetlb special
        casing in filemap.c" (6.7)."""
        if not vma.flags & VM_HUGETLB or self._kernel.version >= (6, 7):
            return 0
        try:
            hstate = self._kernel.prog.type("struct hugetlbfs_sb_info *")
            inode = self._structs[vma.start].vm_file.f_inode
            info = Object(self._kernel.prog, hstate, inode.i_sb.s_fs_info.value_())
            order = int(info.hstate.order.value_())
        except (FaultError, LookupError, AttributeError):
            return 9
        return order if order in _HUGE_ORDERS else 9

    def _is_shmem(self, mapping: int) -> bool:
        """The file lives in memory alone: tmpfs, memfd, SysV and shared anonymous memory."""
        try:
            operations = Object(self._kernel.prog, "struct address_space *", mapping).a_ops.value_()
        except FaultError:
            return False
        return operations != 0 and operations in {
            self._target.symbol_address("shmem_aops"),
            self._target.symbol_address("ram_aops"),
        }
