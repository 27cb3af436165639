# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which numbers a kernel gives the types of ``swp_entry_t``: all assignments that the dump allows.

include/linux/swap.h counts them down from 32, as the options and the release have it, and distributions backport: RHEL
9 calls itself 5.14 and has the numbers of 5.19, of 6.2, and some that no other kernel has. So no release decides here.
Functions, enumerators and types say which purposes have numbers, and the size of ``swap_info[MAX_SWAPFILES]`` says how
many numbers there are altogether. What is still open stays open: the caller gets more than one assignment.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import Enum
from itertools import product
from typing import NamedTuple

from drgn import FaultError, TypeKind

from kgcore.sources.vmcore.opening.target import Target

__all__ = ("Purpose", "SwapNumbers", "max_swapfiles", "swap_numbers", "swapfiles")

_NUMBERS = 32  # 1 << MAX_SWAPFILES_SHIFT
_SMALLEST = 16  # far below MAX_SWAPFILES of any kernel: an array that seems to be smaller has another size


class Purpose(Enum):
    """What a type number is for."""

    SWAP = 0
    HWPOISON = 1
    MIGRATION = 2
    DEVICE_PRIVATE = 3
    DEVICE_EXCLUSIVE = 4
    MARKER = 5
    SWAPIN_ERROR = 6


class SwapNumbers(NamedTuple):
    """How many numbers each purpose has, in the order in which they follow MAX_SWAPFILES.

    :ivar hwpoison: SWP_HWPOISON_NUM.
    :ivar migration: SWP_MIGRATION_NUM.
    :ivar private: of SWP_DEVICE_NUM, read and write.
    :ivar exclusive: of SWP_DEVICE_NUM, the exclusive ones, which come last.
    :ivar marker: SWP_PTE_MARKER_NUM.
    :ivar swapin_error: SWP_SWAPIN_ERROR_NUM.
    """

    hwpoison: int
    migration: int
    private: int
    exclusive: int
    marker: int
    swapin_error: int

    @property
    def max_swapfiles(self) -> int:
        """MAX_SWAPFILES: the first number that is of no swap space."""
        return _NUMBERS - sum(self)

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """The purpose of each of the 32 numbers."""
        special = (purpose for purpose, count in zip(_ORDER, self, strict=True) for _ in range(count))
        return (*[Purpose.SWAP] * self.max_swapfiles, *special)


_ORDER = tuple(purpose for purpose in Purpose if purpose is not Purpose.SWAP)


def swap_numbers(target: Target) -> tuple[SwapNumbers, ...]:
    """Return all assignments that nothing in the dump speaks against; none: what it says does not fit together."""
    sizes = max_swapfiles(target)
    used = swapfiles(target) or 0
    allowed = product(_hwpoison(target), _migration(target), _device(target), _last(target))
    found = (SwapNumbers(poison, migration, *device, *last) for poison, migration, device, last in allowed)
    return tuple(numbers for numbers in found if numbers.max_swapfiles in sizes and numbers.max_swapfiles >= used)


def swapfiles(target: Target) -> int | None:
    """Return ``nr_swapfiles`` (mm/swapfile.c): no swap space has that number or a higher one; None: unknown."""
    address = target.symbol_address("nr_swapfiles")
    with suppress(FaultError):
        if address is not None and 0 <= (count := int(target.prog.read_u32(address))) <= _NUMBERS:
            return count
    return None


# How many swap spaces there may be


def max_swapfiles(target: Target) -> range:
    """Return the values that MAX_SWAPFILES may have, by the arrays that have as many elements."""
    low, high = _SMALLEST, _NUMBERS
    word = target.architecture.word_size
    # mm/swapfile.c, mm/swap_state.c, mm/zswap.c; not every kernel has all of them
    arrays = {"swap_info": word, "swapper_spaces": word, "nr_swapper_spaces": 4, "zswap_trees": word}
    for name, element in (arrays | {"nr_zswap_trees": 4}).items():
        for size in (_declared(target, name), _room(target, name, element)):
            if size is not None and size.start <= _NUMBERS and size[-1] >= _SMALLEST:
                low, high = max(low, size.start), min(high, size[-1])
    return range(low, high + 1)


def _declared(target: Target, name: str) -> range | None:
    """Return the length of an array by its type, which DWARF has and BTF has not; None: unknown."""
    with suppress(LookupError):
        kind = target.prog[name].type_
        if kind.kind is TypeKind.ARRAY and kind.length:
            return range(kind.length, kind.length + 1)
    return None


def _room(target: Target, name: str, element: int) -> range | None:
    """Return the lengths for which an array has room before the next symbol; None: unknown.

    Between the two there is at most what aligns the next one, and that is less than the alignment which its address has
    anyway.

    :param element: bytes of an element.
    """
    try:
        symbol = target.prog.symbol(name)
    except LookupError:
        return None
    room, end = symbol.size, symbol.address + symbol.size
    if room < _SMALLEST * element:
        return None
    padding = (end & -end) - 1
    return range(max(1, -(-(room - padding) // element)), room // element + 1)


# Which purposes have numbers


def _has(target: Target, *functions: str) -> bool:
    return any(target.symbol_address(name) is not None for name in functions)


def _hwpoison(target: Target) -> Iterable[int]:
    """CONFIG_MEMORY_FAILURE adds ``memory_failure()`` and PG_hwpoison."""
    function = _has(target, "memory_failure")
    if target.constant("PG_locked") is None or function == (target.constant("PG_hwpoison") is not None):
        return (int(function),)
    return (0, 1)


def _migration(target: Target) -> Iterable[int]:
    """CONFIG_MIGRATION adds ``migrate_pages()``.

    6c287605fd56 "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive" (5.19) added a third number.
    """
    if not _has(target, "migrate_pages", "remove_migration_ptes"):
        return (0,)
    exclusive = _anon_exclusive(target)
    return (2, 3) if exclusive is None else (3,) if exclusive else (2,)


def _anon_exclusive(target: Target) -> bool | None:
    """Whether the kernel has 6c287605fd56 (5.19); None: unknown."""
    if target.constant("PG_locked") is None:
        return None
    return target.constant("PG_anon_exclusive") is not None


def _device(target: Target) -> Iterable[tuple[int, int]]:
    """CONFIG_DEVICE_PRIVATE adds two numbers, and functions; later also numbers for exclusive access."""
    if _has(target, "make_device_exclusive"):
        return ((2, 1),)  # c25465eb7630 "mm: use single SWP_DEVICE_EXCLUSIVE entry type" (6.15)
    if _has(target, "make_device_exclusive_range"):
        return ((2, 2),)  # b756a3b5e7ea "mm: device exclusive memory access" (5.14), which adds MMU_NOTIFY_EXCLUSIVE
    if target.constant("MMU_NOTIFY_EXCLUSIVE") is not None:
        return ((0, 0),)
    # 897e6365cda6 "memremap: add a migrate_to_ram method to struct dev_pagemap_ops" (5.3) took the first away,
    # 0092908d16c6 "mm: factor out a devm_request_free_mem_region helper" (5.3) brought the second. Since 6.0 others,
    # too, want that.
    if _has(target, "device_private_entry_fault"):
        return ((2, 0),)
    if _has(target, "devm_request_free_mem_region"):
        return ((2, 0),) if target.constant("MMU_NOTIFY_UNMAP") is not None else ((0, 0), (2, 0))
    return ((0, 0),)


def _last(target: Target) -> Iterator[tuple[int, int]]:
    """Yield how many numbers markers and swap-in errors may have.

    None at first. 679d10331910 "mm: introduce PTE_MARKER swap entry" (5.19) added a marker if so configured, and
    9f186f9e5fa9 "mm/swapfile: unuse_pte can map random data if swap read fails" (5.19) an error behind it, in any case.
    ca92ea3dc5a2 "mm: always compile in pte markers" (6.2) and 15520a3f0469 "mm: use pte markers for swap errors" (6.2)
    left the marker. RHEL took them over one by one, and without CONFIG_PTE_MARKER: 9.2 and 9.4 have the type of a
    marker and neither number, 9.3 has the error alone (5.14.0-284.11.1.el9_2, 427.13.1.el9_4, 362.8.1.el9_3).
    """
    # The enumeration came in 7.0 or so; 8a13897fb0da "mm: userfaultfd: support UFFDIO_POISON for hugetlbfs" (6.6) and
    # its series need the marker for errors.
    if target.has_type("enum softleaf_type") or target.constant("MFILL_ATOMIC_POISON") is not None:
        yield 1, 0
        return
    yield 0, 0
    if _anon_exclusive(target) is not False or target.has_type("pte_marker"):
        yield from ((1, 0), (1, 1), (0, 1))
