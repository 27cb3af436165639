# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which page frames of a machine's memory a dump file holds."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

__all__ = ("PAGE_SHIFT", "FrameRun", "FrameState", "Frames", "RunList", "Stretch", "everything", "merged", "one_by_one")

PAGE_SHIFT = 12  # x86
_AHEAD = 512  # frames whose state is asked for at once, as neighbours are often wanted too


class FrameState(Enum):
    """What a dump file has of a page frame. The values are words for messages."""

    STORED = "stored"  # its bytes, or the mark that they are all zero
    EXCLUDED = "excluded"  # RAM, but left out when the dump was made
    NO_RAM = "no RAM"  # as far as the dump tells there was no memory at that address
    CUT_OFF = "cut off"  # was to be stored, but the file ends before


class FrameRun(NamedTuple):
    """Page frames ``start`` up to but without ``end``, all in one state."""

    start: int
    end: int
    state: FrameState


class Stretch(NamedTuple):
    """Items ``start`` up to but without ``end`` of a list of page frames, all in one state."""

    start: int
    end: int
    state: FrameState


class Frames(Protocol):
    """The presence of page frames."""

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        """Cover the frames [start, end), ascending, without gaps, neighbours in different states."""

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        """The same of frames in any order: cover the list, neighbours in different states.

        :param frames: not empty.
        """


def one_by_one(frames: Sequence[int], runs: Callable[[int, int], Iterator[FrameRun]]) -> Iterator[Stretch]:
    """:meth:`Frames.stretches` of any list, by a look at each frame that does not follow the one before."""
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

    :param runs: may overlap, in any order; where they do, STORED counts before CUT_OFF before EXCLUDED.
    """

    _RANK = (FrameState.STORED, FrameState.CUT_OFF, FrameState.EXCLUDED)

    def __init__(self, runs: Iterable[FrameRun]) -> None:
        self._runs: Sequence[FrameRun] = tuple(merged(self._flatten(runs)))
        self._starts = [run.start for run in self._runs]

    @classmethod
    def _flatten(cls, runs: Iterable[FrameRun]) -> Iterator[FrameRun]:
        """Resolve overlaps: go over all starts and ends in order, counting how many runs of each state are open."""
        edges = sorted(
            edge
            for run in runs
            if run.start < run.end
            for edge in ((run.start, 1, cls._RANK.index(run.state)), (run.end, -1, cls._RANK.index(run.state)))
        )
        active = [0] * len(cls._RANK)
        start, state = 0, FrameState.NO_RAM
        for frame, step, rank in edges:
            active[rank] += step
            now = next((cls._RANK[at] for at, count in enumerate(active) if count), FrameState.NO_RAM)
            if now is state:
                continue
            if frame > start:
                yield FrameRun(start, frame, state)
                start = frame
            state = now

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        index = max(bisect_right(self._starts, start) - 1, 0)
        while start < end and index < len(self._runs):
            run = self._runs[index]
            if run.end > start:
                stop = min(run.end, end)
                yield FrameRun(start, stop, run.state)
                start = stop
            index += 1
        if start < end:
            yield FrameRun(start, end, FrameState.NO_RAM)

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        low, high = min(frames), max(frames)
        run = next(self.runs(low, high + 1))
        if run.end > high:  # a machine's memory is a few large ranges
            yield Stretch(0, len(frames), run.state)
        else:
            yield from one_by_one(frames, self.runs)


def merged(runs: Iterable[FrameRun]) -> Iterator[FrameRun]:
    """The same frames with neighbours of one state joined."""
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
    """A live machine: every frame can be read."""
    return RunList([FrameRun(0, 1 << (64 - PAGE_SHIFT), FrameState.STORED)])
