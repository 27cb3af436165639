# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose what a limit of size costs, before the first byte is written.

So the core is whole: what does not fit is in no PT_LOAD and is listed in the KGCORE note. Where nobody knows how small
a compressor will make it, only the writer finds out, and then it is written again.

More room never costs a byte: the memory of a plan is taken in its order, as far as it fits together with all that the
headers and the note have to say then.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import attrgetter

from kgcore.coredump.limits import Limits
from kgcore.coredump.loads import Segment
from kgcore.coredump.mappings import PART
from kgcore.coredump.plan import CorePlan
from kgcore.model.account import Gaps, without
from kgcore.model.memory import Memory, Provenance, Run
from kgcore.sinks.base import Sink

__all__ = ("beyond",)

_ROW = len('["0xffffffffffffffff","0xffffffffffffffff","limit",],')  # of "missing" in the KGCORE note
_ACCOUNT = len(',"missing":{"limit":18446744073709551615}')  # in it, and the same in the sum of them
_MORE = 256  # bytes: a program header more, and zeros at the end of the notes


def beyond(plan: CorePlan, memory: Memory, sink: Sink, limits: Limits) -> list[Run]:
    """Return the memory that does not fit, by address; nothing if all of it does, or if the size of the output cannot
    be told before it is written.

    :param memory: that of the plan.
    """
    if not limits.sized or sink.packs or limits.rule == "truncate" or fits(plan, sink, limits):
        return []
    choice = _Choice(plan, memory, sink, limits)
    ends = choice.shortened() if limits.rule == "largest-first" else choice.first()
    return list(_cut(plan, ends, limits.too_large))


def fits(plan: CorePlan, sink: Sink, limits: Limits) -> bool:
    """Say whether the limit of size certainly allows a whole core."""
    return not limits.full(_most(sink, len(plan.head) + len(plan.tail) + plan.data, plan.size))


def _most(sink: Sink, data: int, size: int) -> int:
    """How many bytes of output it takes at most, as the writer counts before it writes the last part."""
    return sink.most(data, size) + sink.most(0, 0)


def _cut(plan: CorePlan, ends: Sequence[int], why: str) -> Iterator[Run]:
    """
    :param ends: for each of the plan's segments the address where it shall end.
    """
    cut: dict[int, list[Run]] = {}
    for segment, end in zip(plan.segments, ends, strict=True):
        for piece in plan.sharing(segment):
            start, stop = end - segment.address + piece.address, piece.address + piece.filesz
            if start < stop:
                cut.setdefault(piece.vma, []).append(Run(start, stop - start, Provenance.LIMIT, why))
    for vma in sorted(cut, key=lambda number: plan.image.vmas[number].start):
        gaps = Gaps()
        for run in sorted(cut[vma], key=attrgetter("address")):
            # What is missing anyway is missing for that reason, unless zeros were to be written for it.
            for part in without(run, plan.vmas[vma].missing if plan.policy == "omit" else ()):
                gaps.add(part)
        yield from gaps.runs


class _Choice:
    def __init__(self, plan: CorePlan, memory: Memory, sink: Sink, limits: Limits) -> None:
        self._plan = plan
        self._memory = memory
        self._sink = sink
        self._limits = limits
        self._head = len(plan.head.rstrip(b"\0")) + _MORE
        self._row = 0
        if plan.limit is not None:
            self._row = _ROW + len(json.dumps(limits.too_large))
        self._neighbours = _neighbours(plan.segments)
        self._zeros_cost = sink.most(0, PART) >= PART  # they are written, not left as holes

    def _too_much(self, data: int, size: int, rows: int, mappings: int) -> bool:
        """
        :param data: bytes of memory to be written, ``size`` with zeros.
        :param rows: how many ranges the note lists for the limit, and ``mappings`` of how many mappings.
        """
        head, page = self._head, self._plan.image.page_size
        if self._row:
            head += rows * self._row + mappings * 2 * _ACCOUNT
        head = -(-head // page) * page + len(self._plan.tail)
        if self._plan.tail or len(self._plan.head) > head:  # section 0, before the memory or behind it
            head += page
        return self._limits.full(_most(self._sink, head + data, head + size))

    def first(self) -> list[int]:
        """As much as fits, in the order of the file. Return where each segment ends."""
        segments = self._plan.segments
        out = [segment.filesz > 0 for segment in segments]
        left = Counter(segment.vma for segment in segments if segment.filesz)
        rows, mappings = self._gaps(), len(left)
        data = size = 0
        ends = [segment.address for segment in segments]
        for number, segment in enumerate(segments):
            if not segment.filesz:
                continue
            before, behind = self._neighbours[number]
            # What it leaves of the gap that it lies in
            rows += (before is not None and out[before]) + (behind is not None and out[behind]) - 1
            out[number] = False
            left[segment.vma] -= 1
            mappings -= left[segment.vma] == 0
            stored = self._stored(segment)
            if self._too_much(data + stored, size + segment.filesz, rows, mappings):
                ends[number] += self._fitting(segment, data, size, rows + 1, mappings + 1)
                break
            data, size = data + stored, size + segment.filesz
            ends[number] += segment.filesz
        return ends

    def _gaps(self) -> int:
        """How many ranges are missing if all of it is."""
        return sum(
            bool(segment.filesz) and before is None
            for segment, (before, _) in zip(self._plan.segments, self._neighbours, strict=True)
        )

    def _stored(self, segment: Segment) -> int:
        """Bytes of a segment that are to be written."""
        if self._plan.is_shared(segment):
            return 0
        if segment.filesz == self._plan.vmas[segment.vma].keep.length:
            return self._plan.vmas[segment.vma].account.data
        return sum(run.length for run in self._runs(segment) if run.provenance.stored)

    def _runs(self, segment: Segment) -> Iterator[Run]:
        vma = self._plan.image.vmas[segment.vma]
        return self._memory.runs(vma, segment.address, segment.address + segment.filesz)

    def _fitting(self, segment: Segment, data: int, size: int, rows: int, mappings: int) -> int:
        """How many bytes of a segment fit behind what does, in whole pages."""
        if self._plan.is_shared(segment):
            return 0
        page, length = self._memory.page_size, 0
        for run in self._runs(segment):

            def too_many(pages: int, run: Run = run, data: int = data, size: int = size + length) -> bool:
                stored = pages * page if run.provenance.stored else 0
                return self._too_much(data + stored, size + pages * page, rows, mappings)

            pages = bisect_right(range(1, run.length // page + 1), False, key=too_many)
            length += pages * page
            if pages * page < run.length:
                break
            data += run.length if run.provenance.stored else 0
        return length

    def shortened(self) -> list[int]:
        """As much as fits of all mappings, the largest ones shortened to one size. Return where each segment ends."""
        plan, page = self._plan, self._memory.page_size
        stored = [segment.filesz if self._zeros_cost else self._stored(segment) for segment in plan.segments]
        zeros = sum(segment.filesz for segment in plan.segments) - sum(stored)
        of_mapping: Counter[int] = Counter()
        for segment, size in zip(plan.segments, stored, strict=True):
            of_mapping[segment.vma] += size
        sizes = sorted(of_mapping.values())

        def too_large(pages: int) -> bool:
            data = sum(min(size, pages * page) for size in sizes)
            return self._too_much(data, data + zeros, len(plan.segments), len(sizes))

        pages = bisect_right(range(1, max(sizes, default=0) // page + 1), False, key=too_large)
        room = dict.fromkeys(of_mapping, pages * page)
        ends: dict[int, int] = {}
        by_address = sorted(range(len(stored)), key=lambda number: plan.segments[number].address)
        for number in by_address:
            segment = plan.segments[number]
            if stored[number] <= room[segment.vma]:
                room[segment.vma] -= stored[number]
                ends[number] = segment.address + segment.filesz
                continue
            ends[number] = segment.address + self._length(segment, room[segment.vma])
            room[segment.vma] = -1  # and no zeros behind it
        return [ends[number] for number in range(len(stored))]

    def _length(self, segment: Segment, room: int) -> int:
        """How many bytes of a segment have so many that are to be written."""
        if self._plan.is_shared(segment):
            return 0  # parts of what others share would be too short to be shared
        if self._zeros_cost:
            return max(room, 0)
        length = 0
        for run in self._runs(segment) if room >= 0 else ():
            if run.provenance.stored:
                if run.length > room:
                    return length + room
                room -= run.length
            length += run.length
        return length


def _neighbours(segments: Sequence[Segment]) -> list[tuple[int | None, int | None]]:
    """For each segment those of its mapping that it touches."""
    by_address = sorted(range(len(segments)), key=lambda number: segments[number].address)
    before: list[int | None] = [None] * len(segments)
    behind: list[int | None] = [None] * len(segments)
    for one, other in pairwise(by_address):
        first, second = segments[one], segments[other]
        if first.vma == second.vma and first.filesz and first.address + first.filesz == second.address:
            before[other] = one
            behind[one] = other if second.filesz else None
    return list(zip(before, behind, strict=True))
