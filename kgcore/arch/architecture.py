# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is true of all kernels of an architecture, for any layout of their structures: the checklist.

Beside it stands, for the cores of its tasks, :class:`kgcore.arch.base.Arch`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kgcore.arch.cpunotes import CpuNotes
from kgcore.model.process import XsaveLayout

__all__ = ("Architecture", "SystemCalls")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCalls:
    """System calls of programs of one width.

    :ivar number: the register with the number, while a thread is in one.
    :ivar request: the register that takes the number, and ``result`` the one that has the result.
    :ivar instruction: what makes a call.
    :ivar ignored: bits of the number that do not count.
    :ivar arguments: the registers with the arguments, in order.
    :ivar madvise: its number, and ``kcmp``, ``get_robust_list`` and ``pidfd_getfd`` those of these calls.
    :ivar injected: numbers of those that kgcore makes in a stopped thread, by name.
    :ivar quiet: numbers of those that hold mmap_lock for writing while pages stay where they are, or go for good as the
        process asked.
    :ivar suspending: numbers of sigsuspend(2) and rt_sigsuspend(2).
    """

    number: str
    request: str
    result: str
    instruction: bytes
    ignored: int
    arguments: tuple[str, ...]
    madvise: int
    kcmp: int
    get_robust_list: int
    pidfd_getfd: int
    injected: Mapping[str, int]
    quiet: frozenset[int]
    suspending: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An architecture of kernels.

    :ivar name: on the command line, in messages and in ``kgcore info``; the key in :data:`kgcore.arch.ARCHITECTURES`.
    :ivar machines: what its kernels call their machine in ``struct new_utsname``, and so headers of dumps.
    :ivar elf_machine: ``e_machine`` of its dumps.
    :ivar word_size: bytes of a kernel's long, and of a pointer.
    :ivar page_shifts: a page has ``1 << n`` bytes, n being one of these; the usual one first.
    :ivar top_table: addresses at which the kernel may have ``swapper_pg_dir``, by which VMCOREINFO tells whose it is;
        where those of several have one, it is of the architecture that has the fewest.
    :ivar user_pages: no page of user space lies at or above this address, in any configuration.
    :ivar physical_bits: MAX_POSSIBLE_PHYSMEM_BITS of its kernels: how long a physical address may be.
    :ivar notes: how dumps say what its CPUs had in their registers.
    :ivar entry_frame: the words of ``struct pt_regs``, from its start.
    :ivar ip: the name of the instruction pointer among registers, and ``sp`` that of the stack pointer.
    :ivar mode: the register that tells which mode a CPU was in, for messages.
    :ivar no_system_call: what registers of a thread have that is in no system call.
    :ivar system_calls: by the width of the program, in bytes.
    :ivar variables: types of global variables of its kernels, which BTF does not have, by name.
    :ivar arches: keys in :data:`kgcore.arch.ARCHES`: the views that its kernels dump tasks by.
    :ivar xsave_here: how this machine, if it is one, lays out vector registers, by a thread's register sets (NT_* to
        descriptor); None: it does not say.
    """

    name: str
    machines: frozenset[str]
    elf_machine: int
    word_size: int
    page_shifts: tuple[int, ...]
    top_table: range
    user_pages: int
    physical_bits: tuple[int, ...]
    notes: CpuNotes
    entry_frame: tuple[str, ...]
    ip: str
    sp: str
    mode: str
    no_system_call: Mapping[str, int]
    system_calls: Mapping[int, SystemCalls]
    variables: Mapping[str, str]
    arches: tuple[str, ...]
    xsave_here: Callable[[Mapping[int, bytes]], XsaveLayout | None]

    @property
    def page_shift(self) -> int:
        """Of the usual pages."""
        return self.page_shifts[0]
