# SPDX-License-Identifier: LGPL-2.1-or-later
"""Standard input, output and error of the command ``kgcore``, which may be closed, full, or have lost their reader."""

import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ("finish", "take")


def take() -> None:
    """Make all three be there.

    Where one is closed, the next file that is opened would be it, and Python prints what is for standard error on
    standard output. In its place there is now the end of a pipe that gives nothing, and to which nobody can write.
    """
    while True:
        reader, writer = os.pipe()
        os.close(writer)
        if reader > 2:  # standard error
            os.close(reader)
            break
        os.set_inheritable(reader, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


def finish() -> None:
    """Let nothing be left in the streams that Python would fail to write as its last act."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open("/dev/null", os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
