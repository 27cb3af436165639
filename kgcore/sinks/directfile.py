# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write bytes to their places in a new file, past the page cache (open(2), O_DIRECT) if the file system supports it.

A core is as large as the process. In the page cache it would evict more useful pages, above all those of the dump; a
capture kernel has no room for it; and on fast disks the page cache costs more time than everything else.
"""

import errno
import mmap
import os
from contextlib import suppress

__all__ = ("DirectFile", "Position")

_BLOCK = mmap.PAGESIZE  # no logical block is larger, and so both ways never meet in a page
_BUFFER = 4 << 20
_WORTH = 1 << 18  # bytes; the disk is waited for, and with less it is the waiting that counts


class DirectFile:
    """A file that forked processes may write in parts: each has a copy of the buffers.

    It neither truncates, nor syncs the file, nor closes the descriptor.

    :param fd: of the file, open for writing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._direct = -1
        self._buffers: list[memoryview] = []  # those that nobody uses now
        with suppress(OSError):  # tmpfs before 6.6, and some network file systems
            self._direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    @property
    def direct(self) -> bool:
        """Whether the file system supports O_DIRECT, as far as is known."""
        return self._direct >= 0

    def at(self, offset: int) -> "Position":
        """Return a position that starts at an offset."""
        return Position(self, offset)

    def close(self) -> None:
        """Free the buffers. Bytes that were not flushed are lost."""
        if self.direct:
            direct, self._direct = self._direct, -1
            os.close(direct)

    def take_buffer(self) -> memoryview:
        """Return a buffer that begins at a page boundary."""
        return self._buffers.pop() if self._buffers else memoryview(mmap.mmap(-1, _BUFFER))

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer for others to use."""
        self._buffers.append(buffer)

    def drop_buffers(self) -> None:
        """Free the unused buffers: other processes write now, and this one has little left to write."""
        self._buffers.clear()

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write all bytes at an offset.

        :param data: has the same alignment in a page as the offset.
        :raises OSError: what pwrite(2) raises.
        """
        start = -offset % _BLOCK
        end = start + (len(data) - start) // _BLOCK * _BLOCK
        if self.direct and end - start >= _WORTH:
            self._write_buffered(offset, data[:start])
            start += self._write_direct(offset + start, data[start:end])
            offset, data = offset + start, data[start:]
        self._write_buffered(offset, data)

    def _write_direct(self, offset: int, data: memoryview) -> int:
        """Write as much as O_DIRECT takes; return how much that was."""
        try:
            return os.pwrite(self._direct, data, offset)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self.close()  # this file system says only now that it cannot, or wants larger blocks
            return 0

    def _write_buffered(self, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._fd, data, offset)
            offset += count
            data = data[count:]


class Position:
    """Writes forward from an offset. Errors may appear in a later call, at the latest in :meth:`flush`.

    :ivar offset: of the next byte.
    """

    def __init__(self, file: DirectFile, offset: int) -> None:
        self._file = file
        self.offset = offset
        self._buffer: memoryview | None = None
        self._start = 0  # what the buffer holds
        self._end = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes.

        :raises OSError: what pwrite(2) raises.
        """
        view = memoryview(data)
        while view:
            if self._buffer is None:
                self._buffer = self._file.take_buffer()
                self._start = self._end = self.offset % _BLOCK
            count = min(len(view), len(self._buffer) - self._end)
            self._buffer[self._end : self._end + count] = view[:count]
            self._end += count
            self.offset += count
            view = view[count:]
            if self._end == len(self._buffer):
                self.flush()

    def skip(self, length: int) -> None:
        """Leave a hole.

        :raises OSError: what pwrite(2) raises.
        """
        self.flush()
        self.offset += length

    def flush(self) -> None:
        """Write all buffered bytes to the file.

        :raises OSError: what pwrite(2) raises.
        """
        if self._buffer is None:
            return
        buffer, self._buffer = self._buffer, None
        self._file.write_at(self.offset - (self._end - self._start), buffer[self._start : self._end])
        self._file.give_back(buffer)
