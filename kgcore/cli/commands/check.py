# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore check``: read a finished core, or the files that ``--sysroot`` wrote, and check them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kgcore.cli.arguments import add_json, add_version, existing
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser

if TYPE_CHECKING:
    from kgcore.check.sysroot import SysrootVerdict
    from kgcore.check.verdict import Verdict

__all__ = ("CheckCommand", "make_parser", "parse", "run")


@dataclass(frozen=True, slots=True)
class CheckCommand:
    """The arguments of ``kgcore check CORE`` and ``kgcore check DIR``.

    :ivar path: a core, or a directory that ``--sysroot`` wrote.
    """

    path: str
    json: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> CheckCommand:
    """Parse the words after the command's name. A check opens no dump, so it ignores the environment.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    return CheckCommand(existing(parsed.path, "core"), parsed.json)


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore check",
        description="Read a finished core, or the files that --sysroot wrote, and check that they are complete.",
    )
    add_version(parser)
    add_json(parser)
    parser.add_argument("path", metavar="CORE | DIR")
    return parser


def run(command: CheckCommand, console: Console) -> int:
    """Check the core or directory, print the verdict, and return the exit status."""
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
