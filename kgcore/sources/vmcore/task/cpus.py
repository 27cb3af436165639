# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which task was on which CPU, and which note of the dump belongs to which CPU.

A dump lists its CPU notes one after the other, and the list has gaps: CPUs that were unplugged, added later, or did not
answer. So a note's number does not identify its CPU, but its content does: the base of the kernel's per-CPU memory,
which the CPU had in a register; the CPU's own segment table, which has that base too; or, in notes from the crash path,
the task and the buffer where the note is. A note with none of these belongs to no CPU.
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
    """The CPU that a thread was running on.

    :ivar registers: of that CPU; None: missing, and ``why`` says why, as the rest of a sentence about the CPU.
    :ivar in_kernel: the thread is known to have been in the kernel.
    """

    cpu: int
    registers: CpuRegisters | None
    in_kernel: bool
    why: str = ""


class Cpus:
    """The CPUs of the crashed kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lost: set[int] = set()  # CPUs whose current task is not in the dump
        self._running = dict(self._read_running())
        self._layout = kernel.architecture.notes

    # Who ran where

    def _read_running(self) -> Iterator[tuple[int, int]]:
        """Yield the address of each running ``struct task_struct`` and the number of its CPU."""
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
        """Return ``current`` of a CPU, the task whose registers and stack it has; 0: no task.

        The scheduler's ``rq->curr`` is already the next task during a switch.
        """
        prog = self._kernel.prog
        with suppress(FaultError, LookupError):
            task = self._kernel.machine.current(cpu)
            if task and self._on_cpu(task):
                return int(task.value_())
        task = cpu_curr(prog, cpu)
        return int(task.value_()) if task and self._on_cpu(task) else 0

    def _on_cpu(self, task: Object) -> bool:
        return not self._has_on_cpu or bool(task.on_cpu)

    def _may_run(self, task: Members) -> bool:
        """Tell whether a task may have been running where the dump does not say who was."""
        return bool(task["on_cpu"]) if self._has_on_cpu else self._kernel.task_state(task) == 0

    @cached_property
    def _has_on_cpu(self) -> bool:
        """Whether tasks say that they are running; kernels without CONFIG_SMP do since 6.17."""
        return self._kernel.target.has_member("struct task_struct", "on_cpu")

    def running(self, task: Members) -> int | None:
        """Return the CPU that a task was running on; None if it was not running.

        :param task: ``struct task_struct``
        """
        cpu = self._running.get(task.address)
        if cpu is None and self._lost and self._may_run(task):
            own = task_cpu(Object(self._kernel.prog, "struct task_struct *", task.address))
            return int(own) if own in self._lost else None  # the task says so; it may be about to leave the CPU
        return cpu

    def of(self, task: Members, tid: int) -> OnCpu | None:
        """Return where a task was running, and its registers; None if it was not running.

        :param task: ``struct task_struct``
        """
        cpu = self.running(task)
        if cpu is None:
            return None
        found = self.registers(cpu, tid)
        if found is None:
            return OnCpu(cpu, None, self._crashed(cpu), self._why(cpu))
        if not self._belongs(task, tid, found):
            # A CPU in the kernel, for a different task, had no task in user mode.
            return OnCpu(cpu, None, not found.user_mode, "whose registers belong to a different task")
        if self._kernel.machine.entering(found):
            return OnCpu(cpu, found, False, "which was entering or leaving the kernel")
        return OnCpu(cpu, found, not found.user_mode)

    def _belongs(self, task: Members, tid: int, cpu: CpuRegisters) -> bool:
        """Tell whether a CPU's registers belong to this task, as far as the note shows."""
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
        """Tell whether this CPU crashed; a CPU that crashes is in the kernel.

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
        """Return the registers of a CPU; None if no note is known to have them.

        :param tid: the task on the CPU; it identifies a note of the crash path whose CPU is unknown.
        """
        note = None if self._kernel.target.live else self._crash_note(cpu)
        if note is None and self._crash_path:
            # The file's own list has the same notes, but no longer says which CPU each belongs to.
            found = [note for note in map(self._layout.crash_path, self._prstatus) if tid and note.pid == tid]
            return found[0] if len(found) == 1 else None
        return note or self._proven.get(cpu)

    @cached_property
    def _prstatus(self) -> list[bytes]:
        return [note.desc for note in self._kernel.target.notes if self._layout.is_prstatus(note)]

    @cached_property
    def _crash_path(self) -> bool:
        """Tell whether the crash path wrote the NT_PRSTATUS notes of the file.

        A dump with CRASHTIME may have QEMU's notes, too: of a guest that runs its capture kernel. QEMU's notes have CPU
        numbers where the crash path's have task ids.
        """
        target = self._kernel.target
        return "CRASHTIME" in target.vmcoreinfo and not any(self._layout.is_own(note) for note in target.notes)

    def _crash_note(self, cpu: int) -> CpuRegisters | None:
        """Return a CPU's note from the crash path: ``crash_notes``, a per-CPU ELF note buffer (kernel/kexec_core.c)."""
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
        """Return a hypervisor's notes: QEMU's own, which say more than its NT_PRSTATUS; NT_PRSTATUS without them."""
        target = self._kernel.target
        source = RegisterSource.LIVE_CPU if target.live else RegisterSource.QEMU_NOTE
        own = (note.desc for note in target.notes if self._layout.is_own(note))
        found = tuple(self._layout.own(desc, source) for desc in own)
        if found or self._crash_path:
            return found
        return tuple(map(self._layout.hypervisor, self._prstatus))

    @cached_property
    def _claims(self) -> dict[int | None, list[CpuRegisters]]:
        """Return the notes by CPU; those under None belong to an unknown CPU."""
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
        """Return the CPU of a note, and the base of its per-CPU memory; None: unknown."""
        if not self._kernel.smp:
            return self._of_the_only_cpu(note)
        found = {self._offsets[base]: base for base in note.bases if base and base in self._offsets}
        if len(found) == 1:
            return next(iter(found.items()))
        # User code may have set one of the bases to any value, and at some points neither is the kernel's.
        return self._kernel.machine.cpu_by_tables(note, self._offsets, self._possible), None

    def _of_the_only_cpu(self, note: CpuRegisters) -> tuple[int | None, int | None]:
        """Return 0 and the base of per-CPU memory if a note is of the only CPU that a kernel uses, else None.

        The machine may have more CPUs, and notes of them.
        """
        machine = self._kernel.machine
        base = machine.only_base
        known = len(self._notes) == 1 or (base != 0 and base in note.bases)
        known = known or machine.cpu_by_tables(note, {0: 0}, self._possible) == 0
        return (0, base) if known else (None, None)

    def _possible(self, cpu: int) -> bool:
        try:
            return cpu in self._kernel.cpus
        except (FaultError, LookupError):
            return True

    @cached_property
    def _offsets(self) -> dict[int, int]:
        """Return the CPUs by the base of their per-CPU memory (``__per_cpu_offset``)."""
        address = self._kernel.target.symbol_address("__per_cpu_offset")
        if address is None:
            return {}
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
        # Impossible CPUs all have the same base.
        return {base: cpus[0] for base, cpus in found.items() if len(cpus) == 1}
