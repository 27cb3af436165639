# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where user-mode registers are found, on made-up tasks, CPUs and notes."""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.model import RegisterSource
from kgcore.sources.vmcore.registers import CpuRegisters, Cpus, fpu_state, tls_segments, user_registers
from kgcore.sources.vmcore.structs import Members
from tests.vmcore.layouts.world import PAGE_OFFSET, World, physical

TYPES = """
struct cpumask { unsigned long bits[1]; };
struct desc_struct {
    u16 limit0; u16 base0;
    u16 base1: 8, type: 4, s: 1, dpl: 2, p: 1; u16 limit1: 4, avl: 1, l: 1, d: 1, g: 1, base2: 8;
};
struct ldt_struct { struct desc_struct *entries; unsigned int nr_entries; };
typedef struct { struct ldt_struct *ldt; } mm_context_t;
struct mm_struct { unsigned long *pgd; mm_context_t context; };
union fpregs_state { u8 fxsave[512]; u8 xsave[4096]; };
struct fpu { unsigned int last_cpu; union fpregs_state state; };
struct thread_struct {
    struct desc_struct tls_array[3];
    unsigned short es, ds, fsindex, gsindex;
    unsigned long fsbase, gsbase;
    u32 pkru;
    struct fpu fpu;
};
struct thread_info { unsigned long flags; u32 cpu; };
struct task_struct {
    struct thread_info thread_info; void *stack; int on_cpu; int pid; struct mm_struct *mm;
    struct thread_struct thread;
};
struct rq { int nr; struct task_struct *curr; };
struct elf_note { u8 bytes[512]; };
struct cpuinfo_x86 { u32 x86_capability[20]; };
"""
# arch/x86/include/asm/ptrace.h, user_64.h
PT_REGS = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss".split()
USER_REGS = [*PT_REGS, *"fs_base gs_base ds es fs gs".split()]
USER_CS, KERNEL_CS = 0x33, 0x10
NO_SYSCALL = (1 << 64) - 1
TID = 4711


def numbered(names: list[str], start: int, **known: int) -> dict[str, int]:
    """A different value for each register; selectors have 16 bits."""
    values = {name: start + number for number, name in enumerate(names)}
    return values | {name: start & 0xFFFF for name in names if name in ("ds", "es", "fs", "gs", "ss")} | known


def prstatus(pid: int, regs: dict[str, int]) -> bytes:
    """``struct elf_prstatus``: pr_pid at 32, pr_reg at 112, 336 bytes."""
    return struct.pack("<32xi76x27Q8x", pid, *(regs[name] for name in USER_REGS))


def qemu(regs: dict[str, int], cr3: int = 0, kernel_gs_base: int | None = None) -> bytes:
    """``QEMUCPUState``, target/i386/arch_dump.c: version, size, 16 registers, rip, rflags, ten segments (selector,
    limit, flags, pad, base), cr[5], kernel_gs_base."""
    gprs = "ax bx cx dx si di sp bp r8 r9 r10 r11 r12 r13 r14 r15 ip flags".split()
    note = struct.pack("<II18Q", 1, 440, *(regs[name] for name in gprs))
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt"):
        note += struct.pack("<IIIIQ", regs.get(name, 0), 0xFFFF, 0, 0, regs.get(f"{name}_base", 0))
    note += struct.pack("<5Q", 0, 1, 2, cr3, 4)
    return note if kernel_gs_base is None else note + struct.pack("<Q", kernel_gs_base)


class Machine(World):
    """Two CPUs; the task runs on CPU 1 or sleeps."""

    def __init__(self, release: str = "6.12.0", *, fsgsbase: bool = True, types: str = TYPES, **info: str) -> None:
        super().__init__(types, release, info)
        self.variable("__cpu_possible_mask", "struct cpumask", bits=[3])
        self.variable("boot_cpu_data", "struct cpuinfo_x86", x86_capability=[0] * 9 + [int(fsgsbase)] + [0] * 10)
        # per_cpu_ptr(): the address of CPU 0's, plus the CPU's offset
        runqueues = self.place("runqueues", "struct rq", self.allocate(8192))
        idle = self.new("struct task_struct", on_cpu=1)
        for cpu in range(2):
            self.set("struct rq", runqueues + 4096 * cpu, {"curr": idle})
        offsets = self.data(struct.pack("<2Q", 0, 4096))
        self.place("__per_cpu_offset", self.prog.array_type(self.types["unsigned long"], 2), offsets)
        self.root = self.allocate(4096)
        self.mm = self.new("struct mm_struct", pgd=self.root)
        self.stack = self.allocate(16384)
        self.address = self.new("struct task_struct", stack=self.stack, pid=TID, mm=self.mm)

    @property
    def task(self) -> Members:
        return self.kernel.task(self.pointer("struct task_struct", self.address))

    def entry_frame(self, regs: dict[str, int], padding: int = 0) -> None:
        """``task_pt_regs()``: at the end of the kernel stack."""
        raw = struct.pack("<21Q", *(regs[name] for name in PT_REGS))
        self.write(self.stack + 16384 - padding - len(raw), raw)

    def thread(self, **members: Any) -> None:
        self.set("struct task_struct", self.address, {f"thread.{name}": value for name, value in members.items()})

    def found(self, cpu: CpuRegisters | None = None) -> Any:
        return user_registers(self.kernel, self.task, TID, cpu)

    def note(self, pid: int | None = TID, cr3: int | None = None, **known: int) -> CpuRegisters:
        values = numbered(USER_REGS, 0x5000, cs=USER_CS) | known
        return CpuRegisters(values, RegisterSource.CPU_NOTE, pid=pid, cr3=cr3)


class TestEntryFrame:
    @pytest.mark.parametrize("fred", [False, True])
    def test_asleep(self, fred: bool) -> None:
        machine = Machine()
        if fred:
            machine.has("fred_entry_from_user")
        regs = numbered(PT_REGS, 0x1000, cs=USER_CS, ss=0x2B)
        machine.entry_frame(regs, 16 if fred else 0)
        machine.thread(ds=1, es=2, fsindex=0, gsindex=0, fsbase=0x7F001000, gsbase=0x7F002000)
        found = machine.found()
        assert found.registers.source is RegisterSource.ENTRY_FRAME
        bases = {"fs_base": 0x7F001000, "gs_base": 0x7F002000, "ds": 1, "es": 2, "fs": 0, "gs": 0}
        assert found.registers.values == regs | bases
        assert not found.warnings

    def test_upper_halves_of_selectors_are_not_theirs(self) -> None:
        """``struct fred_cs`` and ``fred_ss``, arch/x86/include/asm/ptrace.h."""
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0, cs=0xABCD_0002_0033, ss=0x1234_0001_002B))
        values = machine.found().registers.values
        assert (values["cs"], values["ss"]) == (0x33, 0x2B)

    def test_not_from_user_mode(self) -> None:
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0, cs=KERNEL_CS))
        assert "not from user mode" in machine.found().warnings[0]

    def test_lost(self) -> None:
        machine = Machine()
        machine.lost = {physical(machine.stack + 12288) >> 12}
        found = machine.found()
        assert found.registers.source is RegisterSource.UNAVAILABLE
        assert set(found.registers.values) == found.registers.unknown == set(USER_REGS)
        assert not any(found.registers.values.values())
        assert "not in the dump" in found.warnings[0]

    @pytest.mark.parametrize("stack", [0, (1 << 64) - 1, (1 << 64) - 16384 + 168])
    def test_stack_at_an_impossible_place(self, stack: int) -> None:
        machine = Machine()
        machine.set("struct task_struct", machine.address, {"stack": stack})
        assert machine.found().registers.source is RegisterSource.UNAVAILABLE


class TestBases:
    """``x86_fsbase_read_task()``, ``x86_fsgsbase_read_task()``: arch/x86/kernel/process_64.c; GDT_ENTRY_TLS_MIN 12,
    GDT_ENTRY_TLS_MAX 14: arch/x86/include/asm/segment.h."""

    STORED = 0x7F12_3456_7000

    def bases(self, machine: Machine) -> tuple[int, int]:
        machine.entry_frame(numbered(PT_REGS, 0, cs=USER_CS))
        values = machine.found().registers.values
        return values["fs_base"], values["gs_base"]

    @pytest.mark.parametrize(
        ("index", "base"), [(11, 0), (12, 0x8001020A), (13, 0x8001020B), (14, 0x8001020C), (15, 0)]
    )
    def test_thread_local_segments(self, index: int, base: int) -> None:
        machine = Machine(fsgsbase=False)
        for number in range(3):
            machine.thread(**{f"tls_array[{number}].base0": 0x020A + number})
            machine.thread(**{f"tls_array[{number}].base1": 0x01, f"tls_array[{number}].base2": 0x80})
        machine.thread(fsindex=index << 3 | 3, gsindex=0, fsbase=self.STORED, gsbase=self.STORED + 8)
        assert self.bases(machine) == (base, self.STORED + 8)
        machine.thread(fsindex=0, gsindex=index << 3 | 3)
        assert self.bases(machine) == (self.STORED, base)

    def test_descriptors_of_thread_local_segments(self) -> None:
        machine = Machine()
        assert tls_segments(machine.kernel, machine.task) == ((12, 0), (13, 0), (14, 0))
        machine.thread(**{"tls_array[1].base0": 0x1234, "tls_array[1].g": 1, "tls_array[2].limit0": 0xFFFF})
        found = tls_segments(machine.kernel, machine.task)
        assert found == ((12, 0), (13, 1 << 55 | 0x1234 << 16), (14, 0xFFFF))
        machine.lost = {physical(machine.address) >> 12}
        with pytest.raises(FaultError):
            tls_segments(machine.kernel, machine.task)

    @pytest.mark.parametrize(("index", "base"), [(0, 0x55667788), (1, 0x11223344), (2, 0), (8191, 0)])
    def test_local_descriptor_table(self, index: int, base: int) -> None:
        machine = Machine(fsgsbase=False)
        entries = machine.allocate(4 * 8)
        for number, value in enumerate((0x55667788, 0x11223344, 0x99999999)):
            parts = {"base0": value & 0xFFFF, "base1": value >> 16 & 0xFF, "base2": value >> 24}
            machine.set("struct desc_struct", entries + 8 * number, parts)
        ldt = machine.new("struct ldt_struct", entries=entries, nr_entries=2)
        machine.set("struct mm_struct", machine.mm, {"context.ldt": ldt})
        machine.thread(fsindex=index << 3 | 7, fsbase=self.STORED)
        assert self.bases(machine)[0] == base

    def test_no_local_descriptor_table(self) -> None:
        machine = Machine(fsgsbase=False)
        machine.thread(fsindex=7, fsbase=self.STORED)
        assert self.bases(machine)[0] == 0

    def test_with_fsgsbase_the_stored_base_counts(self) -> None:
        machine = Machine(fsgsbase=True)
        machine.thread(fsindex=12 << 3 | 3, fsbase=self.STORED, gsindex=7, gsbase=8)
        assert self.bases(machine) == (self.STORED, 8)

    def test_names_before_4_7(self) -> None:
        machine = Machine(types=TYPES.replace("unsigned long fsbase, gsbase;", "unsigned long fs, gs;"))
        machine.thread(fs=self.STORED, gs=3)
        assert self.bases(machine) == (self.STORED, 3)


class TestRunning:
    def test_in_user_mode(self) -> None:
        machine = Machine()
        note = machine.note(orig_ax=99)
        found = machine.found(note)
        assert found.registers.source is RegisterSource.CPU_NOTE
        assert found.registers.values == {**note.values, "orig_ax": NO_SYSCALL}
        assert not found.warnings

    def test_note_of_another_task(self) -> None:
        """The CPU switched between the note and the end, or the note is of an earlier crash: never its registers."""
        machine = Machine()
        regs = numbered(PT_REGS, 0x1000, cs=USER_CS)
        machine.entry_frame(regs)
        found = machine.found(machine.note(pid=TID + 1))
        assert found.registers.source is RegisterSource.ENTRY_FRAME
        assert {name: found.registers.values[name] for name in PT_REGS} == regs
        assert "another task's" in found.warnings[0]

    @pytest.mark.parametrize(("difference", "ours"), [(0, True), (0x1000, True), (0x1FFF, True), (0x2000, False)])
    def test_page_table_root(self, difference: int, ours: bool) -> None:
        """PTI_USER_PGTABLE_BIT is PAGE_SHIFT, the PCID lies below: arch/x86/include/asm/pgtable.h, mm/tlb.c."""
        machine = Machine()
        machine.set("struct mm_struct", machine.mm, {"pgd": PAGE_OFFSET + 0x800000})
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS))
        found = machine.found(machine.note(pid=None, cr3=0x800000 + difference))
        assert (found.registers.source is RegisterSource.CPU_NOTE) is ours
        assert bool(found.warnings) is not ours

    def test_in_the_kernel(self) -> None:
        """The entry frame has its registers; of FS and GS the CPU has later ones."""
        machine = Machine()
        regs = numbered(PT_REGS, 0x1000, cs=USER_CS)
        machine.entry_frame(regs)
        machine.thread(ds=1, es=1, fsindex=1, gsindex=1, fsbase=1, gsbase=1)
        note = machine.note(cs=KERNEL_CS, fs_base=0x7F0000, gs_base=0x7E0000, ds=2, es=3, fs=4, gs=5)
        found = machine.found(note)
        assert found.registers.source is RegisterSource.ENTRY_FRAME
        live = {"fs_base": 0x7F0000, "gs_base": 0x7E0000, "ds": 2, "es": 3, "fs": 4, "gs": 5}
        assert found.registers.values == regs | live
        assert not found.warnings

    def test_in_the_kernel_for_another_task(self) -> None:
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS))
        machine.thread(fsbase=0x7F1111)
        found = machine.found(machine.note(pid=1, cs=KERNEL_CS, fs_base=0x7F0000))
        assert found.registers.values["fs_base"] == 0x7F1111


class TestNotes:
    USER = numbered(USER_REGS, 0x9000, cs=USER_CS, fs_base=0x7A000, gs_base=0x7B000)

    def test_qemu(self) -> None:
        machine = Machine()
        machine.notes(
            (b"CORE", 1, prstatus(1, self.USER)),
            (b"QEMU", 0, qemu(self.USER)),
            (b"QEMU", 0, qemu(self.USER | {"ax": 5}, 0x3000)),
        )
        cpus = Cpus(machine.kernel)
        first, second = cpus.registers(0, TID), cpus.registers(1, TID)
        assert first is not None
        assert second is not None
        assert first.values == self.USER | {"orig_ax": NO_SYSCALL}
        assert first.source is RegisterSource.QEMU_NOTE
        assert (second.values["ax"], second.cr3, second.user_mode) == (5, 0x3000, True)
        assert cpus.registers(2, TID) is None

    @pytest.mark.parametrize(
        ("cs", "kernel_gs", "expected"), [(USER_CS, 7, 0x7B000), (KERNEL_CS, 7, 7), (KERNEL_CS, None, 0x7B000)]
    )
    def test_qemu_in_the_kernel(self, cs: int, kernel_gs: int | None, expected: int) -> None:
        """swapgs: in the kernel the user's GS base is in MSR_KERNEL_GS_BASE, which QEMU tells since 2.12."""
        machine = Machine()
        machine.notes((b"QEMU", 0, qemu(self.USER | {"cs": cs}, kernel_gs_base=kernel_gs)))
        found = Cpus(machine.kernel).registers(0, TID)
        assert found is not None
        assert found.values["gs_base"] == expected
        assert found.user_mode is (cs == USER_CS)

    def test_qemu_without_its_own_notes(self) -> None:
        """QEMU numbers its NT_PRSTATUS by CPU, from 1 on (target/i386/arch_dump.c: pr_pid = id + 1)."""
        machine = Machine()
        machine.notes((b"CORE", 1, prstatus(1, self.USER)), (b"CORE", 1, prstatus(7, self.USER)))
        cpus = Cpus(machine.kernel)
        found = cpus.registers(0, TID)
        assert found is not None
        assert (found.pid, found.values) == (None, self.USER)
        assert cpus.registers(1, TID) is None, "not of that CPU"

    def test_damaged_notes_do_not_count(self) -> None:
        machine = Machine()
        machine.notes(
            (b"QEMU", 0, qemu(self.USER)[:-1]), (b"CORE", 1, prstatus(1, self.USER)[:-1]), (b"QEMU", 1, qemu(self.USER))
        )
        assert Cpus(machine.kernel).registers(0, TID) is None

    def kdump(self, note: bytes = b"", *notes: bytes) -> Machine:
        """A crash: ``crash_notes`` is a per-CPU buffer (kernel/kexec_core.c), and the file has some notes."""
        machine = Machine(CRASHTIME="1")
        first = machine.allocate(8192)
        machine.write(first + 4096, note)
        pointer = machine.allocate(8)
        machine.write(pointer, struct.pack("<Q", first))
        machine.place("crash_notes", machine.prog.pointer_type(machine.types["struct elf_note"]), pointer)
        machine.notes(*((b"CORE", 1, desc) for desc in notes))
        return machine

    def elf_note(self, pid: int, regs: dict[str, int], name: bytes = b"CORE\0\0\0\0", kind: int = 1) -> bytes:
        return struct.pack("<III", 5, 336, kind) + name + prstatus(pid, regs)

    def test_crash_notes_by_cpu(self) -> None:
        other = self.USER | {"ax": 1}
        machine = self.kdump(self.elf_note(TID, self.USER), prstatus(TID, other))
        found = Cpus(machine.kernel).registers(1, TID)
        assert found is not None
        assert (found.values, found.pid, found.source) == (self.USER, TID, RegisterSource.CPU_NOTE)

    @pytest.mark.parametrize("damage", ["kind", "name", "empty", "lost"])
    def test_notes_of_the_file_by_pid(self, damage: str) -> None:
        """The file's list no longer says which CPU a note is of: CPUs that did not answer have none."""
        good = {
            "kind": self.elf_note(TID, self.USER, kind=3),
            "name": self.elf_note(TID, self.USER, name=b"LINU\0\0\0\0"),
            "empty": b"",
            "lost": self.elf_note(TID, self.USER),
        }[damage]
        mine, idle = self.USER | {"ax": 1}, self.USER | {"ax": 2}
        machine = self.kdump(good, prstatus(0, idle), prstatus(TID, mine), prstatus(0, idle))
        if damage == "lost":
            machine.lost = {physical(int(machine.prog["crash_notes"].value_())) + 4096 >> 12}
        cpus = Cpus(machine.kernel)
        found = cpus.registers(1, TID)
        assert found is not None
        assert found.values == mine
        assert cpus.registers(1, TID + 1) is None
        assert cpus.registers(1, 0) is None, "idle tasks all have the id 0"
        alone = Cpus(self.kdump(b"", prstatus(0, idle)).kernel)
        assert alone.registers(1, 0) is None, "also if only one answered"

    def test_two_notes_of_one_pid_tell_nothing(self) -> None:
        machine = self.kdump(b"", prstatus(TID, self.USER), prstatus(TID, self.USER))
        assert Cpus(machine.kernel).registers(1, TID) is None


class TestWhoRuns:
    def machine(self, types: str = TYPES) -> Machine:
        machine = Machine(types=types)
        machine.set("struct rq", machine.symbols["runqueues"] + 4096, {"curr": machine.address})
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

    @pytest.mark.parametrize("what", ["runqueue", "mask"])
    def test_lost_runqueue(self, what: str) -> None:
        """Then the task's own word counts: it must not be taken for asleep."""
        machine = self.machine()
        place = machine.symbols["runqueues"] + 4096 if what == "runqueue" else machine.symbols["__cpu_possible_mask"]
        machine.lost = {physical(place) >> 12}
        cpus = Cpus(machine.kernel)
        assert cpus.running(machine.task) == 1
        asleep = machine.pointer("struct task_struct", machine.new("struct task_struct", thread_info__cpu=1))
        assert cpus.running(machine.kernel.task(asleep)) is None
        elsewhere = machine.new("struct task_struct", on_cpu=1, thread_info__cpu=0)
        expected = None if what == "runqueue" else 0
        assert cpus.running(machine.kernel.task(machine.pointer("struct task_struct", elsewhere))) == expected


class TestFpu:
    def test_stale_and_pkru(self) -> None:
        machine = Machine()
        machine.thread(pkru=0x55555554)
        machine.set("struct task_struct", machine.address, {"thread.fpu.state.fxsave": b"x" * 512})
        asleep = fpu_state(machine.kernel, machine.task, None)
        assert (asleep.image, asleep.stale, asleep.pkru) == (b"x" * 512, False, 0x55555554)
        assert fpu_state(machine.kernel, machine.task, 0).stale, "its registers were live in CPU 0"
        machine.set("struct task_struct", machine.address, {"thread_info.flags": 1 << 14})
        assert not fpu_state(machine.kernel, machine.task, 0).stale, "TIF_NEED_FPU_LOAD: they were saved"
        machine.lost = {physical(machine.address) >> 12}
        with pytest.raises(FaultError):
            fpu_state(machine.kernel, machine.task, None)

    def test_pkru_in_the_image_before_5_14(self) -> None:
        machine = Machine(types=TYPES.replace("u32 pkru;", ""))
        assert fpu_state(machine.kernel, machine.task, None).pkru is None
