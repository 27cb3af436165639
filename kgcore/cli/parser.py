# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse a command line without printing or exiting, so that drgn's prompt survives a typo."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from kgcore.errors import KgcoreError

__all__ = ("Answer", "Answering", "Parser", "UsageError", "flag", "option")


class UsageError(KgcoreError):
    """The command line is invalid; nothing was opened or written."""


class Answer(Exception):
    """A text to print instead of running the command (``--help``, ``--version``). It is not an error."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that neither prints nor exits."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        super().__init__(
            prog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **keywords,
        )
        general = self.add_argument_group("general")
        general.add_argument("-h", "--help", action=Answering, help="show this help")
        self.general = general

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


class Answering(argparse.Action):
    """End the parsing with an :class:`Answer`: ``const``, or the parser's help."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Answer(self.const or parser.format_help())


class _Once(argparse.Action):
    """Store the value (a flag stores True), and refuse the option a second time.

    ``-f 1 ... -f 2`` is ambiguous: argparse would silently ignore one of them.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given: set[str] = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def flag(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    """Add an option without a value, which may be given only once."""
    group.add_argument(*names, action=_Once, nargs=0, default=False, **keywords)


def option(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    """Add an option with a value, which may be given only once."""
    group.add_argument(*names, action=_Once, **keywords)
