# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check a VMCOREINFO against the dump: it must lead to a kernel of the release that it states."""

from collections.abc import Mapping

from kgcore.sources.vmcore.dumpfile import DumpNote
from kgcore.sources.vmcore.opening.dumpmemory import DumpMemory
from kgcore.sources.vmcore.opening.spaces import OPENINGS, architecture_of
from kgcore.sources.vmcore.opening.spaces.base import Checked, KernelVerdict
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("check", "image_of", "runs", "shift")

_FIELD = 65  # __NEW_UTS_LEN + 1
_SYSNAME = b"Linux\0"


def check(memory: DumpMemory, info: Mapping[str, str]) -> Checked:
    """Follow a VMCOREINFO to the names of the kernel (``init_uts_ns``) and read its release there."""
    names = vmcoreinfo.symbol(info, "init_uts_ns")
    if names is None or not info.get("OSRELEASE"):
        return Checked(KernelVerdict.UNKNOWN, "does not say where the kernel's name is")
    architecture = architecture_of(info)
    if architecture is None:
        return Checked(KernelVerdict.UNKNOWN, "does not say where in memory the kernel is")
    return OPENINGS[architecture].check(memory, info, names)


def image_of(info: Mapping[str, str]) -> int | None:
    """Return the physical address of the kernel's names by its VMCOREINFO; None if the VMCOREINFO does not give it."""
    names, architecture = vmcoreinfo.symbol(info, "init_uts_ns"), architecture_of(info)
    return OPENINGS[architecture].image(info, names) if names and architecture else None


def runs(memory: DumpMemory, info: Mapping[str, str], notes: tuple[DumpNote, ...]) -> bool | None:
    """Tell whether a CPU was using the page tables of a VMCOREINFO's kernel; None: unknown.

    :param notes: the dump's.
    """
    names, architecture = vmcoreinfo.symbol(info, "init_uts_ns"), architecture_of(info)
    return None if names is None or architecture is None else OPENINGS[architecture].runs(memory, info, names, notes)


def shift(memory: DumpMemory, info: Mapping[str, str]) -> int:
    """Return how many bytes below its address a kernel lies in the dump; 0: it is not below.

    A dump that lacks the holes between ranges of RAM has all memory behind a hole too low. The search finds the
    kernel's names by their format (struct new_utsname: fields of 65 bytes).
    """
    names, architecture, expected = vmcoreinfo.symbol(info, "init_uts_ns"), architecture_of(info), image_of(info)
    release = info.get("OSRELEASE", "").encode()
    if architecture is None or names is None or expected is None or not release:
        return 0
    opening = OPENINGS[architecture]
    wanted = b"\0" + release + b"\0"
    for address, data in memory.pieces():
        at = data.find(wanted)
        while at >= 0:
            name = at + 1 - 2 * _FIELD
            low = expected + (vmcoreinfo.number(info, "OFFSET(uts_namespace.name)") or 0) - (address + name)
            named = data[max(name, 0) :].startswith(_SYSNAME)
            if named and low > 0 and opening.lies_lower(memory, info, names, low):
                return low
            at = data.find(wanted, at + 1)
    return 0
