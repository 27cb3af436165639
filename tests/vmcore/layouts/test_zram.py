# SPDX-License-Identifier: LGPL-2.1-or-later
"""zram disks that are swapped to, made up as drivers/block/zram/zram_drv.h has them in each release; and where a swap
space lies on its device."""

import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.compression import NoDecompressor
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap import zram as module
from kgcore.sources.vmcore.memory.swap.blocks import SwapBlocks
from kgcore.sources.vmcore.memory.swap.layers import Slots
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace
from kgcore.sources.vmcore.memory.swap.zram import Zram
from tests.vmcore.layouts.test_zsmalloc import (
    BOOKWORM,
    LEFT_OUT,
    OLD,
    SID,
    TRIXIE,
    Layout,
    Pool,
    Zspage,
    content,
)
from tests.vmcore.layouts.world import PAGE, PAGE_OFFSET, physical

DISK = """
struct gendisk { int major; char disk_name[32]; void *private_data; };
struct dentry { void *d_op; }; struct path { void *mnt; struct dentry *dentry; }; struct file { struct path f_path; };
struct hd_struct { u64 start_sect; };
struct block_device { %s struct gendisk *bd_disk; };
"""
PARTITION = "struct hd_struct *bd_part;"  # 5.10
START = "u64 bd_start_sect;"
SWAP = """
struct rb_node { unsigned long __rb_parent_color; struct rb_node *rb_right, *rb_left; };
struct rb_root { struct rb_node *rb_node; };
struct swap_extent { struct rb_node rb_node; unsigned long start_page, nr_pages; u64 start_block; };
struct swap_info_struct {
    unsigned long flags; unsigned int max; struct rb_root swap_extent_root; struct block_device *bdev;
};
"""
SWAP_LIST = """
struct swap_extent { struct list_head list; unsigned long start_page, nr_pages; u64 start_block; };
struct swap_info_struct {
    unsigned long flags; struct swap_extent *curr_swap_extent; struct swap_extent first_swap_extent;
    struct block_device *bdev; unsigned int max;
};
"""
LOCKED = """
enum zram_pageflags { ZRAM_LOCK = %d, ZRAM_SAME, ZRAM_WB, ZRAM_UNDER_WB, ZRAM_HUGE, ZRAM_IDLE };
struct zram_table_entry { union { unsigned long handle; unsigned long element; }; unsigned long flags; s64 ac_time; };
struct zram {
    struct zram_table_entry *table; struct zs_pool *mem_pool; struct zcomp *comp; struct gendisk *disk; u64 disksize;
    char compressor[128]; struct file *backing_dev;
};
"""
PARAMS = """
struct zcomp_params { void *dict; unsigned long dict_sz; int level; void *drv_data; };
struct zram {
    struct zram_table_entry *table; struct zs_pool *mem_pool; struct zcomp *comps[4]; struct zcomp_params params[4];
    struct gendisk *disk; u64 disksize; char *comp_algs[4]; struct file *backing_dev;
};
"""
SPINLOCK = """
enum zram_pageflags {
    ZRAM_SAME = 13, ZRAM_WB, ZRAM_UNDER_WB, ZRAM_HUGE, ZRAM_IDLE, ZRAM_INCOMPRESSIBLE,
    ZRAM_COMP_PRIORITY_BIT1, ZRAM_COMP_PRIORITY_BIT2
};
struct zram_table_entry {
    union { unsigned long handle; unsigned long element; }; unsigned int flags; int lock; s64 ac_time;
};
"""
BIT_LOCK = """
typedef unsigned int word_t;
enum zram_pageflags {
    ZRAM_SAME = 13, ZRAM_ENTRY_LOCK, ZRAM_WB, ZRAM_PP_SLOT, ZRAM_HUGE, ZRAM_IDLE, ZRAM_INCOMPRESSIBLE,
    ZRAM_COMP_PRIORITY_BIT1, ZRAM_COMP_PRIORITY_BIT2
};
struct zram_table_entry {
    unsigned long handle; union { unsigned long __lock; struct attr { word_t flags, ac_time; } attr; };
};
"""


class Release(NamedTuple):
    """What differs.

    :ivar flags: the member with them.
    :ivar locked: the flag of an entry that somebody was at.
    """

    layout: Layout
    types: str
    flags: str = "flags"
    locked: str = "ZRAM_LOCK"


BULLSEYE = Release(OLD, DISK % PARTITION + SWAP + LOCKED % 24)
RELEASES = (
    BULLSEYE,
    Release(BOOKWORM, DISK % START + SWAP + LOCKED % 13),
    Release(TRIXIE, DISK % START + SWAP + SPINLOCK + PARAMS, locked=""),
    Release(SID, DISK % START + SWAP + BIT_LOCK + PARAMS, flags="attr.flags", locked="ZRAM_ENTRY_LOCK"),
)
MANY_COMPRESSORS = RELEASES[2:]
NUMBER, BLKDEV = 1, 1 << 6
ZRAM, ZERO, SWAPPED, LOST = Provenance.ZRAM, Provenance.ZERO, Provenance.SWAPPED, Provenance.UNREADABLE
SIZE, COUNT, CLASS = 2720, 2, 166  # three objects in two pages
HUGE = 254


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -11)
    return packer.compress(data) + packer.flush()


class Disk(Pool):
    """A zram disk of some pages that is a swap space, all of it."""

    def __init__(self, release: Release = RELEASES[1], pages: int = 64, algorithm: bytes = b"deflate") -> None:
        super().__init__(release.layout, release.types)
        self.release = release
        self.size_class(CLASS, SIZE, COUNT)
        self.size_class(HUGE, PAGE, 1)
        self.table = self.allocate(pages * (self.prog.type("struct zram_table_entry").size or 0))
        self.disk = self.new("struct gendisk", disk_name=b"zram0")
        self.device = self.new("struct block_device", bd_disk=self.disk)
        self.zram = self.new(
            "struct zram", table=self.table, mem_pool=self.pool, disk=self.disk, disksize=pages * PAGE, backing_dev=0
        )
        self.set("struct gendisk", self.disk, {"private_data": self.zram})
        self.algorithm(algorithm)
        self.slots = pages
        self.info = self.new("struct swap_info_struct", flags=BLKDEV | 1, max=pages, bdev=self.device)
        self.room: list[tuple[Zspage, int]] = []

    def algorithm(self, name: bytes, priority: int = 0) -> None:
        if "comp_algs" in self.release.types:
            self.set("struct zram", self.zram, {f"comp_algs[{priority}]": self.data(name + b"\0")})
        else:
            self.set("struct zram", self.zram, {"compressor": name.ljust(128, b"\0")})

    def entry(self, page: int, handle: int, *flags: str, size: int = 0, priority: int = 0) -> None:
        """An entry of the table."""
        word = size | sum(1 << self.constant(flag) for flag in flags)
        if priority:
            word |= priority << self.constant("ZRAM_COMP_PRIORITY_BIT1")
        values = {"handle": handle, self.release.flags: word}
        self.set("struct zram_table_entry", self.table + page * self.entry_size, values)

    def constant(self, name: str) -> int:
        value = self.target.constant(name)
        assert value is not None
        return value

    @property
    def entry_size(self) -> int:
        return self.prog.type("struct zram_table_entry").size or 0

    def entries(self, page: int) -> tuple[int, int]:
        """The first entry of which a part is in a page of the table, and the first behind those."""
        return page * PAGE // self.entry_size, -(-(page + 1) * PAGE // self.entry_size)

    def object(self, data: bytes) -> tuple[int, Zspage]:
        """Bytes in the pool: their handle, and where they are."""
        if len(data) == PAGE:
            zspage = self.zspage(HUGE, 1)
            return self.put(zspage, PAGE, 0, data), zspage
        if not self.room:
            zspage = self.zspage(CLASS, COUNT)
            self.room = [(zspage, number) for number in range(3)]
        zspage, number = self.room.pop(0)
        return self.put(zspage, SIZE, number, data), zspage

    def packed(self, page: int, data: bytes, *flags: str, priority: int = 0) -> Zspage:
        """A compressed page, or what stands for one."""
        handle, zspage = self.object(data)
        self.entry(page, handle, *flags, size=len(data), priority=priority)
        return zspage

    def page(self, page: int, number: int, *flags: str) -> Zspage:
        """A page with :func:`words`."""
        return self.packed(page, raw_deflate(words(number)), *flags)

    @property
    def layer(self) -> Zram:
        return Zram(self.kernel, PhysicalMemory(self.kernel), ModuleTypes(self.target))

    @property
    def space(self) -> SwapSpace:
        return SwapSpace(NUMBER, self.pointer("struct swap_info_struct", self.info), self.slots, "/dev/zram0")

    def find(self, first: int, count: int) -> list[Slots]:
        found = list(self.layer.find(self.space, first, count))
        assert [slots.first for slots in found] == [first, *(slots.first + slots.length for slots in found[:-1])]
        assert sum(slots.length for slots in found) == count
        return found

    def seen(self, first: int, count: int) -> list[tuple[int, Provenance, str]]:
        """As (slots, provenance, detail, or the number of the page's words)."""
        return [(slots.length, slots.provenance, slots.detail or named(slots)) for slots in self.find(first, count)]


def words(number: int) -> bytes:
    """A page that compresses, and is not like others."""
    return (b"page %d " % number).ljust(16) * (PAGE // 16)


def named(slots: Slots) -> str:
    """Which page it is."""
    if slots.place is None:
        return ""
    data = slots.place.reader.read(slots.place.at, PAGE)
    assert len(data) == PAGE
    for number in range(64):
        if data == words(number):
            return f"words {number}"
    return "same" if data == data[:8] * 512 else "huge"


@pytest.fixture(params=RELEASES, ids=lambda release: release.layout.release)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    return found


class TestPages:
    def test_compressed(self, release: Release) -> None:
        """Five, of which some cross from one page frame into the next."""
        disk = Disk(release)
        for number in range(5):
            disk.page(10 + number, number)
        assert disk.seen(10, 5) == [(1, ZRAM, f"words {number}") for number in range(5)]

    def test_crossing(self, release: Release) -> None:
        """The second object of three in two pages: its bytes are the whole of what fits there."""
        disk = Disk(release)
        packed = [raw_deflate(content(number, PAGE)).ljust(SIZE - 8, b"\0") for number in range(3)]
        for number, data in enumerate(packed):
            disk.packed(number, data)
        found = disk.find(0, 3)
        for number, slots in enumerate(found):
            assert slots.place is not None
            assert slots.place.reader.read(0, PAGE) == content(number, PAGE)

    def test_huge(self, release: Release) -> None:
        disk = Disk(release)
        disk.packed(3, content(1, PAGE), "ZRAM_HUGE")
        (slots,) = disk.find(3, 1)
        assert slots.place is not None
        assert slots.place.reader.read(0, PAGE) == content(1, PAGE)
        assert slots.place.reader.read(100, 50) == content(1, PAGE)[100:150]

    def test_same_filled(self, release: Release) -> None:
        disk = Disk(release)
        word = 0x1122334455667788
        disk.entry(3, word, "ZRAM_SAME")
        (slots,) = disk.find(3, 1)
        assert slots.provenance is ZRAM
        assert slots.place is not None
        assert slots.place.reader.read(0, PAGE) == struct.pack("<Q", word) * 512

    def test_zeros(self, release: Release) -> None:
        """Same-filled; huge, which cannot be; and those that were never written, which the kernel reads as zeros."""
        disk = Disk(release)
        disk.entry(3, 0, "ZRAM_SAME", "ZRAM_IDLE")
        disk.packed(4, bytes(PAGE), "ZRAM_HUGE")
        assert disk.seen(2, 4) == [(4, ZERO, "")]

    def test_flags_that_do_not_matter(self, release: Release) -> None:
        disk = Disk(release)
        others = ["ZRAM_IDLE", release.locked] if release.locked else ["ZRAM_IDLE", "ZRAM_UNDER_WB"]
        disk.page(0, 7, *others)
        disk.entry(1, 0, "ZRAM_SAME", *others)
        disk.packed(2, content(1, PAGE), "ZRAM_HUGE", *others)
        assert disk.seen(0, 3) == [(1, ZRAM, "words 7"), (1, ZERO, ""), (1, ZRAM, "huge")]

    def test_written_back(self, release: Release) -> None:
        disk = Disk(release)
        for page, block in enumerate([9, 10, 11, 40, 1, 2, 77], 10):
            disk.entry(page, block, "ZRAM_WB")
        disk.page(17, 7)
        disk.entry(18, 5, "ZRAM_WB", "ZRAM_HUGE", size=PAGE)
        assert disk.seen(10, 9) == [
            (7, SWAPPED, "written back to its backing device, blocks 9-11, 40, 1-2, ..."),
            (1, ZRAM, "words 7"),
            (1, SWAPPED, "written back to its backing device, block 5"),
        ]

    def test_table_of_many_pages(self, release: Release) -> None:
        disk = Disk(release, pages=10000)
        disk.page(4095, 1)
        disk.page(4096, 2)
        disk.page(9999, 3)
        assert disk.seen(4000, 6000) == [
            (95, ZERO, ""),
            (1, ZRAM, "words 1"),
            (1, ZRAM, "words 2"),
            (5902, ZERO, ""),
            (1, ZRAM, "words 3"),
        ]


class TestCompressors:
    @pytest.mark.parametrize("release", MANY_COMPRESSORS, ids=lambda release: release.layout.release)
    def test_recompressed(self, release: Release) -> None:
        """By another algorithm than the first: ``recompress`` of a device (6.2)."""
        disk = Disk(release)
        disk.algorithm(b"zlib-deflate", 2)
        disk.page(0, 1)
        disk.packed(1, zlib.compress(words(2)), "ZRAM_INCOMPRESSIBLE", priority=2)
        disk.packed(2, zlib.compress(words(3)), priority=3)
        assert disk.seen(0, 3) == [
            (1, ZRAM, "words 1"),
            (1, ZRAM, "words 2"),
            (1, LOST, "zram: compressed by algorithm 3, which the disk does not have"),
        ]

    @pytest.mark.parametrize("release", MANY_COMPRESSORS, ids=lambda release: release.layout.release)
    def test_dictionary(self, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def decompressor(name: str, dictionary: bytes | None = None) -> object:
            asked.append((name, dictionary))
            return lambda data, size: words(5)

        monkeypatch.setattr(module, "decompressor", decompressor)
        disk = Disk(release, algorithm=b"zstd")
        disk.algorithm(b"lz4", 1)
        place = disk.data(b"what pages have in common")
        disk.set("struct zram", disk.zram, {"params[1].dict": place, "params[1].dict_sz": 25})
        for page in range(6):
            disk.packed(page, b"packed", priority=page & 1)
        assert disk.seen(0, 6) == [(1, ZRAM, "words 5")] * 6
        assert asked == [("zstd", None), ("lz4", b"what pages have in common")], "once each"

    @pytest.mark.parametrize("release", MANY_COMPRESSORS, ids=lambda release: release.layout.release)
    def test_absurd_dictionary(self, release: Release) -> None:
        disk = Disk(release)
        disk.set("struct zram", disk.zram, {"params[0].dict": disk.pool, "params[0].dict_sz": 1 << 40})
        disk.page(0, 1)
        assert disk.seen(0, 1) == [(1, LOST, f"zram: a dictionary of {1 << 40} bytes")]

    def test_no_library(self, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        """One sentence for all neighbours; what needs no library is there."""

        def decompressor(_name: str, _dictionary: bytes | None = None) -> object:
            raise NoDecompressor("to unpack zstd, install it")

        monkeypatch.setattr(module, "decompressor", decompressor)
        disk = Disk(release, algorithm=b"zstd")
        for page in range(3):
            disk.page(page, page)
        disk.entry(3, 1, "ZRAM_SAME")
        disk.page(4, 1)
        lost = "zram: to unpack zstd, install it"
        assert disk.seen(0, 5) == [(3, LOST, lost), (1, ZRAM, "same"), (1, LOST, lost)]

    def test_unknown(self, release: Release) -> None:
        disk = Disk(release, algorithm=b"842\xff")
        disk.page(0, 1)
        ((_, provenance, detail),) = disk.seen(0, 1)
        assert (provenance, "842" in detail) == (LOST, True)
        assert detail.isprintable()


class TestDamage:
    def test_page_that_does_not_unpack(self, release: Release) -> None:
        disk = Disk(release)
        disk.packed(0, b"\xff" * 100)
        disk.page(1, 1)
        ((_, provenance, detail), after) = disk.seen(0, 2)
        assert (provenance, detail.startswith("zram: deflate data")) == (LOST, True)
        assert after == (1, ZRAM, "words 1")

    @pytest.mark.parametrize("size", [0, SIZE, PAGE - 1, PAGE + 1])
    def test_absurd_sizes(self, release: Release, size: int) -> None:
        disk = Disk(release)
        handle, _ = disk.object(raw_deflate(words(1)))
        disk.entry(0, handle, size=size)
        ((_, provenance, detail),) = disk.seen(0, 1)
        assert (provenance, detail.startswith(f"zram: a compressed page of {size} bytes")) == (LOST, True)

    def test_left_out(self, release: Release) -> None:
        disk = Disk(release)
        zspage = disk.page(0, 1)
        disk.page(1, 2)
        disk.page(2, 3)
        disk.lacks(zspage.frames[1])
        assert disk.seen(0, 3) == [(1, ZRAM, "words 1"), (1, ZRAM, "words 2"), (1, LOST, f"zram: {LEFT_OUT}")]

    def test_wild_handles(self, release: Release) -> None:
        disk = Disk(release)
        for page, handle in enumerate([1, 0x1234, (1 << 64) - 1, PAGE_OFFSET]):
            disk.entry(page, handle, size=100)
        disk.page(4, 4)
        assert [(length, provenance) for length, provenance, _ in disk.seen(0, 5)][-1] == (1, ZRAM)

    def test_part_of_the_table_lost(self, release: Release) -> None:
        disk = Disk(release, pages=1024)
        low, high = disk.entries(1)
        for page in (1, low, high - 1, 1000):
            disk.page(page, 6)
        disk.lost = {physical(disk.table + PAGE) >> 12}
        assert disk.seen(0, 1024) == [
            (1, ZERO, ""),
            (1, ZRAM, "words 6"),
            (low - 2, ZERO, ""),
            (high - low, LOST, "zram: its table is not in the dump"),
            (1000 - high, ZERO, ""),
            (1, ZRAM, "words 6"),
            (23, ZERO, ""),
        ]

    def test_end_of_the_disk(self, release: Release) -> None:
        disk = Disk(release, pages=16)
        disk.page(15, 1)
        disk.slots = 64
        assert disk.seen(15, 20) == [(1, ZRAM, "words 1"), (19, LOST, "zram: beyond the end of the disk")]

    def test_reset_disk(self, release: Release) -> None:
        """zram_reset_device(): no table, no pages."""
        disk = Disk(release)
        disk.set("struct zram", disk.zram, {"table": 0, "disksize": 0})
        assert disk.seen(1, 3) == [(3, LOST, "zram: beyond the end of the disk")]

    def test_not_its_disk(self, release: Release) -> None:
        disk = Disk(release)
        disk.set("struct zram", disk.zram, {"disk": disk.disk + 8})
        assert disk.seen(0, 3) == [(3, LOST, "zram: the description of the disk is damaged")]

    def test_lost_description(self, release: Release) -> None:
        disk = Disk(release)
        disk.lost = {physical(disk.zram) >> 12}
        ((length, provenance, detail),) = disk.seen(0, 3)
        assert (length, provenance, detail.startswith("zram: ")) == (3, LOST, True)

    @pytest.mark.parametrize("name", ["struct zram", "struct zram_table_entry", "struct size_class"])
    def test_no_types(self, release: Release, name: str) -> None:
        disk = Disk(release)
        for page in range(3):
            disk.page(page, page)
        layer, space = disk.layer, disk.space
        del disk.types[name]
        (slots,) = layer.find(space, 0, 3)
        assert (slots.length, slots.provenance, name in slots.detail) == (3, LOST, True)

    def test_no_flags(self, release: Release) -> None:
        disk = Disk(release)
        layer, space = disk.layer, disk.space
        disk.constants.clear()
        (slots,) = layer.find(space, 0, 3)
        assert (slots.length, slots.detail) == (3, "zram: the flags of zram's table are unknown")


def mapped(release: Release) -> Disk:
    """A disk whose table is in the kernel's page tables."""
    disk = Disk(release, pages=1024)
    disk.word("phys_base", 0)
    table = top = disk.allocate(PAGE)
    disk.symbols["init_top_pgt"] = 0xFFFFFFFF80000000 + physical(top)
    for shift in (39, 30, 21):
        below = disk.allocate(PAGE)
        disk.write(table + 8 * (disk.table >> shift & 511), struct.pack("<Q", physical(below) | 0x63))
        table = below
    for page in range(disk.table, disk.table + 1024 * disk.entry_size, PAGE):
        disk.write(table + 8 * (page >> 12 & 511), struct.pack("<Q", physical(page) | 0x63))
    return disk


class TestEmptyTable:
    """In an ELF dump memory that was left out reads as zeros, which an entry may well be."""

    def test_there(self, release: Release) -> None:
        disk = mapped(release)
        disk.page(700, 1)
        assert disk.seen(0, 701) == [(700, ZERO, ""), (1, ZRAM, "words 1")]

    def test_left_out(self, release: Release) -> None:
        disk = mapped(release)
        low, high = disk.entries(1)
        disk.lacks(physical(disk.table + PAGE) >> 12)
        assert disk.seen(0, 600) == [
            (low, ZERO, ""),
            (high - low, LOST, "zram: its table is not in the dump"),
            (600 - high, ZERO, ""),
        ]

    def test_half_an_entry(self) -> None:
        """One that goes from one page into the next: what it says depends on both."""
        disk = mapped(RELEASES[1])
        low, high = disk.entries(1)
        assert (low, high) == (170, 342)
        for page in (low, high - 1):
            disk.entry(page, 0, "ZRAM_SAME")
        disk.lacks(physical(disk.table + PAGE) >> 12)
        assert disk.seen(low, high - low) == [(high - low, LOST, "zram: its table is not in the dump")]

    def test_not_mapped(self, release: Release) -> None:
        disk = mapped(release)
        disk.write(PAGE_OFFSET + disk.symbols["init_top_pgt"] - 0xFFFFFFFF80000000, bytes(PAGE))
        assert disk.seen(0, 5) == [(5, LOST, "zram: its table is not in the dump")]


class TestDeclaredLayout:
    """One that kgcore declares, where no BTF has it: it is believed if all else that the dump has agrees."""

    STATISTICS = """
    struct number { s64 counter; };
    struct zram_stats { struct number compr_data_size, same_pages, huge_pages, pages_stored, bd_count; };
    """
    TYPES = LOCKED % 24
    DECLARED = Release(
        OLD,
        DISK % PARTITION + SWAP + STATISTICS + TYPES.replace("u64 disksize;", "u64 disksize; struct zram_stats stats;"),
    )

    def disk(self, **statistics: int) -> Disk:
        """Compressed pages and others, and statistics that agree but for those that are said."""
        disk = mapped(self.DECLARED)
        size = 0
        for page in range(20):
            disk.page(40 * page, page)
            size += len(raw_deflate(words(page)))
        disk.entry(1, 7, "ZRAM_SAME")
        disk.entry(2, 0, "ZRAM_SAME")
        disk.packed(3, content(1, PAGE), "ZRAM_HUGE")
        disk.entry(4, 77, "ZRAM_WB")
        right = {"compr_data_size": size + PAGE, "same_pages": 2, "huge_pages": 1, "pages_stored": 24, "bd_count": 1}
        values = {f"stats.{name}.counter": value for name, value in (right | statistics).items()}
        disk.set("struct zram", disk.zram, values)
        return disk

    def seen(self, disk: Disk, first: int = 0, count: int = 6) -> list[tuple[int, Provenance, str]]:
        types = Declared(disk.target)
        layer = Zram(disk.kernel, PhysicalMemory(disk.kernel), types)
        return [
            (slots.length, slots.provenance, slots.detail or named(slots))
            for slots in layer.find(disk.space, first, count)
        ]

    def refused(self, disk: Disk) -> str:
        ((count, provenance, reason),) = self.seen(disk)
        assert (count, provenance) == (6, LOST)
        return reason

    def test_right(self) -> None:
        assert self.seen(self.disk()) == [
            (1, ZRAM, "words 0"),
            (1, ZRAM, "same"),
            (1, ZERO, ""),
            (1, ZRAM, "huge"),
            (1, SWAPPED, "written back to its backing device, block 77"),
            (1, ZERO, ""),
        ]

    @pytest.mark.parametrize("pages", [512, 853, 1030, 2000])
    def test_area(self, pages: int) -> None:
        """The table would need more, or less, than the area that it is in: so its entries are of another size."""
        disk = self.disk()
        disk.set("struct zram", disk.zram, {"disksize": pages * PAGE})
        assert re.search("its table takes (more|6) pages of memory and should take", self.refused(disk))

    @pytest.mark.parametrize("name", ["same_pages", "huge_pages", "pages_stored", "bd_count"])
    def test_statistics(self, name: str) -> None:
        reason = self.refused(self.disk(**{name: 99}))
        assert f"as {name}, and its statistics 99" in reason

    def test_statistics_of_sizes(self) -> None:
        assert "as compr_data_size, and its statistics 99" in self.refused(self.disk(compr_data_size=99))

    def test_statistics_being_changed(self) -> None:
        """A CPU was about to bring both in line: what may be of another kind by one is uncertain, the rest is not."""
        found = self.seen(self.disk(same_pages=3, pages_stored=25))
        assert found[:3] == [
            (1, ZRAM, "words 0"),
            (1, LOST, "zram: whether it is filled with one word is uncertain"),
            (1, ZERO, ""),
        ]

    def test_entries_that_zram_never_makes(self) -> None:
        disk = self.disk()
        for page in range(5, 9):
            disk.entry(page, 0, size=100)
        assert "4 entries of its table are such as zram never makes" in self.refused(disk)

    @pytest.mark.parametrize("first", [0, 1])
    def test_sample(self, first: int) -> None:
        """Sizes and handles are right, and what most of them lead to is none of it."""
        disk = self.disk()
        for page in range(first, 20):
            handle = disk.at("struct zram_table_entry", disk.table + 40 * page * disk.entry_size, "handle").value_()
            place = disk.at("struct zram_table_entry", disk.table + 3 * disk.entry_size, "handle").value_()
            disk.write(handle, disk.prog.read(place, 8))
        assert f"{20 - first} of 21 compressed pages cannot be unpacked: the " in self.refused(disk)

    def test_sample_that_leads_nowhere(self) -> None:
        disk = self.disk()
        for page in (3, *range(0, 800, 40)):
            handle = disk.at("struct zram_table_entry", disk.table + page * disk.entry_size, "handle").value_()
            disk.write(handle, bytes(8))
        assert "none of its compressed pages is in the dump: no memory there" in self.refused(disk)

    def test_sample_without_a_decompressor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether a page is where its handle says needs none."""

        def decompressor(_name: str, _dictionary: bytes | None = None) -> object:
            raise NoDecompressor("to unpack zstd, install it")

        monkeypatch.setattr(module, "decompressor", decompressor)
        disk = self.disk()
        assert self.seen(disk, 0, 2) == [(1, LOST, "zram: to unpack zstd, install it"), (1, ZRAM, "same")]
        place = disk.at("struct zram_table_entry", disk.table + 3 * disk.entry_size, "handle").value_()
        for page in range(0, 800, 40):
            handle = disk.at("struct zram_table_entry", disk.table + page * disk.entry_size, "handle").value_()
            disk.write(handle, disk.prog.read(place, 8))
        assert "20 of 21 compressed pages cannot be unpacked: the compressed page is not where" in self.refused(disk)

    def test_table_left_out(self) -> None:
        disk = self.disk()
        disk.lacks(*(physical(disk.table + PAGE * page) >> 12 for page in range(4)))
        assert "most of its table is not in the dump" in self.refused(disk)

    def test_part_of_the_table_left_out(self) -> None:
        disk = self.disk()
        disk.lacks(physical(disk.table + PAGE) >> 12)
        assert self.seen(disk)[0] == (1, ZRAM, "words 0")

    def test_other_disk(self) -> None:
        disk = self.disk()
        disk.set("struct zram", disk.zram, {"disk": disk.disk + 8})
        assert "the description of a disk does not point back to it" in self.refused(disk)


class Declared(ModuleTypes):
    """The only variant of zram's types has to be proven; how that goes on is in test_moduletypes.py."""

    def prove(self, module: str, proof: Callable[[], None]) -> None:
        if module == "zram":
            proof()


class TestOtherDevices:
    """Of which this layer knows nothing."""

    def none(self, disk: Disk) -> bool:
        return not list(disk.layer.find(disk.space, 0, 3))

    @pytest.mark.parametrize("name", [b"vda", b"xzram0", b"", b"z" * 32])
    def test_names(self, name: bytes) -> None:
        disk = Disk()
        disk.set("struct gendisk", disk.disk, {"disk_name": name.ljust(32, b"\0")})
        assert self.none(disk)

    def test_no_device(self) -> None:
        """Swap over NFS."""
        disk = Disk()
        disk.set("struct swap_info_struct", disk.info, {"bdev": 0})
        assert self.none(disk)

    def test_lost_device(self) -> None:
        disk = Disk()
        disk.lost = {physical(disk.device) >> 12}
        assert self.none(disk)

    def test_no_block_devices(self) -> None:
        release = Release(BOOKWORM, LOCKED % 13 + "struct gendisk { int a; }; struct block_device { int a; };" + SWAP)
        disk = Disk.__new__(Disk)
        Pool.__init__(disk, release.layout, release.types)
        disk.slots, disk.info = 64, disk.new("struct swap_info_struct", flags=1)
        assert self.none(disk)


class TestPartitions:
    @pytest.mark.parametrize(("sectors", "page"), [(0, 5), (8, 6), (80, 15)])
    def test_start(self, release: Release, sectors: int, page: int) -> None:
        disk = Disk(release)
        self.begins(disk, sectors)
        disk.page(page, 9)
        assert disk.seen(5, 1) == [(1, ZRAM, "words 9")]

    def begins(self, disk: Disk, sectors: int) -> None:
        if disk.release is BULLSEYE:
            partition = disk.new("struct hd_struct", start_sect=sectors)
            disk.set("struct block_device", disk.device, {"bd_part": partition})
        else:
            disk.set("struct block_device", disk.device, {"bd_start_sect": sectors})

    def test_end_of_the_disk(self, release: Release) -> None:
        disk = Disk(release, pages=16)
        self.begins(disk, 80)
        assert disk.seen(4, 4) == [(2, ZERO, ""), (2, LOST, "zram: beyond the end of the disk")]

    @pytest.mark.parametrize("sectors", [1, 63, (1 << 64) - 1])
    def test_odd_start(self, release: Release, sectors: int) -> None:
        disk = Disk(release)
        self.begins(disk, sectors)
        ((length, provenance, detail),) = disk.seen(0, 3)
        assert (length, provenance, f"sector {sectors}" in detail) == (3, LOST, True)


class File(Disk):
    """A swap file on a file system on zram."""

    def __init__(self, release: Release = RELEASES[1]) -> None:
        super().__init__(release)
        self.set("struct swap_info_struct", self.info, {"flags": 1})

    def extent(self, slot: int, length: int, block: int, left: int = 0, right: int = 0) -> int:
        """An extent with those below it."""
        extent = self.new("struct swap_extent", start_page=slot, nr_pages=length, start_block=block)
        self.set("struct swap_extent", extent, {"rb_node.rb_left": left, "rb_node.rb_right": right})
        for child in (left, right):
            if child:
                self.set("struct swap_extent", child, {"rb_node.__rb_parent_color": extent | 1})
        return extent

    def root(self, extent: int) -> None:
        self.set("struct swap_info_struct", self.info, {"swap_extent_root.rb_node": extent})

    def where(self, first: int = 0, count: int = 64) -> list[tuple[int, int, int]]:
        return [*SwapBlocks(self.kernel).find(self.space, first, count)]


class TestFiles:
    def test_on_zram(self, release: Release) -> None:
        file = File(release)
        file.root(file.extent(4, 3, 20, file.extent(0, 4, 8), file.extent(7, 5, 40)))
        for page, number in ((8 + 3, 1), (20, 2), (22, 3), (40, 4)):
            file.page(page, number)
        assert file.seen(3, 7) == [
            (1, ZRAM, "words 1"),
            (1, ZRAM, "words 2"),
            (1, ZERO, ""),
            (1, ZRAM, "words 3"),
            (1, ZRAM, "words 4"),
            (2, ZERO, ""),
        ]

    def test_slots_in_no_extent(self) -> None:
        file = File()
        file.root(file.extent(4, 3, 20, 0, file.extent(10, 1, 30)))
        file.page(22, 1)
        lost = "zram: its place on the disk was not found"
        assert file.seen(2, 10) == [
            (2, LOST, lost),
            (2, ZERO, ""),
            (1, ZRAM, "words 1"),
            (3, LOST, lost),
            (1, ZERO, ""),
            (1, LOST, lost),
        ]

    def test_ranges(self) -> None:
        file = File()
        file.root(file.extent(4, 3, 20, file.extent(0, 4, 8), file.extent(7, 5, 40)))
        assert file.where() == [(0, 4, 8), (4, 3, 20), (7, 5, 40)]
        assert file.where(0, 4) == [(0, 4, 8)]
        assert file.where(3, 2) == [(3, 1, 11), (4, 1, 20)]
        assert file.where(6, 1) == [(6, 1, 22)]
        assert file.where(12, 9) == []

    def test_block_device(self) -> None:
        """Whatever the tree says, or does not."""
        disk = Disk()
        assert [*SwapBlocks(disk.kernel).find(disk.space, 5, 7)] == [(5, 7, 5)]

    def test_deep_tree(self) -> None:
        """As no balanced tree is; the walk needs no stack for it."""
        file = File()
        file.slots = 3000
        below = 0
        for slot in reversed(range(3000)):
            below = file.extent(slot, 1, 3000 - slot, 0, below)
        file.root(below)
        assert file.where(0, 3000) == [(slot, 1, 3000 - slot) for slot in range(3000)]

    def test_loops(self) -> None:
        file = File()
        low, high = file.extent(0, 4, 8), file.extent(7, 5, 40)
        root = file.extent(4, 3, 20, low, high)
        file.root(root)
        file.set("struct swap_extent", low, {"rb_node.rb_left": root, "rb_node.rb_right": low})
        file.set("struct swap_extent", high, {"rb_node.rb_left": low, "rb_node.rb_right": high})
        assert file.where() == [(0, 4, 8), (4, 3, 20), (7, 5, 40)]

    def test_same_child_twice(self) -> None:
        file = File()
        child = file.extent(0, 4, 8)
        file.root(file.extent(4, 3, 20, child, child))
        assert file.where() == [(0, 4, 8), (4, 3, 20)]

    def test_overlaps(self) -> None:
        file = File()
        file.root(file.extent(4, 3, 20, file.extent(0, 6, 8), file.extent(7, 0, 40)))
        assert file.where() == [(0, 6, 8)]

    def test_part_lost(self) -> None:
        file = File()
        low, high = file.extent(0, 4, 8), file.extent(7, 5, 40)
        file.root(file.extent(4, 3, 20, low, high))
        file.lost = {physical(low) >> 12}
        assert file.where() == [(4, 3, 20), (7, 5, 40)]
        file.lost = {physical(file.info) >> 12}
        assert file.where() == []

    @pytest.mark.parametrize("root", [0, 8, 1 << 63, (1 << 64) - 8])
    def test_wild_root(self, root: int) -> None:
        file = File()
        file.root(root)
        assert file.where() == []

    def test_list(self) -> None:
        """Until 5.4 a circular list, and the first extent in ``struct swap_info_struct`` itself."""
        file = File(Release(OLD, DISK % PARTITION + SWAP_LIST + LOCKED % 24))
        first = file.info + file.offset("struct swap_info_struct", "first_swap_extent")
        file.set("struct swap_extent", first, {"start_page": 0, "nr_pages": 4, "start_block": 8})
        others = []
        for slot, length, block in ((4, 3, 20), (7, 5, 40)):
            others.append(file.new("struct swap_extent", start_page=slot, nr_pages=length, start_block=block))
        file.link(first, *others)
        assert file.where() == [(0, 4, 8), (4, 3, 20), (7, 5, 40)]
        file.write(others[1], struct.pack("<Q", others[0]))  # never back at the first
        assert file.where() == [(0, 4, 8), (4, 3, 20), (7, 5, 40)]
        file.lost = {physical(others[0]) >> 12}
        assert file.where() == [(0, 4, 8)]
