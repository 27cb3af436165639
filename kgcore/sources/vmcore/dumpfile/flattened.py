# SPDX-License-Identifier: LGPL-2.1-or-later
"""Flattened dumps: a vmcore written to a pipe (``makedumpfile -F``, and what QEMU's kdump formats always are).

A header of 4096 bytes, then records: two big-endian 64-bit numbers, the offset in the file that is meant and a size,
then as many bytes; both numbers are -1 in the last one. (makedumpfile.h: struct makedumpfile_header and
makedumpfile_data_header.)
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from struct import Struct

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("SIGNATURE", "FlattenedFile")

SIGNATURE = b"makedumpfile\0\0\0\0"
_HEADER = Struct(">16sqq")  # signature, type, version
_HEADER_SIZE = 4096
_RECORD = Struct(">qq")  # offset, size
_FLAT = 1


class FlattenedFile:
    """The file that a flattened one stands for.

    Writers seek back to fill in headers, so a later record may replace part of an earlier one; and they skip what
    shall be zero.

    :ivar complete: the end mark is there.
    """

    in_place = False

    def __init__(self, source: ByteSource) -> None:
        try:
            signature, kind, version = _HEADER.unpack(source.read(0, _HEADER.size))
        except ShortFile as error:
            raise TargetError(f"it is a flattened dump cut off within its header: {error}") from error
        if signature != SIGNATURE or kind != _FLAT or version != _FLAT:
            raise TargetError(f"it is a flattened dump of an unknown kind ({kind}, version {version})")
        self._source = source
        self.complete = False
        pieces = sorted(self._pieces())
        self._starts = array("Q", (start for start, _, _ in pieces))  # in the file that is meant
        self._places = array("Q", (place for _, place, _ in pieces))  # in the flattened file
        self._sizes = array("Q", (size for _, _, size in pieces))
        self._reach = array("Q", accumulate((start + size for start, _, size in pieces), max))
        self.size = self._reach[-1] if pieces else 0

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        """The records in file order: offset meant, place in the flattened file, size; the last may be cut short."""
        place = _HEADER_SIZE
        while self._source.has(place, _RECORD.size):
            offset, size = _RECORD.unpack(self._source.read(place, _RECORD.size))
            place += _RECORD.size
            if offset == size == -1:
                self.complete = True
                return
            if offset < 0 or size < 0:
                raise TargetError(f"its flattened record at {place - _RECORD.size} has a negative offset or size")
            yield offset, place, min(size, max(0, self._source.size - place))
            place += size

    def _overlapping(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The pieces that have bytes of [start, end), by place, that is, in the order they were written."""
        found = []
        at = bisect_left(self._starts, end) - 1
        while at >= 0 and self._reach[at] > start:
            if self._starts[at] + self._sizes[at] > start:
                found.append((self._places[at], self._starts[at], self._sizes[at]))
            at -= 1
        return sorted(found)

    def has(self, offset: int, size: int) -> bool:
        if offset < 0 or size < 0 or offset + size > self.size:
            return False
        if self.complete:
            return True
        covered = offset  # a gap may be a record that was cut off
        for _, start, length in sorted(self._overlapping(offset, offset + size), key=lambda piece: piece[1]):
            if start > covered:
                return False
            covered = max(covered, start + length)
        return covered >= offset + size

    def read(self, offset: int, size: int) -> memoryview:
        if not self.has(offset, size):
            raise ShortFile(f"{size} bytes at offset {offset} are not in the flattened file")
        data = memoryview(bytearray(size))
        self.fill(offset, data)
        return data.toreadonly()

    def fill(self, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        if not self.has(offset, len(view)):
            raise ShortFile(f"{len(view)} bytes at offset {offset} are not in the flattened file")
        pieces = self._overlapping(offset, end)
        if len(pieces) != 1 or pieces[0][1] > offset or pieces[0][1] + pieces[0][2] < end:
            view[:] = bytes(len(view))  # writers skip what shall be zero
        for place, start, length in pieces:
            low, high = max(start, offset), min(start + length, end)
            self._source.fill(place + low - start, view[low - offset : high - offset])

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._source.expect(
            [
                (place + max(offset - start, 0), min(size, length))
                for offset, size in ranges
                for place, start, length in self._overlapping(offset, offset + size)
            ]
        )

    def close(self) -> None:
        self._source.close()
