# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore ps``: list the processes in a dump."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgcore.cli.arguments import add_json, add_place_options, add_show, add_version, place_of
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status, reason
from kgcore.cli.parser import Parser, option
from kgcore.cli.request import NO_SELECTION, Channel, Selection
from kgcore.cli.selection import chosen
from kgcore.cli.values import file_name, user_id
from kgcore.errors import KgcoreError
from kgcore.model.summary import ProcessSummary
from kgcore.sources.location import Location

__all__ = ("PsCommand", "make_parser", "parse", "run")


_EPILOG = """\
~CORE estimates what a core of the process would hold besides zeros, ~HELD how much of that the dump has. Both come from
the kernel's counters and the kind of dump; kgcore --dry-run PID is exact, but checks every page. NSPID (the id in the
innermost pid namespace) and CGROUP appear if a process is in a container or a service.

examples:
  kgcore ps --sort core                          the largest last
  kgcore ps --match 'nginx*' --match 'php*'      those whose name or program matches
  kgcore ps --uid 33 --uid 1000 --sort rss       those of two users
  kgcore ps --json | jq '.processes[] | select(.cgroup | strings | test("docker"))'
"""

_SORTS: dict[str, Callable[[ProcessSummary], Any]] = {
    "pid": lambda process: process.pid,
    "rss": lambda process: process.rss,
    "comm": lambda process: process.comm.lower(),
    "uid": lambda process: process.uid,
    "threads": lambda process: process.threads,
    "size": lambda process: process.size,
    "core": lambda process: process.core,
    "missing": lambda process: process.core - process.held,
}


@dataclass(frozen=True, slots=True)
class PsCommand:
    """The arguments of ``kgcore ps``.

    :ivar select: the processes to show; empty: all.
    :ivar sort: the key to sort them by, ascending.
    """

    place: Location
    show: Channel
    json: bool
    select: Selection = NO_SELECTION
    sort: str = "pid"


def parse(words: Sequence[str], environ: Mapping[str, str]) -> PsCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    select = Selection(match=tuple(parsed.match), uid=tuple(parsed.uid))
    return PsCommand(place_of(parsed, environ), Channel(parsed.show), parsed.json, select, parsed.sort)


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser("kgcore ps", description="List the processes in a vmcore.", epilog=_EPILOG)
    add_version(parser)
    add_show(parser)
    add_place_options(parser, live=True)
    add_json(parser)
    group = parser.add_argument_group("the processes")
    group.add_argument(
        "--match",
        metavar="GLOB",
        type=file_name,
        action="append",
        default=[],
        help="processes whose name (COMM), or whose program's base name (argv[0]), matches; may be repeated",
    )
    group.add_argument(
        "--uid",
        metavar="UID",
        type=user_id,
        action="append",
        default=[],
        help="processes of this real user id; may be repeated; with --match both must match",
    )
    option(
        group,
        "--sort",
        choices=tuple(_SORTS),
        default="pid",
        help="sort ascending; size: of all mappings; missing: ~CORE minus ~HELD (default: pid)",
    )
    return parser


def run(command: PsCommand, console: Console) -> int:
    """Show the processes and return the exit status."""
    from kgcore.cli import render

    processes: list[ProcessSummary] = []
    status = Status.COMPLETE
    with opening.opened(command.place, command.show, console) as source:
        try:
            processes.extend(source.processes())
        except KgcoreError as error:
            # A list that breaks off half-way is still half a list.
            console.remark(reason(error))
            status = Status.FAILED
        if command.select:
            processes = [process for process in processes if chosen(process, command.select)]
        processes.sort(key=_SORTS[command.sort])
        if command.json:
            rows = [process.to_json() for process in processes]
            json.dump({"version": 1, "source": source.describe(), "processes": rows}, console.out, indent=2)
            console.out.write("\n")
        else:
            render.show_processes(processes, console.out)
    return status
