# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page walk on made-up tables: every kind of entry at every level, and tables that lie."""

import struct

import pytest

from kgcore.arch.paging import X86_64_4LEVEL, X86_64_5LEVEL, EntryKind, Leaf, walk

P, RW, US, PSE, PROTNONE, NX = 1, 2, 4, 1 << 7, 1 << 8, 1 << 63
PFN = ((1 << 52) - 1) & ~0xFFF
PRESENT, EMPTY, SWAP, BROKEN = EntryKind.PRESENT, EntryKind.EMPTY, EntryKind.SWAP, EntryKind.BROKEN


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


def leaves(tables: Tables, start: int, end: int, **options: int) -> list[Leaf]:
    return list(walk(X86_64_4LEVEL, 0x1000, start, end, tables.read, **options))


def test_contiguous_pages_are_one_run(tables: Tables) -> None:
    for index in range(4):
        tables.set(0x4000, index, 0x80000 + index * 0x1000 | P | NX)
    tables.set(0x4000, 4, 0xF0000 | P)
    assert leaves(tables, 0, 0x6000) == [
        Leaf(0, 0x4000, PRESENT, 0x80000),
        Leaf(0x4000, 0x1000, PRESENT, 0xF0000),
        Leaf(0x5000, 0x1000, EMPTY, 0),
    ]


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


def test_large_page_being_split_or_hinted(tables: Tables) -> None:
    tables.set(0x3000, 1, (0x40000000 ^ PFN) | PSE)
    tables.set(0x3000, 2, (0x40200000 ^ PFN) | PSE | PROTNONE)
    assert leaves(tables, 0x200000, 0x600000) == [Leaf(0x200000, 0x400000, PRESENT, 0x40000000)]


def test_large_migration_entry(tables: Tables) -> None:
    tables.set(0x3000, 1, 0xF123_0000_0000_0002 & ~(P | PSE | PROTNONE))
    assert leaves(tables, 0x200000, 0x400000)[0].kind is SWAP


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
