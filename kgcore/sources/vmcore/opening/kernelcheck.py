# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a VMCOREINFO is that of a kernel in the dump: it must lead to a kernel of the release that it states."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from itertools import islice
from typing import NamedTuple

from drgn import FaultError

from kgcore.arch.paging import EntryKind
from kgcore.sources.vmcore.dumpfile import DumpFile, ElfDump, FrameState, LinearDump
from kgcore.sources.vmcore.dumpfile.frames import stored
from kgcore.sources.vmcore.opening.drgnmemory import memory_of
from kgcore.sources.vmcore.opening.lowmem import PAGE_OFFSETS
from kgcore.sources.vmcore.opening.translation import Translation
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("Checked", "DumpMemory", "KernelVerdict", "architecture_of", "check", "shift")

_PIECE = 4 << 20
_SLACK = 1 << 28
_MAX_RUNS = 1 << 22  # of memory; where so many pieces were left out, VMCOREINFO was not
_MAX_FAILED = 1 << 16  # pages that cannot be read
_END = 1 << 52
_NAMES = 400  # bytes of struct uts_namespace: all six names, wherever they start
_FIELD = 65  # __NEW_UTS_LEN + 1
_SYSNAME = b"Linux\0"


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


class DumpMemory:
    """Physical memory of a dump file, as far as the file holds it; drgn is not asked."""

    def __init__(self, dump: DumpFile) -> None:
        self._dump = dump
        self._page_shift, self._page_size = dump.page_shift, 1 << dump.page_shift
        self._read = memory_of(dump).read
        self._memory = dump.memory if isinstance(dump, ElfDump | LinearDump) else None

    def read(self, address: int, size: int) -> bytes | None:
        """Memory of one page or several; None if one of them is not in the dump, or cannot be read."""
        if self.state(address) is not FrameState.STORED or self.state(address + size - 1) is not FrameState.STORED:
            return None
        try:
            return self._read(address, size)
        except FaultError:
            return None

    def peek(self, address: int, size: int) -> bytes:
        """The same; nothing if it is not there."""
        return self.read(address, size) or b""

    def state(self, address: int) -> FrameState:
        """What the file has of the page frame with an address."""
        if not 0 <= address < _END:
            return FrameState.NO_RAM
        frame = address >> self._page_shift
        return next(iter(self._dump.frames.runs(frame, frame + 1))).state

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """All memory in the file: physical address and bytes of pieces, each page-aligned; no holes of the file.

        Where headers say that the same bytes are memory a thousand times, not more of it than the file has bytes.
        """
        left = self._memory.stored + _SLACK if self._memory else None
        failed = 0
        for start, end in self._filled():
            for address in range(start, end, _PIECE):
                size = min(_PIECE, end - address)
                if left is not None and (left := left - size) < 0:
                    return
                try:
                    yield address, self._read(address, size)
                    continue
                except FaultError:
                    failed += size // self._page_size
                if size > self._page_size:  # a page of it cannot be read, which costs that page
                    for found in self._page_by_page(address, size):
                        failed -= 1
                        yield found
                if failed > _MAX_FAILED:
                    return

    def _page_by_page(self, address: int, size: int) -> Iterator[tuple[int, bytes]]:
        for page in range(address, address + size, self._page_size):
            with suppress(FaultError):
                yield page, self._read(page, self._page_size)

    def _filled(self) -> Iterator[tuple[int, int]]:
        """Where there is memory that is not in holes: start and end, page-aligned, ascending."""
        shift, page = self._page_shift, self._page_size
        for run in islice(stored(self._dump.frames), _MAX_RUNS):
            start, end = run.start << shift, run.end << shift
            if self._memory is None:
                yield start, end
                continue
            for at, size in self._memory.extents(start, end - start):
                low = max(start, at & -page)
                start = min(at + size + page - 1 & -page, end)  # two holes may end within one page
                if low < start:
                    yield low, start


def architecture_of(info: Mapping[str, str]) -> str | None:
    """Which of the two a VMCOREINFO is of; None if it does not tell."""
    table = vmcoreinfo.symbol(info, "swapper_pg_dir")
    return None if table is None else "x86_64" if table >> 32 else "i386"


def check(memory: DumpMemory, info: Mapping[str, str]) -> Checked:
    """Follow a VMCOREINFO to the names of the kernel (``init_uts_ns``) and read its release there."""
    names = vmcoreinfo.symbol(info, "init_uts_ns")
    if names is None or not info.get("OSRELEASE"):
        return Checked(KernelVerdict.UNKNOWN, "does not say where the kernel's name is")
    if architecture_of(info) == "i386":
        return _check_32(memory, info, names)
    found = Translation.of(info)
    image = found.image(names) if found else None
    if found is None or image is None:  # kernels before 4.10 do not say where they are
        return Checked(KernelVerdict.UNKNOWN, "does not say where in memory the kernel is")
    found = found.with_encryption(memory.read, names)
    leaf = found.look(names, memory.read)
    if leaf.kind is EntryKind.BROKEN:  # the tables may not be in the dump
        return _look(memory, image, info)
    if leaf.kind is not EntryKind.PRESENT or leaf.value != image & -found.mode.page_size:
        return Checked(KernelVerdict.REFUTED, "has no page tables of a kernel where it says they are")
    looked = _look(memory, image, info)
    return Checked(KernelVerdict.CONFIRMED) if looked.verdict is KernelVerdict.UNKNOWN else looked


def _check_32(memory: DumpMemory, info: Mapping[str, str], names: int) -> Checked:
    looked = [_look(memory, names - offset, info) for offset in PAGE_OFFSETS if names >= offset]
    for verdict in (KernelVerdict.CONFIRMED, KernelVerdict.UNKNOWN):
        for each in looked:
            if each.verdict is verdict:
                return each
    return looked[0] if looked else Checked(KernelVerdict.REFUTED, "states addresses that no kernel has")


def _look(memory: DumpMemory, address: int, info: Mapping[str, str]) -> Checked:
    release = info["OSRELEASE"].encode()
    data = memory.read(address, _NAMES)
    if data is None:
        state = memory.state(address)
        if state is FrameState.NO_RAM:
            return Checked(KernelVerdict.REFUTED, "leads to where no memory is")
        if state is FrameState.STORED:
            state = FrameState.LOST
        return Checked(KernelVerdict.UNKNOWN, f"leads to memory that is not in the dump ({state.value})", state)
    if b"\0" + release + b"\0" in data:
        return Checked(KernelVerdict.CONFIRMED)
    other = re.search(rb"Linux\0{60}.{65}([!-~]{3,64})\0", data, re.DOTALL)
    if other:
        return Checked(KernelVerdict.REFUTED, f"leads to a kernel of another release, {other[1].decode()}")
    return Checked(KernelVerdict.REFUTED, "leads to where no kernel has its name")


def _fits(found: Translation, names: int, low: int, memory: DumpMemory) -> bool:
    """Whether the kernel's page tables, which are in its image, lie lower by as much as its names; others have copies
    of those."""
    found = found.with_encryption(lambda address, size: memory.read(address - low, size), names)
    leaf = found.look(names, lambda address, size: memory.read(address - low, size))
    return leaf.kind is EntryKind.PRESENT and leaf.value == (found.image(names) or 0) & -found.mode.page_size


def shift(memory: DumpMemory, info: Mapping[str, str]) -> int:
    """By how much a kernel's memory lies lower in the dump than it should: of all RAM ranges as one, without the holes
    between them. 0: it does not.

    The kernel's names are looked for by what they look like (struct new_utsname: fields of 65 bytes).
    """
    found, names = Translation.of(info), vmcoreinfo.symbol(info, "init_uts_ns")
    expected = found.image(names) if found and names else None
    release = info.get("OSRELEASE", "").encode()
    if found is None or names is None or expected is None or not release:
        return 0
    wanted = b"\0" + release + b"\0"
    for address, data in memory.pieces():
        at = data.find(wanted)
        while at >= 0:
            name = at + 1 - 2 * _FIELD
            low = expected + (vmcoreinfo.number(info, "OFFSET(uts_namespace.name)") or 0) - (address + name)
            if data[max(name, 0) :].startswith(_SYSNAME) and low > 0 and _fits(found, names, low, memory):
                return low
            at = data.find(wanted, at + 1)
    return 0
