# SPDX-License-Identifier: LGPL-2.1-or-later
"""Carries out a plan: strictly forward, a piece of memory at a time."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from kgcore.memory import Memory, Run
from kgcore.plan import CorePlan, Segment
from kgcore.report import Read, Report, make_report
from kgcore.sinks import Sink

__all__ = ("Progress", "write_core")

Progress = Callable[[int, int], None]
"""``progress(done, total)``: bytes of the core that are finished, and its size."""

_BLOCK = 4096  # what a file system can leave out
_ZERO = bytes(_BLOCK)


def write_core(plan: CorePlan, memory: Memory, sink: Sink, progress: Progress | None = None) -> Report:
    """Write a core to a sink, and neither commit nor abort it.

    Memory that turns out to be missing only now is zeros in the file and a late gap in the report.

    :raises OutputError: the sink cannot take it.
    """
    writer = _Writer(plan, memory, sink, progress)
    writer.run()
    return make_report(plan, path=sink.path, stored=writer.stored, read=writer.read)


class _Writer:
    def __init__(self, plan: CorePlan, memory: Memory, sink: Sink, progress: Progress | None) -> None:
        self.plan = plan
        self.memory = memory
        self.sink = sink
        self.progress = progress
        self.done = 0
        self.stored = 0
        self.read: defaultdict[int, Read] = defaultdict(Read)

    def run(self) -> None:
        self.put(self.plan.head)
        for segment in self.plan.segments:
            if segment.filesz:
                self.copy(segment)
        if self.plan.tail:
            self.put(self.plan.tail)

    def put(self, data: bytes | memoryview) -> None:
        self.sink.write(data)
        self.stored += len(data)
        self.advance(len(data))

    def skip(self, length: int) -> None:
        self.sink.skip(length)
        self.advance(length)

    def advance(self, length: int) -> None:
        self.done += length
        if self.progress is not None:
            self.progress(self.done, self.plan.size)

    def copy(self, segment: Segment) -> None:
        vma = self.plan.image.vmas[segment.vma]
        planned = self.plan.vmas[segment.vma].missing
        found = self.read[segment.vma]
        at, end = segment.address, segment.address + segment.filesz
        for run, data in self.memory.read(vma, at, end):
            # The plan is a promise: a piece out of place would move everything behind it.
            if run.address != at or not 0 < run.length <= end - at:
                raise ValueError(f"memory piece out of place: {run}, expected at {at:#x}")
            at = run.end
            for part in _without(run, planned):
                found.add(part)
            if run.provenance.stored:
                if len(data) != run.length:
                    raise ValueError(f"memory piece {run} comes with {len(data)} bytes")
                self.put_sparsely(data)
                continue
            self.skip(run.length)
        if at != end:
            raise ValueError(f"memory pieces end at {at:#x}, not at {end:#x}")

    def put_sparsely(self, data: bytes | bytearray | memoryview) -> None:
        """Write, but leave out pages that hold only zeros."""
        for zero, start, end in _blocks(data):
            if zero:
                self.skip(end - start)
            else:
                self.put(memoryview(data)[start:end])


def _blocks(data: bytes | bytearray | memoryview) -> Iterator[tuple[bool, int, int]]:
    """Split into (all zeros, start, end), as long as can be."""
    # startswith() compares without a copy, and mostly ends at the first byte; memoryviews compare byte by byte.
    content = bytes(data) if isinstance(data, memoryview) else data
    flags = [content.startswith(_ZERO, offset) for offset in range(0, len(content), _BLOCK)]
    start = 0
    for zero, group in groupby(flags):
        end = min(start + _BLOCK * sum(1 for _ in group), len(content))
        yield zero, start, end
        start = end


def _without(run: Run, planned: Sequence[Run]) -> Iterator[Run]:
    """The parts of a run that were not planned to be missing. ``planned`` is ascending."""
    at = run.address
    for index in range(bisect_right(planned, at, key=attrgetter("end")), len(planned)):
        known = planned[index]
        if known.address >= run.end:
            break
        if known.address > at:
            yield run._replace(address=at, length=known.address - at)
        at = known.end
    if at < run.end:
        yield run._replace(address=at, length=run.end - at)
