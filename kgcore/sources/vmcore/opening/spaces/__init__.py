# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open kernels of each architecture and find their memory: a module for each architecture, and an entry here."""

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
    """Return the opener for an architecture.

    :param architecture: its name, or the name of an unsupported machine.
    :raises TargetError: the architecture is not supported.
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
    """Return the opener for the machine that a dump's header states.

    :param machine: its name, as ``uname -m`` prints it; "": the header does not say: the most likely one is used.
    :raises TargetError: the machine is not supported.
    """
    names = (name for name, each in ARCHITECTURES.items() if machine in each.machines or not machine)
    return named(next(names, machine))


def opening_of(prog: Program) -> KernelOpening:
    """Return the opener for a Program's architecture.

    :raises TargetError: the architecture is not supported.
    """
    for each in OPENINGS.values():
        if prog.platform is not None and prog.platform.arch is each.drgn_architecture:
            return each
    name = prog.platform.arch.name.lower() if prog.platform is not None else "unknown"
    raise TargetError(f"the kernel is of architecture {name}", hint=_what_is_read())


def architecture_of(info: Mapping[str, str]) -> str | None:
    """Return the name of a VMCOREINFO's architecture; None if it does not say."""
    table = vmcoreinfo.symbol(info, "swapper_pg_dir")
    if table is None:
        return None
    ranges = {name: each.top_table for name, each in ARCHITECTURES.items() if table in each.top_table}
    return min(ranges, key=lambda name: ranges[name].stop - ranges[name].start, default=None)


def read_by_drgn() -> str:
    """Return the names of the architectures whose kernels drgn reads by itself, for messages."""
    return " and ".join(name for name, each in OPENINGS.items() if each.drgn_reads)


def has_own_space(prog: Program) -> bool:
    """Tell whether kgcore, not drgn, reads the kernel's memory in a Program."""
    return SPACE_KEY in prog.cache


def space_of(prog: Program) -> KernelSpace:
    """Return the kernel's memory in a Program that kgcore, drgn or a user opened.

    :raises TargetError: the architecture is not supported, or drgn cannot read the memory.
    """
    found: KernelSpace | None = prog.cache.get(SPACE_KEY)
    return found or opening_of(prog).space(prog)
