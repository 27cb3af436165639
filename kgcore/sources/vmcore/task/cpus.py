# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which task was on which CPU, and which note of the dump is of which CPU.

A dump lists its notes about CPUs one behind the other, and the list has gaps: CPUs that were unplugged, that were
added later, or that did not answer. So a note's number says nothing. What it holds says whose it is: the base of the
kernel's per-CPU memory, which the CPU had in a register, or the CPU's own table of segments, which has it too, or,
in what the crash path wrote, the task and the place. A note of which none of this is true is nobody's.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from drgn import FaultError, Object
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.sched import cpu_curr, task_cpu

from kgcore.arch.cpunotes import NT_PRSTATUS, CpuRegisters
from kgcore.errors import BrokenDump
from kgcore.model.process import RegisterSource
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("Cpus", "OnCpu")

_NR_CPUS_MAX = 8192  # CONFIG_NR_CPUS with MAXSMP


@dataclass(frozen=True, slots=True)
class OnCpu:
    """Where a thread was running.

    :ivar registers: of that CPU; None: missing, and ``why``, as the rest of a sentence about the CPU.
    :ivar in_kernel: it is known to have been in the kernel.
    """

    cpu: int
    registers: CpuRegisters | None
    in_kernel: bool
    why: str = ""


class Cpus:
    """The CPUs of the crashed kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lost: set[int] = set()  # CPUs of which it is not in the dump what they ran
        self._running = dict(self._read_running())
        self._layout = kernel.architecture.notes

    # Who ran where

    def _read_running(self) -> Iterator[tuple[int, int]]:
        """Address of a ``struct task_struct`` and number of the CPU that ran it."""
        try:
            cpus = self._kernel.cpus
        except (FaultError, LookupError):
            cpus = tuple(range(_NR_CPUS_MAX))
            self._lost.update(cpus)
        for cpu in () if self._lost else cpus:
            try:
                task = self._current(cpu)
                if task:
                    yield task, cpu
            except FaultError:
                self._lost.add(cpu)

    def _current(self, cpu: int) -> int:
        """``current`` of a CPU, whose registers and stack it has; 0: nobody.

        The scheduler's own word, ``rq->curr``, is the next task while it is being switched to.
        """
        prog = self._kernel.prog
        with suppress(FaultError, LookupError):
            task = self._kernel.machine.current(cpu)
            if task and self._on_cpu(task):
                return int(task.value_())
        task = cpu_curr(prog, cpu)
        return int(task.value_()) if task and self._on_cpu(task) else 0

    def _on_cpu(self, task: Object) -> bool:
        # A kernel for a single CPU has no such member.
        return not self._kernel.target.has_member("struct task_struct", "on_cpu") or bool(task.on_cpu)

    def running(self, task: Members) -> int | None:
        """The CPU that a task was running on; None if it was not running.

        :param task: ``struct task_struct``
        """
        cpu = self._running.get(task.address)
        if cpu is None and self._lost and task["on_cpu"]:
            own = task_cpu(Object(self._kernel.prog, "struct task_struct *", task.address))
            return int(own) if own in self._lost else None  # the task's own word; it may be about to leave the CPU
        return cpu

    def of(self, task: Members, tid: int) -> OnCpu | None:
        """Where a task was running, and with which registers; None if it was not running.

        :param task: ``struct task_struct``
        """
        cpu = self.running(task)
        if cpu is None:
            return None
        found = self.registers(cpu, tid)
        if found is None:
            return OnCpu(cpu, None, self._crashed(cpu), self._why(cpu))
        if not self._belongs(task, tid, found):
            # If the CPU was in the kernel, then for another task, none was in user mode there.
            return OnCpu(cpu, None, not found.user_mode, "whose registers belong to a different task")
        if self._kernel.machine.entering(found):
            return OnCpu(cpu, found, False, "which was entering or leaving the kernel")
        return OnCpu(cpu, found, not found.user_mode)

    def _belongs(self, task: Members, tid: int, cpu: CpuRegisters) -> bool:
        """Whether a CPU's registers are those of this task, as far as the note lets us see."""
        if cpu.pid is not None and cpu.pid != tid:
            return False
        if cpu.root is None or not task["mm"]:  # a kernel thread works on any tables
            return True
        try:
            root = self._kernel.machine.root_table(Object(self._kernel.prog, "struct mm_struct *", task["mm"]))
        except (FaultError, BrokenDump):
            return True
        return self._kernel.machine.is_root(cpu.root, root)

    def _crashed(self, cpu: int) -> bool:
        """Whether it is the CPU that crashed, which does so in the kernel.

        ``panic_cpu`` since 1717f2096b54 "panic, x86: Fix re-entrance problem due to panic on NMI" (4.5).
        """
        try:
            address = self._kernel.target.symbol_address("panic_cpu")
            return address is not None and int(self._kernel.prog.read_u32(address)) == cpu
        except FaultError:
            return False

    def _why(self, cpu: int) -> str:
        if cpu in self._contested:
            return "which several notes of the dump claim"
        if self._nobodys:
            return "and no CPU note of the dump matches it"
        return "whose registers are not in the dump"

    # Which note is of which CPU

    def registers(self, cpu: int, tid: int) -> CpuRegisters | None:
        """The registers of a CPU; None if no note is known to have them.

        :param tid: the task on it, which tells notes of the crash path apart when their CPU is not known.
        """
        note = None if self._kernel.target.live else self._crash_note(cpu)
        if note is None and self._crash_path:
            # The file's own list has the same notes, but no longer says of which CPU each is.
            found = [note for note in map(self._layout.crash_path, self._prstatus) if tid and note.pid == tid]
            return found[0] if len(found) == 1 else None
        return note or self._proven.get(cpu)

    @cached_property
    def _prstatus(self) -> list[bytes]:
        return [note.desc for note in self._kernel.target.notes if self._layout.is_prstatus(note)]

    @cached_property
    def _crash_path(self) -> bool:
        """Whether the crash path wrote the NT_PRSTATUS of the file.

        QEMU's may stand in a dump with CRASHTIME, too: of a guest that runs its capture kernel. They have numbers of
        CPUs where the others have ids of tasks.
        """
        target = self._kernel.target
        return "CRASHTIME" in target.vmcoreinfo and not any(self._layout.is_own(note) for note in target.notes)

    def _crash_note(self, cpu: int) -> CpuRegisters | None:
        """What the crash path left for a CPU: ``crash_notes``, a per-CPU buffer of ELF notes (kernel/kexec_core.c)."""
        prog = self._kernel.prog
        try:
            buffer = per_cpu_ptr(prog["crash_notes"], cpu).value_()
            namesz, descsz, kind = struct.unpack("<III", prog.read(buffer, 12))
            name = prog.read(buffer + 12, 4)
            if kind != NT_PRSTATUS or namesz != 5 or name != b"CORE" or descsz != self._layout.prstatus_size:
                return None
            return self._layout.crash_path(prog.read(buffer + 20, descsz))
        except (FaultError, LookupError):
            return None

    @cached_property
    def _notes(self) -> tuple[CpuRegisters, ...]:
        """Those of a hypervisor: QEMU's own, which say more than its NT_PRSTATUS, or those if there are no others."""
        target = self._kernel.target
        source = RegisterSource.LIVE_CPU if target.live else RegisterSource.QEMU_NOTE
        own = (note.desc for note in target.notes if self._layout.is_own(note))
        found = tuple(self._layout.own(desc, source) for desc in own)
        if found or self._crash_path:
            return found
        return tuple(map(self._layout.hypervisor, self._prstatus))

    @cached_property
    def _claims(self) -> dict[int | None, list[CpuRegisters]]:
        """Notes by the CPU that they are of; None: of which it is not known."""
        claims: dict[int | None, list[CpuRegisters]] = {}
        for note in self._notes:
            cpu, base = self._identity(note)
            claims.setdefault(cpu, []).append(self._layout.with_kernel_base(note, base))
        return claims

    @property
    def _nobodys(self) -> bool:
        return None in self._claims

    @cached_property
    def _proven(self) -> dict[int, CpuRegisters]:
        return {cpu: notes[0] for cpu, notes in self._claims.items() if cpu is not None and len(notes) == 1}

    @cached_property
    def _contested(self) -> set[int | None]:
        return {cpu for cpu, notes in self._claims.items() if len(notes) > 1}

    def _identity(self, note: CpuRegisters) -> tuple[int | None, int | None]:
        """The CPU that a note is of, and where that has its per-CPU memory; None: not known."""
        found = {self._offsets[base]: base for base in note.bases if base and base in self._offsets}
        if len(found) == 1:
            return next(iter(found.items()))
        # A user may have put what he likes into one of them, and a CPU may stand where neither is the kernel's.
        return self._kernel.machine.cpu_by_tables(note, self._offsets, self._possible), None

    def _possible(self, cpu: int) -> bool:
        try:
            return cpu in self._kernel.cpus
        except (FaultError, LookupError):
            return True

    @cached_property
    def _offsets(self) -> dict[int, int]:
        """``__per_cpu_offset``: CPUs by the place of their per-CPU memory."""
        address = self._kernel.target.symbol_address("__per_cpu_offset")
        if address is None:
            return {0: 0}  # a kernel for a single CPU
        try:
            numbers = self._kernel.cpus
        except (FaultError, LookupError):
            numbers = tuple(range(_NR_CPUS_MAX))
        size = self._kernel.word_size
        found: dict[int, list[int]] = {}
        with suppress(FaultError):
            for cpu in numbers:
                base = int.from_bytes(kernel_bytes(self._kernel.prog, address + size * cpu, size), "little")
                found.setdefault(base, []).append(cpu)
        # Those that there cannot be all have the same.
        return {base: cpus[0] for base, cpus in found.items() if len(cpus) == 1}
