# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe tasks in 64-bit mode, of 64-bit and x32 programs: ``user_x86_64_view`` in arch/x86/kernel/ptrace.c."""

import struct
from dataclasses import replace

from kgcore.arch.base import Arch, RegSet
from kgcore.arch.x86.common import IOPERM, NT_PRFPREG, XSAVE_LAYOUT, XSTATE, fxsave, remarks, user_regs
from kgcore.arch.x86.memorymap import VSYSCALL
from kgcore.arch.x86.xsave import user_ssp
from kgcore.elf.layout import EM_X86_64
from kgcore.model.process import ProcessImage, Thread

__all__ = ("GREGS", "X32", "X86_64")

NT_X86_SHSTK = 0x204

# struct user_regs_struct, by the names of struct pt_regs
GREGS = tuple(
    "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base ds es fs gs".split()
)


def _gregs(thread: Thread) -> tuple[int, ...]:
    return user_regs(thread, GREGS, 8)


def _shstk(image: ProcessImage, thread: Thread) -> bytes | None:
    if not thread.shstk or thread.fpu is None or image.xsave is None:
        return None
    ssp = user_ssp(thread.fpu, image.xsave)
    return None if ssp is None else struct.pack("<Q", ssp)


def _thread_pointer(thread: Thread) -> int:
    return thread.regs.values.get("fs_base", 0)


# enum x86_regset_64: IOPERM stands before XSTATE, whatever the order of the table's initialisers
X86_64 = Arch(
    name="x86_64",
    elf_class=64,
    machine=EM_X86_64,
    greg_size=8,
    greg_names=GREGS,
    gregs=_gregs,
    uid_size=4,
    regsets=(
        RegSet(b"CORE", NT_PRFPREG, fxsave),
        IOPERM,
        XSTATE,
        RegSet(b"LINUX", NT_X86_SHSTK, _shstk),  # since 6.6
    ),
    ip="ip",
    sp="sp",
    extra=(XSAVE_LAYOUT,),
    remarks=remarks,
    red_zone=128,  # System V ABI of x86_64
    gate=VSYSCALL,
    unwound=True,
    thread_pointer=_thread_pointer,
)

# struct compat_elf_prstatus, whose registers are the 64-bit ones (arch/x86/include/asm/elfcore-compat.h), and struct
# compat_elf_prpsinfo, whose ids have 16 bits
X32 = replace(X86_64, name="x32", elf_class=32, uid_size=2, gate=0, unwound=False)
