# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel memory without page tables: quicker, and for dumps that lost theirs.

drgn translates every kernel address by the kernel's page tables. Those of the direct map lie at the end of RAM, so a
file that was cut off lacks them, and a bad sector may have taken any of them. Two ranges can do without: the kernel's
image, which is contiguous, and the direct map itself (Documentation/arch/x86/x86_64/mm.rst).
"""

from drgn import FaultError, Program

from kgcore.sources.vmcore import vmcoreinfo
from kgcore.sources.vmcore.assembled import reader_of
from kgcore.sources.vmcore.dumpfile.frames import PAGE_SHIFT

__all__ = ("map_direct", "map_image")

_START_KERNEL_MAP = 0xFFFFFFFF80000000
_IMAGE_SIZE = 1 << 30  # KERNEL_IMAGE_SIZE with KASLR
_MAX_FRAMES = 1 << 46 - PAGE_SHIFT  # 64 TiB, all that 4-level tables can map


def map_image(prog: Program) -> None:
    """Let the kernel's image be read at its addresses; before symbols are known, since the symbol table is in it."""
    try:
        text = prog["VMCOREINFO"].string_()
    except LookupError:  # it is no Linux kernel
        return
    base = vmcoreinfo.number(vmcoreinfo.parse(text), "NUMBER(phys_base)")
    if base is not None:
        _map(prog, _START_KERNEL_MAP, _IMAGE_SIZE, base)


def map_direct(prog: Program) -> None:
    """Let the direct map be read; once symbols are known."""
    try:
        start = prog.read_u64(prog.symbol("page_offset_base").address)
        frames = prog.read_u64(prog.symbol("max_pfn").address)
    except (LookupError, FaultError):
        return
    if start >> 56 == 0xFF and 0 < frames < _MAX_FRAMES:  # vmalloc's area comes right behind
        _map(prog, start, frames << PAGE_SHIFT, 0)


def _map(prog: Program, start: int, size: int, physical: int) -> None:
    answer = reader_of(prog)
    if answer is None:
        return
    found = answer

    def read(address: int, count: int, offset: int, _physical: bool) -> bytes:
        return found(physical + offset, count, 0, True)

    prog.add_memory_segment(start, size, read, False)
