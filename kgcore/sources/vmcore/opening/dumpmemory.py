# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical memory of a dump before there is a Program: where a kernel is looked for."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from drgn import FaultError

from kgcore.sources.vmcore.dumpfile import DumpFile, ElfDump, FrameState, LinearDump
from kgcore.sources.vmcore.dumpfile.frames import stored
from kgcore.sources.vmcore.opening.drgnmemory import memory_of

__all__ = ("DumpMemory",)

_PIECE = 4 << 20
_SLACK = 1 << 28
_MAX_RUNS = 1 << 22  # of memory; where so many pieces were left out, VMCOREINFO was not
_MAX_FAILED = 1 << 16  # pages that cannot be read
_END = 1 << 52


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
