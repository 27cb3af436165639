# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore ask [PID] -o FILE``: have the daemon write a core."""

import argparse
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from kgcore.cli.arguments import FILTER_BITS, add_mask_option, add_version
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, option
from kgcore.cli.values import duration, file_name, number, output_name, rule, size
from kgcore.errors import KgcoreError
from kgcore.filters.rules import Action
from kgcore.sinks import STDOUT

__all__ = ("AskCommand", "make_parser", "parse", "run")

_EPILOG = """
The daemon writes the core, and reads the process; kgcore ask needs no rights but those of the user who asks. Without a
PID it is the program that started kgcore ask: a script asks for itself.

examples:
  kgcore ask 12345 -o core.12345
  kgcore ask -o core.me                    in a script: of the shell that runs it
  kgcore ask 12345 -o - | zstd > core.zst

exit status: 0 complete; 1 there is no core; 2 usage; 3 written, but incomplete.
"""
_MOST_PID = 1 << 22
_OPTIONS = ("freeze", "shared", "max_freeze", "max_size", "max_time", "limit", "profile", "compress")
_OPTIONS += get_args(Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskCommand:
    """The arguments of ``kgcore ask``.

    :ivar options: for :func:`kgcore.client.dump`.
    """

    pid: int
    output: str
    socket: str | None
    options: dict[str, Any]


def parse(words: Sequence[str], environ: Mapping[str, str]) -> AskCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    if not parsed.output:
        raise UsageError("no output is named", hint="-o FILE, or -o - for standard output")
    options = {name: value for name in _OPTIONS if (value := getattr(parsed, name)) is not None}
    return AskCommand(
        pid=os.getppid() if parsed.pid is None else parsed.pid,
        output=parsed.output,
        socket=parsed.socket,
        options=options | {"filter": parsed.mask},
    )


def run(command: AskCommand, console: Console) -> int:
    """Have the core written, and return the exit status."""
    from kgcore.client import dump

    output: Any = command.output
    if output == STDOUT:
        if console.out.isatty():
            raise UsageError("standard output is a terminal", hint="use a pipe, or -o FILE")
        output = console.out.fileno()
    try:
        done = dump(output, command.pid, socket=command.socket, **command.options)
    except ValueError as error:  # too much for a message
        raise UsageError(str(error)) from error
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        where = f"{error.filename}: " if error.filename else ""
        raise KgcoreError(f"no core: {where}{error.strerror} ({name})") from error
    if done.complete:
        return Status.COMPLETE
    console.remark("the core is incomplete: kgcore check says what is missing")
    return Status.INCOMPLETE


def _pid(text: str) -> int:
    return number(text, _MOST_PID, "the id of a process")


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore ask",
        usage="kgcore ask [--socket PATH] [-f FILTER] [--freeze WAY] -o FILE [PID]",
        description="Have the daemon (kgcore daemon) write the core of a process, which goes on.",
        epilog=FILTER_BITS + _EPILOG,
    )
    add_version(parser)
    group = parser.add_argument_group("the daemon")
    option(
        group,
        "--socket",
        metavar="PATH",
        type=file_name,
        help="where it listens (default: $KGCORE_SOCKET, else /run/kgcore/socket)",
    )
    group = parser.add_argument_group("the core")
    add_mask_option(group)
    for name in get_args(Action):
        group.add_argument(
            f"--{name}",
            metavar="RULE",
            type=partial(_checked, name),
            action="append",
            help="as kgcore live has it; may be repeated",
        )
    option(group, "--profile", choices=("full", "mini"), help="mini: only what backtraces need (default: full)")
    option(group, "-o", dest="output", metavar="FILE", type=output_name, help="a new file; -: standard output")
    option(group, "--compress", choices=("zstd", "gzip"), help="compress it")
    option(group, "--max-size", metavar="SIZE", type=size, help="bytes (K, M, G, T: powers of 1024) that it may have")
    option(group, "--max-time", metavar="DURATION", type=duration, help="seconds (or m, h) that it may take")
    option(
        group,
        "--limit",
        choices=("priority", "largest-first", "truncate"),
        help="what the two cost first, as kgcore live has it (default: priority)",
    )
    group = parser.add_argument_group("how to take the process")
    option(group, "--freeze", choices=("auto", "fork", "stop"), help="as kgcore live has it (default: auto)")
    option(group, "--shared", choices=("copy", "late"), help="as kgcore live has it (default: copy)")
    option(group, "--max-freeze", metavar="DURATION", type=duration, help="give up if it stands still for longer")
    parser.add_argument(
        "pid",
        metavar="PID",
        nargs=argparse.OPTIONAL,
        type=_pid,
        help="id of the process (default: the one that runs kgcore ask)",
    )
    return parser


def _checked(action: Action, text: str) -> str:
    """Check a rule, and leave it as it is."""
    rule(action, text)
    return text
