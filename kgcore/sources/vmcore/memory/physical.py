# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page frames: which of them the dump file holds, and how kgcore reports the others."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import groupby

from drgn import FaultError

from kgcore.model.memory import Provenance, Run
from kgcore.sources.vmcore.dumpfile import FrameState
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.memory.extents import Extent, Place, Reader, missing, zeros
from kgcore.sources.vmcore.memory.framereader import FrameReader
from kgcore.sources.vmcore.opening.qemu import PausedGuest

__all__ = ("PhysicalMemory",)

_MAX_PHYSICAL = 1 << 52  # addresses have at most 52 bits
_PAGES_AT_ONCE = 1 << 12  # struct pages read in one call
_FRAMES_KEPT = 256

_NEVER_WRITTEN = "never written: the dump is incomplete"
_NOT_STORED = {
    FrameState.EXCLUDED: (Provenance.EXCLUDED, ""),
    FrameState.CUT_OFF: (Provenance.EXCLUDED, "beyond the end of the cut-off dump"),
    FrameState.LOST: (Provenance.UNREADABLE, "the dump file's tables for this memory are unreadable"),
    FrameState.NO_RAM: (Provenance.UNREADABLE, "no RAM at that address"),
}


class _Pages(Reader):
    """Page frames as one sequence, in any order."""

    def __init__(self, frames: FrameReader, pages: Sequence[int]) -> None:
        self._frames = frames
        self._pages = pages
        self._page_size = frames.page_size

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`."""
        page_size = self._page_size
        first, last = at // page_size, (at + len(view) - 1) // page_size
        if at % page_size or len(view) % page_size:
            whole = bytearray((last - first + 1) * page_size)
            self._frames.fill(self._pages[first : last + 1], memoryview(whole))
            view[:] = memoryview(whole)[at % page_size :][: len(view)]
        else:
            self._frames.fill(self._pages[first : last + 1], view)


class PhysicalMemory(Reader):
    """The machine's physical memory, as far as the dump holds it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._target = target = kernel.target
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._max_frame = _MAX_PHYSICAL >> kernel.page_shift
        dump = None if isinstance(target.dump, PausedGuest) else target.dump
        self._frames = FrameReader(dump, target.phys, kernel.page_size, check=not target.assembled)
        self._not_there = dict(_NOT_STORED)
        if dump is not None and not dump.missing_bytes:
            self._not_there[FrameState.CUT_OFF] = Provenance.EXCLUDED, _NEVER_WRITTEN
        # One page table serves many mappings in turn; a running process's page table changes.
        self._frame = lru_cache(0 if kernel.target.live else _FRAMES_KEPT)(self._read_frame)

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`; ``at`` is a physical address."""
        if at % self._page_size or len(view) % self._page_size:
            view[:] = self._target.phys(at, len(view))
        else:
            self._frames.fill(range(at, at + len(view), self._page_size), view)

    def stored(self, address: int, size: int) -> bytes | None:
        """Return bytes within one page frame; None if the dump does not hold the frame."""
        frame = self._frame(address >> self._page_shift)
        return None if frame is None else frame[address % self._page_size :][:size]

    def _read_frame(self, frame: int) -> bytes | None:
        if not 0 <= frame < self._max_frame:
            return None
        for _, _, state in self._target.frames.runs(frame, frame + 1):
            if state is not FrameState.STORED:
                return None
        try:
            return self._target.phys(frame << self._page_shift, self._page_size)
        except FaultError:
            return None

    def extents(
        self, address: int, length: int, physical: int, provenance: Provenance = Provenance.PRESENT
    ) -> Iterator[Extent]:
        """Yield the extents of process memory that lies in adjacent page frames, in the dump file or not.

        :param address: in the process.
        :param physical: address of the first frame.
        :param provenance: for frames that are in the file.
        """
        shift = self._page_shift
        first = physical >> shift
        last = first + (length >> shift)
        if not 0 <= first < last <= self._max_frame:
            yield missing(address, length, Provenance.UNREADABLE, "no RAM at that address")
            return
        for low, high, state in self._target.frames.runs(first, last):
            at = address + (low - first << shift)
            if state is FrameState.STORED:
                yield from self._stored(at, low, high, provenance)
            else:
                yield from self._not_stored(at, low << shift, high - low << shift, state)

    def scattered(self, address: int, pages: Sequence[int], *, places: bool) -> Iterator[Extent]:
        """Yield the extents of process memory whose pages, from page tables, are in any order.

        :param pages: the physical address of each page.
        :param places: say also where pages that the file does not hold would be; each then takes an extent of its own.
        """
        shift, page_size = self._page_shift, self._page_size
        frames = [page >> shift for page in pages]
        if self._any_poisoned or not max(frames) < self._max_frame:
            for number, page in enumerate(pages):
                yield from self.extents(address + (number << shift), page_size, page)
            return
        for start, end, state in self._target.frames.stretches(frames):
            at, length = address + (start << shift), end - start << shift
            if state is FrameState.STORED:
                yield Extent(Run(at, length, Provenance.PRESENT), Place(_Pages(self._frames, pages[start:end]), 0))
            elif places:
                for number, page in enumerate(pages[start:end]):
                    yield from self._not_stored(at + (number << shift), page, page_size, state)
            else:
                yield from self._not_stored_anywhere(at, pages[start:end], state)

    def _stored(self, address: int, first: int, last: int, provenance: Provenance) -> Iterator[Extent]:
        at = first
        for frame in self._poisoned(first, last):
            if at < frame:
                yield self._extent(address, first, at, frame, provenance)
            where = address + (frame - first << self._page_shift)
            yield missing(where, self._page_size, Provenance.UNREADABLE, "the hardware lost it")
            at = frame + 1
        if at < last:
            yield self._extent(address, first, at, last, provenance)

    def _extent(self, address: int, first: int, low: int, high: int, provenance: Provenance) -> Extent:
        run = Run(address + (low - first << self._page_shift), high - low << self._page_shift, provenance)
        return Extent(run, Place(self, low << self._page_shift))

    def _not_stored(self, address: int, physical: int, length: int, state: FrameState) -> Iterator[Extent]:
        """Yield extents of adjacent frames that the file does not hold.

        The kernel's shared zero pages are known to be zeros without a copy in the file.
        """
        provenance, detail = self._not_there[state]

        def lost(low: int, high: int) -> Extent:
            return Extent(Run(address + low - physical, high - low, provenance, detail), Place(self, low))

        at, end = physical, physical + length
        for zero, size in self._kernel.zero_pages:
            low, high = max(at, zero), min(end, zero + size)
            if low >= high:
                continue
            if at < low:
                yield lost(at, low)
            yield zeros(address + low - physical, high - low)
            at = high
        if at < end:
            yield lost(at, end)

    def _not_stored_anywhere(self, address: int, pages: Sequence[int], state: FrameState) -> Iterator[Extent]:
        """Yield extents, without their places, of frames in any order that the file does not hold."""
        provenance, detail = self._not_there[state]
        at = address
        for zero, group in groupby(pages, self._is_zero):
            length = sum(1 for _ in group) << self._page_shift
            yield zeros(at, length) if zero else missing(at, length, provenance, detail)
            at += length

    def _is_zero(self, page: int) -> bool:
        return any(zero <= page < zero + size for zero, size in self._kernel.zero_pages)

    def _poisoned(self, first: int, last: int) -> Iterator[int]:
        """Yield the frames whose memory failed (PG_hwpoison): few machines have any, and the kernel counts them."""
        if not self._any_poisoned:
            return
        for low in range(first, last, _PAGES_AT_ONCE):
            with suppress(FaultError):
                flags = self._kernel.page_flags(low, min(_PAGES_AT_ONCE, last - low))
                yield from (low + at for at, word in enumerate(flags) if word & self._any_poisoned)

    @cached_property
    def _any_poisoned(self) -> int:
        """Return PG_hwpoison's mask if any frame may have it (``num_poisoned_pages``, mm/memory-failure.c); else 0."""
        bit = self._kernel.target.constant("PG_hwpoison")
        try:
            return 1 << bit if bit is not None and self._kernel.read_word("num_poisoned_pages") else 0
        except FaultError:
            return 0
