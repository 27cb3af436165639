# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read split sets: dumps that ``makedumpfile --split`` wrote to several kdump files, each with a range of page frames.

Every part has all headers, bitmaps and notes of the dump, and says which frames are its own (struct kdump_sub_header:
split, start_pfn_64, end_pfn_64).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.frames import MAX_FRAMES, FrameRun, Frames, FrameState, Stretch, merged, one_by_one
from kgcore.sources.vmcore.dumpfile.kdump import KdumpDump
from kgcore.sources.vmcore.dumpfile.notes import DumpNote

__all__ = ("SplitMember", "SplitSet")

_HINT = "name every file of the set, each with its own -c"


class SplitMember(NamedTuple):
    """One file of a set, and its page frames [start, end)."""

    path: str
    start: int
    end: int
    dump: KdumpDump


class SplitSet:
    """All files of a set as one dump; also the :class:`Frames` of that dump.

    :param files: path and contents of each, in any order; closing the set closes them.
    :ivar parts: the files, ascending by page frame.
    :raises TargetError: the files are not one complete set.
    """

    format = "kdump"
    flattened = False

    def __init__(self, files: Sequence[tuple[str, object]]) -> None:
        self.parts = tuple(sorted(_parts(files), key=lambda part: (part.start, part.end)))
        first = self.parts[0].dump
        for part in self.parts[1:]:
            if not first.same_dump(part.dump):
                raise TargetError(f"{part.path} and {self.parts[0].path} belong to different dumps", hint=_HINT)
        _check_complete(self.parts, first.last_frame, first.page_shift)
        self.frames: Frames = self
        self.page_shift = first.page_shift
        self.compression = first.compression
        self.architecture = first.architecture
        self.dump_level = first.dump_level
        self.release = first.release
        self.needs_platform = first.needs_platform
        self.notes: tuple[DumpNote, ...] = first.notes
        self.vmcoreinfo = first.vmcoreinfo
        self.missing_bytes = sum(part.dump.missing_bytes for part in self.parts)
        self.incomplete = any(part.dump.incomplete for part in self.parts)
        self.notices = tuple(
            f"{part.path}: {notice}" for part in self.parts for notice in part.dump.notices if notice != part.dump.PART
        )

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        return merged(self._runs(start, end))

    def _runs(self, start: int, end: int) -> Iterator[FrameRun]:
        for part in self.parts[:-1]:
            yield from part.dump.runs(max(start, part.start), max(start, min(end, part.end)))
        last = self.parts[-1]
        yield from last.dump.runs(max(start, last.start), max(start, last.start, end))

    def counts(self) -> dict[FrameState, int]:
        """See :meth:`kgcore.sources.vmcore.dumpfile.kdump.KdumpDump.counts`."""
        ends = [*(part.end for part in self.parts[:-1]), MAX_FRAMES]
        each = [part.dump.counts(part.start, end) for part, end in zip(self.parts, ends, strict=True)]
        return {state: sum(found[state] for found in each) for state in FrameState}

    def stored(self) -> Iterator[FrameRun]:
        """See :meth:`kgcore.sources.vmcore.dumpfile.kdump.KdumpDump.stored`."""
        return merged(run for part in self.parts for run in part.dump.stored())

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        return one_by_one(frames, self.runs)

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.dumpfile.DumpFile.fill`."""
        for part in self.parts:
            low, high = part.start << self.page_shift, part.end << self.page_shift
            mine = [at for at, page in enumerate(pages) if low <= page < high]
            part.dump.place([(pages[at], at) for at in mine], view)

    def close(self) -> None:
        for part in self.parts:
            part.dump.close()


def _parts(files: Sequence[tuple[str, object]]) -> Iterator[SplitMember]:
    for path, dump in files:
        if not isinstance(dump, KdumpDump) or dump.split is None:
            raise TargetError(
                f"{path} is a complete dump, not part of a split set", hint="only split sets take -c more than once"
            )
        yield SplitMember(path, *dump.split, dump)


def _check_complete(parts: Sequence[SplitMember], last_frame: int, page_shift: int) -> None:
    lacking = []
    reached = 0
    for part in parts:
        if part.start < reached:
            twin = next(other.path for other in parts if other is not part and other.end > part.start)
            raise TargetError(f"{twin} and {part.path} hold the same memory: one is given twice", hint=_HINT)
        if part.start > reached:
            lacking.append((reached, part.start))
        reached = part.end
    if reached < last_frame:
        lacking.append((reached, last_frame))
    if lacking:
        names = ", ".join(sorted({Path(part.path).name for part in parts}))
        ranges = " and ".join(f"{start << page_shift:#x} to {end << page_shift:#x}" for start, end in lacking)
        raise TargetError(
            f"the split set is incomplete: {names} lack{'s' if len(parts) == 1 else ''} the file with the physical "
            f"memory from {ranges}",
            hint=_HINT,
        )
