# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is true of architectures without reading a kernel's structures: a package for each, two lines for each here."""

from kgcore.arch.architecture import Architecture
from kgcore.arch.base import Arch
from kgcore.arch.resuming import Resuming
from kgcore.arch.x86.ia32 import I386, IA32, IA32_IN_64
from kgcore.arch.x86.kernels import I386_KERNEL, X86_64_KERNEL
from kgcore.arch.x86.resuming import RESUMING_X86_64
from kgcore.arch.x86.x86_64 import X32, X86_64

__all__ = ("ARCHES", "ARCHITECTURES", "RESUMING", "SMALLEST_PAGE", "Arch", "Architecture", "arch_of_core")

# Of kernels; of those that an unknown dump may be of, the first is the likeliest.
ARCHITECTURES: dict[str, Architecture] = {each.name: each for each in (X86_64_KERNEL, I386_KERNEL)}
# Bytes; what is read up to such a border is in one page, whatever the page size is
SMALLEST_PAGE = 1 << min(shift for each in ARCHITECTURES.values() for shift in each.page_shifts)
# Of tasks: the views that the kernel dumps them by
ARCHES: dict[str, Arch] = {arch.name: arch for arch in (X86_64, X32, IA32, IA32_IN_64, I386)}
# Of those views, how processes go on from their cores
RESUMING: dict[str, Resuming] = {X86_64.name: RESUMING_X86_64}


def arch_of_core(elf_class: int, machine: int) -> Arch | None:
    """Return the view that a core was written by; None: none that is known. Of two with the same headers the notes are
    the same, too.

    :param machine: ``e_machine``.
    """
    views = (arch for arch in ARCHES.values() if (arch.elf_class, arch.machine) == (elf_class, machine))
    return next(views, None)
