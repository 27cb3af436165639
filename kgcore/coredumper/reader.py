# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core as a file object, which a program reads while it is made, or out of memory."""

import io
import os
from collections.abc import Callable
from typing import Any

from kgcore.coredump.report import Report
from kgcore.errors import KgcoreError

__all__ = ("CoreReader",)


class CoreReader(io.RawIOBase):
    """A core to read, as :func:`kgcore.get_core_dump` gives it. Closing it before its end gives the dump up.

    Reading raises KgcoreError if the dump failed: what was read until then is no whole core.

    :ivar report: what the core holds, and what is missing and why; None until it is read to its end.
    """

    def __init__(
        self,
        descriptor: int,
        report: Report | None,
        *,
        wait: Callable[[], Report] | None = None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """
        :param descriptor: of a memfd, or of a pipe.
        :param report: with a memfd.
        :param wait: with a pipe, called at its end: waits for the report, or raises KgcoreError.
        :param give_up: called if it is closed before.
        """
        super().__init__()
        self._descriptor = descriptor
        self._in_memory = wait is None
        self._wait = wait
        self._give_up = give_up
        self._failed: KgcoreError | None = None
        self.report = report

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it is in memory (``spool="memfd"``)."""
        return self._in_memory

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a place, as files do.

        :raises io.UnsupportedOperation: it is not in memory.
        """
        if not self._in_memory:
            raise io.UnsupportedOperation("seek: the core is not in memory (spool='memfd')")
        return os.lseek(self._descriptor, offset, whence)

    def fileno(self) -> int:
        """Return the descriptor, of a pipe or of a sealed memfd."""
        return self._descriptor

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes, as files do.

        :raises KgcoreError: the dump failed.
        """
        if self._failed is not None:
            raise self._failed
        count = os.readv(self._descriptor, [buffer])
        if not count and memoryview(buffer).nbytes and self._wait is not None:
            wait, self._wait = self._wait, None
            try:
                self.report = wait()
            except KgcoreError as error:
                self._failed = error
                raise
        return count

    def close(self) -> None:
        """Close it, and give the dump up if it was not read to its end."""
        if not self.closed:
            os.close(self._descriptor)
            if self._wait is not None:
                self._wait = None
                self._give_up()
        super().close()
