# SPDX-License-Identifier: LGPL-2.1-or-later
"""zswap, zbud and z3fold, made up as mm/zswap.c, mm/zbud.c and mm/z3fold.c describe them, whole and damaged."""

import random
import struct
import zlib
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.compression import CannotDecompress, Decompress, NoDecompressor
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap import zsmalloc, zswap
from kgcore.sources.vmcore.memory.swap.layers import Slots
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace
from kgcore.sources.vmcore.memory.swap.zswap import Zswap
from tests.vmcore.layouts.test_pagecache import TYPES as CACHE
from tests.vmcore.layouts.test_pagecache import Cache
from tests.vmcore.layouts.world import PAGE, physical

COMMON = (
    CACHE
    + """
typedef struct { unsigned int val, rest; } spinlock_t;
typedef struct { unsigned long val; } swp_entry_t;
struct kref { int refcount; };
struct work_struct { unsigned long data; struct list_head entry; void (*func)(); };
struct rb_node { unsigned long __rb_parent_color; struct rb_node *rb_right, *rb_left; };
struct rb_root { struct rb_node *rb_node; };
struct zpool_driver { char *type; void *owner; };
struct swap_info_struct { unsigned long flags; };
struct zs_pool { char *name; };
struct z3fold_header {
    struct list_head buddy; spinlock_t page_lock; struct kref refcount; struct work_struct work;
    struct z3fold_buddy_slots *slots; struct z3fold_pool *pool; short cpu;
    unsigned short first_chunks, middle_chunks, last_chunks, start_middle;
    unsigned short first_num:2, mapped_count:2, foreign_handles:2;
};
"""
)
RB = "struct zswap_tree { struct rb_root rbroot; spinlock_t lock; };"
ZPOOL = "struct zpool { struct zpool_driver *driver; void *pool; };"
EVICTABLE = "struct zpool { struct zpool_driver *driver; void *pool; void *ops; u8 evictable; };"
POOL = "struct zswap_pool { %s; void *acomp_ctx; struct list_head list; char tfm_name[128]; };"
OLD_ENTRY = """struct zswap_entry {
    struct rb_node rbnode; unsigned long offset; int refcount; unsigned int length; struct zswap_pool *pool;
    union { unsigned long handle, value; };
};"""
MIXED_ENTRY = """struct zswap_entry {
    struct rb_node rbnode; swp_entry_t swpentry; unsigned int length; struct zswap_pool *pool;
    union { unsigned long handle, value; }; struct list_head lru;
};"""
NEW_ENTRY = """struct zswap_entry {
    swp_entry_t swpentry; unsigned int length; u8 referenced; struct zswap_pool *pool; unsigned long handle;
    struct list_head lru;
};"""
LAYOUTS = {
    "5.10.0": COMMON + RB + EVICTABLE + POOL % "struct zpool *zpool" + OLD_ENTRY,
    "6.9.0": COMMON + RB + ZPOOL + POOL % "struct zpool *zpools[32]" + MIXED_ENTRY,
    "6.12.0": COMMON + ZPOOL + POOL % "struct zpool *zpool" + NEW_ENTRY,
    "7.2.0": COMMON + POOL % "struct zs_pool *zs_pool" + NEW_ENTRY,
}
ALLOCATED = ("5.10.0", "6.9.0", "6.12.0")  # with a choice of allocators
SAME_FILLED = ("5.10.0", "6.9.0")  # and with red-black trees
NUMBER = 2  # of the swap space
FOUND, ZERO, LOST = Provenance.ZSWAP, Provenance.ZERO, Provenance.UNREADABLE


def page(seed: int) -> bytes:
    """A page that can be compressed."""
    return random.Random(seed).randbytes(100).ljust(PAGE, b".")


class Zsmalloc:
    """In place of the real one: objects by pool and handle."""

    objects: dict[tuple[int, int], bytes]

    def __init__(self, kernel: Kernel, _physical: PhysicalMemory, _types: ModuleTypes) -> None:
        pass

    def read(self, pool: Any, handle: int, size: int) -> bytes:
        assert pool.type_.type_name() == "struct zs_pool *"
        return self.objects[pool.value_(), handle][:size]


def unpack(data: bytes | memoryview, size: int) -> bytes:
    try:
        found = zlib.decompress(data)
    except zlib.error as error:
        raise CannotDecompress(f"zlib: {error}") from error
    if len(found) != size:
        raise CannotDecompress("another size")
    return found


def decompressor(algorithm: str) -> Decompress:
    if algorithm != "made-up":
        raise NoDecompressor(f"install something for {algorithm}")
    return unpack


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zsmalloc, "objects", {}, raising=False)
    monkeypatch.setattr(zswap, "Zsmalloc", Zsmalloc)
    monkeypatch.setattr(zswap, "decompressor", decompressor)


class Zswapped(Cache):
    """A kernel of one of the releases with a zswap pool.

    :ivar entries: address of ``struct zswap_entry`` by slot.
    :ivar slots: of z3fold.
    :ivar zpool: ``struct zpool``.
    """

    slots: int
    zpool: int

    def __init__(self, release: str, allocator: str = "zbud", algorithm: str = "made-up") -> None:
        super().__init__(LAYOUTS[release], release)
        self.release = release
        self.allocator = allocator
        self.red_black = release in SAME_FILLED
        self.evictable = release == "5.10.0" and allocator != "zsmalloc"
        self.entries: dict[int, int] = {}
        self.symbols["zswap_trees"] = self.allocate(32 * 8)
        if release != "5.10.0":
            self.symbols["nr_zswap_trees"] = self.allocate(32 * 4)
            self.write(self.symbols["nr_zswap_trees"] + 4 * NUMBER, struct.pack("<I", 3))
        if release == "7.2.0":
            self.symbols["zswap_stored_incompressible_pages"] = self.allocate(8)
        self.kind = "struct zswap_tree" if self.red_black else "struct xarray"
        self.tree = self.allocate(4 * (self.prog.type(self.kind).size or 0))
        self.write(self.symbols["zswap_trees"] + 8 * NUMBER, struct.pack("<Q", self.tree))
        self.pool = self.new_pool(allocator, algorithm)

    def new_pool(self, allocator: str, algorithm: str) -> int:
        pool = self.new("struct zswap_pool", tfm_name=algorithm.encode())
        self.zs_pool = self.new("struct zs_pool")
        if self.release == "7.2.0":
            self.set("struct zswap_pool", pool, {"zs_pool": self.zs_pool})
            return pool
        driver = self.new("struct zpool_driver", type=self.data(allocator.encode() + b"\0"))
        zpool = self.new("struct zpool", driver=driver, pool=self.zs_pool)
        if self.evictable:
            self.set("struct zpool", zpool, {"evictable": 1})
        self.zpool = zpool
        if self.release != "6.9.0":  # there the place depends on the entry
            self.set("struct zswap_pool", pool, {"zpool": zpool})
        return pool

    def entry(self, slot: int, **members: Any) -> int:
        """An entry that is in no tree yet."""
        key = {"offset": slot} if self.release == "5.10.0" else {"swpentry__val": NUMBER << 58 | slot}
        self.entries[slot] = address = self.new("struct zswap_entry", **({"pool": self.pool} | key | members))
        if self.release == "6.9.0":  # the upper five bits, as ZSWAP_NR_ZPOOLS is 32
            index = address * 0x61C8864680B583EB % (1 << 64) >> 59
            self.set("struct zswap_pool", self.pool, {f"zpools[{index}]": self.zpool})
        return address

    def put(self, slot: int, content: bytes, **members: Any) -> int:
        """A page, kept at the start of a zbud page."""
        packed = zlib.compress(content)
        stored = self.header(slot) + packed
        if self.allocator == "zsmalloc" or self.release == "7.2.0":
            handle = 0xFFFF_8880_0000_1000 + 8 * slot
            Zsmalloc.objects[self.zs_pool, handle] = stored
        else:
            handle = self.allocate(PAGE) + 64
            self.write(handle, stored)
        return self.entry(slot, **({"length": len(packed), "handle": handle} | members))

    def header(self, slot: int) -> bytes:
        """``struct zswap_header``"""
        return struct.pack("<Q", NUMBER << 58 | slot) if self.evictable else b""

    def grow(self) -> None:
        """Put the entries into the trees."""
        for index in range(4):
            slots = [slot for slot in self.entries if self.release == "5.10.0" or slot >> 14 == index]
            at = self.tree + index * (self.prog.type(self.kind).size or 0)
            if self.red_black and (index == 0 or self.release != "5.10.0"):
                self.set(self.kind, at, {"rbroot.rb_node": self._red_black(sorted(slots), 0)})
            elif not self.red_black:
                self.set(self.kind, at, {"xa_head": self._nodes({slot: self.entries[slot] for slot in slots})})

    def _red_black(self, slots: list[int], parent: int) -> int:
        if not slots:
            return 0
        middle = len(slots) // 2
        node = self.entries[slots[middle]]
        links = {
            "rbnode.__rb_parent_color": parent | middle & 1,
            "rbnode.rb_left": self._red_black(slots[:middle], node),
            "rbnode.rb_right": self._red_black(slots[middle + 1 :], node),
        }
        self.set("struct zswap_entry", node, links)
        return node

    def _nodes(self, entries: dict[int, int]) -> int:
        shift = 0
        while entries and shift < 18:
            groups: dict[int, dict[int, int]] = {}
            for index, entry in entries.items():
                groups.setdefault(index >> 6, {})[index & 63] = entry
            entries = {index: self.node(shift, slots) for index, slots in groups.items()}
            shift += 6
        return next(iter(entries.values()), 0)

    def layer(self) -> Zswap:
        return Zswap(self.kernel, PhysicalMemory(self.kernel), ModuleTypes(self.target))

    def space(self, number: int = NUMBER) -> SwapSpace:
        info = self.pointer("struct swap_info_struct", self.new("struct swap_info_struct"))
        return SwapSpace(number, info, 3 << 14, "/dev/made-up")

    def find(self, first: int, count: int = 1, number: int = NUMBER) -> list[tuple[int, Provenance, bytes | str]]:
        """As (slot, provenance, content or detail), slot by slot."""
        found: list[tuple[int, Provenance, bytes | str]] = []
        for slots in self.layer().find(self.space(number), first, count):
            content = slots.place.reader.read(slots.place.at, PAGE) if slots.place else slots.detail
            found += [(slots.first + at, slots.provenance, content) for at in range(slots.length)]
        return found

    def lose(self, address: int) -> None:
        """Take the page at an address out of the dump."""
        self.lost.add(physical(address) // PAGE)

    def words(self, slot: int) -> str:
        """The words for a slot that is lost."""
        ((_, provenance, detail),) = self.find(slot)
        assert provenance is LOST
        assert isinstance(detail, str)
        return detail.removeprefix("zswap: ")


@pytest.fixture(params=LAYOUTS)
def kernel(request: pytest.FixtureRequest) -> Zswapped:
    return Zswapped(request.param)


class TestTrees:
    def test_slots(self, kernel: Zswapped) -> None:
        """A range has what there is, in order; across the end of a tree where there is one for each 64 MiB."""
        slots = [0, 1, 5, 64, 70, 4096, 16383, 16384, 16390, 32768 + 77]
        random.Random(1).shuffle(slots)
        for slot in slots:
            kernel.put(slot, page(slot))
        kernel.grow()
        everything = [(slot, FOUND, page(slot)) for slot in sorted(slots)]
        assert kernel.find(0, 1 << 16) == everything
        assert kernel.find(1, 69) == everything[1:4]
        assert kernel.find(16383, 2) == everything[6:8]
        assert kernel.find(2, 3) == kernel.find(6, 58) == kernel.find(40000, 5) == []
        for slot, *_ in everything:
            assert kernel.find(slot) == [(slot, FOUND, page(slot))]

    @pytest.mark.parametrize("release", SAME_FILLED)
    def test_many(self, release: str) -> None:
        """A deep tree, of entries that say what their page is filled with."""
        kernel = Zswapped(release)
        for slot in range(0, 3000, 3):
            kernel.entry(slot, length=0, value=slot)
        kernel.grow()
        assert [slot for slot, *_ in kernel.find(500, 1000)] == [*range(501, 1500, 3)]

    @pytest.mark.parametrize("number", [NUMBER + 1, 31])
    def test_another_space(self, kernel: Zswapped, number: int) -> None:
        """One to which nothing was swapped since zswap was enabled has no tree."""
        kernel.put(5, page(5))
        kernel.grow()
        assert kernel.find(5, number=number) == []

    def test_nothing_in_the_tree(self, kernel: Zswapped) -> None:
        assert kernel.find(0, 1 << 16) == []

    def test_beyond_the_last_tree(self, kernel: Zswapped) -> None:
        last = 3 << 14
        kernel.put(last, page(1))
        kernel.grow()
        assert kernel.find(last - 1, 10) == ([] if "nr_zswap_trees" in kernel.symbols else [(last, FOUND, page(1))])

    def test_kernel_without_zswap(self) -> None:
        world = Zswapped("6.12.0")
        layer, space = world.layer(), world.space()
        del world.symbols["zswap_trees"]
        world.types.clear()
        assert list(layer.find(space, 0, 100)) == []

    def test_kernel_whose_zswap_is_unknown(self, kernel: Zswapped) -> None:
        del kernel.types["struct zswap_entry"]
        layer = kernel.layer()
        (slots,) = layer.find(kernel.space(), 7, 9)
        assert (slots.first, slots.length, slots.provenance) == (7, 9, LOST)
        assert "zswap_entry" in slots.detail


class TestContent:
    def test_zeros(self, kernel: Zswapped) -> None:
        kernel.put(5, bytes(PAGE))
        kernel.grow()
        assert kernel.find(5) == [(5, ZERO, "")]

    @pytest.mark.parametrize(
        ("word", "expected"),
        [(0, (5, ZERO, "")), (0x0123456789ABCDEF, (5, FOUND, bytes.fromhex("efcdab8967452301") * 512))],
    )
    def test_one_word(self, kernel: Zswapped, word: int, expected: tuple[Any, ...]) -> None:
        kernel.entry(5, length=0, handle=word, pool=0)
        kernel.grow()
        if kernel.release in SAME_FILLED:
            assert kernel.find(5) == [expected]
        else:
            assert kernel.words(5) == "its entry is damaged"

    def test_page_that_gets_no_smaller(self) -> None:
        """Kept as it is, so that no decompressor is needed."""
        kernel = Zswapped("7.2.0", algorithm="unknown")
        content = random.Random(1).randbytes(PAGE)
        Zsmalloc.objects[kernel.zs_pool, 0x1234] = content
        kernel.entry(5, length=PAGE, handle=0x1234)
        kernel.grow()
        assert kernel.find(5) == [(5, FOUND, content)]

    def test_before_such_pages_were_kept(self) -> None:
        """There 4096 bytes are compressed bytes."""
        kernel = Zswapped("6.12.0", "zsmalloc")
        stored = zlib.compress(random.Random(1).randbytes(PAGE - 11), 0).ljust(PAGE, b"\0")
        Zsmalloc.objects[kernel.zs_pool, 0x1234] = stored
        kernel.entry(5, length=PAGE, handle=0x1234)
        kernel.grow()
        assert kernel.words(5) == "another size"

    @pytest.mark.parametrize("release", ALLOCATED)
    def test_zsmalloc(self, release: str) -> None:
        kernel = Zswapped(release, "zsmalloc")
        kernel.put(5, page(5))
        kernel.grow()
        assert kernel.find(5) == [(5, FOUND, page(5))]

    @pytest.mark.parametrize("release", [*ALLOCATED, "7.2.0"])
    def test_zsmalloc_that_nothing_describes(self, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zswap, "Zsmalloc", zsmalloc.Zsmalloc)
        kernel = Zswapped(release, "zsmalloc")
        kernel.put(5, page(5))
        kernel.grow()
        del kernel.types["struct zs_pool"]
        assert "zs_pool" in kernel.words(5)

    def test_evictable_zsmalloc(self) -> None:
        """6.2 to 6.4: "zsmalloc: implement writeback mechanism for zsmalloc"."""
        kernel = Zswapped("5.10.0", "zsmalloc")
        kernel.evictable = True
        kernel.pool = kernel.new_pool("zsmalloc", "made-up")
        kernel.put(5, page(5))
        kernel.grow()
        assert kernel.find(5) == [(5, FOUND, page(5))]

    def test_pools(self, kernel: Zswapped) -> None:
        """Those that were in use before another compressor was chosen."""
        kernel.put(5, page(5))
        kernel.pool = kernel.new_pool("zbud", "unknown")
        kernel.put(6, page(6))
        kernel.put(7, page(7))
        kernel.grow()
        words = "zswap: install something for unknown"
        assert kernel.find(4, 10) == [(5, FOUND, page(5)), (6, LOST, words), (7, LOST, words)]


class TestZbud:
    @pytest.mark.parametrize("release", ALLOCATED)
    @pytest.mark.parametrize("size", [1000, 1024, 3900])
    def test_both_objects(self, release: str, size: int) -> None:
        kernel = Zswapped(release)
        for slot, last in ((5, False), (6, True)):
            content = random.Random(slot).randbytes(size - 100).ljust(PAGE, b"x")
            stored = kernel.header(slot) + zlib.compress(content)
            room = -(-len(stored) // 64) * 64
            handle = kernel.allocate(PAGE) + (PAGE - room if last else 64)
            kernel.write(handle, stored)
            kernel.entry(slot, length=len(stored) - len(kernel.header(slot)), handle=handle)
            kernel.grow()
            assert kernel.find(slot) == [(slot, FOUND, content)]

    @pytest.mark.parametrize("handle", [0, 1, 65, 128, 4095, 1 << 63])
    def test_no_handle(self, handle: int) -> None:
        kernel = Zswapped("6.12.0")
        kernel.put(5, page(5), handle=kernel.allocate(PAGE) + handle & (1 << 64) - 1)
        kernel.grow()
        assert kernel.words(5) == f"an object of {len(zlib.compress(page(5)))} bytes does not fit there"

    def test_too_long(self) -> None:
        kernel = Zswapped("6.12.0")
        kernel.put(5, page(5), length=4090)
        kernel.grow()
        assert kernel.words(5) == "an object of 4090 bytes does not fit there"

    def test_bytes_of_another_page(self) -> None:
        kernel = Zswapped("5.10.0")
        kernel.put(5, page(5))
        kernel.put(6, page(6), handle=kernel.at("struct zswap_entry", kernel.entries[5], "handle").value_())
        kernel.grow()
        assert kernel.words(6) == "its compressed bytes belong to a different page"
        assert kernel.find(5) == [(5, FOUND, page(5))]

    @pytest.mark.parametrize("address", [1 << 46, 0xFFFF_C900_0000_0040, 64])
    def test_outside_of_memory(self, address: int) -> None:
        kernel = Zswapped("6.12.0")
        kernel.put(5, page(5), handle=address)
        kernel.grow()
        assert kernel.words(5) in (
            f"{address:#x} is not in the kernel's direct map",
            f"an object of {len(zlib.compress(page(5)))} bytes does not fit there",
            "its compressed bytes are not in the dump",
        )


THREE = {1: page(1), 2: page(2), 3: page(3)}


class TestZ3fold:
    """A page with a first, a middle and a last object."""

    FIRST, MIDDLE, LAST = 1, 2, 3

    def world(self, release: str, objects: dict[int, bytes], first_num: int = 0, **header: int) -> Zswapped:
        """:param objects: content by buddy, which is the slot as well."""
        kernel = Zswapped(release, "z3fold")
        at = kernel.allocate(PAGE)
        chunks, start = {}, 128
        slots = kernel.allocate(64)
        for buddy, content in sorted(objects.items()):
            stored = kernel.header(buddy) + zlib.compress(content)
            chunks[buddy] = room = -(-len(stored) // 64)
            start = start if buddy != self.LAST else PAGE - room * 64
            kernel.write(at + start, stored)
            if buddy == self.MIDDLE:
                header.setdefault("start_middle", start // 64)
            start += (room + 5) * 64
            index = (buddy + first_num) & 3
            word = at + index | (room << 2 if buddy == self.LAST else 0)
            kernel.write(slots + 8 * index, struct.pack("<Q", word))
            kernel.entry(buddy, length=len(stored) - len(kernel.header(buddy)), handle=slots + 8 * index)
        names = {self.FIRST: "first_chunks", self.MIDDLE: "middle_chunks", self.LAST: "last_chunks"}
        members = {name: chunks.get(buddy, 0) for buddy, name in names.items()} | {"first_num": first_num} | header
        members.setdefault("pool", kernel.zs_pool)
        kernel.set("struct z3fold_header", at, members)
        kernel.slots = slots
        kernel.grow()
        return kernel

    @pytest.mark.parametrize("release", ALLOCATED)
    @pytest.mark.parametrize("first_num", range(4))
    def test_three_objects(self, release: str, first_num: int) -> None:
        """first_num counts how often the page was compacted."""
        kernel = self.world(release, THREE, first_num, mapped_count=3, foreign_handles=3)
        assert kernel.find(0, 10) == [(slot, FOUND, content) for slot, content in THREE.items()]

    @pytest.mark.parametrize("release", ALLOCATED)
    def test_page_for_one_object(self, release: str) -> None:
        kernel = Zswapped(release, "z3fold")
        content = random.Random(1).randbytes(4000).ljust(PAGE, b"x")
        stored = kernel.header(5) + zlib.compress(content)
        kernel.entry(5, length=len(stored) - len(kernel.header(5)), handle=kernel.data(stored) | 1)
        kernel.grow()
        assert kernel.find(5) == [(5, FOUND, content)]

    def test_object_that_moved_to_another_page(self) -> None:
        """compact_single_buddy() leaves the handle where it is, so its place says nothing of which object it is."""
        kernel = self.world("6.12.0", {self.LAST: page(3)})
        word = kernel.prog.read(kernel.slots + 8 * 3, 8)
        handle = kernel.allocate(64)
        kernel.write(handle, word)
        kernel.set("struct zswap_entry", kernel.entries[3], {"handle": handle})
        assert kernel.find(3) == [(3, FOUND, page(3))]

    def test_page_that_is_being_compacted(self) -> None:
        kernel = self.world("6.12.0", THREE)
        (word,) = struct.unpack("<Q", kernel.prog.read(kernel.slots + 8, 8))
        kernel.set("struct z3fold_header", word & -PAGE, {"page_lock.val": 1})
        assert [provenance for _, provenance, _ in kernel.find(0, 10)] == [FOUND, LOST, FOUND]
        assert kernel.words(2) == "its compressed bytes may have been moving"

    def test_page_that_a_real_time_kernel_is_compacting(self) -> None:
        """CONFIG_PREEMPT_RT: a lock that somebody has had waiters, and no byte in it tells but the owner."""
        before = "typedef struct { unsigned int val, rest; } spinlock_t;"
        lock = "struct rt_mutex_base { int wait_lock; struct rb_root waiters; void *owner; };"
        real_time = f"{lock} typedef struct {{ struct rt_mutex_base lock; }} spinlock_t;"
        tree = "struct rb_root { struct rb_node *rb_node; };"
        declared = LAYOUTS["6.12.0"].replace(before, "").replace(tree, tree + real_time)
        LAYOUTS["real-time"] = declared
        try:
            for owner, found in ((0, FOUND), (0xFFFF888000001000, LOST)):
                kernel = self.world("real-time", THREE)
                (word,) = struct.unpack("<Q", kernel.prog.read(kernel.slots + 8, 8))
                members = {"page_lock.lock.owner": owner, "page_lock.lock.wait_lock": 0}
                kernel.set("struct z3fold_header", word & -PAGE, members)
                assert [provenance for _, provenance, _ in kernel.find(0, 10)] == [FOUND, found, FOUND]
        finally:
            del LAYOUTS["real-time"]

    def test_page_of_another_pool(self) -> None:
        """Or a layout that is not this kernel's: where the page's pool should be, there is something else."""
        kernel = self.world("6.12.0", THREE, pool=0xFFFF888000001000)
        assert [provenance for _, provenance, _ in kernel.find(0, 10)] == [LOST] * 3
        assert kernel.words(1) == "its page is not one of its pool"

    @pytest.mark.parametrize(
        "header",
        [
            {"first_chunks": 0, "middle_chunks": 0},
            {"first_chunks": 1, "middle_chunks": 1},
            {"first_chunks": 63, "middle_chunks": 60},
            {"first_chunks": 0xFFFF, "start_middle": 0xFFFF},
            {"first_chunks": 0, "start_middle": 1},
        ],
    )
    def test_header_that_contradicts(self, header: dict[str, int]) -> None:
        kernel = self.world("6.12.0", THREE, **header)
        assert [provenance for _, provenance, _ in kernel.find(0, 10)] == [LOST, LOST, FOUND]
        assert kernel.words(1).endswith("bytes does not fit there")

    @pytest.mark.parametrize("word", [0, 4, 3, 3 | 1 << 2, 3 | 63 << 2, 0xFFF])
    def test_slot_that_contradicts(self, word: int) -> None:
        kernel = self.world("6.12.0", THREE)
        (good,) = struct.unpack("<Q", kernel.prog.read(kernel.slots + 8 * 3, 8))
        kernel.write(kernel.slots + 8 * 3, struct.pack("<Q", good & -PAGE | word))
        assert kernel.words(3).endswith("bytes does not fit there")

    @pytest.mark.parametrize("handle", [4, 32, 40, 56, 2, 3, 65])
    def test_no_handle(self, handle: int) -> None:
        kernel = self.world("6.12.0", THREE)
        kernel.set("struct zswap_entry", kernel.entries[3], {"handle": kernel.slots + handle})
        assert kernel.words(3) in ("the handle is invalid", "the page does not exist")

    def test_freed(self) -> None:
        kernel = self.world("6.12.0", THREE)
        kernel.write(kernel.slots + 8 * 3, bytes(8))
        assert kernel.words(3) == "0x0 is not in the kernel's direct map"

    def test_module_that_nothing_describes(self) -> None:
        kernel = self.world("6.12.0", THREE)
        del kernel.types["struct z3fold_header"]
        assert "z3fold_header" in kernel.words(3)


class TestNotInTheDump:
    @pytest.mark.parametrize("release", ALLOCATED)
    @pytest.mark.parametrize("state", [FrameState.EXCLUDED, FrameState.CUT_OFF, FrameState.NO_RAM])
    def test_compressed_bytes(self, release: str, state: FrameState) -> None:
        kernel = Zswapped(release)
        kernel.put(5, page(5))
        kernel.put(6, page(6))
        kernel.grow()
        lost = physical(kernel.at("struct zswap_entry", kernel.entries[5], "handle").value_()) // PAGE
        stored = FrameState.STORED
        runs = [(0, lost, stored), (lost, lost + 1, state), (lost + 1, 1 << 40, stored)]
        kernel.frames(*(run for run in runs if run[2] is not FrameState.NO_RAM))
        assert kernel.find(0, 10) == [
            (5, LOST, "zswap: its compressed bytes are not in the dump"),
            (6, FOUND, page(6)),
        ]

    def test_pool(self, kernel: Zswapped) -> None:
        kernel.put(5, page(5))
        kernel.grow()
        kernel.lose(kernel.pool)
        assert kernel.words(5) == "its pool is damaged or not in the dump"

    def test_entry(self, kernel: Zswapped) -> None:
        """What else is below a node is lost too."""
        for slot in (5, 6, 7):
            kernel.put(slot, page(slot))
        kernel.grow()
        kernel.lose(kernel.entries[6])
        words = "zswap: its tree is damaged or not in the dump"
        if kernel.red_black:  # slot 6 is the root
            assert kernel.find(4, 9) == [(slot, LOST, words) for slot in range(4, 13)]
        else:
            assert kernel.find(4, 9) == [(5, FOUND, page(5)), (6, LOST, words), (7, FOUND, page(7))]

    @pytest.mark.parametrize("what", ["zswap_trees", "nr_zswap_trees", "tree"])
    def test_trees(self, kernel: Zswapped, what: str) -> None:
        kernel.put(5, page(5))
        kernel.grow()
        if what != "tree" and what not in kernel.symbols:
            return
        kernel.lose(kernel.tree if what == "tree" else kernel.symbols[what])
        assert kernel.find(4, 3) == [
            (slot, LOST, "zswap: its tree is damaged or not in the dump") for slot in (4, 5, 6)
        ]


class TestDamage:
    def test_entry_of_another_slot(self, kernel: Zswapped) -> None:
        kernel.put(5, page(5))
        kernel.grow()
        entry = kernel.entries[5]
        if kernel.release == "5.10.0":  # there the tree itself goes by it
            kernel.set("struct zswap_entry", entry, {"offset": 6})
            assert kernel.find(5) == []
            return
        kernel.set("struct zswap_entry", entry, {"swpentry.val": (NUMBER + 1) << 58 | 5})
        assert kernel.words(5) == "its entry is damaged"

    @pytest.mark.parametrize("length", [PAGE + 1, 0xFFFFFFFF])
    def test_length(self, kernel: Zswapped, length: int) -> None:
        kernel.put(5, page(5), length=length)
        kernel.grow()
        assert kernel.words(5) == "its entry is damaged"

    def test_compressed_bytes(self, kernel: Zswapped) -> None:
        kernel.put(5, page(5))
        kernel.grow()
        length = kernel.at("struct zswap_entry", kernel.entries[5], "length").value_()
        kernel.set("struct zswap_entry", kernel.entries[5], {"length": length - 1})
        assert kernel.words(5).startswith("zlib: Error")

    @pytest.mark.parametrize("pool", [0, 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 200])
    def test_pool(self, kernel: Zswapped, pool: int) -> None:
        kernel.put(5, page(5), pool=pool)
        kernel.grow()
        assert kernel.words(5) == "its pool is damaged or not in the dump"

    @pytest.mark.parametrize("pointer", [1, 1 << 63, (1 << 64) - 1])
    def test_pointers(self, kernel: Zswapped, pointer: int) -> None:
        """Of zswap_trees, of the root, of a driver, of its name."""
        kernel.put(5, page(5))
        kernel.grow()
        places = [kernel.symbols["zswap_trees"] + 8 * NUMBER, kernel.tree + (0 if kernel.red_black else 8)]
        if kernel.release != "7.2.0":
            places += [kernel.zpool, kernel.at("struct zpool", kernel.zpool, "driver").value_()]
        for place in places:
            before = kernel.prog.read(place, 8)
            kernel.write(place, struct.pack("<Q", pointer))
            found = kernel.find(5)
            assert [provenance for _, provenance, _ in found] in ([LOST], []), hex(place)
            kernel.write(place, before)
        assert kernel.find(5) == [(5, FOUND, page(5))]

    @pytest.mark.parametrize("name", [b"\0", b"z\x80", b"z\n", b"x" * 128])
    def test_name_of_the_compressor(self, kernel: Zswapped, name: bytes) -> None:
        kernel.put(5, page(5))
        kernel.grow()
        kernel.set("struct zswap_pool", kernel.pool, {"tfm_name": name})
        assert kernel.words(5) in ("its pool is damaged", f"install something for {'x' * 128}")

    @pytest.mark.parametrize("name", ["", "zblock"])
    def test_allocator(self, name: str) -> None:
        kernel = Zswapped("6.12.0", name)
        kernel.put(5, page(5))
        kernel.grow()
        assert kernel.words(5) == ("unknown allocator zblock" if name else "its pool is damaged")

    def test_tree_in_a_circle(self) -> None:
        kernel = Zswapped("5.10.0")
        for slot in range(7):
            kernel.put(slot, page(slot))
        kernel.grow()
        root = kernel.entries[3]
        kernel.set("struct zswap_entry", kernel.entries[5], {"rbnode.rb_left": root, "rbnode.rb_right": root})
        found = kernel.find(0, 100)
        assert [provenance for _, provenance, _ in found] == [FOUND] * 4 + [LOST, FOUND] + [LOST] * 94
        assert [slot for slot, *_ in found] == [*range(100)]

    def test_node_of_another(self) -> None:
        """A child that says that it is another's, though it may stand there."""
        kernel = Zswapped("5.10.0")
        for slot in range(7):
            kernel.put(slot, page(slot))
        kernel.grow()
        kernel.set("struct zswap_entry", kernel.entries[3], {"rbnode.rb_right": kernel.entries[6]})
        assert [provenance for _, provenance, _ in kernel.find(0, 100)] == [FOUND] * 4 + [LOST] * 96

    def test_tree_too_deep(self) -> None:
        kernel = Zswapped("5.10.0")
        slots = range(1, 1000)
        for slot in slots:
            kernel.entry(slot, length=0, value=slot)
        above = 0
        for slot in slots:
            below = kernel.entries.get(slot + 1, 0)
            links = {"rbnode.__rb_parent_color": above, "rbnode.rb_right": below}
            above = kernel.entries[slot]
            kernel.set("struct zswap_entry", above, links)
        kernel.set("struct zswap_tree", kernel.tree, {"rbroot.rb_node": kernel.entries[1]})
        kinds = [provenance for _, provenance, _ in kernel.find(1, 2000)]
        assert len(kinds) == 2000
        deepest = kinds.index(LOST)
        assert 100 <= deepest <= 128
        assert set(kinds[deepest:]) == {LOST}

    def test_entry_for_many_slots(self) -> None:
        """zswap has none such."""
        kernel = Zswapped("6.12.0")
        kernel.set("struct xarray", kernel.tree, {"xa_head": kernel.node(6, {0: kernel.put(0, page(0))})})
        assert [provenance for _, provenance, _ in kernel.find(0, 100)] == [LOST] * 64

    @pytest.mark.parametrize("link", ["rbnode.rb_left", "rbnode.rb_right"])
    def test_tree_out_of_order(self, link: str) -> None:
        """A child that is on the wrong side, though it is its parent's."""
        kernel = Zswapped("5.10.0")
        wrong = {"rbnode.rb_left": 9, "rbnode.rb_right": 1}[link]
        root, child = kernel.put(5, page(5)), kernel.put(wrong, page(wrong))
        kernel.set("struct zswap_tree", kernel.tree, {"rbroot.rb_node": root})
        kernel.set("struct zswap_entry", root, {link: child})
        kernel.set("struct zswap_entry", child, {"rbnode.__rb_parent_color": root})
        assert kernel.find(5) == [(5, FOUND, page(5))]
        assert kernel.find(wrong) == []
        assert kernel.words(4 if wrong == 9 else 6) == "its tree is damaged or not in the dump"

    @pytest.mark.parametrize("allocator", ["zbud", "z3fold", "zsmalloc"])
    def test_any_damage(self, kernel: Zswapped, allocator: str) -> None:
        """Whatever a byte of the kernel's structures becomes: no exception, and slots in order."""
        kernel = Zswapped(kernel.release, allocator)
        for slot in (3, 4, 5, 70, 16385):
            kernel.put(slot, page(slot))
        kernel.grow()
        frames = sorted(kernel.memory)
        rng = random.Random(7)
        for _ in range(300):
            frame = rng.choice(frames)
            before = bytes(kernel.memory[frame])
            start = 0 if rng.random() < 0.9 else rng.randrange(PAGE)
            for at in range(start, min(start + 160, PAGE)):
                if rng.random() < 0.1:
                    kernel.memory[frame][at] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            found = list(kernel.layer().find(kernel.space(), 2, 40000))
            in_order(found, 2, 40002)
            kernel.memory[frame] = bytearray(before)


def in_order(found: list[Slots], first: int, end: int) -> None:
    for slots in found:
        assert first <= slots.first
        assert slots.length > 0
        first = slots.first + slots.length
    assert first <= end
