# SPDX-License-Identifier: LGPL-2.1-or-later
"""How kernels of an architecture are opened, and find their memory: a module for each, a line for each here."""

from collections.abc import Mapping

from drgn import Program

from kgcore.arch import ARCHITECTURES
from kgcore.errors import TargetError
from kgcore.sources.vmcore.opening.spaces.base import SPACE_KEY, KernelOpening, KernelSpace
from kgcore.sources.vmcore.opening.spaces.i386 import I386Opening
from kgcore.sources.vmcore.opening.spaces.x86_64 import X86Opening
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = (
    "OPENINGS",
    "KernelOpening",
    "KernelSpace",
    "architecture_of",
    "has_own_space",
    "named",
    "opening_of",
    "opening_of_machine",
    "read_by_drgn",
    "space_of",
)

OPENINGS: dict[str, KernelOpening] = {each.architecture.name: each for each in (X86Opening(), I386Opening())}


def named(architecture: str) -> KernelOpening:
    """Give that of an architecture.

    :param architecture: its name; another one is the name of a machine that nothing here reads.
    :raises TargetError: it is.
    """
    found = OPENINGS.get(architecture)
    if found is None:
        first = next(iter(ARCHITECTURES))
        hint = f"{_what_is_read()}; if this one's header is wrong, say --architecture {first}"
        raise TargetError(f"architecture {architecture} is not supported", hint=hint)
    return found


def _what_is_read() -> str:
    return f"kgcore reads dumps of {' and '.join(ARCHITECTURES)}"


def opening_of_machine(machine: str) -> KernelOpening:
    """Give that of a machine, by its name in the header of a dump.

    :param machine: as ``uname -m`` has it; "": the header does not say, and it is the likeliest.
    :raises TargetError: it is a machine that nothing here reads.
    """
    names = (name for name, each in ARCHITECTURES.items() if machine in each.machines or not machine)
    return named(next(names, machine))


def opening_of(prog: Program) -> KernelOpening:
    """Give that of a Program.

    :raises TargetError: it is of an architecture that nothing here reads.
    """
    for each in OPENINGS.values():
        if prog.platform is not None and prog.platform.arch is each.drgn_architecture:
            return each
    name = prog.platform.arch.name.lower() if prog.platform is not None else "unknown"
    raise TargetError(f"the kernel is of architecture {name}", hint=_what_is_read())


def architecture_of(info: Mapping[str, str]) -> str | None:
    """Give the name of the architecture that a VMCOREINFO is of; None if it does not tell."""
    table = vmcoreinfo.symbol(info, "swapper_pg_dir")
    if table is None:
        return None
    ranges = {name: each.top_table for name, each in ARCHITECTURES.items() if table in each.top_table}
    return min(ranges, key=lambda name: ranges[name].stop - ranges[name].start, default=None)


def read_by_drgn() -> str:
    """Name the architectures whose kernels drgn reads by itself."""
    return " and ".join(name for name, each in OPENINGS.items() if each.drgn_reads)


def has_own_space(prog: Program) -> bool:
    """Whether it is us who read the kernel's memory in a Program."""
    return SPACE_KEY in prog.cache


def space_of(prog: Program) -> KernelSpace:
    """Give the kernel's memory in a Program, whoever opened it.

    :raises TargetError: it is of an architecture that nothing here reads.
    """
    found: KernelSpace | None = prog.cache.get(SPACE_KEY)
    return found or opening_of(prog).space(prog)
