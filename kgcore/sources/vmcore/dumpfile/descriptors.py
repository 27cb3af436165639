# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the page descriptors of an incomplete kdump file that lead to a page in the file."""

from collections.abc import Iterator
from struct import Struct

from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("count_written", "written")

_PLACE = Struct("<QI12x")  # of struct page_desc: offset, size
_AT_ONCE = 1 << 14
_BESIDE_BAD = 128  # if some of them are unreadable


def count_written(source: ByteSource, table: int, count: int) -> int:
    """Count the descriptors of a row whose pages were written.

    A descriptor in a bad sector counts too: reading its page will fail and say so.

    :param table: offset of the first descriptor.
    """
    found = 0
    for first, last in written(source, table, count):
        for low in range(first, last, _AT_ONCE):
            high = min(last, low + _AT_ONCE)
            try:
                found += _look(source, table, low, high)
            except (ShortFile, OSError):
                for start in range(low, high, _BESIDE_BAD):
                    stop = min(high, start + _BESIDE_BAD)
                    try:
                        found += _look(source, table, start, stop)
                    except ShortFile:  # then the pages, which lie behind the descriptors, are missing too
                        pass
                    except OSError:
                        found += stop - start
    return found


def written(source: ByteSource, table: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges [first, last) of descriptors outside holes of the file, ascending; holes were never written.

    :param table: offset of the first descriptor.
    """
    done = 0
    for offset, size in source.extents(table, count * _PLACE.size):
        first = max(done, (offset - table) // _PLACE.size)
        done = max(done, min(count, -(-(offset + size - table) // _PLACE.size)))
        if first < done:
            yield first, done


def _look(source: ByteSource, table: int, first: int, last: int) -> int:
    data = source.read(table + first * _PLACE.size, (last - first) * _PLACE.size)
    has = source.has
    return sum(1 for offset, size in _PLACE.iter_unpack(data) if offset and size and has(offset, size))
