# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell which page frames of a machine's memory a dump file holds."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

__all__ = (
    "MAX_FRAMES",
    "FrameRun",
    "FrameState",
    "Frames",
    "RunList",
    "Stretch",
    "counted",
    "everything",
    "merged",
    "one_by_one",
    "stored",
)

MAX_FRAMES = 1 << 52
"""No machine has as many: physical addresses have at most 52 bits, and a page frame many bytes."""
_NO_RAM = 3  # in RunList, where the others are 0 to 2
_AHEAD = 512  # frames per look-up: the caller often wants the neighbours too


class FrameState(Enum):
    """Whether a dump file has a page frame, and if not, why. The values are words for messages."""

    STORED = "stored"  # its bytes, or a mark that they are all zero
    EXCLUDED = "excluded"  # RAM, but left out when the dump was made
    NO_RAM = "no RAM"  # as far as the dump tells, no memory at that address
    CUT_OFF = "cut off"  # should be stored, but the file ends before it
    LOST = "unreadable"  # a bad sector hides whether or where it is stored


class FrameRun(NamedTuple):
    """Page frames [start, end), all in one state."""

    start: int
    end: int
    state: FrameState


class Stretch(NamedTuple):
    """Items [start, end) of a list of page frames, all in one state."""

    start: int
    end: int
    state: FrameState


class Frames(Protocol):
    """The states of page frames."""

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        """Yield the states of [start, end) as runs: ascending, without gaps, neighbours in different states."""

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        """Yield the states of frames in any order: cover the list, neighbours in different states.

        :param frames: not empty.
        """


def one_by_one(frames: Sequence[int], runs: Callable[[int, int], Iterator[FrameRun]]) -> Iterator[Stretch]:
    """Yield the stretches of any list, as :meth:`Frames.stretches`; look up each frame outside the run known so far."""
    start, state = 0, None
    known = FrameRun(0, 0, FrameState.NO_RAM)
    for at, frame in enumerate(frames):
        if not known.start <= frame < known.end:
            known = next(runs(frame, frame + _AHEAD))
        if known.state is not state:
            if state is not None:
                yield Stretch(start, at, state)
            start, state = at, known.state
    if state is not None:
        yield Stretch(start, len(frames), state)


class RunList:
    """Frames as a list of runs, for formats that store memory in few large pieces.

    :param runs: in any order; they may overlap: then STORED counts before CUT_OFF before EXCLUDED.
    :param elsewhere: state of all other frames; LOST if runs may be unreadable.
    """

    _RANK = (FrameState.STORED, FrameState.CUT_OFF, FrameState.EXCLUDED)

    def __init__(self, runs: Iterable[FrameRun], elsewhere: FrameState = FrameState.NO_RAM) -> None:
        self._all = (*self._RANK, elsewhere)
        # Where a state begins; it holds up to the next start.
        self._starts = array("Q")
        self._states = bytearray()
        before = _NO_RAM
        for start, state in self._changes(runs):
            if state != before:
                self._starts.append(start)
                self._states.append(state)
                before = state

    @classmethod
    def _changes(cls, runs: Iterable[FrameRun]) -> Iterator[tuple[int, int]]:
        """Resolve overlaps: walk all starts and ends in order, and count the open runs of each state."""
        edges: list[int] = []  # there may be a million: numbers take less memory than tuples
        for start, end, state in runs:
            if start < end:
                rank = cls._RANK.index(state)
                edges += (start << 3 | rank << 1, end << 3 | rank << 1 | 1)
        edges.sort()
        active = [0] * len(cls._RANK)
        frame, now = 0, _NO_RAM
        for edge in edges:
            if edge >> 3 != frame:
                yield frame, now
                frame = edge >> 3
            active[edge >> 1 & 3] += -1 if edge & 1 else 1
            now = 0 if active[0] else 1 if active[1] else 2 if active[2] else _NO_RAM
        yield frame, now

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        starts = self._starts
        index = bisect_right(starts, start)
        while start < end:
            state = self._all[self._states[index - 1] if index else _NO_RAM]
            stop = min(starts[index], end) if index < len(starts) else end
            yield FrameRun(start, stop, state)
            start = stop
            index += 1

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        low, high = min(frames), max(frames)
        run = next(self.runs(low, high + 1))
        if run.end > high:  # a machine's memory is a few large ranges
            yield Stretch(0, len(frames), run.state)
        else:
            yield from one_by_one(frames, self.runs)


def merged(runs: Iterable[FrameRun]) -> Iterator[FrameRun]:
    """Yield the runs, with neighbours of the same state joined."""
    start, end, state = 0, 0, FrameState.NO_RAM
    for run in runs:
        if run.start == run.end:
            continue
        if run.state is state and run.start == end:
            end = run.end
            continue
        if end > start:
            yield FrameRun(start, end, state)
        start, end, state = run
    if end > start:
        yield FrameRun(start, end, state)


def everything() -> Frames:
    """Return the frames of a live machine, where every frame is STORED."""
    return RunList([FrameRun(0, MAX_FRAMES, FrameState.STORED)])


def counted(frames: Frames) -> dict[FrameState, int]:
    """Count the frames in each state except NO_RAM."""
    found = dict.fromkeys(FrameState, 0)
    tell: Callable[[], dict[FrameState, int]] | None = getattr(frames, "counts", None)
    if tell is not None:
        return tell()
    for start, end, state in frames.runs(0, MAX_FRAMES):
        if state is not FrameState.NO_RAM:
            found[state] += end - start
    return found


def stored(frames: Frames) -> Iterator[FrameRun]:
    """Yield all runs that are STORED, ascending."""
    tell: Callable[[], Iterator[FrameRun]] | None = getattr(frames, "stored", None)
    if tell is not None:
        return tell()
    return (run for run in frames.runs(0, MAX_FRAMES) if run.state is FrameState.STORED)
