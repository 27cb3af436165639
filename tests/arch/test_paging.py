# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page walk on made-up tables: every kind of entry at every level, and tables that lie."""

import struct
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kgcore.arch.paging import EntryKind, Leaf, PagingMode, walk
from kgcore.arch.x86.paging import I386_2LEVEL, I386_PAE, X86_64_4LEVEL, X86_64_5LEVEL

P, RW, US, PSE, PROTNONE, NX = 1, 2, 4, 1 << 7, 1 << 8, 1 << 63
PFN = ((1 << 52) - 1) & ~0xFFF
PRESENT, EMPTY, SWAP, BROKEN = EntryKind.PRESENT, EntryKind.EMPTY, EntryKind.SWAP, EntryKind.BROKEN
SCATTERED = EntryKind.SCATTERED


class Tables:
    """Physical memory that holds page tables; set(table, index, entry) makes them."""

    def __init__(self) -> None:
        self.memory: dict[int, bytearray] = {}
        self.reads = 0

    def set(self, table: int, index: int, entry: int) -> None:
        struct.pack_into("<Q", self.memory.setdefault(table, bytearray(4096)), index * 8, entry)

    def read(self, address: int, size: int) -> bytes | None:
        self.reads += 1
        table = self.memory.get(address & ~0xFFF)
        return None if table is None else bytes(table[address & 0xFFF :][:size])


@pytest.fixture
def tables() -> Tables:
    """A 4-level tree: root 0x1000 -> 0x2000 -> 0x3000 -> 0x4000, covering address 0."""
    tables = Tables()
    for upper, lower in ((0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000)):
        tables.set(upper, 0, lower | P | RW | US)
    tables.set(0x4000, 511, 0)
    return tables


def leaves(tables: Tables, start: int, end: int, **options: Any) -> list[Leaf]:
    return list(walk(X86_64_4LEVEL, 0x1000, start, end, tables.read, **options))


def test_contiguous_pages_are_one_run(tables: Tables) -> None:
    for index in range(4):
        tables.set(0x4000, index, 0x80000 + index * 0x1000 | P | NX)
    assert leaves(tables, 0, 0x5000) == [Leaf(0, 0x4000, PRESENT, 0x80000), Leaf(0x4000, 0x1000, EMPTY, 0)]


def test_pages_that_are_not_contiguous_are_one_run_too(tables: Tables) -> None:
    pages = [0x80000, 0x81000, 0xF0000]
    for index, page in enumerate(pages):
        tables.set(0x4000, index, page | P | NX)
    assert leaves(tables, 0, 0x4000) == [Leaf(0, 0x3000, SCATTERED, 0, pages), Leaf(0x3000, 0x1000, EMPTY, 0)]


def test_runs_join_across_tables(tables: Tables) -> None:
    tables.set(0x3000, 1, 0x5000 | P)
    tables.set(0x4000, 511, 0x10000 | P)
    tables.set(0x5000, 0, 0x11000 | P)
    assert leaves(tables, 0x1FF000, 0x201000) == [Leaf(0x1FF000, 0x2000, PRESENT, 0x10000)]


def test_part_of_a_table(tables: Tables) -> None:
    tables.set(0x4000, 2, 0x9000 | P)
    assert leaves(tables, 0x2000, 0x3000) == [Leaf(0x2000, 0x1000, PRESENT, 0x9000)]


@pytest.mark.parametrize("inverted", [True, False])
def test_prot_none_is_present(tables: Tables, inverted: bool) -> None:
    """Kernels with the L1TF fix store the frame number inverted; those before do not."""
    entry = 0x7B000 | PROTNONE | NX
    tables.set(0x4000, 0, entry ^ PFN if inverted else entry)
    tables.set(0x4000, 1, 0x7C000 | P)
    assert leaves(tables, 0, 0x2000) == [Leaf(0, 0x2000, PRESENT, 0x7B000)]


def test_swap_entries_stay_apart(tables: Tables) -> None:
    for index in range(2):
        tables.set(0x4000, index, 0x3FFFFFFFFFFF000 | 2)
    assert leaves(tables, 0, 0x2000) == [
        Leaf(0, 0x1000, SWAP, 0x3FFFFFFFFFFF002),
        Leaf(0x1000, 0x1000, SWAP, 0x3FFFFFFFFFFF002),
    ]


def test_large_pages_and_pat_bit(tables: Tables) -> None:
    tables.set(0x3000, 1, 0x40000000 | 1 << 12 | P | PSE)
    tables.set(0x2000, 1, 0x80000000 | P | PSE)
    assert leaves(tables, 0x201000, 0x400000) == [Leaf(0x201000, 0x1FF000, PRESENT, 0x40001000)]
    assert leaves(tables, 0x40000000, 0x80000000) == [Leaf(0x40000000, 0x40000000, PRESENT, 0x80000000)]


def inverted(physical: int, shift: int) -> int:
    """What a kernel with the L1TF fix makes of the address of a page of ``1 << shift`` bytes that is not present:
    pfn_pmd(), pmd_modify() (arch/x86/include/asm/pgtable.h) leave bits 12 to 20 of a huge page's entry alone."""
    return ~physical & PFN & -(1 << shift)


def test_large_page_being_split_or_hinted(tables: Tables) -> None:
    tables.set(0x3000, 1, inverted(0x40000000, 21) | PSE)
    tables.set(0x3000, 2, inverted(0x40200000, 21) | PSE | PROTNONE)
    tables.set(0x2000, 1, inverted(0x80000000, 30) | PSE | PROTNONE)
    assert leaves(tables, 0x200000, 0x600000) == [Leaf(0x200000, 0x400000, PRESENT, 0x40000000)]
    assert leaves(tables, 0x40003000, 0x40004000) == [Leaf(0x40003000, 0x1000, PRESENT, 0x80003000)]


def test_large_migration_entry(tables: Tables) -> None:
    tables.set(0x3000, 1, 0xF123_0000_0000_0002 & ~(P | PSE | PROTNONE))
    assert leaves(tables, 0x200000, 0x400000)[0].kind is SWAP


@pytest.mark.parametrize(("table", "index"), [(0x2000, 1), (0x3000, 1)])
def test_large_entry_that_the_kernel_does_not_make(tables: Tables, table: int, index: int) -> None:
    """PROTNONE without PSE: pmd_bad()."""
    tables.set(table, index, 0x40000000 | PROTNONE)
    start = index << (30 if table == 0x2000 else 21)
    assert leaves(tables, start, start + 0x1000) == [Leaf(start, 0x1000, BROKEN, table)]


def test_empty_entries_of_a_table_that_was_being_written_to(tables: Tables) -> None:
    """Of the two lowest levels alone, which have locks of their own."""
    tables.set(0x4000, 1, 0x9000 | P)
    tables.set(0x3000, 1, 0x5000 | P)
    tables.set(0x5000, 0, 0)
    changing = EntryKind.CHANGING
    lowest, middle, top = {0x4000}, {0x3000}, {0x1000, 0x2000}
    assert leaves(tables, 0, 0x800000, changing=lowest.__contains__) == [
        Leaf(0, 0x1000, changing, 0),
        Leaf(0x1000, 0x1000, PRESENT, 0x9000),
        Leaf(0x2000, 0x1FE000, changing, 0),
        Leaf(0x200000, 0x600000, EMPTY, 0),
    ]
    assert leaves(tables, 0x400000, 0x401000, changing=middle.__contains__) == [Leaf(0x400000, 0x1000, changing, 0)]
    assert leaves(tables, 0x200000, 0x800000, changing=middle.__contains__)[-1] == Leaf(0x400000, 0x400000, changing, 0)
    assert leaves(tables, 1 << 30, 1 << 40, changing=top.__contains__) == [
        Leaf(1 << 30, (1 << 40) - (1 << 30), EMPTY, 0)
    ]


def test_encryption_bit_is_not_address(tables: Tables) -> None:
    tables.set(0x3000, 0, 0x4000 | 1 << 47 | P)
    tables.set(0x4000, 0, 0x9000 | 1 << 47 | P)
    assert leaves(tables, 0, 0x1000, encryption_mask=1 << 47) == [Leaf(0, 0x1000, PRESENT, 0x9000)]


def test_lost_table_is_told_and_the_rest_goes_on(tables: Tables) -> None:
    tables.set(0x3000, 1, 0xDEAD000 | P)
    tables.set(0x3000, 2, 0x5000 | P)
    tables.set(0x5000, 0, 0x9000 | P)
    assert leaves(tables, 0x200000, 0x401000) == [
        Leaf(0x200000, 0x200000, BROKEN, 0xDEAD000),
        Leaf(0x400000, 0x1000, PRESENT, 0x9000),
    ]


def test_table_that_contains_itself_ends(tables: Tables) -> None:
    """The depth is the mode's, whatever the entries say."""
    tables.set(0x1000, 0, 0x1000 | P)
    assert sum(leaf.length for leaf in leaves(tables, 0, 0x200000)) == 0x200000


def test_table_in_two_places_is_told(tables: Tables) -> None:
    """It serves one place of a mapping; the walk stays as short as there are tables."""
    tables.set(0x4000, 0, 0x9000 | P)
    for index in range(512):
        tables.set(0x3000, index, 0x4000 | P)
    found = leaves(tables, 0, 1 << 30)
    assert found[0] == Leaf(0, 0x1000, PRESENT, 0x9000)
    assert {leaf.kind for leaf in found[2:]} == {BROKEN}
    assert sum(leaf.length for leaf in found) == 1 << 30
    assert tables.reads == 4


def test_empty_top_entries_cost_one_read(tables: Tables) -> None:
    tables.set(0x1000, 0, 0)
    assert leaves(tables, 0, 1 << 47) == [Leaf(0, 1 << 47, EMPTY, 0)]
    assert tables.reads == 1


def test_gate_page_of_the_kernel_half(tables: Tables) -> None:
    address = 0xFFFFFFFFFF600000
    tables.set(0x1000, 511, 0x2000 | P)
    tables.set(0x2000, 511, 0x3000 | P)
    tables.set(0x3000, 507, 0x4000 | P)
    tables.set(0x4000, 0, 0x7000 | P)
    assert leaves(tables, address, address + 0x1000) == [Leaf(address, 0x1000, PRESENT, 0x7000)]


def test_five_levels(tables: Tables) -> None:
    tables.set(0x8000, 1, 0x1000 | P)
    tables.set(0x4000, 0, 0x9000 | P)
    start = 1 << 48
    found = list(walk(X86_64_5LEVEL, 0x8000, start, start + 0x1000, tables.read))
    assert found == [Leaf(start, 0x1000, PRESENT, 0x9000)]


def test_two_levels() -> None:
    """Entries of 4 bytes, pages of 4 MiB, and nothing inverted (pgtable-2level.h)."""
    root, table = bytearray(4096), bytearray(4096)

    def read(address: int, size: int) -> bytes:
        return bytes({0x1000: root, 0x2000: table}[address & ~0xFFF][address & 0xFFF :][:size])

    entries = [(table, 0, 0xFFFFF000 | P), (table, 1, 0x9000 | PROTNONE), (table, 2, 0xFFFFF000 | PROTNONE)]
    entries += [(table, 3, 5 << 9 | 3 << 1), (root, 0, 0x2000 | P | RW), (root, 1, 0x00C00000 | 1 << 12 | P | PSE)]
    for where, index, entry in entries:
        struct.pack_into("<I", where, index * 4, entry)
    found = list(walk(I386_2LEVEL, 0x1000, 0, 0x801000, read))
    assert found == [
        Leaf(0, 0x3000, SCATTERED, 0, [0xFFFFF000, 0x9000, 0xFFFFF000]),
        Leaf(0x3000, 0x1000, SWAP, 5 << 9 | 3 << 1),
        Leaf(0x4000, 0x3FC000, EMPTY, 0),
        Leaf(0x400000, 0x400000, PRESENT, 0xC00000),
        Leaf(0x800000, 0x1000, EMPTY, 0),
    ]
    assert (I386_2LEVEL.swap.type(5 << 9 | 3 << 1), I386_2LEVEL.swap.offset(5 << 9 | 3 << 1)) == (3, 5)


def test_pae_swap_entries() -> None:
    """pgtable-3level.h: as x86_64's."""
    entry = 3 << 59 | (~5 & (1 << 50) - 1) << 9
    assert (I386_PAE.swap.type(entry), I386_PAE.swap.offset(entry)) == (3, 5)


# Any tree, against a walker that goes page by page as the CPU and the kernel do, and knows nothing of runs


class OnePage(NamedTuple):
    kind: EntryKind
    value: int


def page_by_page(mode: PagingMode, tables: Tables, root: int, address: int, mask: int) -> OnePage:
    """One page of the naive walk: arch/x86/include/asm/pgtable.h (pte_present(), pmd_present(), pmd_leaf(), pte_pfn()),
    and pgtable-invert.h."""
    table = root
    for level in mode.levels:
        raw = tables.read(table + 8 * (address >> level.shift & 511), 8)
        if raw is None:
            return OnePage(BROKEN, table)
        entry = int.from_bytes(raw, "little")
        if entry == 0:
            return OnePage(EMPTY, 0)
        last = level.shift == 12
        leaf = last or bool(level.can_be_leaf and entry & PSE)
        if leaf and entry & (P | PROTNONE if last else P | PROTNONE | PSE):
            frame = entry
            if not entry & P and frame >> 47 & 0x1F == 0x1F:  # protnone_mask(); RAM is nowhere near the top
                frame = ~frame
            frame &= PFN & ~mask & -(1 << level.shift)
            return OnePage(PRESENT, frame + (address & (1 << level.shift) - 1))
        if last or (level.can_be_leaf and not entry & (P | PROTNONE)):
            return OnePage(SWAP, entry)
        if not entry & P:
            return OnePage(BROKEN, table)
        table = entry & PFN & ~mask
    raise AssertionError("the lowest level has leaves only")


ENCRYPTED = 1 << 46
ROOT = 0x1000


@st.composite
def trees(draw: st.DrawFn, mode: PagingMode) -> Tables:
    """A tree with a few entries per table, clustered so that runs come about; no table twice. Some tables are lost."""
    tables = Tables()
    following = ROOT

    def entry_of_page(shift: int) -> int:
        frame = draw(st.integers(0, 6)) * (1 << shift) + (8 << shift)
        flags = draw(st.sampled_from([P, P, P | NX, P | ENCRYPTED, PROTNONE]))
        if shift > 12:
            flags |= PSE | draw(st.sampled_from([0, 1 << 12]))  # PAT
        return (inverted(frame, shift) if flags & PROTNONE else frame) | flags

    def make(depth: int) -> int:
        nonlocal following
        table, following = following, following + 0x1000
        level = mode.levels[depth]
        if draw(st.integers(0, 9)) == 0 and depth:
            return table  # nobody has it
        tables.set(table, 0, 0)
        start = draw(st.sampled_from([0, 0, 508]))
        for index in range(start, start + draw(st.integers(1, 4))):
            choice = draw(st.integers(0, 9))
            if choice == 0:
                continue
            if choice == 1:
                tables.set(table, index, draw(st.integers(1, (1 << 64) - 1)) & ~(P | PROTNONE | PSE) or 2)
            elif level.shift == 12 or (level.can_be_leaf and choice < 5):
                tables.set(table, index, entry_of_page(level.shift))
            else:
                tables.set(table, index, make(depth + 1) | P | RW | US | draw(st.sampled_from([0, ENCRYPTED])))
        return table

    make(0)
    return tables


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from([X86_64_4LEVEL, X86_64_5LEVEL, I386_PAE]))
def test_any_tree_as_page_by_page(data: st.DataObject, mode: PagingMode) -> None:
    tables = data.draw(trees(mode))
    # Around the entries: at the start of the space, or at the end of a table of each level.
    shift = data.draw(st.sampled_from([level.shift for level in mode.levels]))
    around = data.draw(st.sampled_from([0, 1 << shift, 508 << shift, (512 << shift) - 4096 * 8]))
    start = around + data.draw(st.integers(0, 8)) * 4096
    end = min(start + 4096 * data.draw(st.integers(1, 1200)), 512 << mode.levels[0].shift)
    assume(start < end)
    found = list(walk(mode, ROOT, start, end, tables.read, ENCRYPTED))
    assert found[0].address == start
    assert [leaf.address + leaf.length for leaf in found] == [*(leaf.address for leaf in found[1:]), end]
    assert all(leaf.length > 0 and leaf.length % 4096 == 0 for leaf in found)
    for leaf in found:
        for offset in range(0, leaf.length, 4096):
            kind, value = page_by_page(mode, tables, ROOT, leaf.address + offset, ENCRYPTED)
            if leaf.kind is SCATTERED:
                assert (kind, value) == (PRESENT, leaf.pages[offset >> 12])
            else:
                assert (kind, value) == (leaf.kind, leaf.value + (offset if kind is PRESENT else 0))
        if leaf.kind is SCATTERED:
            assert any(two - one != 4096 for one, two in pairwise(leaf.pages)), "it is in one piece"
    for one, two in pairwise(found):
        joined = one.kind is two.kind and (
            one.kind is EMPTY or (one.kind is PRESENT and one.value + one.length == two.value)
        )
        assert not joined, "runs are as long as can be"
        # Only where a table ends does a list of pages.
        assert one.kind is not SCATTERED or two.kind not in (PRESENT, SCATTERED) or not two.address % (1 << 21)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.tuples(st.integers(1, 6), st.integers(0, 511)), st.integers(0, (1 << 64) - 1), max_size=60),
    st.data(),
)
def test_any_garbage_is_covered(words: dict[tuple[int, int], int], data: st.DataObject) -> None:
    """Tables of random words that may point to each other: exactly the range, ascending, in bounded time."""
    tables = Tables()
    for (page, index), word in words.items():
        target = data.draw(st.integers(1, 6)) << 12
        tables.set(page << 12, index, word if word & 3 else target | 0x67)
    tables.set(0x1000, 0, 0x2067)
    start = data.draw(st.integers(0, 1 << 20)) << 12
    end = start + (data.draw(st.integers(1, 1 << 30)) << 12)
    end = min(end, 1 << 47)
    if start < end:
        found = list(walk(X86_64_4LEVEL, 0x1000, start, end, tables.read))
        assert [leaf.address for leaf in found] == [start, *(leaf.address + leaf.length for leaf in found[:-1])]
        assert sum(leaf.length for leaf in found) == end - start
        assert tables.reads <= 512 * 6
