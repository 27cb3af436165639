# SPDX-License-Identifier: LGPL-2.1-or-later
"""One file per architecture, one line per architecture here."""

from kgcore.arch.base import Arch
from kgcore.arch.ia32 import I386, IA32, IA32_IN_64
from kgcore.arch.x86_64 import X32, X86_64
from kgcore.elf.layout import ElfClass

__all__ = ("ARCHES", "Arch", "x86_64_task")

ARCHES: dict[str, Arch] = {arch.name: arch for arch in (X86_64, X32, IA32, IA32_IN_64, I386)}


def x86_64_task(elf_class: ElfClass, long_mode: bool) -> str:
    """Which of them a task of an x86_64 kernel is: the kernel decides twice, on different grounds.

    :param elf_class: of the program, whose binary format writes the core.
    :param long_mode: the dumping thread is in a 64-bit code segment, which decides about the view.
    """
    if elf_class == 64:
        return (X86_64 if long_mode else IA32_IN_64).name
    return (X32 if long_mode else IA32).name
