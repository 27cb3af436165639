# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything kgcore raises on purpose.

An error says *what* is wrong in its message, *where* in its facts (pid, address) and *what to try* in its hint, so that
the command line can print all three in one place and a library user need not parse text.
"""

import re

__all__ = (
    "BadTask",
    "BrokenDump",
    "KernelThread",
    "KgcoreError",
    "LimitReached",
    "NoCurrentTask",
    "NoSuchTask",
    "NoUserMemory",
    "OutputError",
    "TargetError",
    "is_for_memory",
    "no_memory",
)

_ENOUGH = 16 << 20  # bytes; a library to be loaded takes about as much


class KgcoreError(Exception):
    """Base of all errors; also the type to catch."""

    def __init__(self, message: str, *, hint: str = "", pid: int | None = None, address: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.pid = pid
        self.address = address

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class TargetError(KgcoreError):
    """The vmcore (or live kernel) cannot be opened, or its kernel cannot be understood."""


class BrokenDump(KgcoreError):
    """A kernel structure in the dump contradicts itself: an endless list, an absurd size, a wild pointer."""


class NoSuchTask(KgcoreError):
    """No thread has that id."""


class BadTask(KgcoreError):
    """That address is not the address of a ``struct task_struct``."""


class KernelThread(KgcoreError):
    """The task is a kernel thread: it has no user memory."""


class NoUserMemory(KgcoreError):
    """The process is a zombie or exited: its ``mm_struct`` is gone."""


class NoCurrentTask(KgcoreError):
    """No task was named and the dump does not tell which process was current when it was made."""


class OutputError(KgcoreError):
    """The core cannot be created or written."""


class LimitReached(OutputError):
    """A limit keeps us from beginning with the core."""


def no_memory() -> OutputError:
    """What a MemoryError means to somebody who waits for a core."""
    return OutputError(
        "there is not enough memory",
        hint="raise the limit (ulimit -v, a service's MemoryMax=, a capture kernel's crashkernel=), or try --jobs 1",
    )


def is_for_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory: where that is short, libraries fail in any way that there is."""
    if isinstance(error, MemoryError) or re.search("failed to map segment|[Cc]annot allocate memory", str(error)):
        return True
    import mmap  # drgn imports this module with every start

    try:
        mmap.mmap(-1, _ENOUGH).close()
    except (OSError, MemoryError):
        return True
    return False
