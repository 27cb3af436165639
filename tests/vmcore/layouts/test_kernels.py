# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that cannot be had here, made up as their headers declare them: tasks, mappings, pages and swap entries."""

import struct

import pytest

pytest.importorskip("drgn")

from drgn import Object

from kgcore.model.memory import Provenance
from kgcore.model.process import VM_READ, TaskIds, Vma
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.kernel.dumplayouts import layouts_of
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.memory.backing import Backing, UserFiles
from kgcore.sources.vmcore.memory.doubts import Doubts
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.memory.swapentry import SwapKind
from kgcore.sources.vmcore.task.tasks import Ids, Tasks
from kgcore.sources.vmcore.task.vmas import read_vmas
from tests.vmcore.layouts.kernels import KERNELS, Declared
from tests.vmcore.layouts.test_swapentry import OFFSETS, entry, right
from tests.vmcore.layouts.test_vmas import LEAF, MAX, Files
from tests.vmcore.layouts.world import physical

START = 0x7F00_0000_0000
PAGES = 300  # of the file's mapping
PRESENT, CACHED, ZERO = Provenance.PRESENT, Provenance.PAGE_CACHE, Provenance.ZERO
SWAPPED, SWAP_CACHED, UNREADABLE = Provenance.SWAPPED, Provenance.SWAP_CACHE, Provenance.UNREADABLE
FILE = Provenance.FILE
SWAP_TYPE = 3  # an odd one: its lowest bit is the first of SWP_TYPE_SHIFT
KINDS = {
    SwapKind.POISONED: (UNREADABLE, "poisoned"),
    SwapKind.DEVICE: (UNREADABLE, "in device memory"),
    SwapKind.NONE: (ZERO, ""),
    SwapKind.GUARD: (ZERO, ""),
    SwapKind.UNKNOWN: (UNREADABLE, "unknown entry"),
}


class Machine(Files):
    """Processes 1 and 70, which has two threads; the latter's address space has an anonymous mapping and a file."""

    def __init__(self, kernel: Declared) -> None:
        super().__init__(kernel.text, kernel.release)
        self.declared = kernel
        self.has(*kernel.swap.functions, "shmem_aops", kernel.memory, "ext4_aops")
        count = kernel.swap.max_swapfiles
        self.sizes["swap_info"] = 8 * count
        # The next symbol's address is an odd multiple of 8, so that nothing but the array can be before it.
        self.symbols["swap_info"] = self.allocate(4096) + 8 * (count % 2 == 0)
        self.pages = self.allocate(64 * 4096)
        self.word("vmemmap_base", self.pages)
        self.frames((0, 1 << 40, FrameState.STORED))
        self.namespace = self.variable("init_pid_ns", "struct pid_namespace")
        self.init_task = self.variable("init_task", "struct task_struct", comm=b"swapper/0", flags=0x200000)
        self.tasks: dict[int, int] = {}
        self.root = self.allocate(4096)
        self.tables: dict[tuple[int, int], int] = {}
        self.areas = [self.vma(START, START + 0x10000), self.vma(START + 0x20000, START + 0x20000 + PAGES * 4096)]
        self.mm = self.address_space()
        for area in self.areas:
            self.set("struct vm_area_struct", area, {"vm_mm": self.mm})
        self.process(1)
        self.process(70, 71)
        leaders = [self.member(self.tasks[pid], "tasks") for pid in (1, 70)]
        self.link(self.member(self.init_task, "tasks"), *leaders)
        ids = {pid: self.pid_of(task) for pid, task in self.tasks.items()}
        self.plant("struct pid_namespace", self.namespace, "idr.idr_rt", ids, radix=kernel.radix)

    def member(self, task: int, path: str) -> int:
        return task + self.offset("struct task_struct", path)

    # Tasks

    def process(self, *tids: int) -> None:
        signal = self.new("struct signal_struct")
        leader = 0
        for tid in tids:
            task = self.new("struct task_struct", pid=tid, tgid=tids[0], comm=b"process", signal=signal, mm=self.mm)
            leader = leader or task
            parent = self.tasks.get(1, self.init_task)
            self.set("struct task_struct", task, {"group_leader": leader, "real_parent": parent})
            self.set("struct task_struct", task, {self.declared.state: 1})
            links = "pid_links[0]" if self.declared.links else "pids[0].node"
            number = self.new("struct pid")
            self.set("struct pid", number, {"numbers[0].nr": tid, "numbers[0].ns": self.namespace})
            self.set("struct pid", number, {"tasks[0].first": self.member(task, links)})
            name = "thread_pid" if self.declared.links else "pids[0].pid"
            self.set("struct task_struct", task, {name: number})
            self.tasks[tid] = task
        own = self.pid_of(leader)
        group, session = self.declared.ids
        if self.declared.links:
            self.set(
                "struct signal_struct", signal, {f"pids[{group}]": own, f"pids[{session}]": self.pid_of(self.first)}
            )
        else:
            ids = {f"pids[{group}].pid": own, f"pids[{session}].pid": self.pid_of(self.first)}
            self.set("struct task_struct", leader, ids)
        head = signal + self.offset("struct signal_struct", "thread_head")
        self.link(head, *(self.member(self.tasks[tid], "thread_node") for tid in tids))

    @property
    def first(self) -> int:
        return self.tasks[1]

    def pid_of(self, task: int) -> int:
        found = self.at("struct task_struct", task)
        pid = found.thread_pid if self.declared.links else found.pids[0].pid
        return int(pid.value_())

    # Trees

    def plant(self, holder: str, address: int, member: str, entries: dict[int, int], *, radix: bool) -> None:
        """Put entries into a tree, as the kernel's own functions would."""
        kind, internal = ("struct radix_tree_node", 1) if radix else ("struct xa_node", 2)
        shift, nodes = 0, entries
        while len(nodes) > 1 or any(nodes) or (nodes and shift == 0):
            above: dict[int, int] = {}
            for number in sorted({index >> 6 for index in nodes}):
                node = self.new(kind, shift=shift, offset=number & 63)
                for index in range(number << 6, number + 1 << 6):
                    if index in nodes:
                        self.set(kind, node, {f"slots[{index & 63}]": nodes[index]})
                        if shift:
                            self.set(kind, nodes[index] - internal, {"parent": node})
                above[number] = node + internal
            shift, nodes = shift + 6, above
        self.set(holder, address, {f"{member}.{'rnode' if radix else 'xa_head'}": nodes.get(0, 0)})

    def value(self, number: int) -> int:
        """xa_mk_value(), and RADIX_TREE_EXCEPTIONAL_ENTRY before."""
        return number << 2 | 2 if self.declared.radix else number << 1 | 1

    def swap_entry(self, number: int, offset: int) -> int:
        """swp_entry(): SWP_TYPE_SHIFT is 58, and 57 before 4.20."""
        return number << (57 if self.declared.radix else 58) | offset

    # Memory

    def address_space(self) -> int:
        if self.declared.maple:
            slots = [(0, START - 1)]
            for area in self.areas:
                vma = self.at("struct vm_area_struct", area)
                slots += [(area, vma.vm_end.value_() - 1), (0, vma.vm_end.value_() + 0x10000 - 1)]
            mm = self.tree(self.node(LEAF, [*slots[:-1], (0, MAX)]), len(self.areas))
        else:
            mm = self.chain(*self.areas)
        self.set("struct mm_struct", mm.value_(), {"pgd": self.root, "mm_users.counter": 1})
        return int(mm.value_())

    def pte(self, page: int, word: int) -> None:
        address = START + 4096 * page
        table = self.root
        for level in (39, 30, 21):
            below = self.tables.get((level, address >> level))
            if below is None:
                below = self.tables[level, address >> level] = self.allocate(4096)
                self.write(table + 8 * (address >> level & 511), struct.pack("<Q", physical(below) | 0x67))
            table = below
        self.write(table + 8 * (address >> 12 & 511), struct.pack("<Q", word))

    def frame(self, content: bytes, **page: int) -> int:
        """A page frame, and what its ``struct page`` says; its number."""
        frame = physical(self.data(content.ljust(4096, b"."))) >> 12
        self.set("struct page", self.page(frame), page)
        return frame

    def page(self, frame: int) -> int:
        return self.pages + 64 * frame

    def flag(self, name: str) -> int:
        return 1 << int(self.constants[name].value_())

    def cached_file(self, entries: dict[int, int], operations: str) -> None:
        """The second mapping's file."""
        dentry = self.dentry(b"lib.so", self.bin, i_mode=0o100644, i_size=PAGES * 4096)
        file = self.file(dentry, self.other)
        mapping = self.at("struct file", file).f_mapping.value_()
        self.set("struct address_space", mapping, {"a_ops": self.symbols[operations]})
        self.plant("struct address_space", mapping, "i_pages", entries, radix=self.declared.radix)
        ops = self.new("struct vm_operations_struct", fault=1)
        self.set("struct vm_area_struct", self.areas[1], {"vm_file": file, "vm_ops": ops})

    def swap_space(self, slots: dict[int, int]) -> None:
        """Swap space number 3, some of whose slots are in the swap cache too: the frame of each."""
        info = self.new("struct swap_info_struct", flags=1, max=0x4000)
        self.write(self.symbols["swap_info"] + 8 * SWAP_TYPE, struct.pack("<Q", info))
        space = self.new("struct address_space")
        entries = {slot: self.page(frame) for slot, frame in slots.items()}
        self.plant("struct address_space", space, "i_pages", entries, radix=self.declared.radix)
        spaces = [0] * SWAP_TYPE + [space]
        self.symbols["swapper_spaces"] = self.data(struct.pack(f"<{len(spaces)}Q", *spaces))
        for slot, frame in slots.items():
            self.set("struct page", self.page(frame), {"private": self.swap_entry(SWAP_TYPE, slot)})

    @property
    def pointer_to_mm(self) -> Object:
        return self.pointer("struct mm_struct", self.mm)

    def runs(self, area: int, first: int, pages: int) -> list[tuple[int, Provenance, str, bytes]]:
        """As (pages, provenance, detail, how the data begin)."""
        vma = self.at("struct vm_area_struct", self.areas[area])
        start, end = int(vma.vm_start.value_()), int(vma.vm_end.value_())
        file = None if not area else read_vmas(self.kernel, self.task, self.pointer_to_mm)[0][area].file
        memory = VmcoreMemory(Backing(self.kernel, UserFiles()), self.pointer_to_mm)
        at = start + 4096 * first
        found = memory.read(Vma(start, end, VM_READ, struct=self.areas[area], file=file), at, at + 4096 * pages)
        return [(run.length >> 12, run.provenance, run.detail, bytes(data[:4])) for run, data in found]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


class TestTasks:
    def test_found(self, machine: Machine) -> None:
        tasks = Tasks(machine.kernel)
        for pid in (1, 70, 71):
            assert tasks.find(TaskRef.parse(str(pid))).value_() == machine.tasks[pid]
        leaders, warnings = tasks.leaders()
        assert (sorted(leader.pid.value_() for leader in leaders), warnings) == ([1, 70], [])

    def test_threads(self, machine: Machine) -> None:
        group, warnings = Tasks(machine.kernel).dumped_threads(machine.pointer("struct task_struct", machine.tasks[70]))
        assert ([thread.pid.value_() for thread in group], warnings) == ([70, 71], [])

    def test_ids(self, machine: Machine) -> None:
        """PIDTYPE_PGID and PIDTYPE_SID are not the same numbers in all of them."""
        task = machine.pointer("struct task_struct", machine.tasks[71])
        namespace = Tasks(machine.kernel).namespace(task)
        assert namespace.value_() == machine.namespace
        assert Ids(machine.kernel, namespace).of(machine.kernel.task(task)) == TaskIds(71, 1, 70, 1)

    def test_state(self, machine: Machine) -> None:
        task = machine.pointer("struct task_struct", machine.tasks[70])
        assert machine.kernel.task_state(machine.kernel.task(task)) == 1

    def test_auxv(self, machine: Machine) -> None:
        """RHEL 8.6 and later have it elsewhere, and something without its name in its place."""
        mm = machine.pointer_to_mm
        if machine.declared.saved_auxv == "saved_auxv":
            machine.set("struct mm_struct", machine.mm, {"saved_auxv": [3, 0x40]})
        else:
            other = machine.new("struct mm_struct_rh")
            machine.set("struct mm_struct_rh", other, {"saved_auxv": [3, 0x40]})
            machine.set("struct mm_struct", machine.mm, {"rh_reserved_saved_auxv": [7, 7], "mm_rh": other})
        words = machine.kernel.auxv(mm, 8)
        assert (words[:3], len(words)) == ((3, 0x40, 0), machine.declared.words)


class TestMappings:
    def test_list(self, machine: Machine) -> None:
        machine.cached_file({}, "ext4_aops")
        vmas, warnings = read_vmas(machine.kernel, machine.task, machine.pointer_to_mm)
        assert [(vma.start, vma.end) for vma in vmas] == [
            (START, START + 0x10000),
            (START + 0x20000, START + 0x20000 + PAGES * 4096),
        ]
        assert not warnings
        assert vmas[1].file is not None
        assert vmas[1].file.path == b"/usr/bin/lib.so"

    def test_writer(self, machine: Machine) -> None:
        """``mm->mmap_sem`` until 5.8; its owner is a pointer until 5.3."""
        vma = Vma(START, START + 0x10000, VM_READ, anon=True, struct=machine.areas[0])
        assert not Doubts(machine.kernel, machine.pointer_to_mm).sentence
        assert [*Doubts(machine.kernel, machine.pointer_to_mm).split(vma, START, 4096)] == [(START, START + 4096, "")]
        owner = f"{machine.declared.lock}.{machine.declared.owner}"
        machine.set("struct mm_struct", machine.mm, {owner: machine.init_task})
        why = "swapper/0 (0) was changing the address space"
        assert [*Doubts(machine.kernel, machine.pointer_to_mm).split(vma, START, 4096)] == [(START, START + 4096, why)]


class TestPages:
    def test_present(self, machine: Machine) -> None:
        machine.pte(0, machine.frame(b"one") << 12 | 1)
        machine.pte(2, machine.frame(b"two") << 12 ^ (1 << 52) - 4096 | 1 << 8)  # PROT_NONE: inverted
        assert machine.runs(0, 0, 4) == [
            (1, PRESENT, "", b"one."),
            (1, ZERO, "", b""),
            (1, PRESENT, "", b"two."),
            (1, ZERO, "", b""),
        ]

    def test_file(self, machine: Machine) -> None:
        """Pages in all levels of the tree, and one that is being read."""
        uptodate = 1 << machine.declared.uptodate
        pages = {index: machine.frame(b"%03d" % index, index=index, flags=uptodate) for index in (0, 1, 63, 64, 299)}
        pages[2] = machine.frame(b"new", index=2, flags=0)
        machine.cached_file({index: machine.page(frame) for index, frame in pages.items()}, "ext4_aops")
        found = [run for run in machine.runs(1, 0, PAGES) if run[1] is not FILE]
        assert found == [(2, CACHED, "", b"000."), (2, CACHED, "", b"063."), (1, CACHED, "", b"299.")]
        assert sum(run[0] for run in machine.runs(1, 0, PAGES) if run[1] is FILE) == PAGES - 5

    def test_file_in_memory(self, machine: Machine) -> None:
        """ramfs_aops until c1e3dbe9818e "fs: move ramfs_aops to libfs" (5.14): what is not there is zeros."""
        frame = machine.frame(b"here", index=1, flags=1 << machine.declared.uptodate)
        machine.cached_file({1: machine.page(frame)}, machine.declared.memory)
        assert machine.runs(1, 0, 3) == [(1, ZERO, "", b""), (1, CACHED, "", b"here"), (1, ZERO, "", b"")]

    def test_tail_of_a_huge_page(self, machine: Machine) -> None:
        """Trees had each page of a huge one until 4101196b19d7 "mm: page cache: store only head pages in i_pages".

        That is of 5.4. A page's flags and index stand in the first.
        """
        head = physical(machine.allocate(2 * 4096)) >> 12
        for number in range(2):
            machine.write((head + number << 12) + 0xFFFF888000000000, b"%d..." % number)
        machine.set("struct page", machine.page(head), {"index": 4, "flags": 1 << machine.declared.uptodate})
        machine.set("struct page", machine.page(head + 1), {"compound_head": machine.page(head) | 1})
        machine.cached_file({4: machine.page(head), 5: machine.page(head + 1)}, "ext4_aops")
        assert machine.runs(1, 4, 2) == [(2, CACHED, "", b"0...")]


class TestSwap:
    def test_every_kind_of_entry(self, machine: Machine) -> None:
        """As the kernel's own header counts them: no page is another than the kernel's, and none is lost."""
        case, uptodate = machine.declared.swap, 1 << machine.declared.uptodate
        frame = machine.frame(b"here", flags=uptodate | machine.flag("PG_locked"), mapping=0xFFFF888000001001)
        machine.swap_space({})
        for number in range(32):
            for offset in (*OFFSETS[:3], frame):
                expected = right(case, number, offset)
                machine.pte(0, entry(number, offset))
                (found,) = machine.runs(0, 0, 1)
                if expected is SwapKind.SWAP:
                    assert found[1] is SWAPPED
                    assert found[2] == f"unknown swap space {number}" or number == SWAP_TYPE
                elif expected in (SwapKind.MIGRATION, SwapKind.EXCLUSIVE):
                    assert found == (1, PRESENT, "", b"here")
                elif expected is None:  # the kernel makes no such entry; RHEL 9.3's last number may be of markers
                    error = case.kinds[number - case.max_swapfiles] is SwapKind.UNKNOWN
                    assert error or found[1] in (UNREADABLE, SWAPPED), (number, offset)
                else:
                    assert found[1:3] in (KINDS[expected], KINDS[SwapKind.POISONED]), (number, offset)

    def test_swapped_and_still_in_memory(self, machine: Machine) -> None:
        flags = sum(1 << bit for bit in machine.declared.swapcache) | 1 << machine.declared.uptodate
        machine.swap_space({7: machine.frame(b"slot", flags=flags), 80: machine.frame(b"next", flags=flags)})
        machine.pte(0, entry(SWAP_TYPE, 7))
        machine.pte(1, entry(SWAP_TYPE, 9))
        machine.pte(2, entry(SWAP_TYPE, 80))
        found = [(pages, kind, data) for pages, kind, _, data in machine.runs(0, 0, 3)]
        assert found == [(1, SWAP_CACHED, b"slot"), (1, SWAPPED, b""), (1, SWAP_CACHED, b"next")]

    def test_shared_memory_that_is_swapped(self, machine: Machine) -> None:
        """Its entry is in the file's tree: SWP_TYPE_SHIFT and the bits of a value are others before 4.20."""
        flags = sum(1 << bit for bit in machine.declared.swapcache) | 1 << machine.declared.uptodate
        machine.swap_space({7: machine.frame(b"slot", flags=flags)})
        entries = {page: machine.value(machine.swap_entry(SWAP_TYPE, slot)) for page, slot in ((0, 7), (2, 9))}
        machine.cached_file(entries, "shmem_aops")
        found = machine.runs(1, 0, 3)
        assert found[0] == (1, SWAP_CACHED, "", b"slot")
        assert found[1] == (1, ZERO, "", b"")
        assert found[2][1] is SWAPPED

    def test_evicted_page_of_a_file(self, machine: Machine) -> None:
        """A shadow."""
        machine.cached_file({0: machine.value(0x1234)}, "ext4_aops")
        assert machine.runs(1, 0, 1) == [(1, FILE, "", b"")]


def test_kind_of_trees(machine: Machine) -> None:
    """Each tree says what it is; RHEL 8 has xarrays since 8.1."""
    for holder, member in (("struct idr", "idr_rt"), ("struct address_space", "i_pages")):
        assert XArrays.of(machine.prog, holder, member).radix == machine.declared.radix


def test_auditor(machine: Machine) -> None:
    """``kgcore info --layouts`` finds each thing that is declared, and by which way this kernel has it."""
    it, old = machine.declared, "4.18 and later"
    lock = "5.8 (da1c55f1b272)" if it.lock == "mmap_lock" else old
    memory = "5.14 (c1e3dbe9818e)" if it.memory == "ram_aops" else old
    moved = "5.19 (6c287605fd56)" if "PG_anon_exclusive" in it.text else old
    markers = "6.6 (8a13897fb0da)" if "MFILL_ATOMIC_POISON" in it.text else "5.19 (679d10331910)"
    exclusive = "make_device_exclusive_range" in it.swap.functions
    expected = {
        "the list of processes": old,
        "the table of ids": "4.15 (95846ecf9dac)" if it.radix else "4.20 (f8d5d0cc145c)",
        "ids, in each pid namespace": "4.19 (2c4704756cab)" if it.links else old,
        "the state of a thread": "5.14 (2f064a59a11f)" if it.state == "__state" else old,
        "the address space of a process": old,
        "the auxiliary vector": old if it.saved_auxv == "saved_auxv" else "RHEL 8.6",
        "the mappings of a process": "6.1 (763ecb035029)" if it.maple else old,
        "how many use an address space, and who was changing it": lock,
        "pages in memory: which file, which place in it": "5.16 (7b230db3b8d3)" if it.folios else old,
        "the page cache of a file": "4.18" if it.radix else "4.20 (eb797a8ee0ab)",
        "files that are only in memory (tmpfs, memfd, ramfs)": memory,
        "entries of page tables: pages that are moved": moved,
        "entries of page tables: markers": markers if "pte_marker" in it.text else old,
    }
    if exclusive:
        expected["entries of page tables: pages in device memory"] = "5.14 (b756a3b5e7ea)"
    found = {layout.what: (layout.state, layout.since) for layout in layouts_of(machine.target)}
    assert {what: found[what] for what in expected} == {what: ("found", since) for what, since in expected.items()}
