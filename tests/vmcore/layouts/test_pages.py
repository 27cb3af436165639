# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands for each page of a process: the decision table of pages.py on made-up page tables and caches."""

import re
import struct

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import VM_HUGETLB, VM_IO, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, MappedFile, Vma
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.memory.backing import Backing, UserFiles
from kgcore.sources.vmcore.memory.pages import VmcoreMemory, joined
from tests.vmcore.layouts.test_pagecache import TYPES as CACHE
from tests.vmcore.layouts.test_pagecache import UPTODATE, Cache, value
from tests.vmcore.layouts.test_swapentry import DEVICE_514, MIGRATION, POISON, entry
from tests.vmcore.layouts.world import PAGE_OFFSET, physical

TYPES = (
    CACHE.replace("void *host;", "struct inode *host; void *a_ops;")
    + """
enum pageflags { PG_locked, PG_writeback, PG_referenced, PG_uptodate, PG_dirty, PG_swapbacked, PG_swapcache,
    PG_hwpoison, PG_anon_exclusive };
enum mfill_atomic_mode { MFILL_ATOMIC_POISON = 3 };
struct page { unsigned long flags, compound_head, lru; void *mapping; unsigned long index, private; u64 rest[2]; };
struct hstate { unsigned int max, order; };
struct hugetlbfs_sb_info { long free; struct hstate *hstate; };
struct super_block { void *s_fs_info; };
struct inode { unsigned short i_mode; long i_size; struct super_block *i_sb; };
struct file { struct inode *f_inode; struct address_space *f_mapping; };
struct vdso_image { void *data; unsigned long size; };
typedef struct { struct vdso_image *vdso_image; } mm_context_t;
struct vm_area_struct { unsigned long vm_start, vm_end; struct vm_area_struct *vm_next; struct file *vm_file;
    struct vm_operations_struct *vm_ops; void *vm_private_data; };
struct vm_special_mapping { char *name; struct page **pages; void *fault; };
struct vm_operations_struct { void *open, *fault; };
struct owner_word { unsigned long counter; };
struct rw_semaphore { struct owner_word owner; };
struct task_struct { unsigned int flags; char comm[16]; };
struct khugepaged_scan { unsigned long address; };
struct mm_struct {
    struct vm_area_struct *mmap; unsigned long *pgd; mm_context_t context; struct rw_semaphore mmap_lock;
};
"""
)
P, PSE, PROTNONE = 1, 1 << 7, 1 << 8
PFN = ((1 << 52) - 1) & ~0xFFF
START = 0x7F00_0000_0000
PRESENT, ZERO, SWAPPED = Provenance.PRESENT, Provenance.ZERO, Provenance.SWAPPED
CACHED = Provenance.PAGE_CACHE
FILE, EXCLUDED, UNREADABLE = Provenance.FILE, Provenance.EXCLUDED, Provenance.UNREADABLE
STORED = FrameState.STORED
EVERYTHING = 1 << 40
LOCKED = 1 << 0


class Process(Cache):
    """A process with one mapping of 16 pages at START, and a file behind it if asked for."""

    def __init__(self, release: str = "6.12.0", types: str = TYPES) -> None:
        super().__init__(types, release)
        self.sizes["swap_info"], self.symbols["swap_info"] = 8 * 23, self.allocate(4096)
        self.symbols["nr_swapfiles"] = self.symbols["swap_info"] + 8 * 23  # 4 bytes of zeros: an odd multiple of 8
        self.root = self.allocate(4096)
        self.tables: dict[tuple[int, int], int] = {}
        self.has(*POISON, *MIGRATION, *DEVICE_514, "shmem_aops", "ram_aops", "ext4_aops")
        self.area = self.new("struct vm_area_struct", vm_start=START, vm_end=START + 0x10000)
        self.mm = self.new("struct mm_struct", pgd=self.root, mmap=self.area)
        self.frames((0, EVERYTHING, STORED))

    def pte(self, page: int, word: int) -> None:
        """The entry of a page of the mapping."""
        self.entry(START + 4096 * page, 12, word)

    def entry(self, address: int, shift: int, word: int) -> None:
        """An entry of the table whose entries cover ``1 << shift`` bytes."""
        table = self.root
        for level in (39, 30, 21):
            if level == shift:
                break
            below = self.tables.get((level, address >> level))
            if below is None:
                below = self.tables[level, address >> level] = self.allocate(4096)
                self.write(table + 8 * (address >> level & 511), struct.pack("<Q", physical(below) | 0x67))
            table = below
        self.write(table + 8 * (address >> shift & 511), struct.pack("<Q", word))

    def frame(self, content: bytes = b"data") -> int:
        """A frame with something in it: its physical address."""
        return physical(self.data(content.ljust(4096, b".")))

    def file(self, operations: str, size: int = 16 * 4096, *, mode: int = 0o100644, fault: str = "ops") -> MappedFile:
        """Put a file behind the mapping. ``fault``: "ops" with a handler, "no handler", or "no ops"."""
        inode = self.new("struct inode", i_size=size, i_mode=mode)
        self.set("struct address_space", self.mapping, {"a_ops": self.symbols[operations], "host": inode})
        file = self.new("struct file", f_mapping=self.mapping, f_inode=inode)
        ops = 0 if fault == "no ops" else self.new("struct vm_operations_struct", open=1, fault=fault == "ops")
        self.set("struct vm_area_struct", self.area, {"vm_file": file, "vm_ops": ops})
        return MappedFile(b"/f", 1, mode, size)

    def cached(self, first: int, *frames: int, shift: int = 0) -> None:
        slots = {number: self.page(frame, first + (number << shift)) for number, frame in enumerate(frames)}
        self.head(self.node(shift, slots))

    @property
    def it(self) -> VmcoreMemory:
        return VmcoreMemory(Backing(self.kernel, UserFiles()), self.pointer("struct mm_struct", self.mm))

    def runs(self, pages: int = 1, flags: int = VM_READ, **vma: object) -> list[tuple[int, Provenance, str]]:
        """As (pages, provenance, detail), of the first pages of the mapping."""
        area = Vma(START, START + 0x10000, flags, struct=self.area, **vma)  # type: ignore[arg-type]
        found = list(self.it.runs(area, START, START + 4096 * pages))
        assert [run.address for run in found] == [START, *(run.end for run in found[:-1])]
        assert found[-1].end == START + 4096 * pages
        read = [piece.run for piece in self.it.read(area, START, START + 4096 * pages)]
        assert sum(run.length for run in read) == 4096 * pages
        return [(run.length // 4096, run.provenance, run.detail) for run in found]


@pytest.fixture
def process() -> Process:
    return Process()


class TestPresent:
    def test_content(self, process: Process) -> None:
        process.pte(0, process.frame(b"one") | P)
        process.pte(1, process.frame(b"two") ^ PFN | PROTNONE)
        vma = Vma(START, START + 0x10000, VM_READ, struct=process.area)
        (piece,) = process.it.read(vma, START, START + 8192)
        assert piece == Piece(Run(START, 8192, PRESENT), b"one".ljust(4096, b".") + b"two".ljust(4096, b"."))
        assert process.runs(2) == [(2, PRESENT, "")]

    def test_read_that_fails_after_all(self, process: Process) -> None:
        """The rest of the run is there."""
        frame = physical(process.allocate(3 * 4096))
        for page in range(3):
            process.pte(page, frame + 4096 * page | P)
        process.lost = {frame + 4096 >> 12}
        pieces = list(
            process.it.read(Vma(START, START + 0x10000, VM_READ, struct=process.area), START, START + 3 * 4096)
        )
        assert [piece.run.provenance for piece in pieces] == [PRESENT, UNREADABLE, PRESENT]
        assert [len(piece.data) for piece in pieces] == [4096, 0, 4096]

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            (FrameState.EXCLUDED, (EXCLUDED, "")),
            (FrameState.CUT_OFF, (EXCLUDED, "beyond the end of the cut-off dump")),
            (FrameState.NO_RAM, (UNREADABLE, "no RAM at that address")),
        ],
    )
    def test_frame_that_is_not_in_the_file(
        self, process: Process, state: FrameState, expected: tuple[Provenance, str]
    ) -> None:
        frame = physical(process.allocate(3 * 4096))
        for page in range(3):
            process.pte(page, frame + 4096 * page | P)
        middle = frame + 4096 >> 12
        hole = () if state is FrameState.NO_RAM else ((middle, middle + 1, state),)
        process.frames((0, middle, STORED), *hole, (middle + 1, EVERYTHING, STORED))
        assert process.runs(3) == [(1, PRESENT, ""), (1, *expected), (1, PRESENT, "")]

    def test_large_page_in_part(self, process: Process) -> None:
        process.entry(START, 21, 0x4000_0000 | P | PSE)
        first = 0x4000_0000 >> 12
        process.frames(
            (0, first + 2, STORED), (first + 2, first + 5, FrameState.EXCLUDED), (first + 5, EVERYTHING, STORED)
        )
        assert process.runs(8) == [(2, PRESENT, ""), (3, EXCLUDED, ""), (3, PRESENT, "")]

    def test_zero_page_that_was_excluded(self, process: Process) -> None:
        """``empty_zero_page`` and the huge one are zeros, in the dump or not."""
        process.symbols["empty_zero_page"] = 0xFFFFFFFF82345000
        process.word("huge_zero_pfn", 0x40200)
        process.pte(0, 0x2345000 | P)
        process.pte(1, 0x2346000 | P)
        process.frames((0, 0x2345, STORED), (0x2345, 0x50000, FrameState.EXCLUDED))
        assert process.runs(2)[:1] == [(1, ZERO, "")]
        assert process.runs(2)[1:] == [(1, EXCLUDED, "")]

    def test_huge_zero_page_that_was_excluded(self, process: Process) -> None:
        process.word("huge_zero_pfn", 0x40200)
        process.entry(START, 21, 0x40200000 | P | PSE)
        process.frames((0, 0x40200, STORED), (0x40200, 0x50000, FrameState.EXCLUDED))
        assert process.runs(16) == [(16, ZERO, "")]

    @pytest.mark.parametrize("pages", [4, 16])
    def test_neighbour_of_the_huge_zero_page(self, process: Process, pages: int) -> None:
        """What follows it in memory is no zero, though one run of page-table entries covers both."""
        process.word("huge_zero_pfn", 0x40200)
        half = pages // 2
        for page in range(pages):
            process.pte(page, (0x40400 - half + page) << 12 | P)
        process.frames((0, 0x40200, STORED), (0x40200, 0x50000, FrameState.EXCLUDED))
        assert process.runs(pages) == [(half, ZERO, ""), (half, EXCLUDED, "")]

    @pytest.mark.parametrize("places", [True, False])
    def test_zero_pages_among_scattered_ones(self, process: Process, places: bool) -> None:
        """A heap that was read before it was written: every page elsewhere, some of them the page of zeros."""
        process.symbols["empty_zero_page"] = 0xFFFFFFFF82345000
        process.word("huge_zero_pfn", 0x40200)
        stored, zero, huge = 0x1000, 0x2345, 0x40210
        frames = [0x60000, zero, 0x60007, 0x60003, zero, zero, huge, 0x40400, stored, zero, 0x60005]
        process.frames((0, zero, STORED), (zero, 0x70000, FrameState.EXCLUDED))
        memory = Backing(process.kernel, UserFiles()).physical
        found = memory.scattered(START, [frame << 12 for frame in frames], places=places)
        expected = [(1, EXCLUDED), (1, ZERO), (2, EXCLUDED), (3, ZERO), (1, EXCLUDED), (1, PRESENT)]
        expected += [(1, ZERO), (1, EXCLUDED)]
        runs = list(joined(found, 12))
        assert [(run.length >> 12, run.provenance) for run in runs] == expected
        assert [run.address for run in runs] == [START, *(run.end for run in runs[:-1])]

    @pytest.mark.parametrize("word", [PFN | P, 0xFFFF_FFFF_FFFF_F000 | P])
    def test_frame_beyond_all_memory(self, process: Process, word: int) -> None:
        process.frames((0, 1 << 28, STORED))
        process.pte(0, word)
        assert process.runs(1) == [(1, UNREADABLE, "no RAM at that address")]

    @pytest.mark.parametrize("flag", [VM_IO, VM_PFNMAP])
    def test_no_memory_of_the_process(self, process: Process, flag: int) -> None:
        """check_vma_flags(), mm/gup.c: get_dump_page() gets none; the core has a hole."""
        process.pte(0, process.frame() | P)
        assert process.runs(2, VM_READ | flag) == [(2, ZERO, "")]


class TestEntries:
    """Entries that are not present: include/linux/swapops.h. With 6.12's numbers: 23 poison, 24 to 26 migration, 27, 28
    device, 29, 30 exclusive, 31 markers."""

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            (entry(0, 77), (SWAPPED, "unknown swap space 0")),
            (entry(22, 1 << 30), (SWAPPED, "unknown swap space 22")),
            (entry(23, 0x55), (UNREADABLE, "poisoned")),
            (entry(23, 5), (UNREADABLE, "unknown entry")),  # nobody has page frame 5
            (entry(27, 5), (UNREADABLE, "in device memory")),
            (entry(28, 5), (UNREADABLE, "in device memory")),
            (entry(31, 0), (UNREADABLE, "unknown entry")),
            (entry(31, 1), (ZERO, "")),  # uffd-wp of a page that is not there
            (entry(31, 2), (UNREADABLE, "poisoned")),
            (entry(31, 4), (ZERO, "")),  # MADV_GUARD_INSTALL
        ],
    )
    def test_kinds(self, process: Process, word: int, expected: tuple[Provenance, str]) -> None:
        process.pte(0, word)
        assert process.runs() == [(1, *expected)]

    @pytest.mark.parametrize("number", [24, 25, 26, 29, 30])
    def test_page_on_its_way(self, process: Process, number: int) -> None:
        """Migration and device-exclusive entries name the frame that still has the bytes."""
        frame = process.frame(b"moving")
        process.page(frame >> 12, 0, UPTODATE | LOCKED)
        process.set("struct page", process.pages + 64 * (frame >> 12), {"mapping": 0xFFFF888012345001})
        process.pte(0, entry(number, frame >> 12 | 3 << 34))
        (piece,) = process.it.read(Vma(START, START + 0x10000, VM_READ, struct=process.area), START, START + 4096)
        assert bytes(piece.data).startswith(b"moving.")

    def test_part_of_a_huge_page_on_its_way(self, process: Process) -> None:
        """The entry names its first frame (set_pmd_migration_entry(), mm/huge_memory.c)."""
        huge = physical(process.allocate(1 << 21, 1 << 21))
        for page in range(16):
            process.write(PAGE_OFFSET + huge + 4096 * page, b"%d." % page)
        process.entry(START, 21, entry(24, huge >> 12))
        process.page(huge >> 12, 0, UPTODATE | LOCKED)
        vma = Vma(START, START + 0x10000, VM_READ, struct=process.area)
        (piece,) = process.it.read(vma, START + 3 * 4096, START + 5 * 4096)
        assert (bytes(piece.data[:2]), bytes(piece.data[4096:4098])) == (b"3.", b"4.")

    @pytest.mark.parametrize("number", [24, 25, 26, 29, 30])
    def test_frame_of_somebody_else(self, process: Process, number: int) -> None:
        """Neither locked nor anonymous: the number does not mean what it seems to."""
        frame = process.frame(b"theirs")
        process.page(frame >> 12, 0, UPTODATE)
        process.pte(0, entry(number, frame >> 12))
        name = "a migration" if number < 27 else "a device-exclusive"
        assert process.runs() == [(1, UNREADABLE, f"{name} entry leads to no such page")]

    def test_without_certainty(self) -> None:
        """5.19 to 6.5, if nothing tells the size of ``swap_info``: 23 is poison or a migration, by what follows."""
        process = Process()
        process.types.pop("enum mfill_atomic_mode")
        process.constants.pop("MFILL_ATOMIC_POISON")
        process.sizes.pop("swap_info")
        frame = process.frame(b"moving")
        process.page(frame >> 12, 0, UPTODATE | LOCKED)
        process.pte(0, entry(23, frame >> 12))
        assert process.runs() == [(1, UNREADABLE, "the dump does not tell what the entry means")]

    @pytest.mark.parametrize(("offset", "why"), [(0, "unknown entry"), (0x1234, "poisoned")])
    def test_swap_error_of_6_1(self, offset: int, why: str) -> None:
        """make_swapin_error_entry(), include/linux/swapops.h: with the page that could not be read."""
        process = Process()
        process.types.pop("enum mfill_atomic_mode")
        process.constants.pop("MFILL_ATOMIC_POISON")
        process.sizes["swap_info"] = 22 * 8
        process.symbols["swap_info"] += 8
        process.pte(0, entry(31, offset))
        assert process.runs() == [(1, UNREADABLE, why)]

    def test_lost_table(self, process: Process) -> None:
        process.pte(0, process.frame() | P)
        table = process.tables[21, START >> 21]
        process.lost = {physical(table) >> 12}
        assert process.runs(2) == [(2, UNREADABLE, f"page table at {physical(table):#x} is unreadable")]

    def test_table_that_was_excluded(self, process: Process) -> None:
        """An ELF dump reads as zeros there: not "nothing mapped"."""
        process.pte(0, process.frame() | P)
        table = physical(process.tables[21, START >> 21]) >> 12
        process.frames((0, table, STORED), (table, table + 1, FrameState.EXCLUDED), (table + 1, EVERYTHING, STORED))
        process.write(PAGE_OFFSET + (table << 12), bytes(4096))
        assert process.runs(1)[0][1] is UNREADABLE

    def test_endless_tables(self, process: Process) -> None:
        """A table that contains itself is walked once."""
        process.write(process.root, struct.pack("<512Q", *[physical(process.root) | 0x67] * 512))
        area = Vma(0, (1 << 47) - 4096, VM_READ)
        runs = list(process.it.runs(area, 0, area.end))
        assert sum(run.length for run in runs) == area.end
        assert len(runs) == 1


class TestAbsent:
    """No entry: what would a fault bring?"""

    def test_anonymous(self, process: Process) -> None:
        assert process.runs(3) == [(3, ZERO, "")]

    @pytest.mark.parametrize("fault", ["no handler", "no ops"])
    def test_nothing_answers_the_fault(self, process: Process, fault: str) -> None:
        """A private mapping of /dev/zero; no_page_table(), mm/gup.c: a hole."""
        assert process.runs(3, file=process.file("ext4_aops", mode=0o20666, fault=fault)) == [(3, ZERO, "")]

    @pytest.mark.parametrize(("mode", "expected"), [(0o20666, FILE), (0o600, FILE), (0o60660, ZERO), (0o100644, ZERO)])
    def test_end_of_what_has_no_end(self, process: Process, mode: int, expected: Provenance) -> None:
        """Drivers give what they want, whatever i_size says; files and block devices end there."""
        assert process.runs(3, file=process.file("ext4_aops", 0, mode=mode)) == [(3, expected, "")]

    def test_secret_memory(self, process: Process) -> None:
        """memfd_secret(): the kernel's core has a hole, though its pages are there."""
        process.pte(0, process.frame() | P)
        file = process.file("ext4_aops")
        process.symbols["secretmem_vm_ops"] = process.prog.read_u64(process.area + 32)
        assert process.runs(2, file=file) == [(2, ZERO, "")]

    def test_special_mapping(self, process: Process) -> None:
        """special_mapping_fault(): an array of pages that ends in NULL."""
        first, second = process.frame(b"one"), process.frame(b"two")
        pages = process.data(struct.pack("<3Q", process.page(first >> 12, 0), process.page(second >> 12, 0), 0))
        process.symbols["special_mapping_fault"] = 0x4711
        special = process.new("struct vm_special_mapping", pages=pages)
        ops = process.new("struct vm_operations_struct", fault=0x4711)
        process.set("struct vm_area_struct", process.area, {"vm_ops": ops, "vm_private_data": special})
        assert [run[:2] for run in process.runs(3, name="[uprobes]")] == [(2, PRESENT), (1, FILE)]
        vma = Vma(START, START + 0x10000, VM_READ, name="[uprobes]", struct=process.area)
        (piece,) = process.it.read(vma, START, START + 8192)
        assert (piece.data[:3], piece.data[4096:4099]) == (b"one", b"two")

    def test_file_not_cached(self, process: Process) -> None:
        """Its bytes are on a disk that we do not have."""
        assert process.runs(3, file=process.file("ext4_aops")) == [(3, FILE, "")]

    @pytest.mark.parametrize("operations", ["shmem_aops", "ram_aops"])
    def test_hole_of_a_file_in_memory(self, process: Process, operations: str) -> None:
        assert process.runs(3, file=process.file(operations)) == [(3, ZERO, "")]

    def test_cached(self, process: Process) -> None:
        frame = process.frame(b"cached")
        process.cached(2, frame >> 12)
        file = process.file("ext4_aops")
        process.head(process.node(0, {3: process.page(frame >> 12, 3)}))
        assert process.runs(3, file=file, pgoff=2) == [(1, FILE, ""), (1, CACHED, ""), (1, FILE, "")]
        vma = Vma(START, START + 0x10000, VM_READ, pgoff=2, file=file, struct=process.area)
        (piece,) = process.it.read(vma, START + 4096, START + 8192)
        assert bytes(piece.data).startswith(b"cached.")

    def test_part_of_a_large_folio(self, process: Process) -> None:
        frames = physical(process.allocate(8 * 4096))
        for number in range(8):
            process.write(PAGE_OFFSET + frames + 4096 * number, f"part {number}".encode())
        process.head(process.node(0, dict.fromkeys(range(8, 16), process.page(frames >> 12, 8))))
        vma = Vma(START, START + 0x10000, VM_READ, pgoff=10, file=process.file("shmem_aops"), struct=process.area)
        pieces = list(process.it.read(vma, START, START + 7 * 4096))
        assert [run.length for run, _ in pieces] == [6 * 4096, 4096]
        data = pieces[0].data
        assert [bytes(data[at : at + 6]) for at in range(0, len(data), 4096)] == [
            b"part 2",
            b"part 3",
            b"part 4",
            b"part 5",
            b"part 6",
            b"part 7",
        ]
        assert pieces[-1].run.provenance is ZERO

    def test_present_and_cached(self, process: Process) -> None:
        """A page of one's own comes before the file's."""
        process.head(process.page(process.frame(b"file") >> 12, 0))
        process.pte(0, process.frame(b"own") | P)
        vma = Vma(
            START, START + 0x10000, VM_READ | VM_WRITE, file=process.file("ext4_aops"), anon=True, struct=process.area
        )
        (piece,) = process.it.read(vma, START, START + 4096)
        assert bytes(piece.data).startswith(b"own.")

    @pytest.mark.parametrize(
        ("operations", "expected"),
        [("ext4_aops", (FILE, "")), ("shmem_aops", (SWAPPED, "unknown swap space 3"))],
    )
    def test_value_entries(self, process: Process, operations: str, expected: tuple[Provenance, str]) -> None:
        """A shadow of an evicted page; for shmem a swap entry: SWP_TYPE_SHIFT is 58 (BITS_PER_XA_VALUE 63 - 5)."""
        process.head(process.node(0, {0: value(3 << 58 | 1234)}))
        assert process.runs(1, file=process.file(operations)) == [(1, *expected)]

    @pytest.mark.parametrize("operations", ["ext4_aops", "shmem_aops"])
    def test_beyond_the_end(self, process: Process, operations: str) -> None:
        """SIGBUS: filemap_fault(), shmem_fault(). The last page is a whole one."""
        file = process.file(operations, size=2 * 4096 + 1)
        inside = FILE if operations == "ext4_aops" else ZERO
        expected = [(3, FILE, ""), (2, ZERO, "")] if inside is FILE else [(5, ZERO, "")]
        assert process.runs(5, file=file) == expected
        assert process.runs(5, file=file, pgoff=3) == [(5, ZERO, "")]
        assert process.runs(5, file=file, pgoff=(1 << 64) - 1) == [(5, ZERO, "")]

    @pytest.mark.parametrize("size", [-1, -(1 << 63), 0])
    def test_absurd_size(self, process: Process, size: int) -> None:
        assert process.runs(5, file=process.file("ext4_aops", size=size)) == [(5, ZERO, "")]

    def test_damaged_cache(self, process: Process) -> None:
        file = process.file("shmem_aops")
        process.head(0xFFFF_8880_FFFF_0002)
        assert process.runs(3, file=file) == [(3, FILE, "the page cache's tree is unreadable")]

    def test_lost_mapping(self, process: Process) -> None:
        file = process.file("shmem_aops")
        process.lost = {physical(process.area) >> 12}
        assert process.runs(3, file=file) == [(3, FILE, "")], "not known to be zeros"

    def test_page_beyond_all_memory(self, process: Process) -> None:
        """The cache holds a pointer below the array of pages: a frame of negative number."""
        page = process.page(5, 0)
        process.word("vmemmap_base", process.pages + 64 * 6)
        process.head(process.node(0, {0: page}))
        expected = [(1, FILE, "the page cache's tree is unreadable")]
        assert process.runs(1, file=process.file("ext4_aops")) == expected


class TestHugetlb:
    def process(self, release: str, order: int) -> Process:
        process = Process(release)
        hstate = process.new("struct hstate", order=order)
        info = process.new("struct hugetlbfs_sb_info", hstate=hstate)
        block = process.new("struct super_block", s_fs_info=info)
        process.file("ext4_aops", 8 << 21)  # any that is not shmem's
        inode = process.prog.read_u64(process.mapping)
        process.set("struct inode", inode, {"i_sb": block})
        return process

    @pytest.mark.parametrize("release", ["5.14.0", "7.2.0"])
    @pytest.mark.parametrize("index", [3, 3 << 9])
    def test_unit_of_indices(self, release: str, index: int) -> None:
        """Huge pages until a08c7193e4f1 (6.7), then base pages, whatever the kernel calls itself."""
        process = self.process(release, 9)
        frame = physical(process.allocate(16 * 4096, 1 << 21))
        process.write(PAGE_OFFSET + frame + 5 * 4096, b"sixth")
        page = process.page(frame >> 12, index)
        process.head(process.node(0, {3: page}) if index == 3 else process.node(6, {24: page}))
        file = MappedFile(b"/h", 1, 0, 8 << 21)
        vma = Vma(START, START + 0x10000, VM_READ | VM_HUGETLB, pgoff=3 << 9, file=file, struct=process.area)
        pieces = list(process.it.read(vma, START + 5 * 4096, START + 6 * 4096))
        assert bytes(pieces[0].data[:5]) == b"sixth"

    @pytest.mark.parametrize("release", ["6.1.0", "6.12.0"])
    def test_not_cached(self, release: str) -> None:
        """hugetlb_no_page() brings a page of zeros."""
        process = self.process(release, 9)
        file = MappedFile(b"/h", 1, 0, 8 << 21)
        assert process.runs(4, VM_READ | VM_HUGETLB, file=file) == [(4, ZERO, "")]

    @pytest.mark.parametrize(("index", "found"), [(0, CACHED), (512, CACHED), (1024, ZERO)])
    def test_first_page_of_the_file(self, index: int, found: Provenance) -> None:
        """Alone in its tree: in the head until 6.7, then in a node."""
        process = self.process("6.1.0", 9)
        frame = physical(process.allocate(4096, 1 << 21))
        page = process.page(frame >> 12, 0)
        siblings = dict.fromkeys(range(1, 8), 2)  # xa_mk_sibling(0)
        process.head(page if index == 512 else process.node(6, {0: page} | siblings))
        file = MappedFile(b"/h", 1, 0, 8 << 21)
        at = 0 if index == 512 else index
        expected = CACHED if at < 512 else ZERO
        assert process.runs(1, VM_READ | VM_HUGETLB, file=file, pgoff=at)[0][1] is expected is found

    @pytest.mark.parametrize("order", [0, 10, 0xFFFFFFFF])
    def test_absurd_order(self, order: int) -> None:
        """No page is as large, and nothing else says how much of the file an index covers."""
        process = self.process("6.1.0", order)
        frame = physical(process.allocate(4096, 1 << 21))
        process.head(process.node(0, {3: process.page(frame >> 12, 3)}))
        file = MappedFile(b"/h", 1, 0, 8 << 21)
        why = "nothing tells where in the page cache its huge pages are"
        assert process.runs(1, VM_READ | VM_HUGETLB, file=file, pgoff=3 << 9) == [(1, FILE, why)]

    def test_tree_that_is_lost(self) -> None:
        process = self.process("6.1.0", 9)
        node = process.node(0, {3: process.page(5, 3)})
        process.head(process.node(6, {1: node}))
        process.lost = {physical(node) >> 12}
        file = MappedFile(b"/h", 1, 0, 8 << 21)
        found = process.runs(4, VM_READ | VM_HUGETLB, file=file)
        assert [(pages, kind) for pages, kind, _ in found] == [(4, FILE)]


class TestVdso:
    """vdso_fault(): ``image->data + (pgoff << PAGE_SHIFT)``, SIGBUS from image->size on (arch/x86/entry/vdso/vma.c)."""

    def process(self, size: int) -> Process:
        process = Process()
        process.word("phys_base", 0)
        data = process.data(b"vdso 0".ljust(4096, b".") + b"vdso 1")
        image = process.new("struct vdso_image", data=0xFFFFFFFF80000000 + physical(data), size=size)
        process.set("struct mm_struct", process.mm, {"context.vdso_image": image})
        return process

    @pytest.mark.parametrize("size", [8192, 4097])
    def test_image(self, size: int) -> None:
        process = self.process(size)
        assert process.runs(3, name="[vdso]") == [(2, CACHED, ""), (1, ZERO, "")]
        vma = Vma(START, START + 0x10000, VM_READ, name="[vdso]", struct=process.area)
        (piece,) = process.it.read(vma, START + 4096, START + 8192)
        assert bytes(piece.data[:6]) == b"vdso 1"

    def test_lost_image(self) -> None:
        process = self.process(8192)
        process.lost = {physical(process.mm) >> 12}
        kernel = process.kernel
        mm = process.pointer("struct mm_struct", process.mm)
        process.lost = set()
        memory = VmcoreMemory(Backing(kernel, UserFiles()), mm)
        process.lost = {physical(process.mm) >> 12}
        (run,) = memory.runs(Vma(START, START + 0x10000, VM_READ, name="[vdso]"), START, START + 4096)
        assert (run.provenance, run.detail[:5]) == (FILE, "vdso:")


VVAR = """
struct vdso_time_data { unsigned int seq; };
struct time_namespace { struct page *vvar_page; };
struct nsproxy { struct time_namespace *time_ns; };
struct task_struct { unsigned int flags; char comm[16]; struct nsproxy *nsproxy; };
"""


class Vvar(Process):
    """A process with ``[vvar]`` of lib/vdso/datastore.c of 7.3: its time, the page between, random numbers."""

    def __init__(self, release: str = "7.3.4") -> None:
        types = re.sub(r"struct task_struct [^}]*};", "", TYPES)
        super().__init__(release, types + VVAR)
        self.word("phys_base", 0)
        self.pages_of_data = self.allocate(3 * 4096)
        for number, name in enumerate((b"time", b"empty", b"random")):
            self.write(self.pages_of_data + 4096 * number, name)
        first = self.page(physical(self.pages_of_data) >> 12, 0)
        self.word("vdso_data_pages", first)
        self.word("vdso_k_time_data", self.pages_of_data)
        self.word("vdso_k_rng_data", self.pages_of_data + 8192)
        self.special = self.new("struct vm_special_mapping", fault=1)
        self.symbols["vdso_vvar_mapping"] = self.special
        self.symbols["special_mapping_fault"] = 2
        ops = self.new("struct vm_operations_struct", fault=2)
        self.set("struct vm_area_struct", self.area, {"vm_ops": ops, "vm_private_data": self.special})
        self.time_ns = self.new("struct time_namespace")
        proxy = self.new("struct nsproxy", time_ns=self.time_ns)
        self.task = self.new("struct task_struct", nsproxy=proxy)

    @property
    def it(self) -> VmcoreMemory:
        mm = self.pointer("struct mm_struct", self.mm)
        task = self.pointer("struct task_struct", self.task) if self.task else None
        return VmcoreMemory(Backing(self.kernel, UserFiles()), mm, task)

    def words(self) -> list[str]:
        """What each page begins with; else where it comes from."""
        vma = Vma(START, START + 0x3000, VM_READ, struct=self.area, name="[vvar]")
        found = []
        for piece in self.it.read(vma, START, START + 0x3000):
            for at in range(0, piece.run.length, 4096):
                data = bytes(piece.data[at : at + 4096])
                found.append(data.rstrip(b"\0").decode() if data else piece.run.provenance.value)
        return found


class TestVvar:
    """vvar_fault() of lib/vdso/datastore.c."""

    def test_pages(self) -> None:
        assert Vvar().words() == ["time", "empty", "random"]

    def test_time_namespace(self) -> None:
        vvar = Vvar()
        frame = physical(vvar.data(b"offsets".ljust(4096, b"\0"))) >> 12
        vvar.set("struct time_namespace", vvar.time_ns, {"vvar_page": vvar.page(frame, 0)})
        assert vvar.words() == ["offsets", "time", "random"]

    @pytest.mark.parametrize("where", ["direct map", "image"])
    def test_only_pointers(self, where: str) -> None:
        """In 7.2 they are allocated, before they are part of the image. (The mapping is VM_IO there.)"""
        vvar = Vvar()
        del vvar.symbols["vdso_data_pages"]
        if where == "image":
            vvar.symbols |= {"_text": 0xFFFFFFFF80000000, "_end": 0xFFFFFFFF90000000}
            vvar.word("vdso_k_time_data", 0xFFFFFFFF80000000 + physical(vvar.pages_of_data))
        assert vvar.words() == ["time", "zero", "random"]

    def test_io_is_a_hole(self) -> None:
        vvar = Vvar()
        assert vvar.runs(3, VM_READ | VM_IO | VM_PFNMAP, name="[vvar]") == [(3, ZERO, "")]

    @pytest.mark.parametrize(
        ("symbol", "value", "words"),
        [
            ("vdso_k_time_data", PAGE_OFFSET + 0x5000, ["file", "empty", "random"]),
            ("vdso_k_rng_data", PAGE_OFFSET + 0x5000, ["time", "empty", "file"]),
            ("vdso_k_time_data", PAGE_OFFSET + 0x5008, ["file", "empty", "random"]),
            ("vdso_data_pages", 0x1000, ["file", "file", "file"]),
        ],
    )
    def test_contradictions(self, symbol: str, value: int, words: list[str]) -> None:
        vvar = Vvar()
        vvar.word(symbol, value)
        assert vvar.words() == words

    def test_unknown_symbols(self) -> None:
        vvar = Vvar()
        for name in ("vdso_data_pages", "vdso_k_time_data", "vdso_k_rng_data"):
            del vvar.symbols[name]
        assert vvar.words() == ["file", "zero", "file"]

    def test_unknown_task(self) -> None:
        vvar = Vvar()
        vvar.task = 0
        assert vvar.words() == ["file", "file", "random"]

    def test_task_that_has_left_its_namespaces(self) -> None:
        vvar = Vvar()
        vvar.set("struct task_struct", vvar.task, {"nsproxy": 0})
        assert vvar.words() == ["file", "file", "random"]


class TestCollapse:
    """collapse_huge_page(), mm/khugepaged.c, caught between taking the page table away and mapping the huge page."""

    AT = START + (2 << 21)
    VMA = Vma(START, START + (8 << 21), VM_READ | VM_WRITE, anon=True)

    def holding(self, process: Process, flags: int, comm: bytes, bits: int = 0) -> list[tuple[int, int, Provenance]]:
        """What becomes of memory without page tables while a task has the mmap_lock."""
        task = process.new("struct task_struct", flags=flags, comm=comm.ljust(16, b"\0"))
        process.set("struct mm_struct", process.mm, {"mmap_lock.owner.counter": task | bits})
        process.variable("khugepaged_scan", "struct khugepaged_scan", address=self.AT)
        runs = process.it.runs(self.VMA, self.VMA.start, self.VMA.end)
        return [(run.address, run.length, run.provenance) for run in runs]

    def test_what_khugepaged_moves_is_not_zeros(self, process: Process) -> None:
        assert self.holding(process, 0x200000, b"khugepaged") == [
            (START, 2 << 21, ZERO),
            (self.AT, 1 << 21, Provenance.UNSTABLE),
            (self.AT + (1 << 21), 5 << 21, ZERO),
        ]

    def test_a_reader_changes_nothing(self, process: Process) -> None:
        assert self.holding(process, 0x200000, b"khugepaged", 1) == [(START, 8 << 21, ZERO)]

    @pytest.mark.parametrize(("flags", "comm"), [(0, b"khugepaged"), (0x200000, b"ksmd")])
    def test_of_others_it_is_not_known_what_they_do(self, process: Process, flags: int, comm: bytes) -> None:
        assert self.holding(process, flags, comm) == [(START, 8 << 21, Provenance.UNSTABLE)]

    @pytest.mark.parametrize(
        ("lock", "owner"),
        [
            ("struct rwbase_rt { int readers; struct rt_mutex_base rtmutex; }; struct rw_semaphore { struct rwbase_rt "
             "rwbase; };", "rwbase.rtmutex.owner"),
            ("struct rw_semaphore { int readers; struct rt_mutex_base rtmutex; };", "rtmutex.owner"),
        ],
        ids=["5.15", "5.10"],
    )  # fmt: skip
    def test_real_time_kernels_have_another_lock(self, lock: str, owner: str) -> None:
        """include/linux/rwbase_rt.h; its lowest bit says that somebody waits."""
        mutex = "struct rt_mutex_base { int wait_lock; void *owner; };"
        types = TYPES.replace("struct rw_semaphore { struct owner_word owner; };", f"{mutex} {lock}")
        assert mutex in types
        for bits in (0, 1):
            process = Process(types=types)
            task = process.new("struct task_struct", comm=b"x".ljust(16, b"\0"))
            assert process.runs(2, anon=True) == [(2, ZERO, "")]
            process.set("struct mm_struct", process.mm, {f"mmap_lock.{owner}": task | bits})
            assert process.runs(2, anon=True)[0][1] is Provenance.UNSTABLE

    def test_files_and_untouched_mappings_do_not_care(self, process: Process) -> None:
        task = process.new("struct task_struct", comm=b"x".ljust(16, b"\0"))
        process.set("struct mm_struct", process.mm, {"mmap_lock.owner.counter": task})
        assert process.runs(2, anon=False) == [(2, ZERO, "")]
        assert process.runs(2, anon=True)[0][1] is Provenance.UNSTABLE
        assert process.runs(2, flags=VM_READ | VM_SHARED, anon=True) == [(2, ZERO, "")]
