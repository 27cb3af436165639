# SPDX-License-Identifier: LGPL-2.1-or-later
"""The meaning of page-table entries that are neither empty nor present: swap, migration, poison, markers."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from drgn import FaultError

from kgcore.arch.paging import SwapLayout
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.swapnumbers import Purpose, max_swapfiles, swap_numbers, swapfiles

__all__ = ("SwapEntry", "SwapKind", "SwapTypes", "leads_to_page")

_MARKER_UFFD_WP = 1 << 0
_MARKER_POISONED = 1 << 1
_MARKER_GUARD = 1 << 2
_MARKERS = _MARKER_UFFD_WP | _MARKER_POISONED | _MARKER_GUARD
# x86 never gives away the first 64 KiB: no page of a process is there (reserve_real_mode(), arch/x86/realmode/init.c).
_FIRST_FRAME = 16
_PAGE_MAPPING_ANON = 1  # include/linux/page-flags.h


class SwapKind(Enum):
    """What a swap entry stands for."""

    SWAP = "swap"  # value: offset in swap space number ``type``
    MIGRATION = "migration"  # value: frame number of a page that is in memory and locked
    EXCLUSIVE = "device-exclusive"  # value: frame number of an anonymous page that is in memory
    NONE = "none"  # as good as an empty entry
    GUARD = "guard region"  # MADV_GUARD_INSTALL: deliberately inaccessible
    POISONED = "poisoned"  # a hardware memory error, or UFFDIO_POISON
    DEVICE = "in device memory"
    UNKNOWN = "unknown entry"
    AMBIGUOUS = "the dump does not tell what the entry means"


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
    """What the 32 type numbers of ``swp_entry_t`` mean to this kernel.

    :ivar max_swapfiles: numbers below it are swap spaces.
    :ivar purposes: all that the dump allows each number to mean; none: the dump contradicts itself.
    """

    layout: SwapLayout
    max_swapfiles: int
    purposes: tuple[frozenset[Purpose], ...]

    @classmethod
    def of(cls, kernel: Kernel) -> "SwapTypes":
        """Find out the meanings; where the dump leaves several open, all of them."""
        found = swap_numbers(kernel.target)
        layout = kernel.machine.paging_mode.swap
        if found:
            purposes = tuple(map(frozenset, zip(*(numbers.purposes for numbers in found), strict=True)))
            return cls(layout, min(numbers.max_swapfiles for numbers in found), purposes)
        used = swapfiles(kernel.target)
        count = min(max_swapfiles(kernel.target), default=0) if used is None else used
        swap, unknown = frozenset({Purpose.SWAP}), frozenset[Purpose]()
        return cls(layout, count, (*[swap] * count, *[unknown] * (32 - count)))

    def decode(self, pte: int) -> SwapEntry:
        """Decode an entry in its page-table form (not its xarray form)."""
        number, offset = self.layout.type(pte), self.layout.offset(pte)
        # Entries that hold a page frame keep flags above it: 0d206b5d2e0d "mm/swap: add swp_offset_pfn()" (6.1).
        frame = offset & (1 << self.layout.pfn_bits) - 1
        meant = {(kind, value) for purpose in self.purposes[number] for kind, value in _meaning(purpose, offset, frame)}
        if len(meant) == 1:
            ((kind, value),) = meant
            return SwapEntry(kind, number, value)
        return SwapEntry(SwapKind.AMBIGUOUS if meant else SwapKind.UNKNOWN, number, offset)


def _meaning(purpose: Purpose, offset: int, frame: int) -> tuple[tuple[SwapKind, int], ...]:
    """Return what an entry means if its number is for a purpose; nothing: the kernel never makes this entry."""
    if purpose is Purpose.SWAP:
        return ((SwapKind.SWAP, offset),)
    if purpose is Purpose.MARKER:
        if not offset or offset & ~_MARKERS:
            return ()
        if offset & _MARKER_GUARD:
            return ((SwapKind.GUARD, offset),)
        return ((SwapKind.POISONED if offset & _MARKER_POISONED else SwapKind.NONE, offset),)
    if frame < _FIRST_FRAME and purpose is not Purpose.DEVICE_PRIVATE:
        return ()
    kinds = {
        Purpose.HWPOISON: SwapKind.POISONED,
        Purpose.SWAPIN_ERROR: SwapKind.POISONED,
        Purpose.MIGRATION: SwapKind.MIGRATION,
        Purpose.DEVICE_PRIVATE: SwapKind.DEVICE,
        Purpose.DEVICE_EXCLUSIVE: SwapKind.EXCLUSIVE,
    }
    return ((kinds[purpose], frame),)


def leads_to_page(kernel: Kernel, entry: SwapEntry) -> bool:
    """Tell whether an entry leads to a page as the kernel says it does, so that its number means what it seems to.

    As long as there are migration entries of a page, it is locked: ``pfn_swap_entry_to_page()``
    (include/linux/swapops.h) stops the kernel if not. Device-exclusive entries are of anonymous pages only
    (``make_device_exclusive()``, mm/rmap.c).

    :param entry: of kind MIGRATION or EXCLUSIVE.
    """
    try:
        head = kernel.page_head(kernel.machine.frame_to_page(entry.value))
        flags, mapping = kernel.page_words(head)
    except (FaultError, LookupError):
        return False
    if entry.kind is SwapKind.EXCLUSIVE:
        return bool(mapping & _PAGE_MAPPING_ANON)
    locked = kernel.target.constant("PG_locked")
    return locked is not None and bool(flags >> locked & 1)
