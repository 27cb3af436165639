# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many page descriptors of an incomplete kdump file lead to a page that was written."""

from collections.abc import Iterator
from struct import Struct

from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("count_written", "written")

_PLACE = Struct("<QI12x")  # of struct page_desc: offset, size
_AT_ONCE = 1 << 14
_BESIDE_BAD = 128  # where not all of them can be read


def count_written(source: ByteSource, table: int, count: int) -> int:
    """Of those in a row. One that a bad sector took counts: its page will say so by itself.

    :param table: offset of the first.
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
                    except ShortFile:  # pages lie behind their descriptors
                        pass
                    except OSError:
                        found += stop - start
    return found


def written(source: ByteSource, table: int, count: int) -> Iterator[tuple[int, int]]:
    """Descriptors of which anything is in the file, [first, last), ascending; in a hole none was written.

    :param table: offset of the first.
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
