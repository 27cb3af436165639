# SPDX-License-Identifier: LGPL-2.1-or-later

"""Find the command of a command line. Each is a module; the first operand names it.

A module is imported when its command is chosen, and imports drgn only when it runs, so that usage errors show at once.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from kgcore.cli.console import Console

__all__ = ("COMMANDS", "Command", "chosen", "operands", "options")

COMMANDS = {
    "live": "kgcore.cli.commands.live",
    "daemon": "kgcore.cli.commands.daemon",
    "ask": "kgcore.cli.commands.ask",
    "filter": "kgcore.cli.commands.filter",
    "ps": "kgcore.cli.commands.ps",
    "files": "kgcore.cli.commands.files",
    "info": "kgcore.cli.commands.info",
    "map": "kgcore.cli.commands.map",
    "check": "kgcore.cli.commands.check",
    "bt": "kgcore.cli.commands.bt",
    "debug": "kgcore.cli.commands.debug",
    "client": "kgcore.cli.commands.client",
    "restart": "kgcore.cli.commands.restart",
    "completion": "kgcore.cli.commands.completion",
}
"""Names of commands and their modules. The default command is :mod:`kgcore.cli.commands.dump`."""

_DEFAULT = "kgcore.cli.commands.dump"
_HELP = "help"


class Command(Protocol):
    """The interface of a command's module.

    Its ``parse`` returns a frozen dataclass of its own; one that opens a dump has the channels of ``-v`` as ``show``.
    """

    def parse(self, words: Sequence[str], environ: Mapping[str, str]) -> Any:
        """Parse the words after the command's name.

        :raises UsageError: they are invalid.
        :raises Answer: ``--help`` or ``--version``.
        """

    def run(self, command: Any, console: Console) -> int:
        """Run the command and return its exit status."""


def chosen(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """Return the command that the first operand names, else the default command, and the words without that name.

    No PID or TASK is spelled like a command. ``help [COMMAND]`` is that command's ``--help``.
    """
    words = list(argv)
    name = _DEFAULT
    places = operands(words)
    if places and words[places[0]] == _HELP:
        del words[places[0]]
        places = [place - 1 for place in places[1:]]
        words.append("--help")
    if places and words[places[0]] in COMMANDS:
        name = COMMANDS[words.pop(places[0])]
    return cast(Command, import_module(name)), words


def operands(words: Sequence[str]) -> list[int]:
    """Return the positions of the operands. Options of the default command may precede a command's name."""
    valued = {flag for flag, takes_value in _options(_DEFAULT).items() if takes_value}
    found: list[int] = []
    position = 0
    while position < len(words) and words[position] != "--":
        if found and words[found[0]] in COMMANDS and len(found) == 1:
            own = _options(COMMANDS[words[found[0]]])
            valued = {flag for flag, takes_value in own.items() if takes_value}
        if words[position] in valued:
            position += 1
        elif not words[position].startswith("-"):
            found.append(position)
        position += 1
    return found


def options(name: str | None) -> list[str]:
    """Return the options of a command; None: of the default command."""
    return list(_options(COMMANDS[name] if name else _DEFAULT))


def _options(module: str) -> dict[str, bool]:
    """The options of the command in a module, and whether each takes a value."""
    actions = import_module(module).make_parser()._actions
    return {flag: action.nargs != 0 for action in actions for flag in action.option_strings}
