# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of swap entry types as include/linux/swap.h counts them down from 32, whatever the release."""

from dataclasses import dataclass, replace

import pytest

pytest.importorskip("drgn")

from kgcore.sources.vmcore.memory.swapentry import SwapKind, SwapTypes, leads_to_page
from tests.vmcore.layouts.world import PAGE_OFFSET, World

MIGRATION = ("migrate_pages",)
POISON = ("memory_failure",)
DEVICE_419 = ("device_private_entry_fault",)  # kernel/memremap.c, 4.14 to 5.2
DEVICE_510 = ("devm_request_free_mem_region",)  # kernel/resource.c, 5.3
DEVICE_514 = (*DEVICE_510, "make_device_exclusive_range")  # mm/rmap.c, 5.14 to 6.14
DEVICE_615 = (*DEVICE_510, "make_device_exclusive")  # mm/rmap.c, 6.15
S, P, X, H, D, M, U, A = (
    SwapKind.SWAP,
    SwapKind.MIGRATION,
    SwapKind.EXCLUSIVE,
    SwapKind.POISONED,
    SwapKind.DEVICE,
    SwapKind.NONE,  # a marker for uffd-wp
    SwapKind.UNKNOWN,
    SwapKind.AMBIGUOUS,
)
# include/linux/page-flags.h, mmu_notifier.h, userfaultfd_k.h, leafops.h: what these releases added or left out
FLAGS = "enum pageflags { PG_locked, PG_referenced, PG_uptodate = 3, %s PG_mappedtodisk };"
NOTIFY = "enum mmu_notifier_event { MMU_NOTIFY_UNMAP, MMU_NOTIFY_CLEAR %s };"
EXCLUSIVE = "PG_anon_exclusive = 17,"
TYPES_419 = FLAGS % ""
TYPES_510 = FLAGS % "" + NOTIFY % ""
TYPES_514 = FLAGS % "" + NOTIFY % ", MMU_NOTIFY_EXCLUSIVE = 7"
TYPES_519 = FLAGS % EXCLUSIVE + NOTIFY % ", MMU_NOTIFY_EXCLUSIVE = 7" + "typedef unsigned long pte_marker;"
TYPES_RHEL = TYPES_519.replace("typedef unsigned long pte_marker;", "")
TYPES_66 = TYPES_519 + "enum mfill_atomic_mode { MFILL_ATOMIC_COPY, MFILL_ATOMIC_POISON = 3 };"
TYPES_72 = TYPES_66 + "enum softleaf_type { SOFTLEAF_NONE, SOFTLEAF_SWAP };"


@dataclass(frozen=True)
class Case:
    """:ivar kinds: of the types from MAX_SWAPFILES to 31.
    :ivar room: elements that ``swap_info`` has room for before the next symbol; None: MAX_SWAPFILES.
    :ivar aligned: of that symbol's address.
    """

    name: str
    types: str
    functions: tuple[str, ...]
    kinds: tuple[SwapKind, ...]
    room: int | None = None
    aligned: int = 8

    @property
    def max_swapfiles(self) -> int:
        return 32 - len(self.kinds)


CASES = (
    # 4.18 and 4.19: MAX_SWAPFILES = 32 - DEVICE 2 - MIGRATION 2 - HWPOISON 1
    Case("4.19", TYPES_419, (*POISON, *MIGRATION, *DEVICE_419), (H, P, P, D, D)),
    Case("4.19 without", TYPES_419, (*POISON, *MIGRATION), (H, P, P)),
    # 5.10: the same
    Case("5.10", TYPES_510, (*POISON, *MIGRATION, *DEVICE_510), (H, P, P, D, D)),
    Case("5.10 without DEVICE", TYPES_510, (*POISON, *MIGRATION), (H, P, P), aligned=32),
    Case("5.10 without POISON", TYPES_510, (*MIGRATION, *DEVICE_510), (P, P, D, D)),
    Case("5.10 without MIGRATION", TYPES_510, (*POISON, *DEVICE_510), (H, D, D)),
    Case("5.10 without anything", TYPES_510, (), ()),
    # RHEL 8.3 and later; before, some of these functions and types are as in 4.19
    Case("RHEL 8", TYPES_510, (*POISON, *MIGRATION, *DEVICE_510), (H, P, P, D, D)),
    # 5.14: DEVICE 4: write, read, exclusive write, exclusive read
    Case("5.14", TYPES_514, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, D, D, X, X)),
    Case("5.14 without DEVICE", TYPES_514, (*POISON, *MIGRATION, *DEVICE_510), (H, P, P)),
    # 5.19 and 6.1, and RHEL 9.3 (5.14.0-362.8.1.el9_3, "without PTE_MARKER"): MIGRATION 3, PTE_MARKER 1 if so
    # configured, and SWAPIN_ERROR 1 behind all others
    Case("5.19", TYPES_519, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X, M, U)),
    Case("5.19 without DEVICE", TYPES_519, (*POISON, *MIGRATION), (H, P, P, P, M, U)),
    Case("5.19 without PTE_MARKER", TYPES_519, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X, U)),
    Case("5.19 without anything", TYPES_519, (), (M, U)),
    # RHEL 9.2 and 9.4 (5.14.0-284.11.1.el9_2, 427.13.1.el9_4): PTE_MARKER 1 if so configured, which it is not, and no
    # SWAPIN_ERROR
    Case("RHEL 9.2", TYPES_519, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X)),
    # RHEL, before it took the markers over (ctrliq/kernel-src-tree, include/linux/swapops.h at 03c1067cb421)
    Case("RHEL with PG_anon_exclusive", TYPES_RHEL, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X)),
    # 6.2, and RHEL 9.5 (5.14.0-503.11.1.el9_5): no SWAPIN_ERROR
    Case("6.2", TYPES_519, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X, M)),
    # 6.6 to 6.14, RHEL 9.6 (5.14.0-570.12.1.el9_6) and RHEL 10
    Case("6.12", TYPES_66, (*POISON, *MIGRATION, *DEVICE_514), (H, P, P, P, D, D, X, X, M), room=24, aligned=32),
    Case("6.12 with MIGRATION", TYPES_66, MIGRATION, (P, P, P, M)),
    # 6.15 and 7.2: DEVICE 3
    Case("6.15", TYPES_66, (*POISON, *MIGRATION, *DEVICE_615), (H, P, P, P, D, D, X, M)),
    Case("7.2", TYPES_72, (*POISON, *MIGRATION, *DEVICE_615), (H, P, P, P, D, D, X, M), aligned=32),
    Case("7.2 without DEVICE", TYPES_72, (*POISON, *MIGRATION), (H, P, P, P, M)),
    Case("7.2 without anything", TYPES_72, (), (M,)),
)
BY_NAME = {case.name: case for case in CASES}
NAMED = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def declared(text: str, functions: tuple[str, ...]) -> str:
    """CONFIG_MEMORY_FAILURE adds a flag, too."""
    return (
        text.replace("PG_locked,", "PG_locked, PG_hwpoison = 20, PG_waiters = 1,") if POISON[0] in functions else text
    )


def world_of(case: Case, vmcoreinfo: dict[str, str] | None = None, release: str = "5.14.0") -> World:
    world = World(declared(case.types, case.functions), release, vmcoreinfo)
    world.has(*case.functions)
    room = 8 * (case.max_swapfiles if case.room is None else case.room)
    world.sizes["swap_info"] = room
    # The next symbol's address is a multiple of this, and of no more.
    world.symbols["swap_info"] = PAGE_OFFSET + 0x5000 + case.aligned - room
    return world


def types(case: Case, vmcoreinfo: dict[str, str] | None = None, release: str = "5.14.0") -> SwapTypes:
    return SwapTypes.of(world_of(case, vmcoreinfo, release).kernel)


def entry(number: int, offset: int) -> int:
    """``swp_entry_to_pte()``: __swp_entry(), arch/x86/include/asm/pgtable_64.h: the offset is inverted, in bits 9 to
    58."""
    return number << 59 | (~offset & (1 << 50) - 1) << 9


OFFSETS = 1, 2, 4, 0x123450


def right(case: Case, number: int, offset: int) -> SwapKind | None:
    """What the kernel means by an entry; None: it makes no such entry."""
    kind = S if number < case.max_swapfiles else case.kinds[number - case.max_swapfiles]
    if kind is M:
        return {1: M, 2: H, 4: SwapKind.GUARD}.get(offset)
    if kind is S or kind is D or offset > 15:
        return H if kind is U else kind
    return None


@pytest.mark.parametrize("release", ["4.18.0", "5.14.0", "7.2.0", "nonsense"])
@NAMED
def test_every_type_number_whatever_the_release(case: Case, release: str) -> None:
    known = types(case, release=release)
    for number in range(32):
        for offset in OFFSETS:
            found, expected = known.decode(entry(number, offset)), right(case, number, offset)
            assert found.type == number
            assert expected is None or found.kind is expected, (number, offset)
    assert known.max_swapfiles == case.max_swapfiles


@pytest.mark.parametrize("aligned", [8, 16, 32, 64])
@NAMED
def test_room_behind_swap_info_invents_nothing(case: Case, aligned: int) -> None:
    """The next symbol follows at once, or further away, as far as its alignment may push it: then several assignments
    fit. An entry that would mean two things is not read; one that is read means what it does."""
    for room in range(case.max_swapfiles, case.max_swapfiles + aligned // 8):
        known = types(replace(case, room=room, aligned=aligned))
        for number in range(32):
            for offset in OFFSETS:
                found, expected = known.decode(entry(number, offset)).kind, right(case, number, offset)
                assert expected is None or found in (A, expected), (room, number, offset)


@pytest.mark.parametrize("by", [-1, 1])
@NAMED
def test_numbers_shifted_by_one_are_not_believed(case: Case, by: int) -> None:
    """Room for one swap space less or more than the functions and types allow: what the dump says does not fit.

    But for the marker and the error of 5.19 to 6.5, and RHEL: nothing else tells how many of both there are, so that
    one more or less is one.
    """
    known = types(replace(case, room=case.max_swapfiles + by, aligned=8))
    allowed = (0, 1, 2) if case.types in (TYPES_519, TYPES_RHEL) else ()
    if sum(kind in (M, U) for kind in case.kinds) - by in allowed:
        assert known.max_swapfiles == case.max_swapfiles + by
        return
    for number in range(case.max_swapfiles + (by == 1), 32):
        for offset in OFFSETS:
            assert known.decode(entry(number, offset)).kind is U


def test_without_a_size_only_certain_numbers_are_read() -> None:
    """Four assignments are left for 5.19 to 6.5, and RHEL: with a marker, with an error, with both, with neither."""
    world = World(declared(TYPES_519, POISON))
    world.has(*POISON, *MIGRATION, *DEVICE_514)
    known = SwapTypes.of(world.kernel)
    frames, markers = ([known.decode(entry(number, offset)).kind for number in range(32)] for offset in (0x123450, 1))
    assert frames == [S] * 22 + [A, A, A, P, A, A, A, A, X, A]
    # The last may be a marker or an error, but no page that could not be read has frame number 1.
    assert markers[30:] == [M, M]


def test_swap_spaces_in_use_are_swap_spaces() -> None:
    """``nr_swapfiles`` (mm/swapfile.c)"""
    world = World(declared(TYPES_519, POISON))
    world.has(*POISON, *MIGRATION, *DEVICE_514)
    world.word("nr_swapfiles", 23)
    assert SwapTypes.of(world.kernel).max_swapfiles == 23
    assert {SwapTypes.of(world.kernel).decode(entry(number, 7)).kind for number in range(23)} == {S}
    world = World(declared(TYPES_519, POISON))
    world.has(*POISON, *MIGRATION, *DEVICE_514)
    world.word("nr_swapfiles", 31)  # more than any assignment leaves: nothing above is believed
    known = SwapTypes.of(world.kernel)
    assert [known.decode(entry(number, 0x123450)).kind for number in range(32)] == [S] * 31 + [U]


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
    known = types(BY_NAME["6.12"], {"NUMBER(pgtable_l5_enabled)": str(int(levels == 5))})
    bits = 34 if levels == 4 else 40
    found = known.decode(entry(24, 0x12345 | 3 << bits))
    assert (found.kind, found.value) == (P, 0x12345)
    assert known.decode(entry(24, (1 << bits) - 1)).value == (1 << bits) - 1
    assert known.decode(entry(number, 0x777)).value == 0x777


@pytest.mark.parametrize(
    ("flags", "kind"), [(0, U), (1, M), (2, H), (3, H), (4, SwapKind.GUARD), (5, SwapKind.GUARD), (8, U), (0x12345, U)]
)
def test_markers(flags: int, kind: SwapKind) -> None:
    """PTE_MARKER_UFFD_WP 1, PTE_MARKER_POISONED 2, PTE_MARKER_GUARD 4 (include/linux/swapops.h); the kernel makes no
    marker without a flag, and stops a process that has one (handle_pte_marker(), mm/memory.c)."""
    assert types(BY_NAME["7.2"]).decode(entry(31, flags)).kind is kind


@pytest.mark.parametrize("number", range(22, 30))
def test_a_marker_is_no_page(number: int) -> None:
    """The first 64 KiB of memory are nobody's: an entry with that frame number is something else."""
    assert types(BY_NAME["5.19"]).decode(entry(number, 1)).kind in (U, D)


PAGES = (
    TYPES_66
    + """
struct page {
    unsigned long flags;
    union { struct { unsigned long lru[2]; unsigned long mapping; unsigned long index; unsigned long private; };
            struct { unsigned long %s; }; };
    unsigned long counts[2];
};
"""
)
HEAD, TAIL = 0x1000, 0x1003


@pytest.mark.parametrize("word", ["compound_head", "compound_info"])
def test_a_migration_entry_leads_to_a_locked_page(word: str) -> None:
    world = World(PAGES % word, vmcoreinfo={})
    world.word("vmemmap_base", PAGE_OFFSET + 0x1000000)
    for page in range(0x1000000, 0x1000000 + 0x1010 * 64, 4096):
        world.memory[page >> 12] = bytearray(4096)
    case = BY_NAME["6.12"]
    known = types(case)
    at = {frame: world.machine.frame_to_page(frame) for frame in (HEAD, TAIL)}
    moving, exclusive = (known.decode(entry(number, TAIL)) for number in (24, 29))
    assert (moving.kind, exclusive.kind) == (P, X)
    assert not leads_to_page(world.kernel, moving)
    assert not leads_to_page(world.kernel, exclusive)
    world.set("struct page", at[HEAD], {"flags": 1, "mapping": 0xFFFF888000123401})  # locked, anonymous
    assert not leads_to_page(world.kernel, moving)  # a page of its own
    words = [at[HEAD] | 1]
    if word == "compound_info":  # _compound_head(), include/linux/page-flags.h: a mask
        words.append(((1 << 64) - 64 * 16) | 1)
    for value in words:
        world.set("struct page", at[TAIL], {word: value})
        assert leads_to_page(world.kernel, moving)
        assert leads_to_page(world.kernel, exclusive)
    world.set("struct page", at[HEAD], {"flags": 2, "mapping": 0xFFFF888000123400})
    assert not leads_to_page(world.kernel, moving)
    assert not leads_to_page(world.kernel, exclusive)
    assert not leads_to_page(world.kernel, moving._replace(value=1 << 30))  # no such struct page in the dump
