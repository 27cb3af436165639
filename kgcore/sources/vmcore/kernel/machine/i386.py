# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architecture-specific parts of 32-bit x86 kernels, with or without PAE."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from kgcore.arch.cpunotes import CpuRegisters
from kgcore.arch.paging import PagingMode
from kgcore.arch.x86.kernels import I386_KERNEL, i386_task
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.machine.sections import Section, Sections, of_kernel
from kgcore.sources.vmcore.kernel.machine.x86 import X86, descriptor_base
from kgcore.sources.vmcore.kernel.machine.x86layouts import COMMON, I386_ONLY
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.opening.spaces.i386 import LowMemory

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("I386",)

_END = 1 << 32
_MAX_FRAME = 1 << 24  # MAX_PHYSMEM_BITS is 36 with PAE, 32 without
_PER_CPU = 27  # GDT_ENTRY_PERCPU, arch/x86/include/asm/segment.h
_PRESENT_SEGMENT = 0x90  # present, and not a system segment


class I386(X86):
    """A 32-bit kernel."""

    architecture = I386_KERNEL
    layouts = COMMON + I386_ONLY
    usual_thread_size = 8192
    no_unwinder = "kgcore cannot unwind the stacks of 32-bit kernels"
    _tls_min = 6
    _regsets = "x86_32_regsets"
    _min_fpu = 112  # struct fregs_state
    _entry_stacks = range(0)

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        low = kernel.target.space
        if not isinstance(low, LowMemory):
            raise BrokenDump("the memory of a 32-bit kernel is not opened as such")
        self._low = low

    # Address spaces

    @cached_property
    def paging_mode(self) -> PagingMode:
        return self._low.mode

    @cached_property
    def user_end(self) -> int:
        """TASK_SIZE (arch/x86/include/asm/page_32_types.h)."""
        return self._low.page_offset

    def direct_map_to_phys(self, address: int) -> int:
        if not self._low.page_offset <= address < _END:
            raise BrokenDump(f"{address:#x} is not in the kernel's direct map", address=address)
        return address - self._low.page_offset

    def kernel_image_to_phys(self, address: int) -> int:
        return address - self._low.page_offset & _END - 1

    # Programs

    def task_arch(self, mm: Object, values: Mapping[str, int]) -> str:
        return i386_task()

    def system_call_width(self, task: Object, values: Mapping[str, int]) -> int:
        return self.architecture.word_size

    # Registers of threads

    @cached_property
    def pt_regs_padding(self) -> int:
        """TOP_OF_KERNEL_STACK_PADDING: larger if the kernel has vm86 mode, which pushes more registers.

        See arch/x86/include/asm/thread_info.h (4.2).
        """
        return 16 if self._target.has_member("struct thread_struct", "vm86") else 8

    @cached_property
    def lazy_gs(self) -> bool:
        """Whether the user's GS stays in the CPU while the kernel runs, and a task switch saves it (``thread.gs``).

        True without stack protector (CONFIG_X86_32_LAZY_GS), and always since 3fb0fdb3bbe7 "x86/stackprotector/32: Make
        the canary into a regular percpu variable" (5.13), which removed ``stack_canary``. Otherwise GS is in ``struct
        pt_regs``.
        """
        return self._target.symbol_address("stack_canary") is None

    def asleep(self, task: Members) -> Mapping[str, int]:
        """Return GS of a thread off the CPU, if it is not in ``struct pt_regs`` (arch/x86/kernel/process_32.c)."""
        return {"gs": task["thread.gs"] & 0xFFFF} if self.lazy_gs else {}

    def kept(self) -> tuple[str, ...]:
        return ("gs",) if self.lazy_gs else ()

    # CPUs

    def cpu_by_tables(
        self, cpu: CpuRegisters, offsets: Mapping[int, int], possible: Callable[[int], bool]
    ) -> int | None:
        """Return the number of a note's CPU; None: unknown.

        A segment in the CPU's GDT has the offset of the CPU's per-CPU memory as its base.
        """
        gdt = cpu.tables.get("gdt")
        if gdt is None or gdt < self.user_end:
            return None
        try:
            descriptor, access = self._gdt_entry(gdt, _PER_CPU)
        except FaultError:
            return self._by_entry_area(gdt, cpu.tables.get("idt", 0), possible)
        known = access & _PRESENT_SEGMENT == _PRESENT_SEGMENT
        return offsets.get(descriptor_base(descriptor)) if known else None

    def _by_entry_area(self, gdt: int, idt: int, possible: Callable[[int], bool]) -> int | None:
        """Return the number of a CPU by the address of its GDT; None: unknown.

        The GDT is at the start of the CPU's ``struct cpu_entry_area``. These lie in the order of CPUs, one page behind
        the IDT (CPU_ENTRY_AREA_PER_CPU, 4.15). 64-bit kernels shuffle them since 97e3d26b5e5f "x86/mm: Randomize
        per-cpu entry area" (6.2).
        """
        if not self._target.has_member("struct cpu_entry_area", "gdt"):
            return None
        size = self._prog.type("struct cpu_entry_area").size or 1
        number, rest = divmod(gdt - idt - (1 << self.architecture.page_shift), size)
        return number if rest == 0 and number >= 0 and possible(number) else None

    # Kernel stacks

    @property
    def unwinder(self) -> None:
        return None

    # struct page

    @cached_property
    def _sections(self) -> Sections:
        """All sections: a single one with FLATMEM; with SPARSEMEM each section has its own ``struct page`` array."""
        flat = self._kernel.read_word("mem_map")
        return Sections(self._kernel, [Section(0, _MAX_FRAME, flat)]) if flat else of_kernel(self._kernel, static=True)

    def is_page(self, page: int) -> bool:
        return self._sections.frame(page) is not None

    def page_to_phys(self, page: int) -> int:
        frame = self._sections.frame(page)
        if frame is None:
            raise FaultError("no struct page", page)
        return frame << self.architecture.page_shift

    def frame_to_page(self, frame: int) -> int:
        return self._sections.page(frame)
