# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page cache's trees, made up as include/linux/xarray.h describes them, whole and damaged."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance, Run
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.memory.extents import Extent
from kgcore.sources.vmcore.memory.pagecache import CachedFile, PageCache
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap import SwapSpaces
from tests.vmcore.layouts.world import World, physical

TYPES = """
enum pageflags { PG_locked, PG_writeback, PG_referenced, PG_uptodate, PG_dirty, PG_swapbacked, PG_swapcache };
struct list_head { struct list_head *next, *prev; };
struct xa_node {
    unsigned char shift, offset, count, nr_values;
    struct xa_node *parent; struct xarray *array; struct list_head private_list; void *slots[64];
    unsigned long marks[3][1];
};
struct xarray { int xa_lock; unsigned int xa_flags; void *xa_head; };
struct address_space { void *host; struct xarray i_pages; };
struct page { unsigned long flags; struct list_head lru; void *mapping; unsigned long index, private; u64 rest[2]; };
struct folio {
    union {
        struct { unsigned long flags; struct list_head lru; void *mapping; unsigned long index, private; };
        struct page page;
    };
};
"""
PAGE, VALUE, LOST = Provenance.PAGE_CACHE, Provenance.SWAPPED, Provenance.FILE
UPTODATE = 1 << 3
INTERNAL = 2


def sibling(slot: int) -> int:
    """xa_mk_sibling(): xa_mk_internal(offset)."""
    return slot << 2 | INTERNAL


def value(number: int) -> int:
    """xa_mk_value()"""
    return number << 1 | 1


class EverySwap(SwapSpaces):
    """Says which entry it was asked for."""

    def __init__(self) -> None:
        pass

    def extents(self, number: int, first: int, address: int, length: int) -> Iterator[Extent]:
        yield Extent(Run(address, length, VALUE), slot=number << 58 | first)


class Cache(World):
    """One address_space, and an array of ``struct page`` that vmemmap_base leads to."""

    def __init__(self, types: str = TYPES, release: str = "6.12.0") -> None:
        super().__init__(types, release)
        self.pages = self.allocate(64 * 4096)
        self.word("vmemmap_base", self.pages)
        self.mapping = self.new("struct address_space")

    def page(self, frame: int, index: int, flags: int = UPTODATE) -> int:
        """The ``struct page`` of a frame: an entry. Of a large folio it is the head's."""
        address = self.pages + 64 * frame
        self.set("struct page", address, {"index": index, "flags": flags})
        return address

    def node(self, shift: int, slots: dict[int, int]) -> int:
        """A node; its children are told that it is their parent."""
        node = self.new("struct xa_node", shift=shift)
        for slot, entry in slots.items():
            self.set("struct xa_node", node, {f"slots[{slot}]": entry})
            if entry & 3 == INTERNAL and entry >= 4096:
                self.set("struct xa_node", entry - INTERNAL, {"parent": node, "offset": slot})
        return node + INTERNAL

    def head(self, entry: int) -> None:
        self.set("struct address_space", self.mapping, {"i_pages.xa_head": entry})

    def found(self, first: int = 0, last: int = 4095) -> list[tuple[int, int, Provenance, int]]:
        """As (first, pages, kind, frame or swap entry); of a file in memory, whose other pages are zeros."""
        cache = PageCache(self.kernel, PhysicalMemory(self.kernel), EverySwap())
        file = CachedFile(self.mapping, 1 << 62, in_memory=True)
        found: list[tuple[int, int, Provenance, int]] = []
        for run, place, slot in cache.extents(file, first, last - first + 1, first << 12):
            if run.provenance is not Provenance.ZERO:
                number = place.at >> 12 if place else slot or 0
                found.append((run.address >> 12, run.length >> 12, run.provenance, number))
        return found


@pytest.fixture
def cache() -> Cache:
    return Cache()


class TestEntries:
    def test_empty(self, cache: Cache) -> None:
        assert cache.found() == []

    def test_single_entry_at_index_0(self, cache: Cache) -> None:
        """xas_create(): an entry at 0 alone needs no node."""
        cache.head(cache.page(7, 0))
        assert cache.found() == cache.found(0, 0) == [(0, 1, PAGE, 7)]
        assert cache.found(1, 5) == []

    @pytest.mark.parametrize("head", [2, sibling(3), 1030])
    def test_head_that_is_no_entry(self, cache: Cache, head: int) -> None:
        """Zero and retry entries (XA_ZERO_ENTRY 1030, XA_RETRY_ENTRY 1026)."""
        cache.head(head)
        assert cache.found() == []

    def test_one_node(self, cache: Cache) -> None:
        cache.head(cache.node(0, {0: cache.page(9, 0), 3: cache.page(5, 3), 63: cache.page(6, 63), 10: 1026}))
        assert cache.found() == [(0, 1, PAGE, 9), (3, 1, PAGE, 5), (63, 1, PAGE, 6)]
        assert cache.found(3, 62) == [(3, 1, PAGE, 5)]
        assert cache.found(64, 80) == [], "beyond what the tree reaches"

    def test_levels(self, cache: Cache) -> None:
        lower = cache.node(0, {1: cache.page(5, 65)})
        upper = cache.node(6, {0: cache.node(0, {2: cache.page(6, 2)}), 1: lower})
        cache.head(cache.node(12, {0: upper, 2: cache.node(6, {63: cache.node(0, {63: cache.page(8, 12287)})})}))
        everything = [(2, 1, PAGE, 6), (65, 1, PAGE, 5), (12287, 1, PAGE, 8)]
        assert cache.found(0, 1 << 20) == everything
        assert cache.found(3, 12286) == everything[1:2]

    def test_shadows_and_swap_entries_are_values(self, cache: Cache) -> None:
        cache.head(cache.node(0, {4: value(0x1234)}))
        assert cache.found() == [(4, 1, VALUE, 0x1234)]

    def test_not_uptodate(self, cache: Cache) -> None:
        """It is being read: its memory holds something else yet."""
        cache.head(cache.node(0, {4: cache.page(5, 4, flags=0xFFFF & ~UPTODATE)}))
        assert cache.found() == []

    @pytest.mark.parametrize("release", ["5.10", "6.18"])
    def test_layouts(self, release: str) -> None:
        """Pages until folios came (5.16); memdesc_flags_t since 6.18."""
        types = TYPES
        if release == "5.10":
            types = types[: types.index("struct folio")]
        else:
            types = "typedef struct { unsigned long f; } memdesc_flags_t;" + types.replace(
                "{ unsigned long flags;", "{ memdesc_flags_t flags;"
            )
        cache = Cache(types, release)
        address = cache.pages + 64 * 5
        flags = "flags.f" if release == "6.18" else "flags"
        cache.set("struct page", address, {"index": 1, flags: UPTODATE})
        cache.head(cache.node(0, {1: address}))
        assert cache.found() == [(1, 1, PAGE, 5)]


class TestLargeFolios:
    def test_head_and_siblings(self, cache: Cache) -> None:
        """Order 2 in a node of single pages: the entry, then three siblings."""
        cache.head(cache.node(0, {8: cache.page(100, 8), 9: sibling(8), 10: sibling(8), 11: sibling(8)}))
        assert cache.found() == [(8, 1, PAGE, 100), (9, 1, PAGE, 101), (10, 1, PAGE, 102), (11, 1, PAGE, 103)]
        assert cache.found(10, 10) == [(10, 1, PAGE, 102)]

    def test_one_slot_of_the_level_above(self, cache: Cache) -> None:
        """Order 6: one slot of 64 pages."""
        cache.head(cache.node(6, {1: cache.page(64, 64)}))
        assert cache.found() == [(64, 64, PAGE, 64)]
        assert cache.found(70, 71) == [(70, 2, PAGE, 70)]

    def test_huge(self, cache: Cache) -> None:
        """Order 9: eight slots of 64 pages."""
        slots = {8: cache.page(512, 512)} | {slot: sibling(8) for slot in range(9, 16)}
        cache.head(cache.node(6, slots))
        assert cache.found() == [(512 + 64 * n, 64, PAGE, 512 + 64 * n) for n in range(8)]
        assert cache.found(700, 710) == [(700, 4, PAGE, 700), (704, 7, PAGE, 704)]

    def test_head_in_every_slot(self, cache: Cache) -> None:
        """Until 6b24ca4a1a8d "mm: Use multi-index entries in the page cache" (5.17) each slot held the head or,
        before 5.x, each its own page."""
        head = cache.page(64, 8)
        cache.head(cache.node(0, dict.fromkeys(range(8, 12), head)))
        assert cache.found() == [(8, 1, PAGE, 64), (9, 1, PAGE, 65), (10, 1, PAGE, 66), (11, 1, PAGE, 67)]

    def test_sibling_of_nothing(self, cache: Cache) -> None:
        cache.head(cache.node(0, {9: sibling(8), 10: sibling(62)}))
        assert cache.found() == []

    def test_siblings_of_a_value(self, cache: Cache) -> None:
        """A large shmem folio in swap: one value for all its slots (6.12), which follow one another."""
        cache.head(cache.node(0, {4: value(80), 5: sibling(4)}))
        assert cache.found() == [(4, 1, VALUE, 80), (5, 1, VALUE, 81)]


class TestDamage:
    def tree(self, cache: Cache) -> dict[str, int]:
        low = cache.node(0, {1: cache.page(5, 1)})
        high = cache.node(0, {0: cache.page(6, 64)})
        top = cache.node(6, {0: low, 1: high})
        cache.head(top)
        return {"low": low - INTERNAL, "high": high - INTERNAL, "top": top - INTERNAL}

    @pytest.mark.parametrize("damage", ["lost", {"shift": 6}, {"shift": 12}, {"offset": 5}, {"parent": 64}])
    def test_of_one_node(self, cache: Cache, damage: Any) -> None:
        nodes = self.tree(cache)
        if damage == "lost":
            cache.lost = {physical(nodes["low"]) >> 12}
        else:
            cache.set("struct xa_node", nodes["low"], damage)
        assert cache.found() == [(0, 64, LOST, 0), (64, 1, PAGE, 6)]
        assert cache.found(10, 20) == [(10, 11, LOST, 0)]

    @pytest.mark.parametrize("shift", [5, 66, 255])
    def test_of_the_top(self, cache: Cache, shift: int) -> None:
        cache.set("struct xa_node", self.tree(cache)["top"], {"shift": shift})
        assert cache.found(3, 90) == [(3, 88, LOST, 0)]

    def test_node_in_itself(self, cache: Cache) -> None:
        nodes = self.tree(cache)
        cache.set("struct xa_node", nodes["top"], {"slots[0]": nodes["top"] + INTERNAL})
        assert cache.found() == [(0, 64, LOST, 0), (64, 1, PAGE, 6)]

    def test_node_twice(self, cache: Cache) -> None:
        """It has one place; elsewhere it would give pages of other offsets."""
        nodes = self.tree(cache)
        cache.set("struct xa_node", nodes["top"], {"slots[5]": nodes["low"] + INTERNAL})
        assert cache.found() == [(1, 1, PAGE, 5), (64, 1, PAGE, 6), (320, 64, LOST, 0)]

    def test_lost_page_structure(self, cache: Cache) -> None:
        self.tree(cache)
        cache.lost = {physical(cache.pages) >> 12}
        assert cache.found() == [(1, 1, LOST, 0), (64, 1, LOST, 0)]

    def test_lost_mapping(self, cache: Cache) -> None:
        self.tree(cache)
        cache.lost = {physical(cache.mapping) >> 12}
        assert cache.found(3, 9) == [(3, 7, LOST, 0)]

    def test_wild_pointer(self, cache: Cache) -> None:
        cache.head((1 << 64) - 2)  # ends in 10
        assert cache.found(0, 9) == [(0, 10, LOST, 0)]


class TestArrays:
    """What the table of ids is read with."""

    def test_load(self, cache: Cache) -> None:
        arrays = XArrays(cache.prog)
        last = cache.node(0, {63: 0x2000})
        head = cache.node(6, {0: cache.node(0, {5: 0x1000}), 2: last})
        assert [arrays.load(head, index) for index in (5, 191, 6, 64, 4096, -1, 1 << 70)] == [
            0x1000,
            0x2000,
            0,
            0,
            0,
            0,
            0,
        ]
        assert arrays.load(last, -1) == 0, "no index, though the list of slots has a last one"
        assert arrays.load(0x3000, 0) == 0x3000
        assert arrays.load(0x3000, 1) == arrays.load(0, 0) == 0
        assert list(arrays.entries(head)) == [0x1000, 0x2000]
        assert list(arrays.entries(0x3000)) == [0x3000]
        assert list(arrays.entries(0)) == []

    def test_chunks_of_16(self) -> None:
        """XA_CHUNK_SHIFT is 4 with CONFIG_BASE_SMALL."""
        cache = Cache(TYPES.replace("slots[64]", "slots[16]"))
        arrays = XArrays(cache.prog)
        head = cache.node(4, {1: cache.node(0, {2: 0x1000})})
        assert arrays.load(head, 18) == 0x1000
