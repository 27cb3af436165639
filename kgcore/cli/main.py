# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the ``kgcore`` command and turn its result into an exit status."""

# signal itself takes milliseconds to import, in which a Ctrl-C would end in a traceback. (It has no type information.)
import _signal  # type: ignore[import-not-found]
from collections.abc import Sequence
from typing import NoReturn

__all__ = ("entry", "main")


def entry() -> NoReturn:
    """Run the console script."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    import io
    import os
    import sys
    from contextlib import suppress

    from kgcore.system import standard, stopping

    stopping.heed()
    try:
        standard.take()
        if isinstance(sys.stdout, io.TextIOWrapper):  # names in a dump may have characters that this stream has not
            sys.stdout.reconfigure(errors="backslashreplace")
        status = main(sys.argv[1:])
    except Exception as error:  # noqa: BLE001  (too many open files, or no memory to import what it takes)
        words = "out of memory" if isinstance(error, MemoryError) else str(error)
        with suppress(OSError):
            os.write(2, f"kgcore: cannot start: {getattr(error, 'strerror', '') or words}\n".encode())
        sys.exit(1)
    standard.finish()
    sys.exit(status)


def main(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    import os
    import sys
    import traceback

    from kgcore.cli import commands
    from kgcore.cli.console import Console, OutputLost, Status, reason
    from kgcore.cli.parser import Answer, UsageError
    from kgcore.cli.request import Channel
    from kgcore.errors import KgcoreError

    console = Console(sys.stdout, sys.stderr)
    show = Channel(0)
    try:
        try:
            command, words = commands.chosen(argv)
            try:
                arguments = command.parse(words, os.environ)
            except UsageError as error:
                from kgcore.cli.meant import meant

                if (line := meant(argv, os.environ)) is None:
                    raise
                raise UsageError(error.message, hint=f"did you mean: {line}") from error
            show = getattr(arguments, "show", show)
            status = command.run(arguments, console)
        except Answer as answer:
            print(answer, end="", file=console.out)
            status = Status.COMPLETE
        try:
            console.out.flush()
        except OutputLost as error:
            if status != Status.FAILED:  # which was told: of a core that goes there
                console.lost = console.lost or error
        if console.lost is None:
            return status
        console.remark(str(console.lost))
    except UsageError as error:
        console.remark(str(error))
        return Status.USAGE
    except OutputLost as error:
        console.remark(str(error))
    except Exception as error:  # noqa: BLE001  (a defect too ends in a reason; -v 2 shows the place)
        if show & Channel.LIBRARY and not isinstance(error, KgcoreError):
            traceback.print_exc(file=console.err)
        console.remark(reason(error))
    return Status.FAILED
