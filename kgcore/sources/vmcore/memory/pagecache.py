# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page cache: pages of files and shared memory that are in the dump although no page table points to them."""

import stat
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.trees import XaEntry, XArrays
from kgcore.sources.vmcore.memory.extents import Extent, missing, zeros
from kgcore.sources.vmcore.memory.folios import Folios
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap import SwapSpaces

__all__ = ("CachedFile", "PageCache")

_ENDLESS = 1 << 62
_NOT_WRITTEN = 0, 1  # PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK (include/linux/fs.h)


class CachedFile(NamedTuple):
    """A file as the page cache knows it.

    :ivar mapping: address of its ``struct address_space``.
    :ivar size: ``i_size`` in bytes.
    :ivar in_memory: it lives only in memory (tmpfs, memfd, SysV, hugetlbfs): pages not in the cache are zeros.
    :ivar shift: the cache counts in units of ``1 << shift`` pages; None: nothing tells in which.
    """

    mapping: int
    size: int
    in_memory: bool
    shift: int | None = 0


class PageCache:
    """Reads ``struct address_space::i_pages`` in bulk, a whole ``struct xa_node`` at a time."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, swap: SwapSpaces) -> None:
        self._kernel = kernel
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._physical = physical
        self._swap = swap
        self._arrays = XArrays.of(kernel.prog, "struct address_space", "i_pages")
        self._folios = Folios(kernel)

    def file(self, file: Object, *, hugetlb: bool = False) -> CachedFile:
        """Return an open file as the page cache knows it.

        :param file: ``struct file *``
        :raises FaultError: its structures are not in the dump.
        """
        mapping = file.f_mapping
        in_memory = hugetlb or mapping.a_ops.value_() in self._memory_operations
        host = mapping.host  # for a block device, the inode that has the size
        # Other files (devices, sockets) have no size: what a page holds is up to the driver.
        sized = stat.S_IFMT(host.i_mode.value_()) in (stat.S_IFREG, stat.S_IFBLK)
        size = int(host.i_size.value_()) if sized else _ENDLESS
        return CachedFile(mapping.value_(), size, in_memory, self._index_shift(file) if hugetlb else 0)

    @property
    def _memory_operations(self) -> set[int | None]:
        symbol = self._kernel.target.symbol_address
        # The last until c1e3dbe9818e "fs: move ramfs_aops to libfs" (5.14)
        return {symbol("shmem_aops"), symbol("ram_aops"), symbol("ramfs_aops")} - {None, 0}

    def _index_shift(self, file: Object) -> int | None:
        """Return log2 of the pages in one unit of a hugetlbfs file's index; None: unknown.

        The page cache counted hugetlbfs in huge pages until a08c7193e4f1 "mm/filemap: remove hugetlb special casing in
        filemap.c" (6.7). Then each huge page is one entry of one index; since then it is an entry of as many indices as
        it has pages.
        """
        try:
            head = self._arrays.head(file.f_mapping.i_pages)
        except FaultError:
            return None
        lost = False
        for found in self._arrays.range(head, 0, _ENDLESS):
            if found.entry is None:
                lost = True
            elif found.length > 1:
                return 0
            else:
                return self._order(file)
        return None if lost else 0

    def _order(self, file: Object) -> int | None:
        """Return log2 of the pages in a huge page of a hugetlbfs file; None: unknown."""
        orders = [
            level.shift - self._page_shift for level in self._kernel.machine.paging_mode.levels if level.can_be_leaf
        ]
        try:
            info = self._kernel.prog.type("struct hugetlbfs_sb_info *")
            order = int(Object(self._kernel.prog, info, file.f_inode.i_sb.s_fs_info.value_()).hstate.order.value_())
        except (FaultError, LookupError, AttributeError):
            return None
        return order if order in orders else None

    def extents(self, file: CachedFile, first: int, pages: int, address: int) -> Iterator[Extent]:
        """Yield pages of a file as faults would bring them in; beyond the file's end there is nothing (SIGBUS).

        :param first: page of the file.
        :param address: where the first page is mapped.
        """
        shift = file.shift
        if shift is None:
            why = "nothing tells where in the page cache its huge pages are"
            yield missing(address, pages << self._page_shift, Provenance.FILE, why)
            return
        file_end = file.size + self._page_size - 1 >> self._page_shift
        end = max(first, min(first + pages, file_end))
        at = first

        def where(page: int) -> int:
            return address + (page - first << self._page_shift)

        def gap(low: int, high: int) -> Iterator[Extent]:
            """Yield pages that are not in the cache."""
            if low < high:
                size = high - low << self._page_shift
                yield zeros(where(low), size) if file.in_memory else missing(where(low), size, Provenance.FILE)

        for found in self._entries(file, first, end):
            low = max(found.first << shift, at)
            high = min(found.first + found.length << shift, end)
            if low < high:
                yield from gap(at, low)
                yield from self._entry(file, found, low, where(low), high - low << self._page_shift)
                at = high
        yield from gap(at, end)
        if end < first + pages:
            yield zeros(where(end), first + pages - end << self._page_shift)

    def clean(self, file: CachedFile, first: int, pages: int) -> Iterator[tuple[int, int, int]]:
        """Yield the pages of a file that are in memory and, as far as the kernel knows, the same as on the disk.

        :param first: page of the file.
        :return: (page, how many, physical address), ascending.
        """
        end = min(first + pages, file.size + self._page_size - 1 >> self._page_shift)
        for found in self._entries(file, first, end):
            low, high = max(found.first, first), min(found.first + found.length, end)
            if found.entry is None or found.entry & 1 or low >= high:
                continue
            folio = self._folios.read(found.entry & ~3)
            if folio is None or folio.mapping != file.mapping or not (folio.uptodate and folio.settled):
                continue
            inside = low - folio.index
            if 0 <= inside < 1 << 20:
                yield low, high - low, folio.physical + (inside << self._page_shift)

    def unwritten(self, file: CachedFile) -> int | None:
        """Return how many bytes are newer in memory than on the disk: dirty or under writeback.

        :returns: None: the file lives only in memory, or this is unknown.
        """
        if file.in_memory or not file.size or file.size >= _ENDLESS:
            return None if file.in_memory else 0
        head = self._arrays.head(Object(self._kernel.prog, "struct address_space *", file.mapping).i_pages)
        if head and not self._arrays.is_node(head):  # the only page there is
            if head & 1:  # a shadow: it was evicted
                return 0
            folio = self._folios.read(head & ~3)
            return None if folio is None else 0 if folio.settled else file.size
        found = 0
        for entry in self._arrays.marked(head, _NOT_WRITTEN):
            if entry.entry is None:
                return None
            low, high = entry.first << self._page_shift, entry.first + entry.length << self._page_shift
            found += max(0, min(high, file.size) - low)
        return found

    def _entries(self, file: CachedFile, first: int, end: int) -> Iterator[XaEntry]:
        if first >= end:
            return
        shift = file.shift or 0
        low, high = first >> shift, end - 1 >> shift
        try:
            head = self._arrays.head(Object(self._kernel.prog, "struct address_space *", file.mapping).i_pages)
        except FaultError:
            yield XaEntry(low, high - low + 1, None, low)
            return
        yield from self._arrays.range(head, low, high)

    def _entry(self, file: CachedFile, found: XaEntry, page: int, address: int, length: int) -> Iterator[Extent]:
        """Yield the extents of one entry, from a page of the file on."""
        lost = missing(address, length, Provenance.FILE, "the page cache's tree is unreadable")
        shift = file.shift or 0
        inside = page - (found.canonical << shift)
        if found.entry is None:
            yield lost
        elif found.entry & 1:  # a value entry
            if file.in_memory:
                value = found.entry >> 1  # shmem keeps swp_entry_t values
                number, offset = self._kernel.swap_type(value), self._kernel.swap_offset(value)
                # One entry may stand for several slots since 6.12 (shmem_swapin_folio(), mm/shmem.c).
                yield from self._swap.extents(number, offset + inside, address, length)
            else:
                yield missing(address, length, Provenance.FILE)  # a shadow: it was evicted
        else:
            folio = self._folios.read(found.entry & ~3)
            if folio is None:
                yield lost
            elif not folio.uptodate:
                why = "" if folio.settled else "it was being written"
                lost = missing(address, length, Provenance.FILE, why)
                yield zeros(address, length) if file.in_memory else lost
            else:
                # A large folio is in all its slots, each time as its head page.
                ahead = page - (folio.index << shift)
                inside = ahead if 0 <= ahead < 1 << 20 else inside
                physical = folio.physical + (inside << self._page_shift)
                yield from self._physical.extents(address, length, physical, Provenance.PAGE_CACHE)
