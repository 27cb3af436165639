# SPDX-License-Identifier: LGPL-2.1-or-later
"""What it takes to open a dump of an architecture's kernels, before there are types and symbols: the checklist."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar, NamedTuple

from drgn import Architecture as DrgnArchitecture
from drgn import Platform, Program

from kgcore.arch import Architecture
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, Frames, FrameState
from kgcore.sources.vmcore.opening.dumpmemory import DumpMemory

__all__ = ("SPACE_KEY", "Checked", "KernelOpening", "KernelSpace", "KernelVerdict", "look_at_names")

SPACE_KEY = "kgcore_space"
"""Under this key of its cache a Program has the :class:`KernelSpace` that is its memory."""

_NAMES = 400  # bytes of struct uts_namespace: all six names, wherever they start


class KernelVerdict(Enum):
    """What came of a check."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNKNOWN = "unknown"  # what it leads to is not in the dump


class Checked(NamedTuple):
    """A verdict, and why: the rest of a sentence that begins with the VMCOREINFO.

    :ivar lost: where it leads to is not in the dump, for this reason.
    """

    verdict: KernelVerdict
    why: str = ""
    lost: FrameState | None = None

    @property
    def untold(self) -> bool:
        """There is nothing that could be checked."""
        return self.verdict is KernelVerdict.UNKNOWN and self.lost is None


class KernelSpace(ABC):
    """The kernel's memory in a Program.

    :cvar architecture: of the kernel.
    """

    architecture: ClassVar[Architecture]

    @abstractmethod
    def physical(self, address: int, size: int) -> bytes:
        """Read physical memory.

        :raises FaultError: it is not in the dump.
        """

    @abstractmethod
    def symbols_known(self) -> None:
        """Use what only symbols tell; once they can be looked up."""

    def moved(self, info: Mapping[str, str]) -> int:
        """By how many bytes KASLR has moved the kernel, if its VMCOREINFO does not say so, as it should."""
        return 0


class KernelOpening(ABC):
    """How kernels of an architecture are opened.

    :cvar architecture: theirs.
    :cvar drgn_architecture: drgn's word for it.
    :cvar platform: of a Program that reads their memory.
    :cvar drgn_reads: drgn reads them by itself, running ones too.
    """

    architecture: ClassVar[Architecture]
    drgn_architecture: ClassVar[DrgnArchitecture]
    platform: ClassVar[Platform]
    drgn_reads: ClassVar[bool]

    @abstractmethod
    def open(self, name: str, dump: DumpFile, text: bytes) -> Program:
        """Make a Program of a dump.

        :param name: of the file, for messages.
        :param text: the VMCOREINFO to go by.
        :raises TargetError: it cannot be done.
        """

    @abstractmethod
    def space(self, prog: Program) -> KernelSpace:
        """Give the kernel's memory in a Program that drgn or somebody else has opened.

        :raises TargetError: drgn does not read it.
        """

    def translates(self, prog: Program, frames: Frames) -> bool:
        """Whether drgn, which has opened a dump, can translate the addresses of the kernel in it.

        :param frames: that the dump holds.
        """
        return self.drgn_reads

    @abstractmethod
    def check(self, memory: DumpMemory, info: Mapping[str, str], names: int) -> Checked:
        """Follow a VMCOREINFO to the names of the kernel, and read its release there.

        :param names: address of ``init_uts_ns``.
        """

    def image(self, info: Mapping[str, str], address: int) -> int | None:
        """Where a VMCOREINFO has a part of the kernel's image in memory; None if it does not say.

        :param address: of that part, in the kernel's address space.
        """
        return None

    def lies_lower(self, memory: DumpMemory, info: Mapping[str, str], names: int, by: int) -> bool:
        """Whether a kernel's page tables lie lower in a dump's memory than they should, as its names do; others have
        copies of those.

        :param by: bytes.
        """
        return False

    def runs(self, memory: DumpMemory, info: Mapping[str, str], names: int, notes: Sequence[DumpNote]) -> bool | None:
        """Whether a CPU was using the kernel's page tables; None: not known.

        :param notes: of the dump.
        """
        return None


def look_at_names(memory: DumpMemory, address: int, info: Mapping[str, str]) -> Checked:
    """Whether the names of a kernel, of the release that a VMCOREINFO states, are at a physical address."""
    release = info["OSRELEASE"].encode()
    data = memory.read(address, _NAMES)
    if data is None:
        state = memory.state(address)
        if state is FrameState.NO_RAM:
            return Checked(KernelVerdict.REFUTED, "points to an address without memory")
        if state is FrameState.STORED:
            state = FrameState.LOST
        return Checked(KernelVerdict.UNKNOWN, f"points to memory that is not in the dump ({state.value})", state)
    if b"\0" + release + b"\0" in data:
        return Checked(KernelVerdict.CONFIRMED)
    other = re.search(rb"Linux\0{60}.{65}([!-~]{3,64})\0", data, re.DOTALL)
    if other:
        return Checked(KernelVerdict.REFUTED, f"points to a kernel of a different release, {other[1].decode()}")
    return Checked(KernelVerdict.REFUTED, "points to an address without a kernel's name")
