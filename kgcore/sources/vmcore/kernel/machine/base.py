# SPDX-License-Identifier: LGPL-2.1-or-later
"""The questions that only an architecture can answer, and that take a kernel's own structures: the checklist.

What needs no kernel stands in :class:`kgcore.arch.architecture.Architecture`. What not every architecture has is
answered here: "not available".
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
from kgcore.sources.vmcore.kernel.structs import Members

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("Machine", "Unwinder")


class Unwinder(Protocol):
    """Unwinds kernel stacks with the tables of the kernel itself.

    Its states, where it is in a stack, are its own.
    """

    @property
    def available(self) -> bool:
        """Whether this kernel has tables that it understands."""

    def interrupted(self, cpu: CpuRegisters) -> Any:
        """Give the state of a CPU that was in the kernel."""

    def asleep(self, task: Object) -> Any:
        """Give the state in which a task left the CPU.

        :param task: ``struct task_struct *``
        :raises FaultError: its stack is not in the dump.
        :raises LookupError: the layout of that stack is not known.
        """

    def unwind(self, state: Any) -> tuple[list[tuple[int, bool]], End]:
        """Give the calls from a state on: instruction pointer, and whether it is exact; and why there are no more."""


class Machine(ABC):
    """The answers of one kernel's architecture.

    Cheap to make: each probe happens when first asked for, once.

    :cvar architecture: the one it is.
    :cvar task_members: members of ``struct task_struct`` that it asks for, all releases' together.
    :cvar fault_members: those that :meth:`fault` wants.
    :cvar usual_thread_size: THREAD_SIZE of the usual configuration.
    """

    architecture: ClassVar[Architecture]
    task_members: ClassVar[tuple[str, ...]]
    fault_members: ClassVar[tuple[str, ...]] = ()
    usual_thread_size: ClassVar[int]

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._target = kernel.target
        self._prog = kernel.prog

    # Address spaces

    @property
    @abstractmethod
    def paging_mode(self) -> PagingMode:
        """How the page tables of processes are to be walked."""

    @property
    def encryption_mask(self) -> int:
        """The bit of a page-table entry that says "encrypted"; 0: no encryption."""
        return 0

    @property
    @abstractmethod
    def user_end(self) -> int:
        """TASK_SIZE: no mapping of a process goes beyond."""

    def root_table(self, mm: Object) -> int:
        """Physical address of a process's top page table (``mm->pgd``).

        :param mm: ``struct mm_struct *``
        :raises BrokenDump: its address cannot be one.
        """
        return self.direct_map_to_phys(mm.pgd.value_())

    @abstractmethod
    def direct_map_to_phys(self, address: int) -> int:
        """Physical address of memory in the kernel's direct map.

        :raises BrokenDump: the address is not in the direct map.
        """

    @abstractmethod
    def kernel_image_to_phys(self, address: int) -> int:
        """Physical address of the kernel's own text or data."""

    # struct page

    @abstractmethod
    def page_to_phys(self, page: int) -> int:
        """Physical address of the memory that a ``struct page`` (or folio) at that address describes.

        :raises FaultError: there is no ``struct page``.
        """

    @abstractmethod
    def frame_to_page(self, frame: int) -> int:
        """Address of the ``struct page`` of a page frame.

        :raises FaultError: it does not exist.
        """

    @abstractmethod
    def is_page(self, page: int) -> bool:
        """Whether there may be a ``struct page`` at an address."""

    # Mappings that are not the process's own

    def gate(self, mm: Object) -> Vma | None:
        """The mapping that processes have beyond their own (``get_gate_vma()``); None if this one has none.

        :param mm: ``struct mm_struct *``
        :raises FaultError: whether it has is not in the dump.
        """
        return None

    @abstractmethod
    def vdso(self, mm: Object) -> tuple[int, int]:
        """Physical address and bytes of the vdso's image, which is part of the kernel's.

        :param mm: ``struct mm_struct *``
        :raises FaultError: that is not in the dump.
        """

    # Registers of threads

    @property
    @abstractmethod
    def pt_regs_padding(self) -> int:
        """Bytes above ``struct pt_regs`` on a kernel stack."""

    @abstractmethod
    def asleep(self, task: Members) -> Mapping[str, int]:
        """User-mode registers of a thread that is not running, which are not in its ``struct pt_regs``.

        :param task: ``struct task_struct``
        """

    @abstractmethod
    def kept(self) -> tuple[str, ...]:
        """User's registers that a CPU still has while it is in the kernel."""

    @abstractmethod
    def fpu_state(self, task: Members, cpu: int | None) -> FpuState:
        """Floating-point and extended registers as last saved.

        :param task: ``struct task_struct``
        :param cpu: the CPU the thread was running on; its live registers are in no dump.
        :raises FaultError: the state is not in the dump.
        :raises BrokenDump: it contradicts itself.
        """

    def xsave_layout(self) -> XsaveLayout | None:
        """What the kernel found out about this machine's XSAVE area; None: no XSAVE.

        :raises FaultError: that is not in the dump.
        """
        return None

    def tls_segments(self, task: Members) -> tuple[tuple[int, int], ...]:
        """The thread's own segments, as numbers and entries of a table.

        :raises FaultError: they are not in the dump.
        """
        return ()

    def io_bitmap(self, task: Members) -> bytes | None:
        """The I/O permission bitmap (1 = denied), 8192 bytes; None if the task has none.

        :raises FaultError: it is not in the dump.
        """
        return None

    def forced_tf(self, task: Members) -> bool:
        """Whether a debugger, and not the thread, has set the trap flag in its registers."""
        return False

    def shadow_stack(self, task: Members) -> bool:
        """Whether the thread has a user-mode shadow stack."""
        return False

    # Programs

    @abstractmethod
    def task_arch(self, mm: Object, values: Mapping[str, int]) -> str:
        """Which of :data:`kgcore.arch.ARCHES` the kernel would write a core for.

        :param mm: ``struct mm_struct *``
        :param values: user-mode registers of the dumping thread.
        """

    def dialect(self, neutral: CoreDialect) -> CoreDialect:
        """How this kernel writes the notes of this architecture.

        :param neutral: how it writes all else.
        """
        return neutral

    @abstractmethod
    def system_call_width(self, task: Object, values: Mapping[str, int]) -> int:
        """Bytes of a word in the system call that a task is in.

        :param task: ``struct task_struct *``
        :param values: its user-mode registers.
        """

    def fault(self, task: Members) -> Fault | None:
        """The last exception in user mode for which a thread was sent a signal; None if there was none.

        :param task: ``struct task_struct``, with :attr:`fault_members`.
        """
        return None

    # CPUs

    def current(self, cpu: int) -> Object | None:
        """``current`` of a CPU, where the kernel keeps it in memory of the CPU's own; None: it does not.

        :raises FaultError, LookupError: it is not in the dump.
        """
        return None

    @abstractmethod
    def entering(self, cpu: CpuRegisters) -> bool:
        """Whether a CPU in the kernel is where the user's registers need not all be on the thread's stack yet."""

    @abstractmethod
    def is_root(self, register: int, root: int) -> bool:
        """Whether a CPU's page-table register has the address of a top page table."""

    @abstractmethod
    def cpu_by_tables(
        self, cpu: CpuRegisters, offsets: Mapping[int, int], possible: Callable[[int], bool]
    ) -> int | None:
        """The number of the CPU that a note is of, by tables that each CPU has of its own; None: not known.

        :param offsets: CPUs by the place of their per-CPU memory.
        :param possible: whether there may be a CPU of a number.
        """

    # Kernel stacks

    @property
    @abstractmethod
    def unwinder(self) -> Unwinder | None:
        """What unwinds this kernel's stacks; None: nothing does, and :attr:`no_unwinder` says so."""

    no_unwinder: ClassVar[str] = ""

    def is_kernel_address(self, address: int) -> bool:
        """Whether an instruction there is the kernel's."""
        return address >= self.user_end
