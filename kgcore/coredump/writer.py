# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a core by its plan, a part of the file at a time, in this process or in several."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from kgcore.coredump.limits import Limits
from kgcore.coredump.loads import Segment
from kgcore.coredump.plan import CorePlan, Part
from kgcore.coredump.report import Read, Report, make_report
from kgcore.coredump.workers import Workers, may_fork
from kgcore.errors import LimitReached
from kgcore.model.account import without
from kgcore.model.memory import Memory, Provenance, Run
from kgcore.sinks.base import Item, Sink

__all__ = ("Progress", "write_core")

Progress = Callable[[int, int], None]
"""``progress(done, total)``: bytes of memory written so far, and in all; holes do not count."""

_BLOCK = 4096  # what a file system can leave out
_ZERO = bytes(_BLOCK)
_AHEAD = 2  # parts per worker that may be finished and wait for their turn
_SQUEEZES = 16


def write_core(
    plan: CorePlan,
    memory: Memory,
    sink: Sink,
    progress: Progress | None = None,
    *,
    jobs: int = 1,
    limits: Limits | None = None,
) -> Report:
    """Write a core to a sink, and neither commit nor abort it.

    Memory that turns out to be missing only now is zeros in the file and a late gap in the report. The file ends where
    a limit is reached.

    :param jobs: how many worker processes to use at most; fewer for little work, one if forking is not safe.
    :raises LimitReached: a limit forbids even the headers and notes.
    :raises OutputError: the sink fails.
    """
    writer = _Writer(plan, memory, sink, progress, limits or Limits())
    writer.run(jobs)
    return make_report(
        plan, path=sink.path, stored=writer.stored, read=writer.read, unwritten=writer.unwritten, limit=writer.cut
    )


class _Output(Protocol):
    """Where the bytes of a part go, strictly forward."""

    def write(self, data: bytes | memoryview) -> None: ...

    def skip(self, length: int) -> None: ...


@dataclass(slots=True)
class _Done:
    """The result of a part.

    :ivar read: by index of the VMA.
    :ivar size: bytes of it.
    :ivar data: those of them that the plan promised.
    :ivar stored: those of them that were read and are not holes.
    :ivar items: for the sink.
    """

    read: dict[int, Read] = field(default_factory=dict)
    size: int = 0
    data: int = 0
    stored: int = 0
    items: list[Item] = field(default_factory=list)


class _Writer:
    """
    :ivar read: the results of reading, by index of the VMA, if they differ from the plan.
    :ivar stored: bytes that are not holes.
    :ivar cut: the limit that ended the file early; "": none.
    :ivar unwritten: what follows after that end.
    """

    def __init__(self, plan: CorePlan, memory: Memory, sink: Sink, progress: Progress | None, limits: Limits) -> None:
        self.plan = plan
        self.memory = memory
        self.sink = sink
        self.progress = progress
        self.limits = limits
        self.read: dict[int, Read] = {}
        self.stored = 0
        self.cut = ""
        self.unwritten: list[Segment] = []
        self._data = 0
        self._total = plan.data

    def run(self, jobs: int) -> None:
        if reason := self.limits.reached(self.sink.most(len(self.plan.head), len(self.plan.head))):
            raise LimitReached(reason, pid=self.plan.image.tgid)
        self._put(self.plan.head)
        parts = list(self.plan.parts())
        jobs = min(jobs, len(parts))
        if jobs > 1 and self.memory.parallel and may_fork():
            finished = self._side_by_side(parts, jobs)
        else:
            finished = self._one_by_one(parts)
        self._advance(0)  # of nothing, too, there is an end
        if self.cut:
            self.unwritten = self._squeeze(
                [segment for part in parts[finished:] for segment in self.plan.segments_of(part)]
            )
            if not self.unwritten:  # it was less than it might have been
                self.cut = ""
        if self.plan.tail and not self.cut:
            self._put(self.plan.tail)
        with self._counted():
            self.sink.settle()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what the block uses towards the limits."""
        used = self.sink.used
        yield
        self.limits.use(self.sink.used - used)

    def _reached(self, parts: Sequence[Part]) -> str:
        """Which limit forbids these, too; "": none."""
        size = sum(self.plan.size_of(part) for part in parts)
        return self.limits.reached(self.sink.most(sum(part.most for part in parts), size))

    def _put(self, data: bytes) -> None:
        with self._counted():
            self.sink.write(data)
        self.stored += len(data)

    def _one_by_one(self, parts: Sequence[Part]) -> int:
        for number, part in enumerate(parts):
            self.cut = self._reached([part])
            if self.cut:
                return number
            self._write(self.plan.segments_of(part))
        return len(parts)

    def _write(self, segments: Iterable[Segment]) -> None:
        done = _Done()
        with self._counted():
            for segment in segments:
                _copy(self.plan, self.memory, segment, self.sink, done, self._advance)
        self._add(done)

    def _squeeze(self, segments: list[Segment]) -> list[Segment]:
        """Write what a limit certainly allows of a part that does not fit; return the rest."""
        at = 0
        for _ in range(_SQUEEZES):  # what was compressed leaves room for more
            with self._counted():
                self.sink.settle()
            before, length = segments[at], 0
            while at < len(segments) and (length := self._fitting(segments[at])) == segments[at].filesz:
                self._write([segments[at]])
                at += 1
            if at < len(segments) and length:
                first, segments[at] = _split(segments[at], length)
                self._write([first])
            if at == len(segments) or segments[at] is before:
                break
        return segments[at:]

    def _fitting(self, segment: Segment) -> int:
        """How many bytes of (part of) a segment the limits certainly allow."""
        vma, start = self.plan.image.vmas[segment.vma], segment.address
        data = 0
        for run in self.memory.runs(vma, start, start + segment.filesz):
            stored = run.length if run.provenance.stored else 0
            if self.limits.reached(self.sink.most(data + stored, run.end - start)):
                if not stored:
                    return run.address - start

                def too_many(pages: int, run: Run = run, data: int = data) -> bool:
                    length = pages * self.memory.page_size
                    most = self.sink.most(data + length, run.address - start + length)
                    return bool(self.limits.reached(most))

                pages = bisect_left(range(1, run.length // self.memory.page_size + 1), True, key=too_many)
                return run.address - start + pages * self.memory.page_size
            data += stored
        return segment.filesz

    def _side_by_side(self, parts: Sequence[Part], jobs: int) -> int:
        """Write with workers: parts are handed out in order, and their results are taken in order."""

        def work(number: int) -> _Done:
            done, segments = _Done(), list(self.plan.segments_of(parts[number]))
            output = self.sink.part(segments[0].offset)
            for segment in segments:
                _copy(self.plan, self.memory, segment, output, done)
            done.size = sum(segment.filesz for segment in segments)
            done.items = output.items()
            self._forget_planned(done.read)  # of many mappings it would be much to hand over
            return done

        finished: dict[int, _Done] = {}
        given = taken = 0
        with Workers(jobs, work) as workers:
            while True:
                while given < min(len(parts), taken + _AHEAD * jobs) and workers.idle and not self.cut:
                    reason = self._reached(parts[taken : given + 1])
                    if reason and given > taken:
                        break  # those at work may turn out to be smaller
                    self.cut = reason
                    if not reason:
                        workers.give(given)
                        given += 1
                if taken == given:
                    return taken
                number, done = workers.next()
                finished[number] = done
                self._advance(done.data)
                while taken in finished:
                    self._take(finished.pop(taken))
                    taken += 1

    def _take(self, done: _Done) -> None:
        with self._counted():
            self.sink.take(done.items, done.size, done.stored)
        self._add(done)

    def _add(self, done: _Done) -> None:
        self.stored += done.stored
        for vma, read in done.read.items():
            if vma in self.read:
                self.read[vma].join(read)
            else:
                self.read[vma] = read
        self._forget_planned(self.read, done.read)

    def _forget_planned(self, read: dict[int, Read], changed: Iterable[int] | None = None) -> None:
        """Drop the results of mappings that were read as planned.

        :param changed: look at these alone.
        """
        for vma in list(read if changed is None else changed):
            if read[vma].as_planned(self.plan.vmas[vma].account):
                del read[vma]

    def _advance(self, data: int) -> None:
        self._data += data
        if self.progress is not None:
            self.progress(self._data, self._total)


def _copy(
    plan: CorePlan,
    memory: Memory,
    segment: Segment,
    output: _Output,
    done: _Done,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Copy (part of) a segment."""
    if plan.is_shared(segment):  # certainly zeros, and not to be read: of a running kernel they might be no more
        for piece in plan.sharing(segment):
            done.read.setdefault(piece.vma, Read()).add(Run(piece.address, piece.filesz, Provenance.ZERO))
        output.skip(segment.filesz)
        return
    vma, planned = plan.image.vmas[segment.vma], plan.vmas[segment.vma].missing
    found = done.read.setdefault(segment.vma, Read())
    at, end = segment.address, segment.address + segment.filesz
    for run, data in memory.read(vma, at, end):
        # The plan is a promise: a piece out of place would move everything behind it.
        if run.address != at or not 0 < run.length <= end - at:
            raise ValueError(f"memory piece out of place: {run}, expected at {at:#x}")
        at = run.end
        promised = 0
        for part in without(run, planned) if planned else (run,):
            found.add(part)
            promised += part.length if part.provenance.stored or part.provenance.missing else 0
        if not run.provenance.stored:
            output.skip(run.length)
        elif len(data) != run.length:
            raise ValueError(f"memory piece {run} comes with {len(data)} bytes")
        else:
            done.stored += _put_sparsely(data, output)
        done.data += promised
        if advance is not None:
            advance(promised)
    if at != end:
        raise ValueError(f"memory pieces end at {at:#x}, not at {end:#x}")


def _split(segment: Segment, length: int) -> tuple[Segment, Segment]:
    """Split (part of) a segment after so many bytes."""
    rest = segment.filesz - length
    return (
        segment._replace(filesz=length, memsz=length),
        segment._replace(address=segment.address + length, filesz=rest, memsz=rest, offset=segment.offset + length),
    )


def _put_sparsely(data: bytes | bytearray | memoryview, output: _Output) -> int:
    """Write without pages that hold only zeros; return how many bytes were written."""
    stored = 0
    view = memoryview(data)
    for zero, start, end in _blocks(data):
        if zero:
            output.skip(end - start)
        else:
            output.write(view[start:end])
            stored += end - start
    return stored


def _blocks(data: bytes | bytearray | memoryview) -> Iterator[tuple[bool, int, int]]:
    """Split data into (all zeros, start, end), each as long as possible."""
    # startswith() compares without a copy, and mostly ends at the first byte; memoryviews compare byte by byte.
    content = bytes(data) if isinstance(data, memoryview) else data
    flags = [content.startswith(_ZERO, offset) for offset in range(0, len(content), _BLOCK)]
    start = 0
    for zero, group in groupby(flags):
        end = min(start + _BLOCK * sum(1 for _ in group), len(content))
        yield zero, start, end
        start = end
