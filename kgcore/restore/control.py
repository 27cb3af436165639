# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make system calls in the half-made process, each as a step that succeeds or ends all, and write to its memory."""

import mmap
import os

from kgcore.arch import RESUMING
from kgcore.errors import NotRestarted
from kgcore.restore.stub import Stub, failed

__all__ = ("PAGE", "SCRATCH", "Control")

PAGE = mmap.PAGESIZE
_MOST_ERRNO = 4095
SCRATCH = 4 * PAGE
"""Bytes of memory that system calls may read from and write to, behind the page with the instruction."""


class Control:
    """The half-made process, as its makers see it.

    :ivar stub: it.
    :ivar scratch: address of memory for arguments; 0: it has not been made yet.

    :param view: of :mod:`kgcore.arch`.
    """

    def __init__(self, stub: Stub, view: str) -> None:
        self.stub = stub
        self.how = RESUMING[view]
        self.scratch = 0
        try:
            self._memory = os.open(f"/proc/{stub.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise failed("write its memory", "open", error) from error

    def close(self) -> None:
        """Close its memory."""
        os.close(self._memory)

    def call(self, step: str, name: str, *arguments: int, tid: int = 0) -> int:
        """Make a system call in a thread, and return its result.

        :param step: what it is for.
        :param tid: of the thread; 0: the first.
        :raises NotRestarted: it failed.
        """
        result = self.attempt(step, name, *arguments, tid=tid)
        if -_MOST_ERRNO <= result < 0:
            raise failed(step, name, -result)
        return result

    def attempt(self, step: str, name: str, *arguments: int, tid: int = 0) -> int:
        """Make a system call that may fail; return -errno then.

        :raises NotRestarted: the process is gone.
        """
        try:
            return self.stub.call(tid or self.stub.pid, self.how.calls[name], *arguments)
        except OSError as error:
            raise failed(step, name, error) from error

    def give(self, data: bytes, at: int = 0) -> int:
        """Put an argument into the scratch memory, and return its address.

        :param at: offset there.
        """
        if at + len(data) > SCRATCH:
            raise NotRestarted("cannot restart it: an argument is too long")
        self.write(self.scratch + at, data)
        return self.scratch + at

    def write(self, address: int, data: bytes) -> None:
        """Write to its memory, also where it may not be written.

        :raises NotRestarted: it cannot be written.
        """
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._memory, data[done:], address + done)
        except OSError as error:
            raise failed(f"write its memory at {address + done:#x}", "write", error) from error

    def read(self, address: int, size: int) -> bytes:
        """Read its memory.

        :raises NotRestarted: it cannot be read.
        """
        try:
            return os.pread(self._memory, size, address)
        except OSError as error:
            raise failed(f"read its memory at {address:#x}", "read", error) from error
