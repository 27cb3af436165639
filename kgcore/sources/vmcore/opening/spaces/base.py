# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface that an architecture implements so that kgcore can open its dumps; it needs no types and symbols."""

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
"""Key in a Program's cache of the :class:`KernelSpace` that reads its memory."""

_NAMES = 400  # bytes of struct uts_namespace: all six names, wherever they start


class KernelVerdict(Enum):
    """The result of checking a VMCOREINFO."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNKNOWN = "unknown"  # the memory that it points to is not in the dump, or it does not say where the kernel is


class Checked(NamedTuple):
    """A verdict on a VMCOREINFO.

    :ivar why: the reason: the rest of a sentence whose subject is the VMCOREINFO.
    :ivar lost: why the memory that it points to is not in the dump.
    """

    verdict: KernelVerdict
    why: str = ""
    lost: FrameState | None = None

    @property
    def untold(self) -> bool:
        """Whether the VMCOREINFO names nothing that could be checked."""
        return self.verdict is KernelVerdict.UNKNOWN and self.lost is None


class KernelSpace(ABC):
    """The kernel's memory in a Program.

    :cvar architecture: the kernel's.
    """

    architecture: ClassVar[Architecture]

    @abstractmethod
    def physical(self, address: int, size: int) -> bytes:
        """Read physical memory.

        :raises FaultError: it is not in the dump.
        """

    @abstractmethod
    def symbols_known(self) -> None:
        """Use what symbols say about the kernel's memory. Call it when symbols can be looked up."""

    def moved(self, info: Mapping[str, str]) -> int:
        """Return by how many bytes KASLR moved the kernel, if VMCOREINFO lacks the offset; else 0."""
        return 0


class KernelOpening(ABC):
    """Opens kernels of an architecture.

    :cvar architecture: the kernels' architecture.
    :cvar drgn_architecture: drgn's name for it.
    :cvar platform: the platform of a Program that reads their memory.
    :cvar drgn_reads: drgn reads these kernels by itself, running ones too.
    """

    architecture: ClassVar[Architecture]
    drgn_architecture: ClassVar[DrgnArchitecture]
    platform: ClassVar[Platform]
    drgn_reads: ClassVar[bool]

    @abstractmethod
    def open(self, name: str, dump: DumpFile, text: bytes) -> Program:
        """Make a Program of a dump.

        :param name: the file's name, for messages.
        :param text: the VMCOREINFO to use.
        :raises TargetError: the dump cannot be opened.
        """

    @abstractmethod
    def space(self, prog: Program) -> KernelSpace:
        """Return the kernel's memory in a Program that drgn or a user has opened.

        :raises TargetError: drgn cannot read it.
        """

    def translates(self, prog: Program, frames: Frames) -> bool:
        """Tell whether drgn can translate kernel addresses in a dump that it has opened.

        :param frames: the page frames that the dump holds.
        """
        return self.drgn_reads

    @abstractmethod
    def check(self, memory: DumpMemory, info: Mapping[str, str], names: int) -> Checked:
        """Follow a VMCOREINFO to the names of the kernel, and compare the release there with the stated one.

        :param names: address of ``init_uts_ns``.
        """

    def image(self, info: Mapping[str, str], address: int) -> int | None:
        """Return the physical address of a part of the kernel's image; None if VMCOREINFO does not give it.

        :param address: the part's virtual address.
        """
        return None

    def lies_lower(self, memory: DumpMemory, info: Mapping[str, str], names: int, by: int) -> bool:
        """Tell whether a kernel's page tables lie too low in a dump's memory, by as much as its names do.

        The names alone prove nothing: memory may hold copies of them.

        :param by: bytes.
        """
        return False

    def runs(self, memory: DumpMemory, info: Mapping[str, str], names: int, notes: Sequence[DumpNote]) -> bool | None:
        """Tell whether a CPU was using the kernel's page tables; None: unknown.

        :param notes: the dump's.
        """
        return None


def look_at_names(memory: DumpMemory, address: int, info: Mapping[str, str]) -> Checked:
    """Check whether a physical address has the names of a kernel of the release that a VMCOREINFO states."""
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
