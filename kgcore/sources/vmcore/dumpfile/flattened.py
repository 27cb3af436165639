# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read flattened dumps: vmcores written to a pipe (``makedumpfile -F``; QEMU's kdump formats are always flattened).

A header of 4096 bytes, then records: two big-endian 64-bit numbers, the offset in the rebuilt file and a size, then
that many bytes. In the last record, the end mark, both numbers are -1. (makedumpfile.h: struct makedumpfile_header
and makedumpfile_data_header.)
"""

import errno
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from operator import gt
from struct import Struct

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile, found_again

__all__ = ("SIGNATURE", "FlattenedFile")

SIGNATURE = b"makedumpfile\0\0\0\0"
_HEADER = Struct(">16sqq")  # signature, type, version
_HEADER_SIZE = 4096
_RECORD = Struct(">qq")  # offset, size
_FLAT = 1
# The header of a record, which may begin anywhere: of a record not empty and of at most 128 MiB; or the end mark.
_LIKELY = re.compile(rb"(?=\0{3}.{5}\0{4}(?!\0{4})[\0-\x07].{3}|\xff{16})", re.DOTALL)
_MAX_OFFSET, _MAX_RECORD = 1 << 40, 1 << 27
_FITTING = 64
_RECORD_COST = 1 << 10  # bytes of budget for each record, for memory and time; free for records of at least that size


class FlattenedFile:
    """The file that the records of a flattened file rebuild.

    Writers seek back to fill in headers, so a later record may replace part of an earlier one. They skip zeros.

    :ivar complete: the file has the end mark.
    :ivar damaged: the header of a record is unreadable: bytes that no other record holds may have been in this one.
    """

    def __init__(self, source: ByteSource) -> None:
        try:
            signature, kind, version = _HEADER.unpack(source.read(0, _HEADER.size))
        except ShortFile as error:
            raise TargetError(f"it is a flattened dump cut off within its header: {error}") from error
        if signature != SIGNATURE or kind != _FLAT or version != _FLAT:
            raise TargetError(f"it is a flattened dump of an unknown kind ({kind}, version {version})")
        self._source = source
        self.budget = source.budget
        self.complete = False
        self.damaged = False
        # Ascending, without overlaps.
        self._starts = array("Q")  # in the rebuilt file
        self._ends = array("Q")
        self._places = array("Q")  # in the flattened file
        self._read_records()
        self.size = self._ends[-1] if self._ends else 0

    def _read_records(self) -> None:
        starts, ends, places = array("Q"), array("Q"), array("Q")
        ascending = True
        reached = 0
        for start, place, size in self._records():
            ascending = ascending and start >= reached
            reached = start + size
            starts.append(start)
            ends.append(reached)
            places.append(place)
        if not ascending:
            order = sorted(range(len(starts)), key=starts.__getitem__)
            starts, ends, places = (array("Q", map(column.__getitem__, order)) for column in (starts, ends, places))
            if any(map(gt, ends, starts[1:])):
                starts, ends, places = _resolved(starts, ends, places)
        self._starts, self._ends, self._places = starts, ends, places

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Yield the records in file order: offset in the rebuilt file, place in the flattened file, size.

        The last may be cut short.
        """
        place = _HEADER_SIZE
        while self._source.has(place, _RECORD.size):
            try:
                offset, size = _RECORD.unpack(self._source.read(place, _RECORD.size))
            except OSError:
                self.damaged = True
                following = found_again(self._source, place, _LIKELY, self._leads_on, 2 * _MAX_RECORD)
                if following is None:
                    return
                place = following
                continue
            place += _RECORD.size
            if offset == size == -1:
                self.complete = True
                return
            if offset < 0 or size < 0:
                raise TargetError(f"its flattened record at {place - _RECORD.size} has a negative offset or size")
            size = min(size, max(0, self._source.size - place))
            self.budget.spend(_RECORD_COST, "its flattened records", size)
            if size:
                yield offset, place, size
            place += size

    def _leads_on(self, place: int) -> bool:
        """Tell whether records begin there: a chain of this many that fit is no coincidence."""
        for _ in range(_FITTING):
            if place == self._source.size:
                return True
            if not self._source.has(place, _RECORD.size):
                return False
            offset, size = _RECORD.unpack(self._source.read(place, _RECORD.size))
            if offset == size == -1:  # the end mark is the file's end; elsewhere it is memory with these bytes
                return place + _RECORD.size == self._source.size
            place += _RECORD.size + size
            if not (0 <= offset < _MAX_OFFSET and 0 < size <= _MAX_RECORD and place <= self._source.size):
                return False
        return True

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of [start, end) that records hold, ascending: (start, end, place)."""
        for at in range(bisect_right(self._ends, start), len(self._starts)):
            low, high = max(start, self._starts[at]), min(end, self._ends[at])
            if low >= high:
                return
            yield low, high, self._places[at] + low - self._starts[at]

    def has(self, offset: int, size: int) -> bool:
        if offset < 0 or size < 0 or offset + size > self.size:
            return False
        # A gap may be a record that was cut off, or an unreadable one: reading that raises OSError.
        return self.complete or self.damaged or self.stored(offset, size) == size

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        return ((low, high - low) for low, high, _ in self._pieces(offset, offset + size))

    def stored(self, offset: int, size: int) -> int:
        return sum(high - low for low, high, _ in self._pieces(offset, offset + size))

    def read(self, offset: int, size: int) -> memoryview:
        if not self.has(offset, size):
            raise ShortFile(f"{size} bytes at offset {offset} are not in the flattened file")
        data = memoryview(bytearray(size))
        self._copy(offset, data)
        return data.toreadonly()

    def fill(self, offset: int, view: memoryview) -> None:
        if not self.has(offset, len(view)):
            raise ShortFile(f"{len(view)} bytes at offset {offset} are not in the flattened file")
        self._copy(offset, view)

    def _copy(self, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        done = offset
        for low, high, place in self._pieces(offset, end):
            self._fill_gap(low - done)
            view[done - offset : low - offset] = bytes(low - done)  # writers skip zeros
            self._source.fill(place, view[low - offset : high - offset])
            done = high
        self._fill_gap(end - done)
        view[done - offset :] = bytes(end - done)

    def _fill_gap(self, size: int) -> None:
        if size and self.damaged:
            raise OSError(errno.EIO, "Input/output error: it was in an unreadable flattened record")

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._source.expect(
            [(place, high - low) for offset, size in ranges for low, high, place in self._pieces(offset, offset + size)]
        )

    def close(self) -> None:
        self._source.close()


def _resolved(starts: Sequence[int], ends: Sequence[int], places: Sequence[int]) -> tuple["array[int]", ...]:
    """Return overlapping records as pieces without overlaps: for each byte, the record written last counts.

    :param starts: ascending.
    """
    found = array("Q"), array("Q"), array("Q")
    edges = array("Q", sorted({*starts, *ends}))
    open_records: list[tuple[int, int]] = []  # a heap: -place, number
    following = 0
    for low, high in pairwise(edges):
        while following < len(starts) and starts[following] <= low:
            heappush(open_records, (-places[following], following))
            following += 1
        while open_records and ends[open_records[0][1]] <= low:
            heappop(open_records)
        if not open_records:
            continue
        place = places[open_records[0][1]] + low - starts[open_records[0][1]]
        if found[1] and found[1][-1] == low and found[2][-1] + low - found[0][-1] == place:
            found[1][-1] = high
        else:
            for column, value in zip(found, (low, high, place), strict=True):
                column.append(value)
    return found
