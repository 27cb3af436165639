# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a core as bytes at addresses, and its notes. The core may be hostile: all is bounded, nothing is believed."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from kgcore.arch import RESUMING
from kgcore.errors import TargetError
from kgcore.restore.unpacking import unpacked
from kgcore.sources.corefile.head import read_head
from kgcore.sources.corefile.inputs import CoreFileInput
from kgcore.system.regular import open_regular, read_at

__all__ = ("CoreNote", "FinishedCore", "Segment")


class CoreNote(NamedTuple):
    """A note: its owner, its type, and its description."""

    owner: str
    kind: int
    desc: bytes


class Segment(NamedTuple):
    """A PT_LOAD: its addresses, and where in the file its bytes begin.

    :ivar stored: how many of its bytes the file has.
    """

    start: int
    end: int
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class FinishedCore:
    """A core that is open.

    :ivar path: its name, for messages.
    :ivar machine: ``e_machine``.
    :ivar segments: by address; none overlaps another.
    :ivar notes: all of them, in their order.
    """

    path: str
    _descriptor: int
    machine: int
    segments: tuple[Segment, ...]
    notes: tuple[CoreNote, ...]
    _starts: tuple[int, ...]
    _modified: float

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a core; it may be compressed by zstd or gzip.

        :raises TargetError: it cannot be read, is no core, or is damaged.
        """
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise TargetError(f"cannot open {path}: {error.strerror or error}") from error
        try:
            modified = os.fstat(descriptor).st_mtime
            descriptor = unpacked(path, descriptor)
            machine, segments, notes = _read(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, machine, segments, notes, tuple(segment.start for segment in segments), modified)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def modified(self) -> float:
        """Return when the core was last written, in seconds."""
        return self._modified

    def stored(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges within this one whose bytes the core has, ascending."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for segment in self.segments[at:]:
            if segment.start >= end:
                break
            first, last = max(start, segment.start), min(end, segment.start + segment.stored)
            if first < last:
                yield first, last

    def read(self, address: int, size: int) -> bytes | None:
        """Return bytes of memory; None: the core lacks some of them.

        :raises OSError: the file cannot be read.
        """
        data = b""
        while len(data) < size:
            at = address + len(data)
            index = bisect_right(self._starts, at) - 1
            if index < 0:
                return None
            segment = self.segments[index]
            count = min(size - len(data), segment.start + segment.stored - at)
            if count <= 0:
                return None
            part = read_at(self._descriptor, count, segment.offset + at - segment.start)
            if len(part) < count:
                return None
            data += part
        return data


def _read(path: str, descriptor: int) -> tuple[int, tuple[Segment, ...], tuple[CoreNote, ...]]:
    head = read_head(CoreFileInput(descriptor), path)
    if head.arch.name not in RESUMING:
        raise TargetError(f"{path} is of a 32-bit program, or not of this machine: it cannot go on")
    size = os.fstat(descriptor).st_size
    for load in head.loads:
        if load.offset + load.filesz > size:
            raise TargetError(f"{path} is cut off: it lacks memory at {load.start:#x}")
    segments = (Segment(load.start, load.end, load.offset, load.filesz) for load in sorted(head.loads))
    notes = (CoreNote(note.owner.decode("ascii", "replace"), note.type, note.desc) for note in head.notes)
    return head.arch.machine, tuple(segments), tuple(notes)
