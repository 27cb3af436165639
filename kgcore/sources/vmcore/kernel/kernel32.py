# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where 32-bit kernels differ from those of x86_64, and the choice between the two."""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.arch.paging import PagingMode
from kgcore.arch.x86.kernels import I386_KERNEL, i386_task
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.opening.lowmem import LowMemory
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("Kernel32", "kernel_of")

_END = 1 << 32
_MAX_FRAME = 1 << 24  # MAX_PHYSMEM_BITS is 36 with PAE, 32 without
_MAX_SECTIONS = 1 << 10
_SECTION_MAP_MASK = ~0x3F  # flags in a pointer to 64-byte objects: include/linux/mmzone.h has up to five of them


def kernel_of(target: Target) -> Kernel:
    """The answers of whichever kernel that is."""
    low = LowMemory.of(target.prog)
    return Kernel(target) if low is None else Kernel32(target, low)


class _Section(NamedTuple):
    """Adjacent page frames whose ``struct page`` are adjacent, too.

    :ivar pages: address of that of frame 0, which need not be part of it.
    """

    first: int
    end: int
    pages: int


class Kernel32(Kernel):
    """An i386 kernel, with or without PAE."""

    architecture = I386_KERNEL
    _regsets = "x86_32_regsets"
    _min_fpu = 112  # struct fregs_state

    def __init__(self, target: Target, low: LowMemory) -> None:
        super().__init__(target)
        self._low = low

    @cached_property
    def paging_mode(self) -> PagingMode:
        return self._low.mode

    @cached_property
    def page_offset(self) -> int:
        return self._low.page_offset

    @cached_property
    def user_end(self) -> int:
        """TASK_SIZE (arch/x86/include/asm/page_32_types.h)."""
        return self._low.page_offset

    def direct_map_to_phys(self, address: int) -> int:
        if not self.page_offset <= address < _END:
            raise BrokenDump(f"{address:#x} is not in the kernel's direct map", address=address)
        return address - self.page_offset

    def kernel_image_to_phys(self, address: int) -> int:
        return address - self.page_offset & _END - 1

    # Tasks

    @cached_property
    def pt_regs_padding(self) -> int:
        """TOP_OF_KERNEL_STACK_PADDING: room for what vm86 mode pushes besides, if the kernel has that
        (arch/x86/include/asm/thread_info.h, 4.2)."""
        return 16 if self.target.has_member("struct thread_struct", "vm86") else 8

    @cached_property
    def lazy_gs(self) -> bool:
        """The user's GS stays in the CPU while the kernel runs, and is saved at a switch (``thread.gs``).

        Without stack protector (CONFIG_X86_32_LAZY_GS), and always since 3fb0fdb3bbe7 "x86/stackprotector/32: Make the
        canary into a regular percpu variable" (5.13), which removed ``stack_canary``. Else it is in ``struct pt_regs``.
        """
        return self.target.symbol_address("stack_canary") is None

    def arch(self, mm: Object, cs: int) -> str:
        return i386_task()

    def gate_vma(self, mm: Object) -> Object | None:
        return None

    # struct page

    @cached_property
    def _sections(self) -> tuple[_Section, ...]:
        """All memory is one piece with FLATMEM; with SPARSEMEM each section has its own ``struct page`` array."""
        flat = self.read_word("mem_map")
        if flat:
            return (_Section(0, _MAX_FRAME, flat),)
        return tuple(self._sparse())

    def _sparse(self) -> Iterator[_Section]:
        """``mem_section[0][]``, with CONFIG_SPARSEMEM_STATIC as all 32-bit kernels have it."""
        info = self.target.vmcoreinfo
        bits = vmcoreinfo.number(info, "NUMBER(SECTION_SIZE_BITS)")
        length = vmcoreinfo.number(info, "LENGTH(mem_section)")
        table = self.target.symbol_address("mem_section")
        size = vmcoreinfo.number(info, "SIZE(mem_section)")
        offset = vmcoreinfo.number(info, "OFFSET(mem_section.section_mem_map)")
        if bits is None or length is None or table is None or size is None or offset is None:
            return
        shift = bits - self.page_shift
        for number in range(min(length, _MAX_SECTIONS)):
            try:
                coded = int(self.prog.read_word(table + number * size + offset))
            except FaultError:
                continue
            if coded & 1 << 1:  # SECTION_HAS_MEM_MAP
                yield _Section(number << shift, number + 1 << shift, coded & _SECTION_MAP_MASK & _END - 1)

    def _section(self, page: int) -> _Section | None:
        size = self.page_struct_size
        for section in self._sections:
            # The coded pointer may be below zero.
            if section.first * size <= (page - section.pages) % _END < section.end * size:
                return section
        return None

    def is_page(self, page: int) -> bool:
        return self._section(page) is not None

    def page_to_phys(self, page: int) -> int:
        section = self._section(page)
        if section is None:
            raise FaultError("no struct page", page)
        return (page - section.pages) % _END // self.page_struct_size << self.page_shift

    def frame_to_page(self, frame: int) -> int:
        for section in self._sections:
            if section.first <= frame < section.end:
                return (section.pages + frame * self.page_struct_size) % _END
        raise FaultError("no struct page", frame << self.page_shift)
