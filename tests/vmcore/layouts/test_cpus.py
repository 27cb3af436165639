# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which task was on which CPU, and which note is of which CPU, on made-up CPUs and notes."""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.process import RegisterSource
from kgcore.sources.vmcore.task.cpus import Cpus
from tests.vmcore.layouts.test_registers import (
    KERNEL_CS,
    NO_SYSCALL,
    OFFSETS,
    TID,
    TYPES,
    USER_CS,
    USER_REGS,
    Machine,
    numbered,
    prstatus,
    qemu,
)
from tests.vmcore.layouts.world import physical

USER = numbered(USER_REGS, 0x9000, cs=USER_CS, fs_base=0x7A000, gs_base=0x7B000)
KERNEL = USER | {"cs": KERNEL_CS}
UNUSED = 0xFFFFFFFF84818000  # what __per_cpu_offset has of CPUs that there cannot be: __per_cpu_load


def user(cpu: int, **known: int) -> bytes:
    """QEMU's note of a CPU in user mode, where MSR_KERNEL_GS_BASE is the kernel's."""
    return qemu(USER | known, kernel_gs_base=OFFSETS[cpu])


def table(machine: Machine, entry: int, descriptor: int) -> int:
    """A table of segments (GDT) with one in it; its address."""
    return machine.data(bytes(8 * entry) + struct.pack("<Q", descriptor) + bytes(256))


def cpu_number(cpu: int, node: int = 3, access: int = 0xF5) -> int:
    """vgetcpu_cpu_init(), setup_getcpu(): the limit is node << 12 | cpu, all may read it."""
    limit = node << 12 | cpu
    return limit & 0xFFFF | access << 40 | (limit >> 16) << 48 | 4 << 52


class TestQemu:
    def test_in_any_order_and_with_gaps(self) -> None:
        machine = Machine()
        machine.notes(
            (b"CORE", 1, prstatus(1, USER)),
            (b"CORE", 1, prstatus(2, USER)),
            (b"QEMU", 0, user(1, ax=5)),
            (b"QEMU", 0, user(0)),
        )
        cpus = Cpus(machine.kernel)
        first, second = cpus.registers(0, TID), cpus.registers(1, TID)
        assert first is not None
        assert second is not None
        assert first.values == USER | {"orig_ax": NO_SYSCALL}
        assert first.source is RegisterSource.QEMU_NOTE
        assert (second.values["ax"], second.user_mode) == (5, True)
        assert cpus.registers(2, TID) is None
        machine.notes((b"QEMU", 0, user(1, ax=5)))
        alone = Cpus(machine.kernel)
        assert alone.registers(0, TID) is None, "the first note is not of the first CPU"
        found = alone.registers(1, TID)
        assert found is not None
        assert found.values["ax"] == 5

    def test_more_than_the_kernel_has(self) -> None:
        """One that was never started, one of another kernel, one of a CPU that there cannot be."""
        machine = Machine()
        strange = [qemu(KERNEL | {"gs_base": base}, kernel_gs_base=0) for base in (0, 0xFFFF888012345000, UNUSED)]
        machine.notes(*((b"QEMU", 0, desc) for desc in strange), (b"QEMU", 0, user(1, ax=5)))
        cpus = Cpus(machine.kernel)
        found = cpus.registers(1, TID)
        assert found is not None
        assert found.values["ax"] == 5
        assert [cpus.registers(cpu, TID) for cpu in (0, 2, 3)] == [None] * 3
        assert "no CPU note of the dump matches it" in cpus._why(0)

    def test_two_of_one_cpu(self) -> None:
        machine = Machine()
        machine.notes((b"QEMU", 0, user(1)), (b"QEMU", 0, user(1, ax=5)), (b"QEMU", 0, user(0)))
        cpus = Cpus(machine.kernel)
        assert cpus.registers(1, TID) is None
        assert "several notes" in cpus._why(1)
        assert cpus.registers(0, TID) is not None, "that costs no other"

    @pytest.mark.parametrize(
        ("gs", "kernel_gs", "expected"),
        [
            (OFFSETS[1], 0x7B000, 0x7B000),
            (OFFSETS[1], 0, 0),
            (0x7B000, OFFSETS[1], 0x7B000),  # at the door: before the first swapgs, or behind the last
        ],
    )
    def test_in_the_kernel(self, gs: int, kernel_gs: int, expected: int) -> None:
        """swapgs: one of the two is the kernel's, the other the user's."""
        machine = Machine()
        machine.notes((b"QEMU", 0, qemu(KERNEL | {"gs_base": gs}, kernel_gs_base=kernel_gs)))
        cpus = Cpus(machine.kernel)
        found = cpus.registers(1, TID)
        assert found is not None
        assert found.values["gs_base"] == expected
        assert not found.user_mode
        assert cpus.registers(0, TID) is None

    def test_in_the_kernel_before_2_12(self) -> None:
        """QEMU told nothing of MSR_KERNEL_GS_BASE: the user's GS base is not known."""
        machine = Machine()
        machine.notes((b"QEMU", 0, qemu(KERNEL | {"gs_base": OFFSETS[1]})))
        found = Cpus(machine.kernel).registers(1, TID)
        assert found is not None
        assert "gs_base" not in found.values

    @pytest.mark.parametrize(
        ("descriptor", "cpu"),
        [
            (cpu_number(1), 1),
            (cpu_number(0), 0),
            (cpu_number(1, node=0), 1),
            (cpu_number(2), None),  # which is no CPU of this machine
            (cpu_number(1, access=0x92), None),
            (cpu_number(1) | 1 << 16, None),  # it has a base
            (0, None),
        ],
    )
    def test_by_its_segments(self, descriptor: int, cpu: int | None) -> None:
        """In user mode, before QEMU told MSR_KERNEL_GS_BASE; a user's GS base may be any."""
        machine = Machine()
        gdt = table(machine, 15, descriptor)
        machine.notes((b"QEMU", 0, qemu(USER | {"gs_base": OFFSETS[0], "gdt_base": gdt})))
        cpus = Cpus(machine.kernel)
        assert [number for number in range(3) if cpus.registers(number, TID)] == ([] if cpu is None else [cpu])

    def test_a_user_who_pretends(self) -> None:
        """With FSGSBASE a program may have another CPU's base as its own: only the segments tell then."""
        machine = Machine()
        forged = USER | {"gs_base": OFFSETS[0]}
        machine.notes((b"QEMU", 0, qemu(forged, kernel_gs_base=OFFSETS[1])))
        cpus = Cpus(machine.kernel)
        assert cpus.registers(0, TID) is None
        assert cpus.registers(1, TID) is not None
        both = forged | {"cs": KERNEL_CS}
        machine.notes((b"QEMU", 0, qemu(both, kernel_gs_base=OFFSETS[1])))
        cpus = Cpus(machine.kernel)
        assert (cpus.registers(0, TID), cpus.registers(1, TID)) == (None, None)
        told = both | {"gdt_base": table(machine, 15, cpu_number(1))}
        machine.notes((b"QEMU", 0, qemu(told, kernel_gs_base=OFFSETS[1])))
        found = Cpus(machine.kernel).registers(1, TID)
        assert found is not None
        assert "gs_base" not in found.values, "which of the two is the user's?"

    @pytest.mark.parametrize("gdt", [0, 0x1000, 0xFFFFFE0000001000, (1 << 64) - 8])
    def test_segments_at_no_place_of_the_kernels(self, gdt: int) -> None:
        machine = Machine()
        machine.notes((b"QEMU", 0, qemu(USER | {"gdt_base": gdt}, kernel_gs_base=0x1234)))
        assert Cpus(machine.kernel).registers(0, TID) is None

    def test_lost_offsets(self) -> None:
        machine = Machine()
        machine.lost = {physical(machine.symbols["__per_cpu_offset"]) >> 12}
        machine.notes((b"QEMU", 0, user(0)), (b"QEMU", 0, user(1)))
        cpus = Cpus(machine.kernel)
        assert (cpus.registers(0, TID), cpus.registers(1, TID)) == (None, None)

    def test_damaged_notes_do_not_count(self) -> None:
        machine = Machine()
        machine.notes((b"QEMU", 0, user(0)[:431]), (b"CORE", 1, prstatus(1, USER)[:-1]), (b"QEMU", 1, user(0)))
        assert Cpus(machine.kernel).registers(0, TID) is None

    def test_a_kernel_for_one_cpu(self) -> None:
        """It has no __per_cpu_offset, and the other CPUs never came to it."""
        machine = Machine()
        del machine.symbols["__per_cpu_offset"]
        never = qemu(dict.fromkeys(USER, 0), kernel_gs_base=0)
        mine = qemu(USER | {"gdt_base": table(machine, 15, cpu_number(0))}, kernel_gs_base=0)
        machine.notes((b"QEMU", 0, never), (b"QEMU", 0, mine))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert found.user_mode


class TestPrstatusOfAHypervisor:
    """Without QEMU's own notes; ``pr_pid`` is QEMU's number of the CPU plus 1 (target/i386/arch_dump.c)."""

    def test_in_the_kernel(self) -> None:
        machine = Machine()
        machine.notes((b"CORE", 1, prstatus(1, KERNEL | {"gs_base": OFFSETS[1]})), (b"CORE", 1, prstatus(TID, KERNEL)))
        cpus = Cpus(machine.kernel)
        assert cpus.registers(0, TID) is None
        found = cpus.registers(1, TID)
        assert found is not None
        assert found.source is RegisterSource.CPU_NOTE
        assert (found.pid, found.root) == (None, None)
        assert "gs_base" not in found.values, "that was the kernel's"

    def test_in_user_mode(self) -> None:
        """Nothing in it is the kernel's: whose it is cannot be told, whatever number it has."""
        machine = Machine()
        machine.notes((b"CORE", 1, prstatus(1, USER)), (b"CORE", 1, prstatus(2, USER | {"gs_base": OFFSETS[1]})))
        cpus = Cpus(machine.kernel)
        assert (cpus.registers(0, 1), cpus.registers(1, 2)) == (None, None)


class TestCrashPath:
    def kdump(self, note: bytes = b"", *notes: bytes, crashed: bool = True) -> Machine:
        """A crash: ``crash_notes`` is a per-CPU buffer (kernel/kexec_core.c), and the file has some notes."""
        machine = Machine()
        machine.target.vmcoreinfo = {"CRASHTIME": "1"} if crashed else {}
        first = machine.allocate(8192)
        machine.write(first + 4096, note)
        pointer = machine.allocate(8)
        machine.write(pointer, struct.pack("<Q", first - OFFSETS[0]))
        machine.place("crash_notes", machine.prog.pointer_type(machine.types["struct elf_note"]), pointer)
        machine.notes(*((b"CORE", 1, desc) for desc in notes))
        return machine

    def elf_note(self, pid: int, regs: dict[str, int], name: bytes = b"CORE\0\0\0\0", kind: int = 1) -> bytes:
        return struct.pack("<III", 5, 336, kind) + name + prstatus(pid, regs)

    @pytest.mark.parametrize("crashed", [True, False])
    def test_by_cpu(self, crashed: bool) -> None:
        """Also if somebody else's VMCOREINFO does not say that there was a crash."""
        other = USER | {"ax": 1}
        machine = self.kdump(self.elf_note(TID, USER), prstatus(TID, other), crashed=crashed)
        found = Cpus(machine.kernel).registers(1, TID)
        assert found is not None
        assert (found.values, found.pid, found.source) == (USER, TID, RegisterSource.CPU_NOTE)

    @pytest.mark.parametrize("damage", ["kind", "name", "empty", "lost"])
    def test_notes_of_the_file_by_pid(self, damage: str) -> None:
        """The file's list no longer says which CPU a note is of: CPUs that did not answer have none."""
        good = {
            "kind": self.elf_note(TID, USER, kind=3),
            "name": self.elf_note(TID, USER, name=b"LINU\0\0\0\0"),
            "empty": b"",
            "lost": self.elf_note(TID, USER),
        }[damage]
        mine, idle = USER | {"ax": 1}, USER | {"ax": 2}
        machine = self.kdump(good, prstatus(0, idle), prstatus(TID, mine), prstatus(0, idle))
        if damage == "lost":
            machine.lost = {physical(int(machine.prog["crash_notes"].value_()) + OFFSETS[1]) >> 12}
        cpus = Cpus(machine.kernel)
        found = cpus.registers(1, TID)
        assert found is not None
        assert found.values == mine
        assert cpus.registers(1, TID + 1) is None
        assert cpus.registers(1, 0) is None, "idle tasks all have the id 0"
        alone = Cpus(self.kdump(b"", prstatus(0, idle)).kernel)
        assert alone.registers(1, 0) is None, "also if only one answered"

    def test_two_notes_of_one_pid_tell_nothing(self) -> None:
        machine = self.kdump(b"", prstatus(TID, USER), prstatus(TID, USER))
        assert Cpus(machine.kernel).registers(1, TID) is None

    def test_qemus_dump_of_a_crashed_guest(self) -> None:
        """Its NT_PRSTATUS have numbers of CPUs, which are not the ids of init and kthreadd."""
        machine = self.kdump(b"", prstatus(1, USER), prstatus(2, USER))
        notes = [(note.name, note.type, note.desc) for note in machine.target.notes]
        machine.notes(*notes, (b"QEMU", 0, user(0)), (b"QEMU", 0, qemu(KERNEL | {"gs_base": OFFSETS[1]})))
        cpus = Cpus(machine.kernel)
        found = cpus.registers(1, 1)
        assert found is not None
        assert found.source is RegisterSource.QEMU_NOTE
        assert not found.user_mode


HOT = TYPES + "struct pcpu_hot { struct task_struct *current_task; int preempt_count; };"


class TestWhoRuns:
    def machine(self, types: str = TYPES) -> Machine:
        machine = Machine(types=types)
        machine.set("struct rq", machine.per_cpu("runqueues", 1), {"curr": machine.address})
        machine.set("struct task_struct", machine.address, {"on_cpu": 1, "thread_info.cpu": 1})
        return machine

    def test_running(self) -> None:
        machine = self.machine()
        assert Cpus(machine.kernel).running(machine.task) == 1

    def test_not_running(self) -> None:
        machine = self.machine()
        machine.set("struct task_struct", machine.address, {"on_cpu": 0})
        assert Cpus(machine.kernel).running(machine.task) is None

    def test_about_to_leave(self) -> None:
        """``prev->on_cpu`` stays set until finish_task() (kernel/sched/core.c), when the registers are another's."""
        machine = self.machine()
        other = machine.new("struct task_struct", on_cpu=1, thread_info__cpu=1)
        assert Cpus(machine.kernel).running(machine.kernel.task(machine.pointer("struct task_struct", other))) is None

    @pytest.mark.parametrize("hot", [False, True])
    def test_about_to_come(self, hot: bool) -> None:
        """``rq->curr`` is already the next one while ``current``, whose registers the CPU has, is still the last: two
        threads of a process, perhaps, whose page tables are the same."""
        machine = self.machine(HOT if hot else TYPES)
        last = machine.new("struct task_struct", on_cpu=1, thread_info__cpu=1)
        memory = machine.allocate(8192)
        for cpu in range(2):
            machine.write(memory + 4096 * cpu, struct.pack("<Q", last if cpu else 0))
        if hot:
            machine.place("pcpu_hot", "struct pcpu_hot", memory - OFFSETS[0])
        else:
            pointer = machine.prog.pointer_type(machine.types["struct task_struct"])
            machine.place("current_task", pointer, memory - OFFSETS[0])
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task) is None
        assert cpus.running(machine.kernel.task(machine.pointer("struct task_struct", last))) == 1
        # A word that cannot be right is not believed.
        machine.write(memory + 4096, struct.pack("<Q", 0x1234))
        assert Cpus(machine.kernel).running(machine.task) == 1

    def test_a_kernel_for_one_cpu(self) -> None:
        """Without CONFIG_SMP there is no ``on_cpu``."""
        machine = Machine(types=TYPES.replace("int on_cpu;", ""))
        machine.variable("__cpu_possible_mask", "struct cpumask", bits=[1])
        machine.set("struct rq", machine.per_cpu("runqueues", 0), {"curr": machine.address})
        assert Cpus(machine.kernel).running(machine.task) == 0

    @pytest.mark.parametrize("what", ["runqueue", "mask"])
    def test_lost_runqueue(self, what: str) -> None:
        """Then the task's own word counts: it must not be taken for asleep."""
        machine = self.machine()
        place = machine.per_cpu("runqueues", 1) if what == "runqueue" else machine.symbols["__cpu_possible_mask"]
        machine.lost = {physical(place) >> 12}
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task) == 1
        asleep = machine.pointer("struct task_struct", machine.new("struct task_struct", thread_info__cpu=1))
        assert cpus.running(machine.kernel.task(asleep)) is None
        elsewhere = machine.new("struct task_struct", on_cpu=1, thread_info__cpu=0)
        expected = None if what == "runqueue" else 0
        assert cpus.running(machine.kernel.task(machine.pointer("struct task_struct", elsewhere))) == expected


class OneCpu(Machine):
    """A kernel without CONFIG_SMP: per-CPU variables are variables, and a task does not say that it runs."""

    def __init__(self, types: str = TYPES.replace("int on_cpu;", "long state;"), gs_symbol: str = "") -> None:
        super().__init__(types=types)
        del self.symbols["__per_cpu_offset"], self._variables["__per_cpu_offset"], self.symbols["__cpu_possible_mask"]
        del self._variables["__cpu_possible_mask"]
        self.place("runqueues", "struct rq", self.new("struct rq", curr=self.address))
        self.base = 0
        if gs_symbol:
            self.base = self.symbols[gs_symbol] = 0xFFFFFFFF82000000

    def task_of(self, **members: Any) -> Any:
        return self.kernel.task(self.pointer("struct task_struct", self.new("struct task_struct", **members)))


class TestOneCpu:
    def test_running(self) -> None:
        machine = OneCpu()
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task) == 0
        assert cpus.running(machine.task_of()) is None

    def test_current(self) -> None:
        machine = OneCpu()
        pointer = machine.prog.pointer_type(machine.types["struct task_struct"])
        last = machine.new("struct task_struct")
        machine.place("current_task", pointer, machine.data(struct.pack("<Q", last)))
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task) is None
        assert cpus.running(machine.kernel.task(machine.pointer("struct task_struct", last))) == 0

    def test_lost(self) -> None:
        """Each task that could run may have been running: none of them is taken for asleep."""
        machine = OneCpu()
        machine.lost = {physical(machine.symbols["runqueues"]) >> 12}
        filler = machine.allocate(8192)  # not in that frame
        assert filler
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task_of(state=0)) == 0
        assert cpus.running(machine.task_of(state=1)) is None

    @pytest.mark.parametrize("name", ["fixed_percpu_data", "irq_stack_union"])
    def test_base(self, name: str) -> None:
        """cpu_kernelmode_gs_base(): the address of the first per-CPU variable."""
        machine = OneCpu(gs_symbol=name)
        never = qemu(dict.fromkeys(USER, 0), kernel_gs_base=0)
        mine = qemu(KERNEL | {"gs_base": machine.base}, kernel_gs_base=0x7B000)
        machine.notes((b"QEMU", 0, never), (b"QEMU", 0, mine))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert (found.user_mode, found.values["gs_base"]) == (False, 0x7B000)

    @pytest.mark.parametrize(("gs", "spare"), [(0, 0x7B000), (0x7B000, 0), (0, 0)])
    def test_base_of_0(self, gs: int, spare: int) -> None:
        """Since 6.15: before and after swapgs the user's is the one that is not 0."""
        machine = OneCpu()
        gdt = table(machine, 15, cpu_number(0))
        machine.notes((b"QEMU", 0, qemu(KERNEL | {"gs_base": gs, "gdt_base": gdt}, kernel_gs_base=spare)))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert found.values["gs_base"] == (gs or spare)

    @pytest.mark.parametrize("kind", [b"QEMU", b"CORE"])
    def test_alone(self, kind: bytes) -> None:
        """A note of a machine with one CPU says nothing of per-CPU memory while that is in user mode."""
        machine = OneCpu(gs_symbol="fixed_percpu_data")
        note = qemu(USER, kernel_gs_base=5) if kind == b"QEMU" else prstatus(1, USER)
        machine.notes((kind, 0 if kind == b"QEMU" else 1, note))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert found.values["gs_base"] == USER["gs_base"]

    def test_two_that_tell_nothing(self) -> None:
        machine = OneCpu(gs_symbol="fixed_percpu_data")
        machine.notes((b"CORE", 1, prstatus(1, USER)), (b"CORE", 1, prstatus(2, USER)))
        cpus = Cpus(machine.kernel)
        assert cpus.registers(0, TID) is None
        assert "no CPU note of the dump matches it" in cpus._why(0)

    def test_crash_notes(self) -> None:
        """alloc_percpu() gives a pointer to the memory itself."""
        machine = OneCpu()
        machine.target.vmcoreinfo = {"CRASHTIME": "1"}
        note = machine.data(struct.pack("<III", 5, 336, 1) + b"CORE\0\0\0\0" + prstatus(TID, USER))
        pointer = machine.prog.pointer_type(machine.types["struct elf_note"])
        machine.place("crash_notes", pointer, machine.data(struct.pack("<Q", note)))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert (found.values, found.pid) == (USER, TID)
