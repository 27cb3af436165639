# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completion for shells: scripts made of the parsers of the commands.

What comes out of a dump, the ids and names of processes, reaches a shell as lines of ``kgcore completion processes``.
No script evaluates them; bash, which may insert what it displays, gets of the names only harmless characters.
"""

from collections.abc import Callable

from kgcore.cli.commandline import command_lines
from kgcore.cli.completion import bash, fish, zsh

__all__ = ("FILES", "SHELLS", "script")

SHELLS: dict[str, Callable[..., str]] = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}

FILES = {"bash": "kgcore", "zsh": "_kgcore", "fish": "kgcore.fish"}
"""How the shells want the file to be called that they find by themselves."""


def script(shell: str) -> str:
    """What a shell has to read."""
    return SHELLS[shell](tuple(command_lines()))
