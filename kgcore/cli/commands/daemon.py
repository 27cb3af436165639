# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore daemon``: write the cores of programs that ask for them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kgcore.cli.arguments import add_version
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, flag, option
from kgcore.cli.values import duration, file_name, workers

if TYPE_CHECKING:
    from kgcore.daemon.main import DaemonOptions

__all__ = ("make_parser", "parse", "run")

_MAX_TIME = 600.0
_EPILOG = """
Programs ask it for their own core, or for that of a process of their user that they could trace; root asks for any.
They open the file and send its descriptor: the daemon opens no name that a client says. kgcore ask, kgcore.client
(Python) and contrib/client (C) are clients; contrib/systemd has units.

SIGTERM and Ctrl-C let dumps end that have begun; a second one ends them.

examples:
  kgcore daemon                                    at /run/kgcore/socket, as root
  kgcore daemon --group debuggers                  only for members of a group, and root
  kgcore daemon --socket ~/kgcore.socket           for one's own programs, without root
"""


def parse(words: Sequence[str], environ: Mapping[str, str]) -> "DaemonOptions":
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    from kgcore.daemon.main import DaemonOptions

    parsed = make_parser().parse_args(list(words))
    return DaemonOptions(
        socket=parsed.socket,
        group=parsed.group,
        max_workers=parsed.max_workers,
        max_time=parsed.max_time,
        allow_foreign=parsed.allow_foreign,
        idle_exit=parsed.idle_exit,
    )


def run(command: "DaemonOptions", console: Console) -> int:
    """Serve clients until a signal comes, and return the exit status."""
    from kgcore.daemon import main

    main.run(command)
    return Status.COMPLETE


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore daemon",
        usage="kgcore daemon [--socket PATH] [--group NAME] [--max-workers N] [--max-time DURATION]",
        description="Write the cores of programs that ask for them, and let them go on.",
        epilog=_EPILOG,
    )
    add_version(parser)
    option(
        parser.general,
        "--socket",
        metavar="PATH",
        type=file_name,
        help="where to listen (default: the sockets that systemd passes on, else $KGCORE_SOCKET, else "
        "/run/kgcore/socket)",
    )
    option(
        parser.general,
        "--group",
        metavar="NAME",
        type=file_name,
        help="let only members of this group, and root, connect (default: everybody)",
    )
    option(
        parser.general,
        "--max-workers",
        metavar="N",
        type=workers,
        help="how many dumps there may be at once; others wait (default: as many as there are CPUs, at least 2)",
    )
    option(
        parser.general,
        "--max-time",
        metavar="DURATION",
        type=duration,
        default=_MAX_TIME,
        help="end a dump that takes longer than so many seconds (or m, h; default: 10m)",
    )
    flag(
        parser.general,
        "--allow-foreign",
        help="whoever may connect may have any process, of any user: with --group, this group is as mighty as root",
    )
    option(
        parser.general,
        "--idle-exit",
        metavar="DURATION",
        type=duration,
        help="end after so many seconds (or m, h) without a client: systemd starts it again",
    )
    return parser
