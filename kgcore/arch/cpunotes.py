# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the notes of a dump say of CPUs: NT_PRSTATUS, which hypervisors and the crash path write, and hypervisors' own.

Neither says which of the *kernel's* CPUs it is of: see :mod:`kgcore.sources.vmcore.task.cpus`.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kgcore.model.process import RegisterSource

__all__ = ("NT_PRSTATUS", "CpuNotes", "CpuRegisters", "Note", "named_words")

NT_PRSTATUS = 1


class Note(Protocol):
    """An ELF note of a dump.

    :ivar name: its owner, without the NUL.
    :ivar type: NT_*.
    :ivar desc: its bytes.
    """

    @property
    def name(self) -> bytes: ...
    @property
    def type(self) -> int: ...
    @property
    def desc(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class CpuRegisters:
    """What a note says of a CPU.

    :ivar values: registers at the interruption, user's or kernel's; thread-local bases are the user's, and absent where
        the note does not tell them.
    :ivar user_mode: the CPU was in user mode.
    :ivar pid: id of the task that ran there in the initial pid namespace, if the note tells.
    :ivar root: what the CPU's page-table register had, if the note tells.
    :ivar bases: one of these is where the CPU had the kernel's per-CPU memory, by which the kernel knows it.
    :ivar tables: addresses of tables that each CPU has of its own, by the architecture's names, if the note tells.
    """

    values: Mapping[str, int]
    source: RegisterSource
    user_mode: bool
    pid: int | None = None
    root: int | None = None
    bases: tuple[int, ...] = ()
    tables: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CpuNotes(ABC):
    """How an architecture's dumps say what its CPUs had in their registers.

    :ivar word_size: bytes of a kernel's long.
    :ivar user_regs: what NT_PRSTATUS has as ``pr_reg``, in order: ``elf_gregset_t``.
    """

    word_size: int
    user_regs: tuple[str, ...]

    @property
    def _pr_reg(self) -> int:
        """Where ``pr_reg`` is in ``struct elf_prstatus``; ``pr_pid`` is before it, and the times (elfcore.h)."""
        return 112 if self.word_size == 8 else 72

    @property
    def prstatus_size(self) -> int:
        """Bytes of ``struct elf_prstatus``."""
        used = self._pr_reg + len(self.user_regs) * self.word_size + 4  # pr_fpvalid
        return used + -used % self.word_size

    def is_prstatus(self, note: Note) -> bool:
        """Whether a note is an NT_PRSTATUS of this architecture."""
        return note.name == b"CORE" and note.type == NT_PRSTATUS and len(note.desc) == self.prstatus_size

    def crash_path(self, desc: bytes) -> CpuRegisters:
        """NT_PRSTATUS as the kernel writes it (crash_save_cpu(), kernel/kexec_core.c)."""
        (pid,) = struct.unpack_from("<i", desc, self._pr_reg - 8 * self.word_size - 16)
        values = self.registers(desc)
        return CpuRegisters(values, RegisterSource.CPU_NOTE, self.user_mode(values), pid=pid)

    def registers(self, desc: bytes) -> dict[str, int]:
        """``pr_reg`` of an NT_PRSTATUS, by names."""
        return self.cleaned(named_words(self.user_regs, self.word_size, desc[self._pr_reg :]))

    def cleaned(self, values: dict[str, int]) -> dict[str, int]:
        """Registers without what else may stand in their words."""
        return values

    @abstractmethod
    def user_mode(self, values: Mapping[str, int]) -> bool:
        """Whether these are registers of user mode."""

    @abstractmethod
    def hypervisor(self, desc: bytes) -> CpuRegisters:
        """NT_PRSTATUS as hypervisors write it: ``pr_pid`` is some number of theirs."""

    @abstractmethod
    def is_own(self, note: Note) -> bool:
        """Whether a note is of a hypervisor's own kind, which says more than NT_PRSTATUS."""

    @abstractmethod
    def own(self, desc: bytes, source: RegisterSource) -> CpuRegisters:
        """What a hypervisor's own note says."""

    def with_kernel_base(self, cpu: CpuRegisters, base: int | None) -> CpuRegisters:
        """The same, now that it is known which of the bases is the kernel's."""
        return cpu


def named_words(names: tuple[str, ...], word_size: int, raw: bytes) -> dict[str, int]:
    """Registers that lie one behind the other."""
    words = struct.unpack_from(f"<{len(names)}{'Q' if word_size == 8 else 'I'}", raw)
    return dict(zip(names, words, strict=True))
