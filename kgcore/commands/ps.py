# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore ps``: the processes in a dump."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgcore.arguments import Parser, add_json, add_place_options, add_show, add_version, place_of
from kgcore.commands import opening
from kgcore.console import Console, Status, reason
from kgcore.errors import KgcoreError
from kgcore.model import ProcessSummary
from kgcore.request import Place, Show

__all__ = ("PsCommand", "make_parser", "parse", "run")


@dataclass(frozen=True, slots=True)
class PsCommand:
    """``kgcore ps``"""

    place: Place
    show: Show
    json: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> PsCommand:
    """Understand the words besides the command's name.

    :raises UsageError, Answer: as :func:`kgcore.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    return PsCommand(place_of(parsed, environ), Show(parsed.show), parsed.json)


def make_parser() -> Parser:
    """Of the words besides the command's name."""
    parser = Parser("kgcore ps", description="List the processes in a vmcore.")
    add_version(parser)
    add_show(parser)
    add_place_options(parser)
    add_json(parser)
    return parser


def run(command: PsCommand, console: Console) -> int:
    """Show them; the exit status."""
    from kgcore import render

    processes: list[ProcessSummary] = []
    status = Status.COMPLETE
    with opening.opened(command.place, command.show, console) as source:
        try:
            processes.extend(source.processes())
        except KgcoreError as error:
            # A list that breaks off half-way is still half a list.
            console.remark(reason(error))
            status = Status.FAILED
        if command.json:
            rows = [render.process_json(process) for process in processes]
            json.dump({"version": 1, "source": source.describe(), "processes": rows}, console.out, indent=2)
            console.out.write("\n")
        else:
            render.show_processes(processes, console.out)
    return status
