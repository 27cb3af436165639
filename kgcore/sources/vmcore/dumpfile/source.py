# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bytes of a dump file by offset, wherever in the file they lie."""

import mmap
import os
from collections.abc import Sequence
from typing import Protocol

from kgcore.sources.vmcore.dumpfile.budget import Budget

__all__ = ("ByteSource", "PlainFile", "ShortFile")

_MAP_FROM = 1 << 20  # bytes
_MAX_EXTENTS = 1 << 16


class ShortFile(Exception):
    """The file ends before the bytes asked for."""


class ByteSource(Protocol):
    """A dump as its writer meant it: flattened files look here as if they were not.

    :ivar in_place: what is read of it in large pieces takes no memory.
    :ivar budget: for all that is read of it because a header says so.
    """

    in_place: bool
    budget: Budget

    @property
    def size(self) -> int:
        """Where the last byte that there is ends."""

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly these bytes. Of a large plain file they are mapped, not copied.

        :raises ShortFile: not all of them are there.
        """

    def fill(self, offset: int, view: memoryview) -> None:
        """Copy as many bytes as ``view`` has.

        :raises ShortFile: not all of them are there.
        """

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """These, (offset, size) each, are about to be read one by one: a disk may as well fetch them side by side."""

    def has(self, offset: int, size: int) -> bool:
        """Whether :meth:`read` would give them."""

    def stored(self, offset: int, size: int) -> int:
        """How many of these bytes take room in the file. The others are in holes, and read as zeros."""

    def close(self) -> None: ...


class PlainFile:
    """A file as it is.

    Small reads copy, since each page of a mapping that was looked at counts as memory of ours.

    :param descriptor: of a regular file, not empty; stays the caller's.
    """

    in_place = True

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = os.dup(descriptor)
        self.budget = Budget()

    def has(self, offset: int, size: int) -> bool:
        return 0 <= offset and 0 <= size and offset + size <= self.size

    def stored(self, offset: int, size: int) -> int:
        end, found = min(offset + size, self.size), 0
        for _ in range(_MAX_EXTENTS):  # of a file in more pieces, what is counted is enough
            try:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                if start >= end:
                    break
                offset = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except (OSError, OverflowError):  # nothing behind it
                break
            found += min(offset, end) - start
            if offset >= end:
                break
        return found

    def read(self, offset: int, size: int) -> memoryview:
        if not self.has(offset, size):
            raise ShortFile(f"{size} bytes at offset {offset} lie beyond the end of the file, which has {self.size}")
        if size < _MAP_FROM:
            return memoryview(os.pread(self._descriptor, size, offset))
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(self._descriptor, offset + size - start, access=mmap.ACCESS_READ, offset=start)
        return memoryview(mapping)[offset - start :]

    def fill(self, offset: int, view: memoryview) -> None:
        # Read, not mapped: what a disk cannot give is an exception then, and in a mapping a signal that ends us.
        if not self.has(offset, len(view)):
            raise ShortFile(f"{len(view)} bytes at offset {offset} lie beyond the end of the file")
        while count := os.preadv(self._descriptor, [view], offset):
            if count == len(view):
                return
            offset, view = offset + count, view[count:]
        raise ShortFile(f"the file became shorter than {offset + len(view)} bytes")

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        if len(ranges) > 1 and not all(self._in_memory(ranges[at][0]) for at in (0, len(ranges) // 2, -1)):
            for offset, size in ranges:
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def _in_memory(self, offset: int) -> bool:
        """Whether no disk is needed to read there, as far as the file system tells."""
        try:
            os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except (OSError, OverflowError):  # it does not tell, or nothing is there
            pass
        return True

    def close(self) -> None:
        """Close the file; what was mapped stays until nobody refers to it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
