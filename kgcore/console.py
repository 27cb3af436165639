# SPDX-License-Identifier: LGPL-2.1-or-later
"""How kgcore talks: results to one stream, remarks to the other, each a harmless line; and the exit statuses."""

import mmap
import re
from typing import TextIO

from kgcore.errors import KgcoreError, no_memory
from kgcore.text import printable

__all__ = ("Console", "Status", "reason")

_ENOUGH = 16 << 20  # bytes; a library to be loaded takes about as much


class Status:
    """Exit status."""

    COMPLETE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3


class Console:
    """Where results and remarks go; both are shown at once, so that they stand in order in a shared log.

    :ivar out: what was asked for.
    :ivar err: diagnostics and progress.
    """

    def __init__(self, out: TextIO, err: TextIO, name: str = "kgcore") -> None:
        self.out = out
        self.err = err
        self.name = name

    def say(self, line: str) -> None:
        """A line of the result."""
        print(printable(line), file=self.out, flush=True)

    def remark(self, line: str) -> None:
        """A line about the result."""
        print(f"{self.name}: {printable(line)}", file=self.err, flush=True)

    def fail(self, line: str) -> None:
        """Why one process could not be dumped."""
        self.remark(line)


def reason(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, KgcoreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if _is_for_memory(error):
        return str(no_memory())
    return f"unexpected {type(error).__name__}: {error} (-v 2 shows where it happened; please report it)"


def _is_for_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory: where that is short, libraries fail in any way that there is."""
    if isinstance(error, MemoryError) or re.search("failed to map segment|[Cc]annot allocate memory", str(error)):
        return True
    try:
        mmap.mmap(-1, _ENOUGH).close()
    except (OSError, MemoryError):
        return True
    return False
