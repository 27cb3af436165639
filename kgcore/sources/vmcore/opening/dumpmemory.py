# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a dump's physical memory without a drgn Program, to search it for kernels."""

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
_MAX_RUNS = 1 << 22  # of memory; a dump that leaves out so many pieces does not leave out VMCOREINFO
_MAX_FAILED = 1 << 16  # pages that cannot be read
_END = 1 << 52


class DumpMemory:
    """The physical memory that a dump file holds, read without drgn."""

    def __init__(self, dump: DumpFile) -> None:
        self._dump = dump
        self._page_shift, self._page_size = dump.page_shift, 1 << dump.page_shift
        self._read = memory_of(dump).read
        self._memory = dump.memory if isinstance(dump, ElfDump | LinearDump) else None

    def read(self, address: int, size: int) -> bytes | None:
        """Read memory of one or more pages; None if a page is not in the dump, or cannot be read."""
        if self.state(address) is not FrameState.STORED or self.state(address + size - 1) is not FrameState.STORED:
            return None
        try:
            return self._read(address, size)
        except FaultError:
            return None

    def peek(self, address: int, size: int) -> bytes:
        """Read memory as :meth:`read` does; b"" if it cannot be read."""
        return self.read(address, size) or b""

    def state(self, address: int) -> FrameState:
        """Return the state of the page frame at a physical address: whether the file holds it, or why not."""
        if not 0 <= address < _END:
            return FrameState.NO_RAM
        frame = address >> self._page_shift
        return next(iter(self._dump.frames.runs(frame, frame + 1))).state

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield all memory in the file in page-aligned pieces, without the file's holes: physical address and bytes.

        Damaged headers may map the same bytes a thousand times: the total is limited by the bytes that the file has.
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
                if size > self._page_size:  # a page of it cannot be read: skip only that page
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
        """Yield the ranges of memory that are not holes of the file: start and end, page-aligned, ascending."""
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
