# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page tables of x86: geometry, bits of entries, swap entries."""

from kgcore.arch.paging import EntryBits, Level, PagingMode, SwapLayout

__all__ = ("I386_2LEVEL", "I386_PAE", "X86_64_4LEVEL", "X86_64_5LEVEL")

_PRESENT = 1 << 0
# A huge page that is being split or hinted has neither P nor PROTNONE, but PSE all the same (pmd_present(),
# arch/x86/include/asm/pgtable.h).
_PSE = 1 << 7
# _PAGE_BIT_PROTNONE is _PAGE_BIT_GLOBAL, which has no meaning in an entry that is not present
# (arch/x86/include/asm/pgtable_types.h, all releases).
_PROTNONE = 1 << 8
# Since 6b28baca9b1f "x86/speculation/l1tf: Protect PROT_NONE PTEs against speculation" (4.18, and stable kernels) an
# entry without P holds its page frame number inverted. No machine has RAM at the very top of the 52-bit space, so the
# topmost bits tell whether this kernel does so.
_TOPMOST = 0x1F << 47
_BITS = EntryBits(present=_PRESENT, no_access=_PROTNONE, large=_PSE, inverted=_TOPMOST)
_BITS_32 = EntryBits(present=_PRESENT, no_access=_PROTNONE, large=_PSE)
_X86_64_PFN = ((1 << 52) - 1) & ~0xFFF
_X86_64_LOWER = (Level(39), Level(30, can_be_leaf=True), Level(21, can_be_leaf=True), Level(12))

# arch/x86/include/asm/pgtable_64.h, pgtable-3level.h (52 physical bits since L1TF, page_32_types.h), pgtable-2level.h;
# SWP_PFN_BITS: MAX_PHYSMEM_BITS of sparsemem.h
_X86_64_SWAP = SwapLayout(59, 9, 50, 34, inverted=True)
_5LEVEL_SWAP = SwapLayout(59, 9, 50, 40, inverted=True)
_PAE_SWAP = SwapLayout(59, 9, 50, 24, inverted=True)
_2LEVEL_SWAP = SwapLayout(1, 9, 23, 20, inverted=False)

X86_64_4LEVEL = PagingMode(_X86_64_LOWER, "Q", 512, _X86_64_PFN, _X86_64_SWAP, _BITS)
X86_64_5LEVEL = PagingMode((Level(48), *_X86_64_LOWER), "Q", 512, _X86_64_PFN, _5LEVEL_SWAP, _BITS)
# The top table has four entries, of which nothing but P and the address counts. The tables below are x86_64's.
I386_PAE = PagingMode((Level(30), Level(21, can_be_leaf=True), Level(12)), "Q", 512, _X86_64_PFN, _PAE_SWAP, _BITS)
# Bits 13 to 20 of a 4 MiB page are address bits 32 to 39, which Linux does not use in this mode.
I386_2LEVEL = PagingMode((Level(22, can_be_leaf=True), Level(12)), "I", 1024, 0xFFFFF000, _2LEVEL_SWAP, _BITS_32)
