# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore info``: say what a dump is, what it holds, and what that means for cores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from kgcore.cli.arguments import add_json, add_place_options, add_show, add_version, dump_of
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser
from kgcore.cli.request import Channel
from kgcore.model.layouts import Layout
from kgcore.sources.location import DumpLocation

__all__ = ("InfoCommand", "make_parser", "parse", "run")


@dataclass(frozen=True, slots=True)
class InfoCommand:
    """The arguments of ``kgcore info``."""

    place: DumpLocation
    show: Channel
    json: bool
    layouts: bool = False


def parse(words: Sequence[str], environ: Mapping[str, str]) -> InfoCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    return InfoCommand(dump_of(parsed, environ), Channel(parsed.show), parsed.json, parsed.layouts)


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser("kgcore info", description="Say what a vmcore is, what it holds, and what that means for cores.")
    add_version(parser)
    add_show(parser)
    add_place_options(parser)
    add_json(parser)
    parser.add_argument(
        "--layouts",
        action="store_true",
        help="say of every type, member, symbol and constant that kgcore relies on whether this kernel has it, and "
        "what will not work without it",
    )
    return parser


def run(command: InfoCommand, console: Console) -> int:
    """Show the facts and return the exit status. An incomplete dump is no failure here."""
    from kgcore.cli import render

    with opening.opened_target(command.place, command.show, console) as target:
        from kgcore.sources.vmcore.facts import read_facts

        place = command.place
        facts = read_facts(target, (place.core, *place.parts) if place.core else ())
        found: tuple[Layout, ...] = ()
        if command.layouts:
            from kgcore.sources.vmcore.kernel.dumplayouts import layouts_of

            found = layouts_of(target)
    if command.json:
        layouts = {"layouts": [layout.to_json() for layout in found]} if command.layouts else {}
        json.dump({"version": 1, **asdict(facts)} | layouts, console.out, indent=2)
        console.out.write("\n")
    else:
        render.show_facts(facts, console.out)
    if found and not command.json:
        from kgcore.views.layouts import layout_lines

        print("", *layout_lines(found), sep="\n", file=console.out)
    return Status.COMPLETE
