# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``kgcore`` command: runs the command that is asked for, and turns what comes of it into an exit status."""

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from kgcore import commands
from kgcore.arguments import Answer, UsageError
from kgcore.console import Console, Status, reason
from kgcore.errors import KgcoreError
from kgcore.request import Show

__all__ = ("entry", "main")


class _Stopped(BaseException):
    """A signal asked us to stop. Like KeyboardInterrupt no Exception, so that no handler on the way swallows it."""


def entry() -> NoReturn:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names in a dump may have characters that this stream has not
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    console = Console(sys.stdout, sys.stderr)
    show = Show(0)
    try:
        with _stoppable():
            try:
                command, words = commands.chosen(argv)
                arguments = command.parse(words, os.environ)
                show = getattr(arguments, "show", show)
                status = command.run(arguments, console)
            except Answer as answer:
                print(answer, end="", file=console.out)
                status = Status.COMPLETE
            console.out.flush()
            return status
    except UsageError as error:
        console.remark(str(error))
        return Status.USAGE
    except _Stopped as stopped:
        console.remark(f"stopped by {stopped}; no half-written core was left behind")
    except BrokenPipeError:
        console.remark("standard output was closed by its reader")
    except OSError as error:
        console.remark(f"standard output: {reason(error)}")
    except Exception as error:  # noqa: BLE001  (a defect too ends in a reason; -v 2 shows the place)
        if show & Show.LIBRARY and not isinstance(error, KgcoreError):
            traceback.print_exc()
        console.remark(reason(error))
    return Status.FAILED


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block by an exception, so that unfinished files are cleaned up."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)  # impatience must not interrupt the clean-up
        raise _Stopped(signal.Signals(number).name)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
            previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
