# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where user-mode registers are found, on made-up tasks, CPUs and notes."""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.arch.cpunotes import CpuRegisters
from kgcore.model.process import RegisterSource
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.task.cpus import Cpus, OnCpu
from kgcore.sources.vmcore.task.registers import user_registers
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
struct list_head { struct list_head *next, *prev; };
struct task_struct {
    struct thread_info thread_info; unsigned int flags; struct list_head tasks;
    void *stack; int on_cpu; int pid; struct mm_struct *mm;
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
OFFSETS = 0x100000, 0x101000


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
        # per_cpu_ptr(): the variable's address, plus the CPU's offset
        self.place("runqueues", "struct rq", self.allocate(8192) - OFFSETS[0])
        idle = self.new("struct task_struct", **({"on_cpu": 1} if "on_cpu" in types else {}))
        for cpu in range(2):
            self.set("struct rq", self.per_cpu("runqueues", cpu), {"curr": idle})
        offsets = self.data(struct.pack("<4Q", *OFFSETS, 0xFFFFFFFF84818000, 0xFFFFFFFF84818000))
        self.place("__per_cpu_offset", self.prog.array_type(self.types["unsigned long"], 4), offsets)
        self.root = self.allocate(4096)
        self.mm = self.new("struct mm_struct", pgd=self.root)
        self.stack = self.allocate(16384)
        self.address = self.new("struct task_struct", stack=self.stack, pid=TID, mm=self.mm)

    def per_cpu(self, name: str, cpu: int) -> int:
        """Address of a CPU's own variable."""
        return self.symbols[name] + OFFSETS[cpu]

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
        return user_registers(self.kernel, self.task, TID, None if cpu is None else OnCpu(1, cpu, not cpu.user_mode))

    def run(self, note: CpuRegisters | None) -> Any:
        """What is found of the task that runs on CPU 1, if that is what is known of the CPU."""
        self.set("struct rq", self.per_cpu("runqueues", 1), {"curr": self.address})
        self.set("struct task_struct", self.address, {"on_cpu": 1})
        cpus = Cpus(self.kernel)
        cpus.registers = lambda cpu, tid: note if cpu == 1 else None  # type: ignore[method-assign]
        return user_registers(self.kernel, self.task, TID, cpus.of(self.task, TID))

    def note(self, pid: int | None = TID, cr3: int | None = None, **known: int) -> CpuRegisters:
        values = numbered(USER_REGS, 0x5000, cs=USER_CS) | known
        user_mode = values["cs"] == USER_CS
        return CpuRegisters(values, RegisterSource.CPU_NOTE, user_mode, pid=pid, root=cr3)


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
        assert machine.machine.tls_segments(machine.task) == ((12, 0), (13, 0), (14, 0))
        machine.thread(**{"tls_array[1].base0": 0x1234, "tls_array[1].g": 1, "tls_array[2].limit0": 0xFFFF})
        found = machine.machine.tls_segments(machine.task)
        assert found == ((12, 0), (13, 1 << 55 | 0x1234 << 16), (14, 0xFFFF))
        machine.lost = {physical(machine.address) >> 12}
        with pytest.raises(FaultError):
            machine.machine.tls_segments(machine.task)

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
        """What the CPU had is not ours, and our last entry into the kernel may be over: no registers."""
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS, ip=0x401000, sp=0x7FFE0000))
        found = machine.run(machine.note(pid=TID + 1))
        assert found.registers.source is RegisterSource.UNAVAILABLE
        assert set(found.registers.values) == found.registers.unknown == set(USER_REGS)
        assert not any(found.registers.values.values())
        (warning,) = found.warnings
        assert "running on CPU 1, whose registers belong to a different task: its registers are missing" in warning
        assert "0x401000" in warning, "a hint, and no more than that"
        assert "0x7ffe0000" in warning

    def test_no_note(self) -> None:
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS))
        found = machine.run(None)
        assert found.registers.source is RegisterSource.UNAVAILABLE
        assert "running on CPU 1, whose registers are not in the dump" in found.warnings[0]

    def test_no_note_of_the_cpu_that_crashed(self) -> None:
        """It did so in the kernel: what it has saved at the door is the user's."""
        machine = Machine()
        regs = numbered(PT_REGS, 0x1000, cs=USER_CS)
        machine.entry_frame(regs)
        machine.word("panic_cpu", 0)
        assert machine.run(None).registers.source is RegisterSource.UNAVAILABLE
        machine.write(machine.symbols["panic_cpu"], b"\1")
        found = machine.run(None)
        assert found.registers.source is RegisterSource.ENTRY_FRAME
        assert {name: found.registers.values[name] for name in PT_REGS} == regs
        assert not found.warnings

    @pytest.mark.parametrize(("difference", "ours"), [(0, True), (0x1000, True), (0x1FFF, True), (0x2000, False)])
    def test_page_table_root(self, difference: int, ours: bool) -> None:
        """PTI_USER_PGTABLE_BIT is PAGE_SHIFT, the PCID lies below: arch/x86/include/asm/pgtable.h, mm/tlb.c."""
        machine = Machine()
        machine.set("struct mm_struct", machine.mm, {"pgd": PAGE_OFFSET + 0x800000})
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS))
        found = machine.run(machine.note(pid=None, cr3=0x800000 + difference))
        assert (found.registers.source is RegisterSource.CPU_NOTE) is ours
        assert (found.registers.source is RegisterSource.UNAVAILABLE) is not ours
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
        """The CPU is about to run ours, or was: it is in the kernel, so that the entry frame holds."""
        machine = Machine()
        machine.entry_frame(numbered(PT_REGS, 0x1000, cs=USER_CS))
        machine.thread(fsbase=0x7F1111)
        found = machine.run(machine.note(pid=1, cs=KERNEL_CS, fs_base=0x7F0000))
        assert found.registers.source is RegisterSource.ENTRY_FRAME
        assert found.registers.values["fs_base"] == 0x7F1111


class TestFpu:
    def test_stale_and_pkru(self) -> None:
        machine = Machine()
        machine.thread(pkru=0x55555554)
        machine.code("switch_fpu_return", "f0 80 61 01 bf c3")  # lock andb $~0x40, 1(%rcx)
        machine.kernel_threads(1 << 14)
        machine.set("struct task_struct", machine.address, {"thread.fpu.state.fxsave": b"x" * 512})
        asleep = machine.machine.fpu_state(machine.task, None)
        assert (asleep.image, asleep.stale, asleep.pkru) == (b"x" * 512, False, 0x55555554)
        assert machine.machine.fpu_state(machine.task, 0).stale, "its registers were live in CPU 0"
        machine.set("struct task_struct", machine.address, {"thread_info.flags": 1 << 14})
        assert not machine.machine.fpu_state(machine.task, 0).stale, "TIF_NEED_FPU_LOAD: they were saved"
        machine.lost = {physical(machine.address) >> 12}
        with pytest.raises(FaultError):
            machine.machine.fpu_state(machine.task, None)

    def test_pkru_in_the_image_before_5_14(self) -> None:
        machine = Machine(types=TYPES.replace("u32 pkru;", ""))
        assert machine.machine.fpu_state(machine.task, None).pkru is None
