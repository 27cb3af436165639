# SPDX-License-Identifier: LGPL-2.1-or-later
"""The meaning of page-table entries that are neither empty nor present: swap, migration, poison, markers."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from kgcore.arch.paging import SwapLayout
from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("SwapEntry", "SwapKind", "SwapTypes")

_MARKER_UFFD_WP = 1 << 0
_MARKER_POISONED = 1 << 1
_MARKER_GUARD = 1 << 2


class SwapKind(Enum):
    """What a swap entry stands for."""

    SWAP = "swap"  # value: offset in swap space number ``type``
    PAGE = "page"  # value: frame number of a page that is in memory (migration, device-exclusive)
    NONE = "none"  # as good as an empty entry
    GUARD = "guard region"  # MADV_GUARD_INSTALL: deliberately inaccessible
    POISONED = "poisoned"  # a hardware memory error, or UFFDIO_POISON
    DEVICE = "in device memory"
    UNKNOWN = "unknown entry"


class SwapEntry(NamedTuple):
    """A decoded entry.

    :ivar type: the type number of ``swp_entry_t``.
    :ivar value: its offset: in swap space, or a page frame number.
    """

    kind: SwapKind
    type: int
    value: int


@dataclass(frozen=True, slots=True)
class SwapTypes:
    """The 32 type numbers of ``swp_entry_t``, as this kernel assigns them (include/linux/swap.h).

    Types below ``max_swapfiles`` are swap spaces. Above them, in this order and if configured: hardware poison,
    migration, device memory, markers, swap-in errors.
    """

    layout: SwapLayout
    max_swapfiles: int
    hwpoison: range
    migration: range
    device_private: range
    device_exclusive: range
    marker: range

    @classmethod
    def of(cls, kernel: Kernel) -> "SwapTypes":
        """Work out the numbers: each option shows by a function that it adds, the counts by the release."""

        def has(function: str) -> bool:
            return kernel.target.symbol_address(function) is not None

        version = kernel.version
        hwpoison = 1 if has("memory_failure") else 0
        # 6c287605fd56 "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive" (5.19) added a third
        migration = (3 if version >= (5, 19) else 2) if has("migrate_pages") else 0
        private = exclusive = 0
        if version < (5, 14):
            private = 2 if has("devm_request_free_mem_region") else 0
        elif has("make_device_exclusive"):
            private, exclusive = 2, 1  # c25465eb7630 "mm: use single SWP_DEVICE_EXCLUSIVE entry type" (6.15)
        elif has("make_device_exclusive_range"):
            private, exclusive = 2, 2  # b756a3b5e7ea "mm: device exclusive memory access" (5.14)
        # 679d10331910 "mm: introduce PTE_MARKER swap entry" (5.19)
        marker = 1 if version >= (5, 19) else 0
        # 9f186f9e5fa9 "mm/swapfile: unuse_pte can map random data if swap read fails" (5.19); became a marker in 6.2
        swapin_error = 1 if (5, 19) <= version < (6, 2) else 0
        counts = (hwpoison, migration, private, exclusive, marker)
        first = 32 - sum(counts) - swapin_error
        ranges = []
        for count in counts:
            ranges.append(range(first, first + count))
            first += count
        poison, moving, in_device, exclusively, markers = ranges
        swap = kernel.machine.paging_mode.swap
        return cls(swap, poison.start, poison, moving, in_device, exclusively, markers)

    def decode(self, pte: int) -> SwapEntry:
        """Decode an entry in its page-table form (not its xarray form)."""
        number, offset = self.layout.type(pte), self.layout.offset(pte)
        # Entries that hold a page frame keep flags above it: 0d206b5d2e0d "mm/swap: add swp_offset_pfn()" (6.1).
        frame = offset & (1 << self.layout.pfn_bits) - 1
        if number < self.max_swapfiles:
            return SwapEntry(SwapKind.SWAP, number, offset)
        if number in self.migration or number in self.device_exclusive:
            return SwapEntry(SwapKind.PAGE, number, frame)
        if number in self.hwpoison:
            return SwapEntry(SwapKind.POISONED, number, frame)
        if number in self.device_private:
            return SwapEntry(SwapKind.DEVICE, number, frame)
        if number in self.marker:
            if offset & _MARKER_GUARD:
                return SwapEntry(SwapKind.GUARD, number, offset)
            if offset & _MARKER_POISONED:
                return SwapEntry(SwapKind.POISONED, number, offset)
            return SwapEntry(SwapKind.NONE, number, offset)
        return SwapEntry(SwapKind.UNKNOWN, number, offset)
