# SPDX-License-Identifier: LGPL-2.1-or-later

"""Generate the completion scripts for shells from the parsers of the commands.

Ids and names of processes reach a shell as lines of ``kgcore completion processes``. No script evaluates them; bash,
which may insert what it displays, gets only harmless characters of the names.
"""

from collections.abc import Callable

from kgcore.cli.commandline import command_lines
from kgcore.cli.completion import bash, fish, zsh

__all__ = ("FILES", "SHELLS", "script")

SHELLS: dict[str, Callable[..., str]] = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}

FILES = {"bash": "kgcore", "zsh": "_kgcore", "fish": "kgcore.fish"}
"""The file name under which each shell finds its script."""


def script(shell: str) -> str:
    """Return the script of a shell."""
    return SHELLS[shell](tuple(command_lines()))
