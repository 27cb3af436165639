# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a core to a stream, or to memory."""

import errno
import io
from typing import Any

from kgcore.errors import OutputError
from kgcore.sinks.base import BaseSink

__all__ = ("MemorySink", "SparseSink", "StreamSink")


class StreamSink(BaseSink):
    """A writable binary file object. It stays open, and earlier output stays in it.

    Holes are written as zeros even if the object can seek: it may hold other data there, or append.
    """

    path: str | None = None

    def __init__(self, file: Any) -> None:
        """:param file: has ``write(bytes-like)``, and perhaps ``flush()``."""
        super().__init__()
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.used += len(view)
        try:
            while view:
                count = self._file.write(view)
                if count is None:
                    # Raw files say so that they would block; other objects that they do not count.
                    if isinstance(self._file, io.RawIOBase):
                        raise BlockingIOError(errno.EAGAIN, "the output is non-blocking and full")
                    return
                view = view[count:]
        except (OSError, ValueError) as error:  # ValueError: closed, or not open for writing
            raise _stream_failure(error) from error

    def commit(self) -> None:
        """See :meth:`Sink.commit`."""
        try:
            if hasattr(self._file, "flush"):
                self._file.flush()
        except (OSError, ValueError) as error:
            raise _stream_failure(error) from error


class SparseSink(StreamSink):
    """A new, empty file that can seek, such as a memfd: holes are holes."""

    def skip(self, length: int) -> None:
        try:
            self._file.seek(length, io.SEEK_CUR)
        except (OSError, ValueError) as error:
            raise _stream_failure(error) from error

    def commit(self) -> None:
        """See :meth:`Sink.commit`."""
        super().commit()
        try:
            self._file.truncate()
        except (OSError, ValueError) as error:
            raise _stream_failure(error) from error


def _stream_failure(error: OSError | ValueError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return OutputError("cannot write the core: the reader closed the pipe early")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(f"cannot write the core: {reason}")


class MemorySink(BaseSink):
    """Holds the core in memory, for tests and small processes.

    :ivar data: the bytes written so far.
    """

    path: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
        self.used += len(data)

    def skip(self, length: int) -> None:
        self.data += bytes(length)
        self.used += length

    def commit(self) -> None:
        """See :meth:`Sink.commit`. Memory has nothing to make durable."""
