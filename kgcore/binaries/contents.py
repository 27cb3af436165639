# SPDX-License-Identifier: LGPL-2.1-or-later
"""Record the sources of a file's content, and its gaps, while it is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kgcore.model.memory import Piece

__all__ = ("FileGap", "Trace")


class FileGap(NamedTuple):
    """A missing part of a file.

    :ivar start: offset in the file.
    :ivar end: offset behind it.
    :ivar reason: value of :class:`kgcore.model.memory.Provenance`.
    :ivar detail: further words, or "".
    """

    start: int
    end: int
    reason: str
    detail: str


@dataclass(slots=True)
class Trace:
    """The sources and gaps of a file, recorded while it is read.

    :ivar size: of the file in bytes: the last page counts only up to the end of the file.
    """

    size: int
    missing: list[FileGap] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    def follow(self, pieces: Iterator[Piece]) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
        """Yield (length, bytes) of each piece; no bytes mean zeros."""
        at = 0
        for run, data in pieces:
            if run.address != at or run.length <= 0:
                raise ValueError(f"a file's pieces are not adjacent: {run}, expected at {at:#x}")
            at = run.end
            length = min(run.end, self.size) - run.address
            if length <= 0:
                break
            reason = run.provenance.value
            if run.provenance.missing:
                self._lacks(FileGap(run.address, run.address + length, reason, run.detail))
            else:
                self.sources[reason] = self.sources.get(reason, 0) + length
            yield length, data[:length] if run.provenance.stored else b""
        if at < self.size:
            raise ValueError(f"a file's pieces end at {at:#x}, not at {self.size:#x}")

    def _lacks(self, gap: FileGap) -> None:
        if self.missing and self.missing[-1][1:] == (gap.start, gap.reason, gap.detail):
            self.missing[-1] = self.missing[-1]._replace(end=gap.end)
        else:
            self.missing.append(gap)
