# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swapped-out memory: from a swap entry to its bytes, wherever the dump still has them.

A swap entry names a slot of a swap space. The kernel looks for the slot's content in several places, one after the
other (do_swap_page(), mm/memory.c; swap_read_folio(), mm/page_io.c): the swap cache, the map of zero-filled slots,
zswap, and last the swap device, which may be a zram disk, that is, compressed memory. Here each place is a
:class:`Layer`; a slot that no layer has is missing.
"""

from collections.abc import Iterator, Sequence

from kgcore.model.lost import Lost
from kgcore.model.memory import Provenance, Run
from kgcore.sources.vmcore.memory.extents import Extent, missing
from kgcore.sources.vmcore.memory.swap.layers import Layer, Slots
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace

__all__ = ("SwapSpaces",)


class SwapSpaces:
    """All swap spaces of a kernel."""

    def __init__(self, spaces: Spaces, layers: Sequence[Layer]) -> None:
        """Set up the lookup of slots.

        :param layers: the first layer that has a slot counts.
        """
        self._spaces = spaces
        self._layers = layers

    def extents(self, number: int, first: int, address: int, length: int) -> Iterator[Extent]:
        """Yield the memory of adjacent slots.

        :param number: of the swap space: the type of a ``swp_entry_t``.
        :param first: offset of the first slot.
        :param address: of the first byte, in the process.
        """
        if not length:
            return
        space = self._spaces.get(number)
        if isinstance(space, Lost):
            yield missing(address, length, Provenance.SWAPPED, space.reason)
            return
        page = self._spaces.page_size
        count = length // page
        inside = max(0, min(count, space.slots - first))
        at = 0
        for found in self._find(space, self._layers, first, inside):
            if found.first != first + at:
                raise ValueError(f"swap slots are not adjacent: {found} at {first + at}")
            run = Run(address + at * page, found.length * page, found.provenance, found.detail)
            yield Extent(run, found.place, found.first if found.provenance is Provenance.SWAPPED else None)
            at += found.length
        if at < count:
            rest = missing(address + at * page, (count - at) * page, Provenance.UNREADABLE, "no such swap slot")
            yield rest

    def _find(self, space: SwapSpace, layers: Sequence[Layer], first: int, count: int) -> Iterator[Slots]:
        """Yield all these slots, ascending; look for slots that the first layer lacks in the next ones."""
        if count <= 0:
            return
        if not layers:
            yield Slots(first, count, Provenance.SWAPPED, f"on {space.name}")
            return
        at = first
        for found in layers[0].find(space, first, count):
            if not (at <= found.first and 0 < found.length <= first + count - found.first):
                continue  # a damaged structure; this slot already has an answer
            yield from self._find(space, layers[1:], at, found.first - at)
            yield found
            at = found.first + found.length
        yield from self._find(space, layers[1:], at, first + count - at)
