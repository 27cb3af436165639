# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of swap entry types by release and options, as include/linux/swap.h counts them down from 32."""

from dataclasses import dataclass

import pytest

pytest.importorskip("drgn")

from kgcore.sources.vmcore.memory.swapentry import SwapKind, SwapTypes
from tests.vmcore.layouts.world import World

MIGRATION = ("migrate_pages",)
POISON = ("memory_failure",)
DEVICE_510 = ("devm_request_free_mem_region",)
DEVICE_514 = (*DEVICE_510, "make_device_exclusive_range")  # mm/rmap.c, 5.14 to 6.14
DEVICE_615 = ("make_device_exclusive",)  # mm/rmap.c, 6.15
S, P, H, D, M, U = (
    SwapKind.SWAP,
    SwapKind.PAGE,
    SwapKind.POISONED,
    SwapKind.DEVICE,
    SwapKind.NONE,  # a marker without a flag
    SwapKind.UNKNOWN,
)


@dataclass(frozen=True)
class Case:
    """:ivar kinds: of the types from MAX_SWAPFILES to 31."""

    release: str
    functions: tuple[str, ...]
    kinds: tuple[SwapKind, ...]


CASES = (
    # 5.10: MAX_SWAPFILES = 32 - DEVICE 2 - MIGRATION 2 - HWPOISON 1
    Case("5.10.0", (*POISON, *MIGRATION, *DEVICE_510), (H, P, P, D, D)),
    Case("5.10.0", (*POISON, *MIGRATION), (H, P, P)),
    Case("5.10.0", (*MIGRATION, *DEVICE_510), (P, P, D, D)),
    Case("5.10.0", (*POISON, *DEVICE_510), (H, D, D)),
    Case("5.10.0", (), ()),
    # 5.14: DEVICE 4: write, read, exclusive write, exclusive read
    Case("5.14.0", (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, D, D, P, P)),
    Case("5.14.0", (*POISON, *MIGRATION), (H, P, P)),
    # 5.19 and 6.1: MIGRATION 3, PTE_MARKER 1, and SWAPIN_ERROR 1 behind all others
    Case("5.19.0", (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, P, P, M, U)),
    Case("6.1.0", (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, P, P, M, U)),
    Case("6.1.0", (*POISON, *MIGRATION), (H, P, P, P, M, U)),
    Case("6.1.0", (), (M, U)),
    # 6.2: no SWAPIN_ERROR
    Case("6.2.0", (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, P, P, M)),
    Case("6.12.0", (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, P, P, M)),
    Case("6.12.0", MIGRATION, (P, P, P, M)),
    # 6.15 and 7.2: DEVICE 3
    Case("6.15.0", (*POISON, *MIGRATION, *DEVICE_615), (H, P, P, P, D, D, P, M)),
    Case("7.2.0", (*POISON, *MIGRATION, *DEVICE_615), (H, P, P, P, D, D, P, M)),
    Case("7.2.0", (*POISON, *MIGRATION), (H, P, P, P, M)),
    Case("7.2.0", (), (M,)),
)


def types(case: Case, vmcoreinfo: dict[str, str] | None = None) -> SwapTypes:
    world = World("", case.release, vmcoreinfo)
    world.has(*case.functions)
    return SwapTypes.of(world.kernel)


def entry(number: int, offset: int) -> int:
    """``swp_entry_to_pte()``: __swp_entry(), arch/x86/include/asm/pgtable_64.h: the offset is inverted, in bits 9 to
    58."""
    return number << 59 | (~offset & (1 << 50) - 1) << 9


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.release}-{'-'.join(case.functions) or 'nothing'}")
def test_every_type_number(case: Case) -> None:
    swap_types = types(case)
    first = 32 - len(case.kinds)
    expected = [S] * first + list(case.kinds)
    assert [swap_types.decode(entry(number, 0x123450)).kind for number in range(32)] == expected
    assert all(swap_types.decode(entry(number, 8)).type == number for number in range(32))
    assert swap_types.max_swapfiles == first


def test_offset_of_a_swapped_page() -> None:
    assert types(CASES[0]).decode(entry(3, 0x2_3456_789A)).value == 0x2_3456_789A


def test_low_bits_are_flags() -> None:
    """Soft dirty (1), uffd-wp (2) and exclusive (3) lie below the offset: arch/x86/include/asm/pgtable_64.h."""
    assert types(CASES[0]).decode(entry(0, 77) | 0xE) == (S, 0, 77)


@pytest.mark.parametrize("number", [28, 30])
@pytest.mark.parametrize("levels", [4, 5])
def test_frame_number_lies_below_the_flags(number: int, levels: int) -> None:
    """SWP_MIG_YOUNG_BIT and SWP_MIG_DIRTY_BIT stand above SWP_PFN_BITS = MAX_PHYSMEM_BITS - PAGE_SHIFT
    (include/linux/swapops.h); the former is 46, or 52 with five levels of page tables."""
    case = next(case for case in CASES if case.release == "6.12.0")
    known = types(case, {"NUMBER(pgtable_l5_enabled)": str(int(levels == 5))})
    bits = 34 if levels == 4 else 40
    found = known.decode(entry(24, 0x12345 | 3 << bits))
    assert (found.kind, found.value) == (P, 0x12345)
    assert known.decode(entry(24, (1 << bits) - 1)).value == (1 << bits) - 1
    assert known.decode(entry(number, 0x777)).value == 0x777


@pytest.mark.parametrize(("flags", "kind"), [(0, M), (1, M), (2, H), (3, H), (4, SwapKind.GUARD), (5, SwapKind.GUARD)])
def test_markers(flags: int, kind: SwapKind) -> None:
    """PTE_MARKER_UFFD_WP 1, PTE_MARKER_POISONED 2, PTE_MARKER_GUARD 4 (include/linux/swapops.h)."""
    case = next(case for case in CASES if case.release == "7.2.0")
    assert types(case).decode(entry(31, flags)).kind is kind
