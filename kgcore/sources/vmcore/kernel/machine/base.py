# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface that an architecture implements to read its kernels' own structures.

:class:`kgcore.arch.architecture.Architecture` has what needs no kernel. For what not every architecture has, the
defaults here return "not available".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from drgn import Object

from kgcore.arch import Architecture
from kgcore.arch.cpunotes import CpuRegisters
from kgcore.arch.paging import PagingMode
from kgcore.model.process import CoreDialect, FpuState, Vma, XsaveLayout
from kgcore.model.siginfo import Fault
from kgcore.model.traces import End
from kgcore.sources.vmcore.kernel.layouts.base import Row
from kgcore.sources.vmcore.kernel.structs import Members

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("PF_KTHREAD", "Machine", "Unwinder")

PF_KTHREAD = 0x00200000  # include/linux/sched.h; the same in all releases


class Unwinder(Protocol):
    """Unwinds kernel stacks with the kernel's own tables.

    A state is a position in a stack; its type is the unwinder's own.
    """

    @property
    def available(self) -> bool:
        """Whether this kernel has tables that the unwinder supports."""

    def interrupted(self, cpu: CpuRegisters) -> Any:
        """Return the state of a CPU that was in the kernel."""

    def asleep(self, task: Object) -> Any:
        """Return the state of a task that is not on a CPU: where it was switched out.

        :param task: ``struct task_struct *``
        :raises FaultError: its stack is not in the dump.
        :raises LookupError: the layout of that stack is not known.
        """

    def unwind(self, state: Any) -> tuple[list[tuple[int, bool]], End]:
        """Unwind from a state.

        :return: the calls, each with its instruction pointer and whether that is exact; and why the trace ends.
        """


class Machine(ABC):
    """The architecture-specific parts of one kernel.

    Cheap to make: each probe runs on first use, and only once.

    :cvar architecture: the kernel's architecture.
    :cvar task_members: members of ``struct task_struct`` that it reads, of all releases together.
    :cvar fault_members: members of ``struct task_struct`` that :meth:`fault` reads.
    :cvar usual_thread_size: THREAD_SIZE of the usual configuration.
    :cvar layouts: what it needs of its kernels besides what all architectures need
        (:mod:`kgcore.sources.vmcore.kernel.layouts`).
    """

    architecture: ClassVar[Architecture]
    task_members: ClassVar[tuple[str, ...]]
    fault_members: ClassVar[tuple[str, ...]] = ()
    usual_thread_size: ClassVar[int]
    layouts: ClassVar[tuple[Row, ...]] = ()

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._target = kernel.target
        self._prog = kernel.prog

    # Address spaces

    @property
    @abstractmethod
    def paging_mode(self) -> PagingMode:
        """The paging mode of processes' page tables."""

    @property
    def encryption_mask(self) -> int:
        """The bit of a page-table entry that says "encrypted"; 0: no encryption."""
        return 0

    @property
    @abstractmethod
    def user_end(self) -> int:
        """TASK_SIZE: the end of a process's address space."""

    def root_table(self, mm: Object) -> int:
        """Return the physical address of a process's top page table (``mm->pgd``).

        :param mm: ``struct mm_struct *``
        :raises BrokenDump: the address in ``mm->pgd`` is invalid.
        """
        return self.direct_map_to_phys(mm.pgd.value_())

    @abstractmethod
    def direct_map_to_phys(self, address: int) -> int:
        """Return the physical address of an address in the kernel's direct map.

        :raises BrokenDump: the address is not in the direct map.
        """

    @abstractmethod
    def kernel_image_to_phys(self, address: int) -> int:
        """Return the physical address of an address in the kernel's own text or data."""

    # struct page

    @abstractmethod
    def page_to_phys(self, page: int) -> int:
        """Return the physical address of the memory that a ``struct page`` (or folio) describes.

        :param page: address of the ``struct page``.
        :raises FaultError: there is no ``struct page`` at this address.
        """

    @abstractmethod
    def frame_to_page(self, frame: int) -> int:
        """Return the address of the ``struct page`` of a page frame.

        :raises FaultError: the frame has no ``struct page``.
        """

    @abstractmethod
    def is_page(self, page: int) -> bool:
        """Tell whether a ``struct page`` may be at an address."""

    # Mappings that are not the process's own

    def gate(self, mm: Object) -> Vma | None:
        """Return a process's gate mapping (``get_gate_vma()``), which its list of mappings lacks; None: it has no gate.

        :param mm: ``struct mm_struct *``
        :raises FaultError: the data that say whether it has one are not in the dump.
        """
        return None

    @abstractmethod
    def vdso(self, mm: Object) -> tuple[int, int]:
        """Return physical address and size of the vdso's image, which is part of the kernel's image.

        :param mm: ``struct mm_struct *``
        :raises FaultError: the data that say where it is are not in the dump.
        """

    # Registers of threads

    @property
    @abstractmethod
    def pt_regs_padding(self) -> int:
        """Bytes above ``struct pt_regs`` on a kernel stack."""

    @property
    def entry_frames_fit(self) -> bool:
        """Whether processes' ``struct pt_regs`` are where :attr:`pt_regs_padding` and the size of kernel stacks say.

        Shown by the first few processes; true if none can be looked at.
        """
        return True

    @abstractmethod
    def asleep(self, task: Members) -> Mapping[str, int]:
        """Return those user-mode registers of a thread off the CPU that are not in its ``struct pt_regs``.

        :param task: ``struct task_struct``
        """

    @abstractmethod
    def kept(self) -> tuple[str, ...]:
        """Return the names of user-mode registers that a CPU keeps while it is in the kernel."""

    @abstractmethod
    def fpu_state(self, task: Members, cpu: int | None) -> FpuState:
        """Return a thread's floating-point and extended registers, as last saved.

        :param task: ``struct task_struct``
        :param cpu: the CPU that the thread was running on, if any; no dump has its live registers.
        :raises FaultError: the state is not in the dump.
        :raises BrokenDump: the state is inconsistent.
        """

    def xsave_layout(self) -> XsaveLayout | None:
        """Return the layout of this machine's XSAVE area, as the kernel detected it; None: no XSAVE.

        :raises FaultError: the layout is not in the dump.
        """
        return None

    def tls_segments(self, task: Members) -> tuple[tuple[int, int], ...]:
        """Return the thread's own segments: number and descriptor of each.

        :raises FaultError: they are not in the dump.
        """
        return ()

    def io_bitmap(self, task: Members) -> bytes | None:
        """Return the I/O permission bitmap (1 = denied), 8192 bytes; None if the task does not have one.

        :raises FaultError: it is not in the dump.
        """
        return None

    def forced_tf(self, task: Members) -> bool:
        """Tell whether a debugger, not the thread itself, set the trap flag in the thread's registers."""
        return False

    def shadow_stack(self, task: Members) -> bool:
        """Tell whether the thread has a user-mode shadow stack."""
        return False

    # Programs

    @abstractmethod
    def task_arch(self, mm: Object, values: Mapping[str, int]) -> str:
        """Return which of :data:`kgcore.arch.ARCHES` the kernel would write a core for.

        :param mm: ``struct mm_struct *``
        :param values: user-mode registers of the dumping thread.
        """

    def dialect(self) -> CoreDialect:
        """Return how this kernel writes cores."""
        return CoreDialect()

    @abstractmethod
    def system_call_width(self, task: Object, values: Mapping[str, int]) -> int:
        """Return the word size, in bytes, of the system call that a task is in.

        :param task: ``struct task_struct *``
        :param values: its user-mode registers.
        """

    def fault(self, task: Members) -> Fault | None:
        """Return the last exception in user mode for which a thread got a signal; None: no exception.

        :param task: ``struct task_struct``, with :attr:`fault_members`.
        """
        return None

    # CPUs

    @property
    def only_base(self) -> int:
        """Base of per-CPU memory, as a CPU has it in a register, in a kernel without CONFIG_SMP."""
        return 0

    def current(self, cpu: int) -> Object | None:
        """Return ``current`` of a CPU, if the kernel keeps it in per-CPU memory; None: it does not.

        :raises FaultError, LookupError: it is not in the dump.
        """
        return None

    @abstractmethod
    def entering(self, cpu: CpuRegisters) -> bool:
        """Tell whether a CPU is in the kernel's entry path: the thread's stack may not have all user registers yet."""

    @abstractmethod
    def is_root(self, register: int, root: int) -> bool:
        """Tell whether a CPU's page-table register has the address of a top page table."""

    @abstractmethod
    def cpu_by_tables(
        self, cpu: CpuRegisters, offsets: Mapping[int, int], possible: Callable[[int], bool]
    ) -> int | None:
        """Return the number of a note's CPU, found by the CPU's own descriptor tables; None: unknown.

        :param offsets: CPU numbers by the offset of their per-CPU memory.
        :param possible: tells whether a number may be a CPU's.
        """

    # Kernel stacks

    @property
    @abstractmethod
    def unwinder(self) -> Unwinder | None:
        """The unwinder of this kernel's stacks; None: not supported, and :attr:`no_unwinder` says so."""

    no_unwinder: ClassVar[str] = ""

    def is_kernel_address(self, address: int) -> bool:
        """Tell whether an address is in the kernel's part of the address space."""
        return address >= self.user_end
