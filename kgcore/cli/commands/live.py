# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore live PID...``: write processes of this machine as cores, and let them go on."""

import argparse
from collections.abc import Mapping, Sequence

from kgcore.cli.arguments import FILTER_BITS, add_pids, add_show, add_version
from kgcore.cli.commands.dumping import DumpCommand, add_dump_options, request_of, run
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.values import duration
from kgcore.sources.location import LiveLocation

__all__ = ("make_parser", "parse", "run")

_EPILOG = (
    FILTER_BITS
    + """
A process stands still while a copy of it is made (fork), which is read while it goes on; where there can be no copy, it
stands still until it is read, and a line says why. No signal is sent, no byte of it changes, and no page is brought
into its memory. If kgcore is killed, it goes on at once.

examples:
  kgcore live 12345                        core.12345
  kgcore live --match 'nginx*' -D /var/tmp every process of that name
  kgcore live -o - 12345 | zstd > core.zst into a pipe
  kgcore live --no-registers 12345         without stopping it: memory alone, and it may be torn
  kgcore live --max-freeze 200ms 12345     give up if it has to stand still for longer
  kgcore live --freeze stop 12345          no copy: it stands still to the end

exit status: 0 complete; 1 a process could not be dumped; 2 usage; 3 written, but incomplete.
"""
)


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DumpCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    if not parsed.tasks and not (parsed.all or parsed.match or parsed.uid):
        raise UsageError("no process is named", hint="give a PID, or --match or --uid; kgcore ps --live lists them")
    return DumpCommand(_location(parsed), request_of(parsed))


def _location(parsed: argparse.Namespace) -> LiveLocation:
    if parsed.no_registers and parsed.max_freeze is not None:
        raise UsageError("--no-registers stops nothing, so it has no --max-freeze")
    if parsed.no_registers and parsed.freeze is not None:
        raise UsageError("--no-registers stops nothing, so it has no --freeze")
    if parsed.shared is not None and (parsed.no_registers or parsed.freeze == "stop"):
        raise UsageError("--shared is about copies: it goes with --freeze auto and --freeze fork")
    return LiveLocation(
        registers=not parsed.no_registers,
        max_freeze=parsed.max_freeze,
        freeze=parsed.freeze or "auto",
        shared=parsed.shared or "copy",
    )


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore live",
        usage="kgcore live [-f FILTER] [-D DIR | -o FILE] [--freeze WAY] [--max-freeze DURATION] PID...",
        description="Write processes of this machine as core files, and let them go on.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    group = parser.add_argument_group("how to take them")
    option(
        group,
        "--freeze",
        choices=("auto", "fork", "stop"),
        help="fork: read a copy of it while it goes on; stop: it stands still until the last byte is read; "
        "auto: a copy where one is possible and right (default: auto)",
    )
    option(
        group,
        "--shared",
        choices=("copy", "late"),
        help="with a copy, when to read shared memory: copy: while it stands still; late: with the rest, so that it "
        "may be newer (default: copy)",
    )
    flag(
        group,
        "--no-registers",
        help="stop nothing and read no registers: for a process that is traced already or does not stop; "
        "its memory may be torn",
    )
    option(
        group,
        "--max-freeze",
        metavar="DURATION",
        type=duration,
        help="give up, and write nothing, if it has to stand still for more than so many seconds (or ms, m, h); "
        "default: as long as it takes, but 5 until all its threads have stopped",
    )
    add_dump_options(parser)
    add_pids(parser)
    parser.set_defaults(swap=[], root=None)
    return parser
