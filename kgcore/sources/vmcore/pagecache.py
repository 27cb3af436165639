# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page cache: pages of files and of shared memory that are in the dump though no page table points to them."""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.sources.vmcore.kernel import Kernel
from kgcore.sources.vmcore.trees import XA_INTERNAL, XaNode, XArrays

__all__ = ("CachedPages", "EntryKind", "PageCache")


class EntryKind(Enum):
    """What the cache says of pages."""

    PAGE = 0  # they are in memory
    VALUE = 1  # a value entry: a shadow of evicted pages, or of shmem a swap entry
    LOST = 2  # the part of the tree that would tell is not in the dump


class CachedPages(NamedTuple):
    """Adjacent pages of one entry.

    :ivar first: the first page, counted as the mapping's indices are.
    :ivar pages: how many.
    :ivar value: PAGE: physical address of the first; VALUE: the raw entry; LOST: 0.
    """

    first: int
    pages: int
    kind: EntryKind
    value: int


class PageCache:
    """``struct address_space::i_pages`` read in bulk: a whole ``struct xa_node`` at a time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        prog = kernel.prog
        self._arrays = XArrays(prog)
        self._page = "struct folio *" if kernel.target.has_type("struct folio") else "struct page *"
        self._uptodate = 1 << (kernel.target.constant("PG_uptodate") or 0)

    def pages(self, mapping: int, first: int, last: int) -> Iterator[CachedPages]:
        """What the cache holds of pages first to last (inclusive) of a mapping, ascending. What it does not hold is
        left out.

        :param mapping: address of a ``struct address_space``.
        """
        try:
            head = Object(self._kernel.prog, "struct address_space *", mapping).i_pages.xa_head.value_()
        except FaultError:
            yield CachedPages(first, last - first + 1, EntryKind.LOST, 0)
            return
        if not head:
            return
        if not self._arrays.is_node(head):
            if first == 0 and head & 3 != XA_INTERNAL:
                yield from self._entry(head, 0, 0, 0)
            return
        yield from self._node(self._arrays.below(head), 0, first, last, 64)

    def _node(self, node: XaNode | None, base: int, first: int, last: int, reach: int) -> Iterator[CachedPages]:
        """A node and all below it, of pages first to last.

        :param node: None: it is damaged or not in the dump.
        :param reach: ``1 << reach`` pages from ``base`` on are below it.
        """
        if node is None:
            low, high = max(first, base), min(last, base + (1 << reach) - 1)
            yield CachedPages(low, high - low + 1, EntryKind.LOST, 0)
            return
        shift, slots = node.shift, node.slots
        low = max(0, first - base >> shift)
        high = min(len(slots) - 1, last - base >> shift)
        for slot in range(low, high + 1):
            entry = slots[slot]
            canonical = slot
            if entry & 3 == XA_INTERNAL and entry < len(slots) << 2:  # sibling: the rest of a large entry
                canonical = entry >> 2
                entry = slots[canonical]
            if not entry:
                continue
            start = base + (slot << shift)
            if self._arrays.is_node(entry):
                yield from self._node(self._arrays.below(entry, node, slot), start, first, last, shift)
                continue
            if entry & 3 == XA_INTERNAL:
                continue
            yield from self._clip(self._entry(entry, start, shift, base + (canonical << shift)), first, last)

    def _entry(self, entry: int, index: int, shift: int, canonical: int) -> Iterator[CachedPages]:
        """One slot: 2 ** shift pages from index on, of a folio that starts at page canonical."""
        count = 1 << shift
        if entry & 1:
            yield CachedPages(index, count, EntryKind.VALUE, entry)
            return
        page = Object(self._kernel.prog, self._page, entry & ~3)
        try:
            flags = page.flags
            if self._kernel.target.has_type("memdesc_flags_t"):
                flags = flags.f
            if not flags.value_() & self._uptodate:
                return
            head = page.index.value_()
        except FaultError:
            yield CachedPages(index, count, EntryKind.LOST, 0)
            return
        # A large folio stands in all its slots, each time as its head.
        within = index - head if 0 <= index - head < 1 << 20 else index - canonical
        physical = self._kernel.page_to_phys(entry & ~3) + (within << 12)
        yield CachedPages(index, count, EntryKind.PAGE, physical)

    @staticmethod
    def _clip(entries: Iterator[CachedPages], first: int, last: int) -> Iterator[CachedPages]:
        for found in entries:
            skip = max(0, first - found.first)
            count = min(found.pages - skip, last - found.first - skip + 1)
            if count > 0:
                value = found.value + (skip << 12) if found.kind is EntryKind.PAGE else found.value
                yield CachedPages(found.first + skip, count, found.kind, value)
