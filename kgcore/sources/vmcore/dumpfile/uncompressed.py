# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that lies in a file as it is, in a few large ranges."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("Uncompressed", "adjacent")

_MAX_EXTENTS = 1 << 20


def adjacent(pages: Sequence[int], page_size: int) -> Iterator[tuple[int, int]]:
    """Neighbours in a list of pages that are neighbours in memory too: (address, bytes), in the list's order."""
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

    :param ranges: physical address, bytes that are in the file, and their offset in it. Of memory that is there
        twice, one copy is taken.
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
        """Bytes at any address.

        :raises ShortFile, OSError: one of them cannot be read.
        """
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address + size <= self._ends[at]:
            return bytes(self._source.read(self._offsets[at] + address, size))
        places = list(self._located([(address, size)]))  # before anything is allocated
        return b"".join(self._source.read(*place) for place in places)

    def extents(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Which of these bytes are not in holes of the file, which read as zeros: (address, size), ascending.

        :raises ShortFile: one of them is not there.
        """
        for offset, length in self._located([(address, size)]):
            for start, count in self._source.extents(offset, length):
                yield address + start - offset, count
            address += length

    @property
    def stored(self) -> int:
        """How many bytes take room in the file; where that takes long to find out, all."""
        total = 0
        for number, (_, size) in enumerate(self._source.extents(0, self._source.size)):
            if number == _MAX_EXTENTS:
                return self._source.size
            total += size
        return total

    def _places(self, pages: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where the pages lie in the file, in their order: (offset, size).

        :raises ShortFile: one of them is not there.
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
