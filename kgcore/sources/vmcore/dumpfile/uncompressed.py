# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read memory that lies uncompressed in a file, in a few large ranges."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("Uncompressed", "adjacent")

_MAX_EXTENTS = 1 << 20


def adjacent(pages: Sequence[int], page_size: int) -> Iterator[tuple[int, int]]:
    """Join pages that are neighbours both in the list and in memory: yield (address, bytes), in the list's order."""
    if isinstance(pages, range):
        yield pages.start, len(pages) * page_size
        return
    start = expected = pages[0]
    for page in pages:
        if page != expected:
            yield start, expected - start
            start = page
        expected = page + page_size
    yield start, expected - start


class Uncompressed:
    """Where in a file physical memory lies.

    :param ranges: physical address, number of bytes in the file, and their offset there. If the file has memory
        twice, one copy counts.
    :param page_size: bytes of a page frame.
    """

    def __init__(self, source: ByteSource, ranges: Iterable[tuple[int, int, int]], page_size: int) -> None:
        self._source = source
        self._page_size = page_size
        self._starts = array("Q")
        self._ends = array("Q")
        self._offsets = array("q")  # of address 0, if the range began there
        reached = 0
        for start, size, offset in sorted(ranges):
            if start + size > reached:
                self._starts.append(max(start, reached))
                self._ends.append(start + size)
                self._offsets.append(offset - start)
                reached = start + size

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.dumpfile.DumpFile.fill`."""
        places = list(self._places(pages))
        self._source.expect(places)
        done = 0
        for offset, size in places:
            self._source.fill(offset, view[done : done + size])
            done += size

    def read(self, address: int, size: int) -> bytes:
        """Return the bytes at any physical address.

        :raises ShortFile, OSError: a byte cannot be read.
        """
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address + size <= self._ends[at]:
            return bytes(self._source.read(self._offsets[at] + address, size))
        places = list(self._located([(address, size)]))  # before anything is allocated
        return b"".join(self._source.read(*place) for place in places)

    def extents(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield which of these bytes take room in the file: (address, size), ascending. The others read as zeros.

        :raises ShortFile: the file lacks one of the bytes.
        """
        for offset, length in self._located([(address, size)]):
            for start, count in self._source.extents(offset, length):
                yield address + start - offset, count
            address += length

    @property
    def stored(self) -> int:
        """Count the bytes that take room in the file; if counting takes long, return the file's size."""
        total = 0
        for number, (_, size) in enumerate(self._source.extents(0, self._source.size)):
            if number == _MAX_EXTENTS:
                return self._source.size
            total += size
        return total

    def _places(self, pages: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield where the pages lie in the file, in the order of the list: (offset, size).

        :raises ShortFile: the file lacks one of the pages.
        """
        return self._located(adjacent(pages, self._page_size))

    def _located(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for address, size in ranges:
            end = address + size
            while address < end:
                at = bisect_right(self._starts, address) - 1
                if at < 0 or self._ends[at] <= address:
                    raise ShortFile(f"physical address {address:#x} is not in the file")
                count = min(end, self._ends[at]) - address
                yield self._offsets[at] + address, count
                address += count
