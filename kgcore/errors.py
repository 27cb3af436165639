# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define the exceptions of kgcore.

An error has *what* is wrong in its message, *where* in its attributes (pid, address) and *what to try* in its hint, so
that users of the library need not parse text.
"""

import re

__all__ = (
    "BadTask",
    "BrokenDump",
    "Busy",
    "Cancelled",
    "KernelThread",
    "KgcoreError",
    "LimitReached",
    "NoCurrentTask",
    "NoSuchTask",
    "NoUserMemory",
    "NotRestarted",
    "OutputError",
    "StoodStillTooLong",
    "TargetError",
    "is_for_memory",
    "no_memory",
)

_ENOUGH = 16 << 20  # bytes; a library to be loaded takes about as much


class KgcoreError(Exception):
    """The base class of all errors of kgcore, and the one to catch."""

    def __init__(self, message: str, *, hint: str = "", pid: int | None = None, address: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.pid = pid
        self.address = address

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class TargetError(KgcoreError):
    """The vmcore or running kernel cannot be opened, or its kernel is not supported."""


class Busy(TargetError):
    """Another kgcore is taking this process at this moment."""


class Cancelled(KgcoreError):
    """The dump was given up, as its caller wished."""


class BrokenDump(KgcoreError):
    """A kernel structure in the dump is inconsistent: an endless list, an implausible size, a wild pointer."""


class NoSuchTask(KgcoreError):
    """No thread has that id."""


class BadTask(KgcoreError):
    """The address is not that of a ``struct task_struct``."""


class KernelThread(KgcoreError):
    """The task is a kernel thread: it has no user memory."""


class NoUserMemory(KgcoreError):
    """The process is a zombie or exited: its ``mm_struct`` is gone."""


class NotRestarted(KgcoreError):
    """A process cannot go on from its core, or a step of that failed; nothing of it is left."""


class NoCurrentTask(KgcoreError):
    """No task was named, and the dump does not say which one was current."""


class StoodStillTooLong(KgcoreError):
    """A living process would have to stand still for longer than it may."""


class OutputError(KgcoreError):
    """The core cannot be created or written."""


class LimitReached(OutputError):
    """A limit was reached before the core was started."""


def no_memory() -> OutputError:
    """Return the error for a MemoryError, with a hint."""
    return OutputError(
        "out of memory",
        hint="raise the limit (ulimit -v, a service's MemoryMax=, a capture kernel's crashkernel=), or try --jobs 1",
    )


def is_for_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory is short. Libraries report that in many ways."""
    if isinstance(error, MemoryError) or re.search("failed to map segment|[Cc]annot allocate memory", str(error)):
        return True
    import mmap  # drgn imports this module with every start

    try:
        mmap.mmap(-1, _ENOUGH).close()
    except (OSError, MemoryError):
        return True
    return False
