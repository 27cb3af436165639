# SPDX-License-Identifier: LGPL-2.1-or-later
"""The swap cache: pages that have a slot in swap space and are still, or again, in memory."""

import struct
from collections.abc import Iterator

from drgn import FaultError, Object

from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.memory.folios import Folio, Folios
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.layers import Slots
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace

__all__ = ("SwapCache", "SwapTable", "ZeroMap", "swap_cache")

_SPACE_SHIFT = 14  # SWAP_ADDRESS_SPACE_SHIFT, mm/swap.h: one address_space per 64 MiB
_LARGEST_FOLIO = 1 << 9  # pages: HPAGE_PMD_NR

# A word of the swap table, mm/swap_table.h: count of uses in bits 60-63, "all zeros" in bit 59, then either a page
# frame number and 0b10, or a shadow and 0b1.
_TABLE_PFN_MARK = 0b10
_TABLE_PFN_MASK = (1 << 42) - 1
_TABLE_ZERO = 1 << 59


class _Cached:
    """The common part of both forms of the swap cache: a folio and its slots."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        self._kernel = kernel
        self._page_shift = kernel.page_shift
        self._physical = physical
        self._folios = Folios(kernel)

    def _slots(self, space: SwapSpace, folio: Folio | None, slot: int, count: int) -> Iterator[Slots]:
        """Yield the slots of a folio if it is their folio; leave out pages that only the backing store still has."""
        if folio is None or not folio.uptodate or not folio.swap_cached:
            return
        inside = slot - self._kernel.swap_offset(folio.private)
        if self._kernel.swap_type(folio.private) != space.number or not 0 <= inside < _LARGEST_FOLIO:
            return
        physical = folio.physical + (inside << self._page_shift)
        for run, place, _ in self._physical.extents(0, count << self._page_shift, physical, Provenance.SWAP_CACHE):
            if run.provenance.missing and folio.settled:
                continue  # makedumpfile left it out, but the swap space has the same content
            yield Slots(slot + (run.address >> self._page_shift), run.length >> self._page_shift, *run[2:], place)


class SwapCache(_Cached):
    """``swapper_spaces``: address spaces indexed by slot (before 6.18; then see :class:`SwapTable`)."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        super().__init__(kernel, physical)
        self._arrays = XArrays.of(kernel.prog, "struct address_space", "i_pages")

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        at, end = first, first + count
        while at < end:
            upto = min((at >> _SPACE_SHIFT) + 1 << _SPACE_SHIFT, end)
            yield from self._within(space, at, upto)
            at = upto

    def _within(self, space: SwapSpace, first: int, end: int) -> Iterator[Slots]:
        """Yield the slots of one address space."""
        try:
            head = self._heads(space, first)
        except (FaultError, LookupError):
            return  # the slots may still be found in the swap space
        # swap_cache_index() counts within the address space since about 6.11, within the device before. Each page
        # found says which slot it has.
        for base in (first & -1 << _SPACE_SHIFT, 0):
            found = [*self._entries(space, head, first, end, base)] if head else []
            if found or base == 0:
                yield from found
                return

    def _heads(self, space: SwapSpace, slot: int) -> int:
        """Return the head of the tree of the address space that has a slot."""
        address = self._kernel.target.symbol_address("swapper_spaces")
        if address is None:
            return 0
        pointer = self._kernel.prog.read_word(address + self._kernel.word_size * space.number)
        if not pointer:
            return 0
        spaces = Object(self._kernel.prog, "struct address_space *", pointer)
        return self._arrays.head(spaces[slot >> _SPACE_SHIFT].i_pages)

    def _entries(self, space: SwapSpace, head: int, first: int, end: int, base: int) -> Iterator[Slots]:
        for low, count, entry, _ in self._arrays.range(head, first - base, end - base - 1):
            if entry is not None and not entry & 1:  # a shadow: the page left memory
                yield from self._slots(space, self._folios.read(entry & ~3), base + low, count)


class SwapTable(_Cached):
    """``swap_info_struct::cluster_info[]::table``: a word for each slot.

    It replaces the address spaces since 6.18 ("mm, swap: use the swap table for the swap cache and switch API"). At
    first a word is a plain pointer to the folio; in 7.2 it is a page frame number, and has an "all zeros" bit if there
    is no map of zeros.
    """

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        super().__init__(kernel, physical)
        self._zero = 0 if kernel.target.has_member("struct swap_info_struct", "zeromap") else _TABLE_ZERO

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        at, end = first, first + count
        per_cluster = self._kernel.swap_cluster_slots
        while at < end:
            upto = min((at // per_cluster + 1) * per_cluster, end)
            try:
                words = self._words(space, at, upto - at)
            except (FaultError, LookupError):
                words = ()
            for slot, word in enumerate(words, at):
                yield from self._word(space, slot, word)
            at = upto

    def _words(self, space: SwapSpace, first: int, count: int) -> tuple[int, ...]:
        per_cluster = self._kernel.swap_cluster_slots
        table = space.info.cluster_info[first // per_cluster].table.value_()
        if not table:
            return ()
        raw = self._kernel.prog.read(table + first % per_cluster * 8, count * 8)
        return struct.unpack(f"<{count}Q", raw)

    def _word(self, space: SwapSpace, slot: int, word: int) -> Iterator[Slots]:
        folio = None
        if word & 0b11 == _TABLE_PFN_MARK:
            folio = self._folios.read(self._kernel.machine.frame_to_page((word & _TABLE_PFN_MASK) >> 2))
        elif not word & 0b111:  # a plain pointer; a bad slot (all ones but these three bits) points nowhere
            folio = self._folios.read(word)
        found = [*self._slots(space, folio, slot, 1)]
        if not found and word & 0b11 and word & self._zero:
            found.append(Slots(slot, 1, Provenance.ZERO))
        yield from found


class ZeroMap:
    """``swap_info_struct::zeromap``: a bit for each slot, set if its page was all zeros and was never written.

    0ca0c24e3211 "mm: store zero pages to be swapped out in a bitmap" (6.12); later a flag in the swap table.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        if not self._kernel.target.has_member("struct swap_info_struct", "zeromap"):
            return
        try:
            bitmap = space.info.zeromap.value_()
            low = first >> 3
            raw = self._kernel.prog.read(bitmap + low, (first + count - 1 >> 3) - low + 1) if bitmap else b""
        except (FaultError, LookupError):
            return
        for slot in range(first, first + count):
            if raw and raw[(slot >> 3) - low] >> (slot & 7) & 1:
                yield Slots(slot, 1, Provenance.ZERO)


def swap_cache(kernel: Kernel, physical: PhysicalMemory) -> SwapCache | SwapTable:
    """Return the swap cache in the form that this kernel uses."""
    if kernel.target.has_member("struct swap_cluster_info", "table"):
        return SwapTable(kernel, physical)
    return SwapCache(kernel, physical)
