# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the bytes of a dump file by offset, in plain and flattened files alike.

kgcore maps no dump file: a bad sector, or a process that truncates the file, is an error when reading, but in a mapping
a signal that kills kgcore.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from kgcore.sources.vmcore.dumpfile.budget import Budget

__all__ = ("BAD_PAGE", "ByteSource", "Gap", "PlainFile", "ShortFile", "found_again", "reason", "salvage")

BAD_PAGE = 4096
"""Bytes that a bad sector costs: the kernel here, not the one in the dump, reads files by pages."""

_MOST_READS_OF_BAD = 1 << 12  # each may take a broken disk seconds
_MAX_EXTENTS = 1 << 16
_SEARCH_STEP, _OVERLAP = 1 << 22, 64  # bytes
_MOST_CANDIDATES = 1 << 20


class ShortFile(Exception):
    """The file ends before the bytes asked for."""


def reason(error: Exception) -> str:
    """Say why bytes are missing, for people."""
    return f"cannot read the dump file there: {error.strerror}" if isinstance(error, OSError) else str(error)


class Gap(NamedTuple):
    """Bytes [start, end) that cannot be read."""

    start: int
    end: int


class ByteSource(Protocol):
    """The bytes of a dump as its writer meant it: a flattened file looks like a plain one.

    :ivar budget: for all reads whose size comes from a header.
    """

    budget: Budget

    @property
    def size(self) -> int:
        """Return the offset behind the last byte in the file."""

    def read(self, offset: int, size: int) -> memoryview:
        """Return exactly these bytes.

        :raises ShortFile: the file does not have all of them.
        :raises OSError: the disk cannot read them.
        """

    def fill(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` with bytes from an offset. After an exception its contents are undefined.

        :raises ShortFile, OSError: as :meth:`read`.
        """

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Announce reads, (offset, size) each, that follow one by one: the disk may fetch them in parallel."""

    def has(self, offset: int, size: int) -> bool:
        """Tell whether these bytes lie within the file."""

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield which of these bytes take room in the file: (offset, size), ascending. The others are in holes."""

    def stored(self, offset: int, size: int) -> int:
        """Count the bytes that take room in the file. The others are in holes, and read as zeros."""

    def close(self) -> None: ...


class PlainFile:
    """A plain file, not flattened.

    :param descriptor: of a regular file, not empty; the caller keeps it and closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = os.dup(descriptor)
        self.budget = Budget()

    def has(self, offset: int, size: int) -> bool:
        return 0 <= offset and 0 <= size and offset + size <= self.size

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        end = min(offset + size, self.size)
        while offset < end:
            try:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                behind = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", 0) != errno.ENXIO:  # ENXIO: only a hole follows
                    yield offset, end - offset  # unknown: take all as stored
                return
            if start < end:
                yield start, min(behind, end) - start
            offset = behind

    def stored(self, offset: int, size: int) -> int:
        # For a file in more pieces, the count so far is enough.
        return sum(length for _, length in islice(self.extents(offset, size), _MAX_EXTENTS))

    def read(self, offset: int, size: int) -> memoryview:
        if offset < 0 or size < 0 or offset + size > self.size:  # before anything is allocated; has() is a call more
            raise ShortFile(f"{size} bytes at offset {offset} are beyond the end of the file ({self.size})")
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size:
            return memoryview(data)
        view = memoryview(bytearray(size))
        view[: len(data)] = data
        self.fill(offset + len(data), view[len(data) :])
        return view.toreadonly()

    def fill(self, offset: int, view: memoryview) -> None:
        if not self.has(offset, len(view)):
            raise ShortFile(f"{len(view)} bytes at offset {offset} are beyond the end of the file")
        while count := os.preadv(self._descriptor, [view], offset):
            if count == len(view):
                return
            offset, view = offset + count, view[count:]
        if view:
            raise ShortFile(f"the file shrank below {offset + len(view)} bytes")

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        if len(ranges) > 1 and not all(self._in_memory(ranges[at][0]) for at in (0, len(ranges) // 2, -1)):
            for offset, size in ranges:
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def _in_memory(self, offset: int) -> bool:
        """Tell whether the byte is in the page cache; True if the file system does not say."""
        try:
            os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except (OSError, OverflowError):  # the file system does not say, or the file ends before
            pass
        return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def salvage(source: ByteSource, offset: int, size: int) -> tuple[memoryview, tuple[Gap, ...]]:
    """Read bytes, skipping bad sectors.

    :returns: the bytes, with zeros for unreadable ones, and the gaps where these are, ascending.
    :raises ShortFile: the bytes do not lie within the file, or no longer.
    """
    try:
        return source.read(offset, size), ()
    except OSError:
        pass
    view = memoryview(bytearray(size))
    gaps: list[Gap] = []
    left = _MOST_READS_OF_BAD

    def take(start: int, end: int) -> None:
        """Read a range; if that fails, its halves, down to pages."""
        nonlocal left
        left -= 1
        try:
            if left >= 0:
                source.fill(offset + start, view[start:end])
                return
        except OSError:
            pass
        middle = offset + (start + end) // 2
        middle -= middle % BAD_PAGE + offset
        if left > 0 and start < middle < end:
            take(start, middle)
            take(middle, end)
            return
        view[start:end] = bytes(end - start)
        if gaps and gaps[-1].end == start:
            start = gaps.pop().start
        gaps.append(Gap(start, end))

    take(0, size)
    return view.toreadonly(), tuple(gaps)


def found_again(
    source: ByteSource, place: int, likely: re.Pattern[bytes], fits: Callable[[int], bool], most: int
) -> int | None:
    """Return the offset where a chain of headers goes on after an unreadable header; None: not found.

    :param place: offset of the unreadable header.
    :param likely: pattern of a header.
    :param fits: tells whether headers really begin at an offset.
    :param most: how many bytes to search.
    """
    at = place - place % BAD_PAGE + BAD_PAGE
    left = _MOST_CANDIDATES
    end = min(source.size, at + most)
    while at < end:
        size = min(_SEARCH_STEP + _OVERLAP, source.size - at)
        data, gaps = salvage(source, at, size)
        for found in likely.finditer(data):
            if found.start() >= _SEARCH_STEP:
                break
            left -= 1
            if left < 0:
                return None
            if any(gap.start <= found.start() < gap.end for gap in gaps):
                continue
            try:
                if fits(at + found.start()):
                    return at + found.start()
            except (ShortFile, OSError):
                pass
        at += _SEARCH_STEP
    return None
