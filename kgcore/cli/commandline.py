# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe the command line as plain values, taken from the parsers, for completion and the man page."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module

from kgcore.arch import ARCHITECTURES
from kgcore.cli.commands import COMMANDS
from kgcore.cli.parser import Parser

__all__ = ("METAVARS", "CommandLine", "Option", "ValueKind", "command_lines", "default_parser", "parser_of")


class ValueKind(Enum):
    """What a value is, for completion."""

    TEXT = "text"
    FILE = "file"
    DIRECTORY = "directory"
    PROCESS = "process"
    IMAGE = "image"  # something, =, and a file


METAVARS = {
    "ADDRESS": ValueKind.FILE,
    "CORE": ValueKind.FILE,
    "DEV=IMAGE": ValueKind.IMAGE,
    "DIR": ValueKind.DIRECTORY,
    "FILE": ValueKind.FILE,
    "PATH": ValueKind.FILE,
    "PID": ValueKind.PROCESS,
    "SYMBOLS": ValueKind.FILE,
    "VMCORE": ValueKind.FILE,
}
"""The kind of value that a metavar in the help means; all others are text."""

_SUGGESTIONS = {"ARCH": tuple(ARCHITECTURES), "FILTER": ("process",)}
"""Words to complete for values that argparse does not restrict to choices."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or a positional argument.

    :ivar names: ``-c``, ``--core``; (): it is positional.
    :ivar metavar: the name of its value in the help; None: it has no value.
    :ivar group: the title of its group in the help.
    :ivar choices: values that can be completed.
    :ivar repeats: it may be repeated.
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str
    group: str
    kind: ValueKind
    choices: tuple[str, ...]
    repeats: bool


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The options and operands of a command.

    :ivar name: None: the default command, which has no name.
    """

    name: str | None
    description: str
    epilog: str
    options: tuple[Option, ...]
    operands: tuple[Option, ...]


def default_parser() -> Parser:
    """Return the parser of the default command."""
    return parser_of("kgcore.cli.commands.dump")


def parser_of(module: str) -> Parser:
    """Return the parser of the command in a module."""
    parser = import_module(module).make_parser()
    assert isinstance(parser, Parser)
    return parser


def command_lines() -> Iterator[CommandLine]:
    """Yield all commands, the default command first."""
    yield _command_line(None, default_parser())
    for name, module in COMMANDS.items():
        yield _command_line(name, parser_of(module))


def _command_line(name: str | None, parser: Parser) -> CommandLine:
    options = [
        _option(action, group.title or "")
        for group in parser._action_groups
        for action in group._group_actions
        if action.help != argparse.SUPPRESS
    ]
    return CommandLine(
        name,
        parser.description or "",
        parser.epilog or "",
        tuple(option for option in options if option.names),
        tuple(option for option in options if not option.names),
    )


def _option(action: argparse.Action, group: str) -> Option:
    choices = tuple(map(str, action.choices or ()))
    metavar: str | None = None
    if action.nargs != 0:
        metavar = action.metavar if isinstance(action.metavar, str) else " | ".join(choices) or action.dest.upper()
        choices = choices or _SUGGESTIONS.get(metavar, ())
    text = (action.help or "").replace("%%", "%")  # as argparse does
    repeats = isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+")
    return Option(tuple(action.option_strings), metavar, text, group, _kind(metavar), choices, repeats)


def _kind(metavar: str | None) -> ValueKind:
    kinds = {METAVARS[word] for word in (metavar or "").split(" | ") if word in METAVARS}
    for kind in (ValueKind.PROCESS, ValueKind.FILE):  # CORE | DIR: a directory is a file, too
        if kind in kinds:
            return kind
    return kinds.pop() if kinds else ValueKind.TEXT
