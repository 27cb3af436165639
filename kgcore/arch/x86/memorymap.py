# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where x86 kernels have what in their address space: Documentation/arch/x86/x86_64/mm.rst, arch/x86/Kconfig."""

from typing import NamedTuple

__all__ = (
    "ENTRY_AREA",
    "FIVE_LEVEL",
    "FOUR_LEVEL",
    "IMAGE_SIZES",
    "KERNEL_HALF",
    "MAX_PHYSICAL",
    "PAGE_OFFSETS",
    "START_KERNEL_MAP",
    "VSYSCALL",
    "MemoryMap",
)

MAX_PHYSICAL = 1 << 52  # no physical address is larger


class MemoryMap(NamedTuple):
    """Of x86_64 with some number of page-table levels.

    :ivar user_end: TASK_SIZE_MAX: no mapping of a process goes beyond (arch/x86/include/asm/page_64_types.h).
    :ivar direct_maps: where the direct map is in kernels without ``page_offset_base``, newest first: it moved by
        d52888aa2753 "x86/mm: Move LDT remap out of KASLR region on 5-level paging" (4.20; also in 4.19 and 4.14).
    :ivar vmemmap: where the array of ``struct page`` is in kernels without ``vmemmap_base``.
    """

    user_end: int
    direct_maps: tuple[int, ...]
    vmemmap: int


FOUR_LEVEL = MemoryMap((1 << 47) - 4096, (0xFFFF888000000000, 0xFFFF880000000000), 0xFFFFEA0000000000)
FIVE_LEVEL = MemoryMap((1 << 56) - 4096, (0xFF11000000000000, 0xFF10000000000000), 0xFFD4000000000000)
KERNEL_HALF = 1 << 63  # no address of the kernel's lies below, with four or five levels
START_KERNEL_MAP = 0xFFFFFFFF80000000
# KERNEL_IMAGE_SIZE with CONFIG_RANDOMIZE_BASE, and without it (arch/x86/include/asm/page_64_types.h); behind it lie the
# modules, which are not contiguous.
IMAGE_SIZES = (1 << 30, 1 << 29)
ENTRY_AREA = range(0xFFFFFE0000000000, 0xFFFFFE8000000000)  # struct cpu_entry_area of all CPUs
# Where it is does not change: it is part of the ABI (arch/x86/include/uapi/asm/vsyscall.h).
VSYSCALL = 0xFFFFFFFFFF600000

# CONFIG_PAGE_OFFSET of 32-bit kernels: VMSPLIT_3G, 3G_OPT, 2G, 2G_OPT, 1G. From there on the kernel's memory lies in
# one piece.
PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
