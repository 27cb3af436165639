# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore map``: show the address space of a process as a table, as JSON, or as an HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgcore.cli.arguments import (
    FILTER_BITS,
    add_filter_options,
    add_place_options,
    add_show,
    add_supply_options,
    add_task,
    add_version,
    place_of,
    task_of,
    user_files_of,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.request import Channel
from kgcore.cli.values import output_name
from kgcore.filters.rules import Rule
from kgcore.sinks import STDOUT
from kgcore.sinks.outputs import occupied
from kgcore.sources.base import TaskRef, UserFiles
from kgcore.sources.location import Location

__all__ = ("MapCommand", "make_parser", "parse", "run")

_EPILOG = (
    FILTER_BITS
    + """
A row is a mapping. KEPT: a core would hold all of it, its first page, or nothing; WHY: the filter's reason (on wide
terminals). MEMORY: how much of it the dump has, as a bar; the legend is below the table.

examples:
  kgcore map 12345                            the address space of process 12345 in ./vmcore
  kgcore map -c vmcore -f process 12345       with the process's own coredump_filter
  kgcore map -f 127 --swap /dev/sda2=sda2.img 12345   how much --swap would recover
  kgcore map --html map.html 12345            as a page for a browser
  kgcore map --json 12345 | jq '.vmas[] | select(.missing > 0) | .name'
"""
)


@dataclass(frozen=True, slots=True)
class MapCommand:
    """The arguments of ``kgcore map``.

    :ivar mask: sum of the coredump_filter bits; None: the process's own.
    :ivar rules: which memory to leave out, or to write as zeros.
    :ivar html: the file to write the page to, "-" for standard output; None: print a table, or JSON.
    """

    place: Location
    show: Channel
    task: TaskRef
    mask: int | None
    dontdump: bool
    dax: bool
    rules: tuple[Rule, ...]
    user_files: UserFiles
    json: bool
    html: str | None
    force: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> MapCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    if parsed.html and occupied(parsed.html) and not parsed.force:
        raise UsageError(f"--html: {parsed.html!r} exists", hint="--force overwrites it")
    return MapCommand(
        place=place_of(parsed, environ),
        show=Channel(parsed.show),
        task=task_of(parsed),
        mask=parsed.mask,
        dontdump=parsed.dontdump,
        dax=parsed.dax,
        rules=parsed.rules,
        user_files=user_files_of(parsed),
        json=parsed.json,
        html=parsed.html,
        force=parsed.force,
    )


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore map",
        usage="kgcore map [-c VMCORE] [-f FILTER] [--json | --html FILE] [PID | TASK]",
        description="Show the address space of a process: its mappings, what the filter keeps of each, and how much\n"
        "of their memory the dump has. Writes no core.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser, live=True)
    group = parser.add_argument_group("the map")
    add_filter_options(group)
    add_supply_options(group)
    form = group.add_mutually_exclusive_group()
    flag(form, "--json", help="as JSON (docs/map.md, map.schema.json)")
    option(
        form,
        "--html",
        metavar="FILE",
        type=output_name,
        help="write an HTML page with pictures to FILE; -: standard output",
    )
    flag(group, "--force", help="overwrite FILE")
    add_task(parser)
    return parser


def run(command: MapCommand, console: Console) -> int:
    """Show the map and return the exit status. A dump that lacks memory is no failure here."""
    from kgcore.cli import render
    from kgcore.coredump.pipeline import Options
    from kgcore.views.addressmap import address_map

    options = Options(mask=command.mask, dontdump=command.dontdump, dax=command.dax, rules=command.rules)
    with opening.opened(command.place, command.show, console, command.user_files) as source:
        if command.html is not None:
            from kgcore.views.mappage import map_html

            _write(command.html, map_html(source, command.task, options), command.force, console)
            return Status.COMPLETE
        found = address_map(source, command.task, options)
    if command.json:
        console.out.write(json.dumps(found.to_json(), indent=2) + "\n")
    else:
        render.show_map(found, console.out)
    return Status.COMPLETE


def _write(path: str, page: str, force: bool, console: Console) -> None:
    """Write the page as cores are written: private, complete or not at all, and over no other file."""
    if path == STDOUT:
        console.out.write(page)
        return
    from kgcore.sinks.outputs import output

    with output(path, force=force) as sink:
        sink.write(page.encode("ascii"))
        sink.commit()
    console.say(f"Saved {path}")
