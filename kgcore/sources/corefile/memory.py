# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory that a core has: out of a file, or of a stream, which can be read once."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple

from kgcore.model.memory import Memory, Piece, Provenance, Run, joined
from kgcore.model.process import Vma
from kgcore.sources.corefile.head import Load
from kgcore.sources.corefile.inputs import Input

__all__ = ("CoreMemory",)

_PIECE = 1 << 20
_CUT_OFF = "the core is cut off"
_LEFT_OUT = "the core has none of it"


class _Extent(NamedTuple):
    """Adjacent addresses that lie one behind the other in the core."""

    start: int
    end: int
    offset: int


class CoreMemory(Memory):
    """The memory of a core.

    :param loads: its PT_LOADs.
    :param missing: what the core says that it lacks, by address.
    """

    def __init__(self, core: Input, loads: Sequence[Load], missing: Sequence[Run], page_size: int) -> None:
        self._core = core
        self.page_size = page_size
        self.forward = core.forward
        self.parallel = not core.forward
        self._extents = [_Extent(load.start, load.start + load.filesz, load.offset) for load in sorted(loads)]
        self._extents = [extent for extent in self._extents if extent.start < extent.end]
        self._missing = missing

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`kgcore.model.memory.Memory.runs`."""
        return joined(run for run, _ in self._runs(start, end))

    def _runs(self, start: int, end: int) -> Iterator[tuple[Run, int]]:
        """The same, neighbours perhaps alike, and where their bytes are."""
        at = start
        for number in range(bisect_right(self._extents, start, key=itemgetter(1)), len(self._extents)):
            extent = self._extents[number]
            low, high = max(extent.start, at), min(extent.end, end)
            if low >= high:
                break
            yield from self._absent(at, low, _LEFT_OUT)
            at = low
            # Where zeros stand for what is missing, it is missing still.
            for run in self._lost(low, high):
                yield from self._held(extent, at, run.address)
                yield run, 0
                at = run.end
            yield from self._held(extent, at, high)
            at = high
        yield from self._absent(at, end, _LEFT_OUT)

    def _lost(self, start: int, end: int) -> Iterator[Run]:
        """What the core itself says is missing there."""
        for number in range(bisect_right(self._missing, start, key=attrgetter("end")), len(self._missing)):
            run = self._missing[number]
            low, high = max(run.address, start), min(run.end, end)
            if low >= high:
                break
            yield run._replace(address=low, length=high - low)

    def _absent(self, start: int, end: int, why: str) -> Iterator[tuple[Run, int]]:
        at = start
        for run in self._lost(start, end):
            if at < run.address:
                yield Run(at, run.address - at, Provenance.EXCLUDED, why), 0
            yield run, 0
            at = run.end
        if at < end:
            yield Run(at, end - at, Provenance.EXCLUDED, why), 0

    def _held(self, extent: _Extent, start: int, end: int) -> Iterator[tuple[Run, int]]:
        """What the file has of a part of an extent; holes in it are zeros."""
        size, page = self._core.size, self.page_size
        last = end
        if size is not None:
            last = min(max(size - extent.offset + extent.start, start), end) // page * page
        at, base = start, extent.offset - extent.start
        for _, high, data in self._core.data_from(start + base, last + base) if start < last else ():
            # Only whole pages of zeros count as such.
            border = high - base
            stop = -(-border // page) * page if data else border // page * page
            if at < stop:
                yield Run(at, stop - at, Provenance.PRESENT if data else Provenance.ZERO), at + base
                at = stop
        yield from self._absent(max(last, start), end, _CUT_OFF)

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`kgcore.model.memory.Memory.read`."""
        for run, offset in self._runs(start, end):
            if not run.provenance.stored:
                yield Piece(run, b"")
                continue
            for done in range(0, run.length, _PIECE):
                length = min(_PIECE, run.length - done)
                yield from self._present(Run(run.address + done, length, run.provenance), offset + done)

    def _present(self, run: Run, offset: int) -> Iterator[Piece]:
        try:
            data = self._core.read(offset, run.length)
        except OSError:
            yield from self._by_page(run, offset)
            return
        whole = len(data) // self.page_size * self.page_size
        if whole:
            yield Piece(run._replace(length=whole), data if whole == len(data) else data[:whole])
        if whole < run.length:
            why = self._core.trouble or "the core ends before it"
            yield Piece(Run(run.address + whole, run.length - whole, Provenance.UNREADABLE, why), b"")

    def _by_page(self, run: Run, offset: int) -> Iterator[Piece]:
        """A range of which some cannot be read, page by page."""
        for done in range(0, run.length, self.page_size):
            page = Run(run.address + done, self.page_size, run.provenance)
            try:
                data = self._core.read(offset + done, self.page_size)
            except OSError as error:
                why = error.strerror or str(error)
                yield Piece(page._replace(provenance=Provenance.UNREADABLE, detail=why), b"")
            else:
                yield Piece(page, data)
