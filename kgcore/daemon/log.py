# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's log: a line for each request, to standard error; the journal reads how important it is."""

import os
from contextlib import suppress
from enum import IntEnum

from kgcore.text import printable

__all__ = ("Level", "say")

_LONGEST = 4000  # bytes: one write, which no other process's divides (PIPE_BUF)


class Level(IntEnum):
    """How important a line is, as syslog(3) numbers it."""

    ERROR = 3
    WARNING = 4
    INFO = 6


def say(level: Level, line: str) -> None:
    """Write a line. If that fails, it is lost."""
    prefix = f"<{level:d}>" if _is_the_journal() else "kgcore daemon: "
    text = (prefix + printable(line)).encode("utf-8", "backslashreplace")[:_LONGEST]
    with suppress(OSError):
        os.write(2, text + b"\n")


def _is_the_journal() -> bool:
    """Whether standard error is what systemd says it is: JOURNAL_STREAM, systemd.exec(5)."""
    with suppress(OSError):
        status = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False
