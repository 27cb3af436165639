# SPDX-License-Identifier: LGPL-2.1-or-later
"""The swap cache and the map of zeros, made up as mm/swap_state.c, mm/swap_table.h and mm/page_io.c describe them."""

import struct
from collections.abc import Callable

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.memory.backing import Backing, UserFiles
from kgcore.sources.vmcore.memory.pages import joined
from kgcore.sources.vmcore.memory.swap.spaces import Spaces as SwapInfo
from tests.vmcore.layouts.test_pagecache import TYPES as CACHE
from tests.vmcore.layouts.test_pagecache import Cache, sibling, value
from tests.vmcore.layouts.world import physical

CACHE += "struct dentry { void *d_op; }; struct path { void *mnt; struct dentry *dentry; };"
CACHE += "struct file { struct path f_path; };"
INFO = "unsigned long flags; unsigned int max; struct file *swap_file; struct swap_cluster_info *cluster_info;"
OLD = CACHE + "struct swap_cluster_info { int data; }; struct swap_info_struct {" + INFO + "};"
ZEROMAP = OLD.replace(INFO, INFO + "u64 *zeromap;")
TABLE = (
    CACHE
    + "struct swap_table { u64 entries[512]; };"
    + "struct swap_cluster_info { int lock; u64 *table; u64 *extend_table; };"
    + "struct swap_info_struct {"
    + INFO
    + "};"
)
POINTERS = TABLE.replace(INFO, INFO + "u64 *zeromap;")
LOCKED, WRITEBACK, UPTODATE, DIRTY, SWAPBACKED, SWAPCACHE = 1, 2, 8, 16, 32, 64
CACHED = UPTODATE | SWAPBACKED | SWAPCACHE
NUMBER = 2  # of the swap space
SLOTS = 40000
UNSWAPPED = "swap space 2"


class Swap(Cache):
    """A swap space whose cache is empty at first."""

    def __init__(self, types: str, release: str) -> None:
        super().__init__(types, release)
        self.info = self.new("struct swap_info_struct", flags=3, max=SLOTS)
        self.symbols["swap_info"] = self.allocate(32 * 8)
        self.write(self.symbols["swap_info"] + 8 * NUMBER, struct.pack("<Q", self.info))

    def put(self, slot: int, frame: int, *, flags: int = CACHED, first: int | None = None, number: int = NUMBER) -> int:
        """The ``struct page`` of a page in the swap cache. ``first``: the slot of the large folio that it heads."""
        page = self.page(frame, 0x7000 + frame, flags)
        self.set("struct page", page, {"private": number << 58 | (slot if first is None else first)})
        return page

    def frame(self, content: bytes) -> int:
        return physical(self.data(content.ljust(4096, b"."))) >> 12

    def extents(self, first: int, count: int) -> list[tuple[int, Provenance, bytes]]:
        """As (slots, provenance, start of the content)."""
        found = []
        for run, place, _ in Backing(self.kernel, UserFiles()).swap.extents(NUMBER, first, first << 12, count << 12):
            data = place.reader.read(place.at, 8) if place is not None and run.provenance.stored else b""
            found.append((run.length >> 12, run.provenance, data.rstrip(b".")))
        assert sum(length for length, *_ in found) == count
        return found


class Spaces(Swap):
    """``swapper_spaces``: three address spaces of 16384 slots.

    :ivar within: indices count from the start of each address space, not from that of the device.
    """

    def __init__(self, release: str = "6.1.0", types: str = OLD, *, within: bool = False) -> None:
        super().__init__(types, release)
        self.within = within
        size = self.prog.type("struct address_space").size or 0
        self.spaces = self.allocate(3 * size)
        self.symbols["swapper_spaces"] = self.allocate(32 * 8)
        self.write(self.symbols["swapper_spaces"] + 8 * NUMBER, struct.pack("<Q", self.spaces))

    def tree(self, slots: dict[int, int]) -> None:
        """Entries of one address space, all within 64 slots."""
        (space,) = {slot >> 14 for slot in slots}
        base = space << 14 if self.within else 0
        nodes = {(slot - base) >> 6 for slot in slots}
        (high,) = nodes
        head = self.node(0, {(slot - base) & 63: entry for slot, entry in slots.items()})
        for shift in (6, 12):
            if high >> shift - 6:
                head = self.node(shift, {high >> shift - 6 & 63: head})
            else:
                head = self.node(shift, {0: head})
        size = self.prog.type("struct address_space").size or 0
        self.set("struct address_space", self.spaces + space * size, {"i_pages.xa_head": head})


SWAPPED, FOUND, ZERO = Provenance.SWAPPED, Provenance.SWAP_CACHE, Provenance.ZERO


class TestSpaces:
    @pytest.mark.parametrize("within", [False, True], ids=["whole offset (5.10, 6.1)", "within 64 MiB (6.12)"])
    @pytest.mark.parametrize("slot", [70, 16384 + 70])
    def test_page(self, slot: int, *, within: bool) -> None:
        swap = Spaces(within=within)
        swap.tree({slot: swap.put(slot, swap.frame(b"mine"))})
        assert swap.extents(slot - 2, 5) == [(2, SWAPPED, b""), (1, FOUND, b"mine"), (2, SWAPPED, b"")]

    def test_across_address_spaces(self) -> None:
        swap = Spaces()
        swap.tree({16383: swap.put(16383, swap.frame(b"last"))})
        swap.tree({16384: swap.put(16384, swap.frame(b"first"))})
        assert swap.extents(16383, 2) == [(1, FOUND, b"last"), (1, FOUND, b"first")]

    def test_large_folio(self) -> None:
        """It stands in all its slots as its head, whose index is not the slot."""
        swap = Spaces()
        frame = physical(swap.allocate(4 * 4096)) >> 12
        for at in range(4):
            swap.write(swap_address(frame + at), b"part %d" % at)
        head = swap.put(64, frame)
        swap.tree({64: head, 65: sibling(0), 66: sibling(0), 67: sibling(0)})
        assert [data[:6] for *_, data in swap.extents(65, 3)] == [b"part 1", b"part 2", b"part 3"]

    @pytest.mark.parametrize(
        "flags", [CACHED & ~UPTODATE, UPTODATE, UPTODATE | SWAPCACHE], ids=["being read", "left it", "of a file"]
    )
    def test_page_that_does_not_count(self, flags: int) -> None:
        swap = Spaces()
        swap.tree({5: swap.put(5, swap.frame(b"wrong"), flags=flags)})
        assert swap.extents(5, 1) == [(1, SWAPPED, b"")]

    @pytest.mark.parametrize("entry", ["another slot", "another space", "far away", "shadow", "wild"])
    def test_entry_of_something_else(self, entry: str) -> None:
        """A page says itself which slot it has."""
        swap = Spaces()
        frame = swap.frame(b"wrong")
        made: dict[str, Callable[[], int]] = {
            "another slot": lambda: swap.put(6, frame),
            "another space": lambda: swap.put(5, frame, number=3),
            "far away": lambda: swap.put(5 - 600, frame),
            "shadow": lambda: value(0x1234),
            "wild": lambda: 0xDEAD_0000_0000_0000,
        }
        swap.tree({5: made[entry]()})
        assert swap.extents(5, 1) == [(1, SWAPPED, b"")]

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [(CACHED, SWAPPED), (CACHED | DIRTY, Provenance.EXCLUDED), (CACHED | WRITEBACK, Provenance.EXCLUDED)],
    )
    def test_page_that_the_dump_left_out(self, flags: int, expected: Provenance) -> None:
        """What lies in swap space is the same if the page was written: so look there."""
        swap = Spaces()
        frame = swap.frame(b"mine")
        swap.tree({5: swap.put(5, frame, flags=flags)})
        swap.frames((0, frame, FrameState.STORED), (frame, frame + 1, FrameState.EXCLUDED))
        assert swap.extents(5, 1) == [(1, expected, b"")]

    @pytest.mark.parametrize("lost", ["spaces", "table of spaces", "node"])
    def test_damage(self, lost: str) -> None:
        swap = Spaces()
        swap.tree({5: swap.put(5, swap.frame(b"mine"))})
        node = swap.prog.read_u64(swap.spaces + 16) - 2
        where = {"spaces": swap.spaces, "table of spaces": swap.symbols["swapper_spaces"], "node": node}[lost]
        swap.lost = {physical(where) >> 12}
        assert swap.extents(5, 1) == [(1, SWAPPED, b"")]


def swap_address(frame: int) -> int:
    """Kernel address of a frame."""
    return 0xFFFF888000000000 + (frame << 12)


class TestZeroMap:
    def swap(self) -> Spaces:
        swap = Spaces("6.12.0", ZEROMAP, within=True)
        bitmap = swap.allocate(SLOTS // 8)
        swap.set("struct swap_info_struct", swap.info, {"zeromap": bitmap})
        swap.write(bitmap + 1, bytes([0b1000_0110]))  # slots 9, 10 and 15
        return swap

    def test_slots(self) -> None:
        assert [(length, kind) for length, kind, _ in self.swap().extents(8, 9)] == [
            (1, SWAPPED), (1, ZERO), (1, ZERO), (4, SWAPPED), (1, ZERO), (1, SWAPPED),
        ]  # fmt: skip

    def test_swap_cache_comes_first(self) -> None:
        swap = self.swap()
        swap.tree({9: swap.put(9, swap.frame(b"new"))})
        assert swap.extents(9, 2) == [(1, FOUND, b"new"), (1, ZERO, b"")]


class TestTable:
    """A word for each slot."""

    def swap(self, words: dict[int, int], types: str = TABLE) -> Swap:
        swap = Swap(types, "7.2.0")
        size = swap.prog.type("struct swap_cluster_info").size or 0
        clusters = swap.allocate(80 * size)
        swap.set("struct swap_info_struct", swap.info, {"cluster_info": clusters})
        self.tables = {number: swap.allocate(4096) for number in (0, 1)}
        for number, table in self.tables.items():
            swap.set("struct swap_cluster_info", clusters + size * number, {"table": table})
        self.put(swap, words)
        return swap

    def put(self, swap: Swap, words: dict[int, int]) -> None:
        for slot, word in words.items():
            swap.write(self.tables[slot // 512] + 8 * (slot % 512), struct.pack("<Q", word))

    def test_words(self) -> None:
        swap = self.swap({})
        frame = swap.frame(b"mine")
        swap.put(511, frame)
        self.put(
            swap,
            {
                511: 3 << 60 | frame << 2 | 2,  # in memory, used three times
                512: 1 << 60 | 0x12 << 1 | 1,  # swapped out
                513: 1 << 60 | 1 << 59 | 1,  # zeros
                514: (1 << 64) - 8,  # bad
                515: 0,
            },
        )
        assert swap.extents(511, 5) == [(1, FOUND, b"mine"), (1, SWAPPED, b""), (1, ZERO, b""), (2, SWAPPED, b"")]

    def test_plain_pointers(self) -> None:
        """6.18: and a map of zeros beside it, so bit 59 means nothing."""
        swap = self.swap({}, POINTERS)
        self.put(swap, {7: swap.put(7, swap.frame(b"mine")), 8: 1 << 59 | 1})
        assert swap.extents(7, 2) == [(1, FOUND, b"mine"), (1, SWAPPED, b"")]

    def test_frame_of_another_slot(self) -> None:
        swap = self.swap({})
        frame = swap.frame(b"wrong")
        swap.put(8, frame)
        self.put(swap, {7: 1 << 60 | frame << 2 | 2})
        assert swap.extents(7, 1) == [(1, SWAPPED, b"")]

    def test_cluster_without_table(self) -> None:
        swap = self.swap({})
        assert swap.extents(1024, 4) == [(4, SWAPPED, b"")]

    def test_slots_beyond_the_space(self) -> None:
        swap = self.swap({})
        assert swap.extents(SLOTS - 1, 3) == [(1, SWAPPED, b""), (2, Provenance.UNREADABLE, b"")]


class TestSpace:
    def test_number_not_in_use(self) -> None:
        swap = Spaces()
        swap.set("struct swap_info_struct", swap.info, {"flags": 0})
        (extent,) = Backing(swap.kernel, UserFiles()).swap.extents(NUMBER, 5, 0, 4096)
        assert (extent.run.provenance, extent.run.detail) == (
            SWAPPED, "unknown swap space 2",
        )  # fmt: skip

    def test_what_lies_behind_the_array(self) -> None:
        """``swap_info[MAX_SWAPFILES]``: the highest of the 32 types are no swap spaces."""
        swap = Spaces("6.12.0", ZEROMAP + "enum softleaf_type { SOFTLEAF_NONE };", within=True)
        swap.write(swap.symbols["swap_info"] + 8 * 31, struct.pack("<Q", swap.info))
        assert [space.number for space in SwapInfo(swap.kernel).all()] == [NUMBER]

    @pytest.mark.parametrize(("told", "expected"), [(False, [NUMBER, NUMBER + 1, 30]), (True, [NUMBER])])
    def test_what_lies_behind_those_in_use(self, told: bool, expected: list[int]) -> None:
        """``nr_swapfiles``: the kernel never had more."""
        swap = Spaces("6.12.0", ZEROMAP, within=True)
        for number in (NUMBER + 1, 30):
            swap.write(swap.symbols["swap_info"] + 8 * number, struct.pack("<Q", swap.info))
        if told:
            swap.word("nr_swapfiles", NUMBER + 1)
        assert [space.number for space in SwapInfo(swap.kernel).all()] == expected

    def test_words_for_what_is_missing(self) -> None:
        """Device and slots are named, so that the user can look there."""
        swap = Spaces()
        swap.tree({70: swap.put(70, swap.frame(b"mine"))})
        found = Backing(swap.kernel, UserFiles()).swap.extents(NUMBER, 68, 0, 5 * 4096)
        assert [(extent.run.detail, extent.slot) for extent in found] == [
            (f"on {UNSWAPPED}", 68), ("", None), (f"on {UNSWAPPED}", 71),
        ]  # fmt: skip

    def test_runs_name_the_first_slots(self) -> None:
        """Of pages that are scattered over swap space."""
        swap = Spaces()
        extents = Backing(swap.kernel, UserFiles()).swap.extents

        def scattered(*slots: int) -> str:
            found = (extent for at, slot in enumerate(slots) for extent in extents(NUMBER, slot, at << 12, 4096))
            (run,) = joined(found, 12)
            assert run.length == len(slots) << 12
            return run.detail

        assert scattered(7) == f"on {UNSWAPPED}, slot 7"
        assert scattered(7, 8, 9, 3) == f"on {UNSWAPPED}, slots 7-9, 3"
        assert scattered(7, 8, 5, 3, 1, 2) == f"on {UNSWAPPED}, slots 7-8, 5, 3, ..."
