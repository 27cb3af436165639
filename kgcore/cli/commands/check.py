# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore check``: whether a finished core, or the files that ``--sysroot`` wrote, are in order."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kgcore.cli.arguments import Parser, add_json, add_version, existing
from kgcore.cli.console import Console, Status

if TYPE_CHECKING:
    from kgcore.check.core import Verdict
    from kgcore.check.sysroot import SysrootVerdict

__all__ = ("CheckCommand", "make_parser", "parse", "run")


@dataclass(frozen=True, slots=True)
class CheckCommand:
    """``kgcore check CORE``, ``kgcore check DIR``

    :ivar path: a core, or a directory that ``--sysroot`` wrote.
    """

    path: str
    json: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> CheckCommand:
    """Understand the words besides the command's name; a check opens no dump, so the environment does not matter.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    return CheckCommand(existing(parsed.path, "core"), parsed.json)


def make_parser() -> Parser:
    """Of the words besides the command's name."""
    parser = Parser(
        "kgcore check",
        description="Read a finished core, or the files that --sysroot wrote, back and say whether they are in order.",
    )
    add_version(parser)
    add_json(parser)
    parser.add_argument("path", metavar="CORE | DIR")
    return parser


def run(command: CheckCommand, console: Console) -> int:
    """Read it back and say what it is like; the exit status."""
    verdict: Verdict | SysrootVerdict
    if os.path.isdir(command.path):
        from kgcore.check.sysroot import check_sysroot

        verdict = check_sysroot(command.path)
    else:
        from kgcore.check.core import check_core

        verdict = check_core(command.path)
    if command.json:
        json.dump(verdict.to_json(), console.out, indent=2)
        console.out.write("\n")
    else:
        for line in verdict.lines():
            console.say(line)
    if not verdict.ok:
        return Status.FAILED
    # None: nothing says that it is complete, as in every core that the kernel wrote, and nothing speaks against it.
    return Status.INCOMPLETE if verdict.complete is False else Status.COMPLETE
