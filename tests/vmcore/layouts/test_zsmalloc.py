# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects of zsmalloc, made up as mm/zsmalloc.c lays them out in each release, whole and damaged."""

import struct
from collections.abc import Iterable
from typing import NamedTuple

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.zsmalloc import Zsmalloc
from tests.vmcore.layouts.world import PAGE, PAGE_OFFSET, World, physical

PAGES = "struct list_head { struct list_head *next, *prev; };"
STRUCT_PAGE = """
struct page {
    unsigned long flags; struct list_head lru; void *mapping; union { unsigned long %s; void *freelist; };
    unsigned long private; unsigned int page_type; int _refcount; unsigned long memcg_data;
};
"""
ZPDESC = """
struct zpdesc {
    unsigned long flags; struct list_head lru; unsigned long movable_ops;
    union { struct zpdesc *next; unsigned long handle; };
    struct zspage *zspage; unsigned int first_obj_offset; int _refcount;
};
"""
ZSPAGE = """
struct zspage {
    struct { %s unsigned int class:9; %s unsigned int magic:8; };
    unsigned int inuse, freeobj; struct %s *%s; struct list_head list;
};
"""
POOL = """
struct size_class { %s struct list_head fullness_list[%d]; int size, objs_per_zspage, pages_per_zspage;
    unsigned int index; };
struct zs_pool { char *name; struct size_class *size_class[255]; long pages_allocated; };
"""


class Layout(NamedTuple):
    """What differs.

    :ivar tag_bits: OBJ_TAG_BITS below an object's number.
    :ivar next: the member of a ``struct page`` with the next one.
    :ivar header: that with the header of a huge object.
    :ivar owner: that with the zspage.
    :ivar class_bits: how many bits the number of the class has, between page frame and object's number.
    """

    release: str
    types: str
    tag_bits: int
    page: str
    next: str
    header: str
    owner: str
    first: str
    class_bits: int = 0


OLD = Layout(
    "5.10.0",
    PAGES + STRUCT_PAGE % "index"
    + ZSPAGE % ("unsigned int fullness:2;", "unsigned int isolated:3;", "page", "first_page") + POOL % ("int lock;", 4),
    1, "struct page", "freelist", "index", "private", "first_page",
)  # fmt: skip
BOOKWORM = Layout(
    "6.1.0",
    PAGES + STRUCT_PAGE % "index"
    + ZSPAGE % ("unsigned int huge:1; unsigned int fullness:2;", "unsigned int isolated:3;", "page", "first_page")
    + POOL % ("", 4),
    1, "struct page", "index", "index", "private", "first_page",
)  # fmt: skip
TWO_TAGS = BOOKWORM._replace(release="6.5.0", tag_bits=2)
TRIXIE = Layout(
    "6.12.0",
    PAGES + STRUCT_PAGE % "index"
    + ZSPAGE % ("unsigned int huge:1; unsigned int fullness:4;", "", "page", "first_page") + POOL % ("int lock;", 12),
    0, "struct page", "index", "index", "private", "first_page",
)  # fmt: skip
SID = Layout(
    "7.2.0",
    PAGES + STRUCT_PAGE % "__folio_index" + ZPDESC
    + ZSPAGE % ("unsigned int huge:1; unsigned int fullness:4;", "", "zpdesc", "first_zpdesc")
    + POOL % ("int lock;", 12),
    0, "struct zpdesc", "next", "handle", "zspage", "first_zpdesc",
)  # fmt: skip
CLASSES = SID._replace(release="7.3.0", class_bits=9)
LAYOUTS = (OLD, BOOKWORM, TWO_TAGS, TRIXIE, SID, CLASSES)
EVERYTHING = 1 << 40


def content(number: int, size: int) -> bytes:
    """What no other object has."""
    return b"".join(struct.pack("<HH", number, at) for at in range(0, size, 4))[:size]


class Pool(World):
    """A pool of zsmalloc.

    :ivar layout: of that release.
    :ivar pfn_shift: 64 less the bits of a page frame number.
    """

    def __init__(self, layout: Layout = BOOKWORM, types: str = "", pfn_shift: int = 24) -> None:
        super().__init__(layout.types + types, layout.release)
        self.layout = layout
        self.pfn_shift = pfn_shift
        self.page_structs = self.allocate(64 * 4096)
        self.word("vmemmap_base", self.page_structs)
        self.pool = self.new("struct zs_pool")
        self.frames((0, EVERYTHING, FrameState.STORED))

    def page_struct(self, frame: int) -> int:
        return self.page_structs + 64 * frame

    def size_class(self, index: int, size: int, frames: int) -> None:
        """The pool's class of that number."""
        made = self.new("struct size_class", size=size, objs_per_zspage=frames * PAGE // size, pages_per_zspage=frames)
        self.set("struct zs_pool", self.pool, {f"size_class[{index}]": made})

    def zspage(self, index: int, count: int) -> "Zspage":
        """A zspage of a class, whose page frames do not lie one after the other."""
        allocated = [physical(self.allocate(PAGE)) >> 12 for _ in range(2 * count)][::2]
        frames = allocated[1:] + allocated[:1]
        address = self.new("struct zspage", magic=0x58, inuse=1, **{"class": index})
        self.set("struct zspage", address, {self.layout.first: self.page_struct(frames[0])})
        for frame, following in zip(frames, [*frames[1:], None], strict=True):
            page = {self.layout.owner: address}
            if following is not None:
                page[self.layout.next] = self.page_struct(following)
            self.set(self.layout.page, self.page_struct(frame), page)
        return Zspage(address, tuple(frames), index)

    def handle(self, frame: int, number: int, kind: int = 0) -> int:
        """A handle of an object. ``kind``: the number of its class."""
        word = frame << self.pfn_shift | number << self.layout.tag_bits
        if self.layout.class_bits:
            word |= kind << self.pfn_shift - self.layout.class_bits
        return self.data(struct.pack("<Q", word))

    def put(self, zspage: "Zspage", size: int, number: int, data: bytes) -> int:
        """An object of a class of that size; its handle."""
        at = size * number
        handle = self.handle(zspage.frames[at >> 12], number, zspage.kind)
        if size == PAGE:
            self.set(self.layout.page, self.page_struct(zspage.frames[0]), {self.layout.header: handle | 1})
        else:
            data = struct.pack("<Q", handle | 1) + data
        assert len(data) <= size
        for place in range(at, at + len(data)):
            address = PAGE_OFFSET + (zspage.frames[place >> 12] << 12) + place % PAGE
            self.memory[address - PAGE_OFFSET >> 12][place % PAGE] = data[place - at]
        return handle

    @property
    def it(self) -> Zsmalloc:
        return Zsmalloc(self.kernel, PhysicalMemory(self.kernel), ModuleTypes(self.target))

    def read(self, handle: int, size: int) -> bytes:
        return self.it.read(self.pointer("struct zs_pool", self.pool), handle, size)

    def lacks(self, *missing: int) -> None:
        """Page frames that were left out of the dump."""
        last, runs = 0, []
        for frame in sorted(missing):
            runs += [(last, frame, FrameState.STORED), (frame, frame + 1, FrameState.EXCLUDED)]
            last = frame + 1
        self.frames(*runs, (last, EVERYTHING, FrameState.STORED))
        for frame in missing:  # as drgn reads them of an ELF dump
            self.memory[frame] = bytearray(PAGE)


class Zspage(NamedTuple):
    address: int
    frames: tuple[int, ...]
    kind: int


SIZE, COUNT, CLASS = 1360, 3, 83  # 9 objects in 3 pages, of which two cross from one page into the next
CROSSING = [3, 6]


def filled(layout: Layout = BOOKWORM, pfn_shift: int = 24) -> tuple[Pool, Zspage, list[int]]:
    """A zspage full of objects; their handles."""
    pool = Pool(layout, pfn_shift=pfn_shift)
    pool.size_class(CLASS, SIZE, COUNT)
    zspage = pool.zspage(CLASS, COUNT)
    return pool, zspage, [pool.put(zspage, SIZE, number, content(number, SIZE - 8)) for number in range(9)]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.release)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


class TestObjects:
    @pytest.mark.parametrize("pfn_shift", [24, 30], ids=["52 bits of address", "46"])
    def test_all_of_a_zspage(self, layout: Layout, pfn_shift: int) -> None:
        pool, _, handles = filled(layout, pfn_shift)
        it, pointer = pool.it, pool.pointer("struct zs_pool", pool.pool)
        for order in (range(9), reversed(range(9))):
            for number in order:
                assert it.read(pointer, handles[number], SIZE - 8) == content(number, SIZE - 8)

    def test_each_alone(self, layout: Layout) -> None:
        """What was found out of one object is no condition for finding others."""
        pool, _, handles = filled(layout)
        for number, handle in enumerate(handles):
            assert pool.read(handle, SIZE - 8) == content(number, SIZE - 8)

    @pytest.mark.parametrize("size", [1, 8, 1000, SIZE - 8])
    def test_smaller_than_its_class(self, layout: Layout, size: int) -> None:
        pool, _, handles = filled(layout)
        for number in (0, *CROSSING):
            assert pool.read(handles[number], size) == content(number, SIZE)[:size]

    def test_huge(self, layout: Layout) -> None:
        """A page that does not compress has no header in its frame."""
        pool = Pool(layout)
        pool.size_class(254, PAGE, 1)
        for number in range(3):
            handle = pool.put(pool.zspage(254, 1), PAGE, 0, content(number, PAGE))
            assert pool.read(handle, PAGE) == content(number, PAGE)

    def test_classes(self, layout: Layout) -> None:
        pool = Pool(layout)
        handles = []
        for index, (size, frames) in enumerate([(32, 1), (48, 3), (720, 3), (2720, 2), (3264, 4), (PAGE, 1)]):
            pool.size_class(index, size, frames)
            number = frames * PAGE // size - 1
            handles.append((pool.put(pool.zspage(index, frames), size, number, content(index, size - 8)), size - 8))
        it, pointer = pool.it, pool.pointer("struct zs_pool", pool.pool)
        for index, (handle, size) in enumerate(handles):
            assert it.read(pointer, handle, size) == content(index, size)

    def test_pinned(self) -> None:
        """Bit 0 of the word: a CPU was at the object when it crashed (HANDLE_PIN_BIT, until 5.16 or so)."""
        pool, zspage, handles = filled(OLD)
        pool.write(handles[5], struct.pack("<Q", zspage.frames[SIZE * 5 >> 12] << 24 | 5 << 1 | 1))
        assert pool.read(handles[5], SIZE - 8) == content(5, SIZE - 8)

    def test_pool_of_an_unknown_type(self) -> None:
        """zram only knows that there is a struct zs_pool."""
        pool, _, handles = filled()
        pointer = pool.pointer("void", pool.pool)
        assert pool.it.read(pointer, handles[4], 16) == content(4, 16)


def fails(pool: Pool, handle: int, size: int = SIZE - 8) -> str:
    with pytest.raises((BrokenDump, FaultError)) as caught:
        pool.read(handle, size)
    return str(caught.value)


STRANGE = (
    "the compressed page is not where its handle points, and no other of its pool is: "
    "this kernel's zsmalloc differs from those that kgcore knows"
)
MOVED = "the compressed page is not where its handle points"
LEFT_OUT = "the compressed page was excluded from the dump"


class TestDamage:
    @pytest.mark.parametrize("size", [0, -1, PAGE + 1, 1 << 63])
    def test_absurd_sizes(self, size: int) -> None:
        pool, _, handles = filled()
        assert fails(pool, handles[0], size) == f"a compressed page of {size} bytes"

    @pytest.mark.parametrize("size", [SIZE - 7, PAGE])
    def test_larger_than_its_class(self, layout: Layout, size: int) -> None:
        pool, _, handles = filled(layout)
        assert fails(pool, handles[4], size) == f"a compressed page of {size} bytes where there is no room for it"

    def test_wrong_magic(self, layout: Layout) -> None:
        pool, zspage, handles = filled(layout)
        pool.set("struct zspage", zspage.address, {"magic": 0x59})
        assert fails(pool, handles[0]) == MOVED

    def test_class_beyond_the_last(self, layout: Layout) -> None:
        pool, zspage, handles = filled(layout)
        pool.set("struct zspage", zspage.address, {"class": 255})
        assert fails(pool, handles[0]) == MOVED

    def test_class_that_is_none(self) -> None:
        pool, zspage, handles = filled()
        pool.set("struct zspage", zspage.address, {"class": 7})
        assert "no memory there" in fails(pool, handles[0])

    def test_class_of_another_size(self, layout: Layout) -> None:
        """Numbers then lead to other places: the header there is not the object's."""
        pool, zspage, handles = filled(layout)
        pool.size_class(100, 1632, 2)
        pool.set("struct zspage", zspage.address, {"class": 100})
        assert fails(pool, handles[4]) == MOVED

    @pytest.mark.parametrize(
        ("size", "objects", "frames"),
        [(0, 9, 3), (SIZE, 9, 0), (SIZE, 10, 3), (SIZE, 51, 17), (-16, 9, 3), (1 << 30, 1, 1), (8, 512, 1)],
    )
    def test_absurd_class(self, size: int, objects: int, frames: int) -> None:
        pool, _, handles = filled()
        made = pool.new("struct size_class", size=size, objs_per_zspage=objects, pages_per_zspage=frames)
        pool.set("struct zs_pool", pool.pool, {f"size_class[{CLASS}]": made})
        assert fails(pool, handles[0]).startswith("zsmalloc keeps")

    def test_number_beyond_the_last(self, layout: Layout) -> None:
        """Even if something like the header lies there."""
        pool, zspage, _ = filled(layout)
        handle = pool.handle(zspage.frames[0], 12)
        at = PAGE_OFFSET + (zspage.frames[0] << 12) + 12 * SIZE % PAGE
        pool.write(at, struct.pack("<Q", handle | 1))
        assert fails(pool, handle, 16) == MOVED

    def test_another_object(self, layout: Layout) -> None:
        """As when the dump was made while objects moved."""
        pool, zspage, handles = filled(layout)
        pool.put(zspage, SIZE, 4, content(4, SIZE - 8))
        assert fails(pool, handles[4]) == MOVED

    def test_another_huge_object(self, layout: Layout) -> None:
        pool = Pool(layout)
        pool.size_class(254, PAGE, 1)
        zspage = pool.zspage(254, 1)
        handle = pool.put(zspage, PAGE, 0, content(1, PAGE))
        pool.put(zspage, PAGE, 0, content(2, PAGE))
        assert fails(pool, handle, PAGE) == MOVED

    @pytest.mark.parametrize("handle", [0, 1, 0x1234, 1 << 63, (1 << 64) - 4])
    def test_wild_handle(self, handle: int) -> None:
        pool, *_ = filled()
        fails(pool, handle)

    @pytest.mark.parametrize("word", [0, 1, 0x1234 << 24, (1 << 64) - 1, 0xFFFFFFFFFF << 24])
    def test_wild_place(self, layout: Layout, word: int) -> None:
        pool, *_ = filled(layout)
        fails(pool, pool.data(struct.pack("<Q", word)))

    def test_freed_object(self, layout: Layout) -> None:
        """The header of a free one is the number of the next free one."""
        pool, zspage, handles = filled(layout)
        pool.write(PAGE_OFFSET + (zspage.frames[0] << 12) + SIZE, struct.pack("<Q", 7 << 1))
        assert fails(pool, handles[1]) == MOVED

    def test_no_types(self) -> None:
        pool, _, handles = filled()
        del pool.types["struct zspage"]
        assert "struct zspage" in fails(pool, handles[0])


def chain(pool: Pool, zspage: Zspage, *order: int | None) -> None:
    """What each frame says is the next one, by number in the zspage."""
    for frame, following in zip(zspage.frames, order, strict=True):
        value = 0 if following is None else pool.page_struct(zspage.frames[following])
        pool.set(pool.layout.page, pool.page_struct(frame), {pool.layout.next: value})


class TestNextPage:
    """An object that crosses is only found with the page after the one where it begins."""

    @pytest.mark.parametrize(
        "order", [(0, 2, None), (None, 2, None), (1, 0, None), (2, 1, 0)], ids=["self", "none", "back", "other way"]
    )
    def test_chain_damaged(self, layout: Layout, order: Iterable[int | None]) -> None:
        pool, zspage, handles = filled(layout)
        chain(pool, zspage, *order)
        for number, handle in enumerate(handles):
            if number not in CROSSING:
                assert pool.read(handle, SIZE - 8) == content(number, SIZE - 8)
            else:
                assert fails(pool, handle) == "the second part of the compressed page was not found"

    def test_chain_into_another_zspage(self, layout: Layout) -> None:
        pool, zspage, handles = filled(layout)
        other = pool.zspage(CLASS, COUNT)
        pool.set(layout.page, pool.page_struct(zspage.frames[0]), {layout.next: pool.page_struct(other.frames[1])})
        assert "second part" in fails(pool, handles[3])
        assert pool.read(handles[4], 16) == content(4, 16)

    def test_wild_chain(self, layout: Layout) -> None:
        for word in (1, 0x1234, 1 << 63, (1 << 64) - 1, (1 << 63) + 64):
            pool, zspage, handles = filled(layout)
            pool.set(layout.page, pool.page_struct(zspage.frames[0]), {layout.next: word})
            assert "second part" in fails(pool, handles[3])

    def test_lost_first_page(self, layout: Layout) -> None:
        pool, zspage, handles = filled(layout)
        pool.set("struct zspage", zspage.address, {layout.first: 0})
        assert "second part" in fails(pool, handles[6])
        assert pool.read(handles[7], 16) == content(7, 16)


class TestLeftOut:
    def test_its_page(self, layout: Layout) -> None:
        pool, zspage, handles = filled(layout)
        pool.lacks(zspage.frames[1])
        for number, handle in enumerate(handles):
            if number in (0, 1, 2, 7, 8):
                assert pool.read(handle, SIZE - 8) == content(number, SIZE - 8)
            else:
                assert fails(pool, handle) == LEFT_OUT, number

    def test_second_part_not_needed(self, layout: Layout) -> None:
        """Object 3 has 8 bytes of its header and 8 more in its first page."""
        pool, zspage, handles = filled(layout)
        pool.lacks(zspage.frames[1])
        assert pool.read(handles[3], 8) == content(3, 8)
        assert fails(pool, handles[3], 9) == LEFT_OUT

    def test_huge(self, layout: Layout) -> None:
        pool = Pool(layout)
        pool.size_class(254, PAGE, 1)
        zspage = pool.zspage(254, 1)
        handle = pool.put(zspage, PAGE, 0, content(1, PAGE))
        pool.lacks(zspage.frames[0])
        assert fails(pool, handle, PAGE) == LEFT_OUT

    @pytest.mark.parametrize("what", ["handle", "zspage", "class", "page structs"])
    def test_structures(self, layout: Layout, what: str) -> None:
        """Of an ELF dump they read as zeros."""
        pool, zspage, handles = filled(layout)
        size_class = pool.at("struct zs_pool", pool.pool, f"size_class[{CLASS}]").value_()
        places = {"handle": handles[8], "zspage": zspage.address, "class": size_class}
        pool.lacks(physical(places.get(what, pool.page_struct(zspage.frames[2]))) >> 12)
        fails(pool, handles[8])


class TestStrangeLayout:
    """Where no handle of a pool leads to its object, that is no damage."""

    def listed(self, pool: Pool, *zspages: Zspage) -> None:
        """In the lists of the first class, as full ones."""
        size_class = pool.at("struct zs_pool", pool.pool, f"size_class[{CLASS}]").value_()
        for number, zspage in enumerate(zspages):
            head = size_class + pool.offset("struct size_class", f"fullness_list[{number}]")
            entry = zspage.address + pool.offset("struct zspage", "list")
            pool.write(head, struct.pack("<QQ", entry, entry))
            pool.write(entry, struct.pack("<QQ", head, head))

    def strange(self, layout: Layout) -> tuple[Pool, Zspage, list[int]]:
        """Encoded as in no release: the number above the page frame."""
        pool, zspage, handles = filled(layout)
        for number, handle in enumerate(handles):
            frame = zspage.frames[SIZE * number >> 12]
            pool.write(handle, struct.pack("<Q", number << 40 | frame))
        return pool, zspage, handles

    def test_all(self, layout: Layout) -> None:
        pool, zspage, handles = self.strange(layout)
        self.listed(pool, zspage)
        assert {fails(pool, handle) for handle in handles} == {STRANGE}

    def test_layout_of_a_zspage(self, layout: Layout) -> None:
        """The magic number is elsewhere."""
        pool, zspage, handles = filled(layout)
        self.listed(pool, zspage)
        pool.set("struct zspage", zspage.address, {"magic": 0})
        assert fails(pool, handles[4]) == STRANGE

    def test_some(self, layout: Layout) -> None:
        """One that is right shows that the others are damaged."""
        pool, zspage, handles = self.strange(layout)
        pool.size_class(CLASS, SIZE, COUNT)
        other = pool.zspage(CLASS, COUNT)
        good = pool.put(other, SIZE, 7, content(7, SIZE - 8))
        self.listed(pool, zspage, other)
        assert "no memory there" in fails(pool, handles[4])
        assert pool.read(good, SIZE - 8) == content(7, SIZE - 8)

    def test_nothing_to_tell(self, layout: Layout) -> None:
        """The lists lead to memory that is not in the dump."""
        pool, zspage, handles = self.strange(layout)
        self.listed(pool, zspage)
        pool.lost = {physical(zspage.address) >> 12}
        pool.write(handles[0], struct.pack("<Q", 0))
        assert fails(pool, handles[0]) != STRANGE


class TestClassInTheHandle:
    """Since 7.3."""

    def test_another_class(self) -> None:
        pool, zspage, handles = filled(CLASSES)
        pool.write(handles[5], struct.pack("<Q", zspage.frames[SIZE * 5 >> 12] << 24 | CLASS + 1 << 15 | 5))
        assert fails(pool, handles[5]) == MOVED
        assert pool.read(handles[4], 16) == content(4, 16)

    def test_bits_by_the_type(self) -> None:
        """CLASS_BITS is not what it is in Linus's kernel."""
        wide = CLASSES._replace(types=CLASSES.types.replace("class:9", "class:10"), class_bits=10)
        pool, _, handles = filled(wide)
        for number, handle in enumerate(handles):
            assert pool.read(handle, SIZE - 8) == content(number, SIZE - 8)
