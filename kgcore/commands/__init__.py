# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of ``kgcore``, a module for each; the first operand chooses one.

A module is imported when its command is chosen, and imports what needs drgn when it runs: mistakes answer at once.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from kgcore.console import Console

__all__ = ("COMMANDS", "Command", "chosen")

COMMANDS = {
    "ps": "kgcore.commands.ps",
    "files": "kgcore.commands.files",
    "info": "kgcore.commands.info",
    "map": "kgcore.commands.map",
    "check": "kgcore.commands.check",
    "bt": "kgcore.commands.bt",
    "debug": "kgcore.commands.debug",
    "completion": "kgcore.commands.completion",
}
"""Name to module. Without a name it is :mod:`kgcore.commands.dump`."""

_DEFAULT = "kgcore.commands.dump"


class Command(Protocol):
    """What the module of a command offers.

    What its ``parse`` returns is a frozen dataclass of its own; one that opens a dump has the channels of ``-v`` as
    ``show``.
    """

    def parse(self, words: Sequence[str], environ: Mapping[str, str]) -> Any:
        """Understand the words besides the command's name.

        :raises UsageError: they make no sense.
        :raises Answer: ``--help`` or ``--version``.
        """

    def run(self, command: Any, console: Console) -> int:
        """Do it; the exit status."""


def chosen(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """The command, and the words without its name: it has one if the first operand is one.

    No PID or TASK is spelled like one, so nobody has to choose.
    """
    words = list(argv)
    position = _first_operand(words)
    name = _DEFAULT
    if position is not None and words[position] in COMMANDS:
        name = COMMANDS[words.pop(position)]
    return cast(Command, import_module(name)), words


def _first_operand(words: Sequence[str]) -> int | None:
    """Where it stands. Before a command's name there may be the options that the default command has too."""
    actions = import_module(_DEFAULT).make_parser()._actions
    valued = {flag for action in actions if action.nargs != 0 for flag in action.option_strings}
    position = 0
    while position < len(words):
        if words[position] in valued:
            position += 1
        elif not words[position].startswith("-"):
            return position
        position += 1
    return None
