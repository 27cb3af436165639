# SPDX-License-Identifier: LGPL-2.1-or-later
"""User-mode registers of threads, asleep or on a CPU when the machine stopped.

A sleeping thread's registers are the ``struct pt_regs`` at the top of its kernel stack. A thread that was running in
user mode has left nothing there: its registers are in the note about its CPU, which QEMU or the crash path wrote.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from drgn import FaultError, Object, ObjectNotFoundError
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.sched import cpu_curr, task_cpu

from kgcore.errors import BrokenDump
from kgcore.model import FpuState, RegisterSet, RegisterSource
from kgcore.sources.vmcore.dumpfile import DumpNote
from kgcore.sources.vmcore.kernel import Kernel
from kgcore.sources.vmcore.reading import kernel_bytes
from kgcore.sources.vmcore.structs import Members

__all__ = ("CpuRegisters", "Cpus", "FpuState", "fpu_state", "tls_segments", "user_registers")

# struct pt_regs, arch/x86/include/asm/ptrace.h: the same 21 words in all releases (with FRED the upper halves of
# cs and ss hold other things).
_PT_REGS = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
            "ip", "cs", "flags", "sp", "ss")  # fmt: skip
# struct user_regs_struct, arch/x86/include/asm/user_64.h: pr_reg of NT_PRSTATUS
_USER_REGS = (*_PT_REGS, "fs_base", "gs_base", "ds", "es", "fs", "gs")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
# struct pt_regs of i386, and struct user_regs_struct, arch/x86/include/asm/user_32.h
_REGS_32 = tuple("bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss".split())
_NT_PRSTATUS = 1
# QEMU, target/i386/arch_dump.c: QEMUCPUState: version, size, 18 registers, 10 segments, 5 control registers, and since
# version 2.12 kernel_gs_base
_QEMU_GPRS = ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp",
              "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "ip", "flags")  # fmt: skip
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_QEMU_SIZE = 432
_GDT_TLS_ENTRIES = 3  # arch/x86/include/asm/segment.h
_LDT_ENTRIES = 8192
_NR_CPUS_MAX = 8192  # CONFIG_NR_CPUS with MAXSMP
# A system call number has no place in a note about a CPU that was in user mode.
_NO_SYSCALL = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CpuRegisters:
    """What a note says of a CPU.

    :ivar values: registers at the interruption, user's or kernel's; ``fs_base`` and ``gs_base`` are the user's.
    :ivar pid: id of the task that ran there in the initial pid namespace, if the note tells.
    :ivar cr3: the page-table root, if the note tells.
    """

    values: Mapping[str, int]
    source: RegisterSource
    pid: int | None = None
    cr3: int | None = None

    @property
    def user_mode(self) -> bool:
        return self.values["cs"] & 3 == 3


class Cpus:
    """Which task was on which CPU, and the registers of each CPU."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lost: set[int] = set()  # CPUs of which it is not in the dump what they ran
        self._running = dict(self._read_running())
        self._notes = list(self._qemu_notes())
        self._layout = layout = _LAYOUTS[kernel.architecture]
        self._prstatus = [note.desc for note in kernel.target.notes if layout.is_prstatus(note)]

    def _read_running(self) -> Iterator[tuple[int, int]]:
        """Address of a ``struct task_struct`` and number of the CPU that ran it."""
        prog = self._kernel.prog
        try:
            cpus = self._kernel.cpus
        except (FaultError, LookupError):
            cpus = tuple(range(_NR_CPUS_MAX))
            self._lost.update(cpus)
        for cpu in () if self._lost else cpus:
            try:
                task = cpu_curr(prog, cpu)
                if task and task.on_cpu:
                    yield task.value_(), cpu
            except FaultError:
                self._lost.add(cpu)

    def running(self, task: Members) -> int | None:
        """The CPU that a task was running on; None if it was not running.

        :param task: ``struct task_struct``
        """
        cpu = self._running.get(task.address)
        if cpu is None and self._lost and task["on_cpu"]:
            own = task_cpu(Object(self._kernel.prog, "struct task_struct *", task.address))
            return int(own) if own in self._lost else None  # the task's own word; it may be about to leave the CPU
        return cpu

    def registers(self, cpu: int, tid: int) -> CpuRegisters | None:
        """The registers of a CPU; None if no note has them.

        :param tid: the task on it, which tells notes of the crash path apart when their CPU is not known.
        """
        if "CRASHTIME" in self._kernel.target.vmcoreinfo:
            note = self._crash_note(cpu)
            if note is not None:
                return note
            # The file's own list has the same notes, but no longer says of which CPU each is.
            found = [note for note in map(self._layout.parse_prstatus, self._prstatus) if tid and note.pid == tid]
            return found[0] if len(found) == 1 else None
        if cpu < len(self._notes):
            return self._notes[cpu]
        if cpu < len(self._prstatus):  # QEMU again: one per CPU in order, "pid" being the CPU's number plus one
            note = self._layout.parse_prstatus(self._prstatus[cpu])
            return CpuRegisters(note.values, note.source) if note.pid == cpu + 1 else None
        return None

    def _qemu_notes(self) -> Iterator[CpuRegisters]:
        source = RegisterSource.LIVE_CPU if self._kernel.target.live else RegisterSource.QEMU_NOTE
        for note in self._kernel.target.notes:
            if note.name == b"QEMU" and note.type == 0 and len(note.desc) >= _QEMU_SIZE:
                yield _parse_qemu(note.desc, source)

    def _crash_note(self, cpu: int) -> CpuRegisters | None:
        """What the crash path left for a CPU: ``crash_notes``, a per-CPU buffer of ELF notes (kernel/kexec_core.c)."""
        prog = self._kernel.prog
        try:
            buffer = per_cpu_ptr(prog["crash_notes"], cpu).value_()
            namesz, descsz, kind = struct.unpack("<III", prog.read(buffer, 12))
            name = prog.read(buffer + 12, 4)
            if kind != _NT_PRSTATUS or namesz != 5 or name != b"CORE" or descsz != self._layout.prstatus_size:
                return None
            return self._layout.parse_prstatus(prog.read(buffer + 20, descsz))
        except (FaultError, ObjectNotFoundError):
            return None


def _parse_qemu(desc: bytes, source: RegisterSource) -> CpuRegisters:
    values = dict(zip(_QEMU_GPRS, struct.unpack_from("<18Q", desc, 8), strict=True))
    bases = {}
    for number, name in enumerate(_QEMU_SEGMENTS):
        selector, _, _, _, base = struct.unpack_from("<IIIIQ", desc, 152 + number * 24)
        bases[name] = base
        if name in _SEGMENTS:
            values[name] = selector
    cr3 = struct.unpack_from("<5Q", desc, 392)[3]
    values["fs_base"] = bases["fs"]
    values["gs_base"] = bases["gs"]
    if values["cs"] & 3 == 0 and len(desc) >= _QEMU_SIZE + 8:
        # In the kernel the user's base waits in MSR_KERNEL_GS_BASE (swapgs).
        (values["gs_base"],) = struct.unpack_from("<Q", desc, _QEMU_SIZE)
    values["orig_ax"] = _NO_SYSCALL
    return CpuRegisters(_truncated(values), source, cr3=cr3)


def _truncated(values: dict[str, int]) -> dict[str, int]:
    """Selectors are 16 bits; the rest of the word is somebody else's."""
    return {name: value & 0xFFFF if name in _SEGMENTS else value for name, value in values.items()}


class Found(NamedTuple):
    """Registers, and what is to be said about them (sentences)."""

    registers: RegisterSet
    warnings: tuple[str, ...]


def user_registers(kernel: Kernel, task: Members, tid: int, cpu: CpuRegisters | None) -> Found:
    """The registers a thread has in user mode.

    :param task: ``struct task_struct``
    :param cpu: what a note says of the CPU that the thread was running on; None: it was not running, or no note has it.
    """
    layout = _LAYOUTS[kernel.architecture]
    warnings = []
    if cpu is not None and cpu.user_mode:
        if _belongs(kernel, task, tid, cpu):
            values = dict(cpu.values, orig_ax=_NO_SYSCALL)
            return Found(RegisterSet(values, cpu.source), ())
        warnings.append(f"thread {tid}: its CPU's registers are another task's; using those of its last kernel entry")
        cpu = None
    try:
        values = _entry_frame(kernel, task)
    except FaultError as error:
        warnings.append(f"thread {tid}: registers are not in the dump: {error}")
        unknown = dict.fromkeys(layout.user_regs, 0)
        return Found(RegisterSet(unknown, RegisterSource.UNAVAILABLE, frozenset(unknown)), tuple(warnings))
    if values["cs"] & 3 != 3:
        warnings.append(f"thread {tid}: its last kernel entry was not from user mode (cs {values['cs']:#x})")
    values |= layout.segments(kernel, task)
    if cpu is not None and _belongs(kernel, task, tid, cpu):
        # The kernel leaves the user's FS and GS alone while it runs; the task's own copy dates from its last
        # switch-out.
        values |= {name: cpu.values[name] for name in layout.kept(kernel)}
    return Found(RegisterSet(values, RegisterSource.ENTRY_FRAME), tuple(warnings))


def _belongs(kernel: Kernel, task: Members, tid: int, cpu: CpuRegisters) -> bool:
    """Whether a CPU's registers are those of this task, as far as the note lets us see."""
    if cpu.pid is not None and cpu.pid != tid:
        return False
    if cpu.cr3 is None:
        return True
    try:
        # Bit 12 tells the user's copy of the tables from the kernel's (PTI); the bits below are the PCID.
        root = kernel.root_table(Object(kernel.prog, "struct mm_struct *", task["mm"]))
    except (FaultError, BrokenDump):
        return True
    return (cpu.cr3 ^ root) & ((1 << 52) - 1) & ~0x1FFF == 0


def _entry_frame(kernel: Kernel, task: Members) -> dict[str, int]:
    """``task_pt_regs()``: what the thread's last entry into the kernel saved."""
    layout = _LAYOUTS[kernel.architecture]
    size = layout.word_size * len(layout.pt_regs)
    at = task["stack"] + kernel.thread_size - kernel.pt_regs_padding - size
    if at >= 1 << 8 * layout.word_size:
        raise FaultError("the thread's kernel stack has no possible address", task["stack"])
    return layout.registers(layout.pt_regs, kernel_bytes(kernel.prog, at, size))


def _segments(kernel: Kernel, task: Members) -> dict[str, int]:
    """Segment registers and bases of a thread that is not running (arch/x86/kernel/process_64.c)."""
    fs, gs = task["thread.fsindex"], task["thread.gsindex"]
    # Renamed by 296f781a4b7f "x86/asm/64: Rename thread_struct's fs and gs to fsbase and gsbase" (4.7)
    new = kernel.target.has_member("struct thread_struct", "fsbase")
    return {
        "fs_base": _base(kernel, task, fs, task["thread.fsbase" if new else "thread.fs"]),
        "gs_base": _base(kernel, task, gs, task["thread.gsbase" if new else "thread.gs"]),
        "ds": task["thread.ds"],
        "es": task["thread.es"],
        "fs": fs,
        "gs": gs,
    }


def _segments_32(kernel: Kernel, task: Members) -> dict[str, int]:
    """What of a thread that is not running is not in its ``struct pt_regs`` (arch/x86/kernel/process_32.c)."""
    return {"gs": task["thread.gs"] & 0xFFFF} if kernel.lazy_gs else {}


def _base(kernel: Kernel, task: Members, selector: int, stored: int) -> int:
    """``x86_fsbase_read_task()``: a selector in FS or GS decides, unless the CPU lets user space set the base."""
    if selector == 0 or kernel.fsgsbase:
        return stored
    index = selector >> 3
    if selector & 4:  # a segment of the process's own table
        ldt = Object(kernel.prog, "struct mm_struct *", task["mm"]).context.ldt
        if not ldt or index >= min(ldt.nr_entries.value_(), _LDT_ENTRIES):
            return 0
        descriptor = int.from_bytes(kernel_bytes(kernel.prog, ldt.entries.value_() + 8 * index, 8), "little")
    else:
        descriptor = dict(tls_segments(kernel, task)).get(index, 0)
    # get_desc_base(), arch/x86/include/asm/desc.h: an unsigned int
    return descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000


def tls_segments(kernel: Kernel, task: Members) -> tuple[tuple[int, int], ...]:
    """``thread.tls_array``: the thread's own segments, as entries of the GDT.

    :raises FaultError: they are not in the dump.
    """
    raw = task["thread.tls_array"]
    descriptors = (int.from_bytes(raw[at : at + 8], "little") for at in range(0, 8 * _GDT_TLS_ENTRIES, 8))
    return tuple(enumerate(descriptors, _LAYOUTS[kernel.architecture].tls_min))


def fpu_state(kernel: Kernel, task: Members, cpu: int | None) -> FpuState:
    """Floating-point and extended registers as last saved.

    :param cpu: the CPU the thread was running on; its live registers are in no dump.
    :raises FaultError: the state is not in the dump.
    :raises BrokenDump: it contradicts itself.
    """
    pkru = None
    if kernel.target.has_member("struct thread_struct", "pkru"):
        # 954436989cc5 "x86/fpu: Remove PKRU handling from switch_fpu_finish()" (5.14) and its series
        pkru = task["thread.pkru"]
    stale = cpu is not None and not kernel.need_fpu_load(task)
    return FpuState(kernel.fpu_image(task), stale, pkru)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a kernel's structures have which registers.

    :ivar pr_pid: where NT_PRSTATUS has the task; ``pr_reg``: and its registers.
    :ivar tls_min: GDT_ENTRY_TLS_MIN.
    :ivar segments: registers of a sleeping thread that are in ``task->thread``.
    :ivar kept: user's registers that a CPU still has while it is in the kernel.
    """

    word_size: int
    pt_regs: tuple[str, ...]
    user_regs: tuple[str, ...]
    prstatus_size: int
    pr_pid: int
    pr_reg: int
    tls_min: int
    segments: Callable[[Kernel, Members], dict[str, int]]
    kept: Callable[[Kernel], tuple[str, ...]]

    def is_prstatus(self, note: DumpNote) -> bool:
        return note.name == b"CORE" and note.type == _NT_PRSTATUS and len(note.desc) == self.prstatus_size

    def parse_prstatus(self, desc: bytes) -> CpuRegisters:
        values = self.registers(self.user_regs, desc[self.pr_reg :])
        (pid,) = struct.unpack_from("<i", desc, self.pr_pid)
        return CpuRegisters(values, RegisterSource.CPU_NOTE, pid=pid)

    def registers(self, names: tuple[str, ...], raw: bytes) -> dict[str, int]:
        words = struct.unpack_from(f"<{len(names)}{'Q' if self.word_size == 8 else 'I'}", raw)
        return _truncated(dict(zip(names, words, strict=True)))


_LAYOUTS = {
    "x86_64": _Layout(
        word_size=8,
        pt_regs=_PT_REGS,
        user_regs=_USER_REGS,
        prstatus_size=336,
        pr_pid=32,
        pr_reg=112,
        tls_min=12,
        segments=_segments,
        kept=lambda kernel: ("fs_base", "gs_base", "ds", "es", "fs", "gs"),
    ),
    "i386": _Layout(
        word_size=4,
        pt_regs=_REGS_32,
        user_regs=_REGS_32,
        prstatus_size=144,
        pr_pid=24,
        pr_reg=72,
        tls_min=6,
        segments=_segments_32,
        kept=lambda kernel: ("gs",) if kernel.lazy_gs else (),
    ),
}
