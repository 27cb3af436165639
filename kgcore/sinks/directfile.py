# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes to their places in a new file, past the page cache (open(2), O_DIRECT) where the file system can.

A core is as large as the process was. In the page cache it would push out what is of more use there, the dump itself
above all; a capture kernel has no room for it; and on fast disks that detour takes longer than all the rest.
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
    """A file of which forked processes, too, may write their parts: each has a copy of the buffers.

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
        """Whether the file system can, as far as is known."""
        return self._direct >= 0

    def at(self, offset: int) -> "Position":
        """Where to go on from an offset."""
        return Position(self, offset)

    def close(self) -> None:
        """What was not flushed is lost."""
        if self.direct:
            direct, self._direct = self._direct, -1
            os.close(direct)

    def take_buffer(self) -> memoryview:
        """Bytes that begin at a page."""
        return self._buffers.pop() if self._buffers else memoryview(mmap.mmap(-1, _BUFFER))

    def give_back(self, buffer: memoryview) -> None:
        """Somebody else may use it."""
        self._buffers.append(buffer)

    def drop_buffers(self) -> None:
        """Free what nobody uses now: others are writing, and this process has little more to write."""
        self._buffers.clear()

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write all of it.

        :param data: begins in a page where the offset does.
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
        """Write as much of it as can be; how much that was."""
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
    """Goes forward from an offset. Errors may come with a later call, at last with :meth:`flush`.

    :ivar offset: of the next byte.
    """

    def __init__(self, file: DirectFile, offset: int) -> None:
        self._file = file
        self.offset = offset
        self._buffer: memoryview | None = None
        self._start = 0  # what the buffer holds
        self._end = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes.

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
        """Have all in the file that was taken.

        :raises OSError: what pwrite(2) raises.
        """
        if self._buffer is None:
            return
        buffer, self._buffer = self._buffer, None
        self._file.write_at(self.offset - (self._end - self._start), buffer[self._start : self._end])
        self._file.give_back(buffer)
