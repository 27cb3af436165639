# SPDX-License-Identifier: LGPL-2.1-or-later
"""Set up standard input, output and error, which may be closed, full, or without a reader."""

import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ("finish", "take")


def take() -> None:
    """Replace closed standard streams.

    Otherwise the next opened file would take the place of a closed one, and Python would print errors into it. The
    replacement is the end of a pipe that yields nothing and cannot be written.
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
    """Flush the streams, so that Python does not fail to do so at its exit."""
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
