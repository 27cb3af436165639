# SPDX-License-Identifier: LGPL-2.1-or-later

"""Suggest a valid command line for an invalid one ("did you mean").

kgcore only prints the suggestion, and only if it parses.
"""

import difflib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from kgcore.cli import commands
from kgcore.cli.parser import Answer
from kgcore.errors import KgcoreError
from kgcore.sources.base import TaskRef

__all__ = ("meant",)

_CORE = "core."
_SAID = ("dump", "gcore", "core", "extract")  # what other programs call it
_TRIED = 30


def meant(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return a command line to try instead, or None.

    :param argv: the invalid command line, without the program's name.
    """
    # Whether there is a dump is another question.
    somewhere = {**environ, "KGCORE_VMCORE": environ.get("KGCORE_VMCORE") or os.devnull}
    lines, tried = [list(argv)], 0
    while lines and tried < _TRIED:
        for words in _candidates(lines.pop(0)):
            tried += 1
            try:
                command, rest = commands.chosen(words)
                command.parse(rest, somewhere)
            except KgcoreError:
                lines.append(words)  # which may lack one more thing
            except Answer:
                pass
            else:
                return shlex.join(("kgcore", *words))
    return None


def _candidates(argv: list[str]) -> Iterator[list[str]]:
    """Lines with one thing changed, the likelier ones first."""
    places = commands.operands(argv)
    name = argv[places[0]] if places and argv[places[0]] in commands.COMMANDS else None
    for position in places[1 if name else 0 :]:
        word, before, rest = argv[position], argv[:position], argv[position + 1 :]
        if _is_task(word):
            if name == "ps":
                yield ["map" if other == "ps" else other for other in argv]
            continue
        if os.path.isfile(word) and name != "check":
            if name is None and os.path.basename(word).startswith(_CORE):
                yield ["check", word]
            yield [*before, "-c", word, *rest]
            continue
        if name is None:
            if word in _SAID:
                yield [*before, *rest]
            if likely := difflib.get_close_matches(word, commands.COMMANDS, 1):
                yield [*before, likely[0], *rest]
                continue
        if name in (None, "ps"):
            yield [*before, "--match", word if set(word) & set("*?[") else f"{word}*", *rest]
    options = commands.options(name)
    for position, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option.startswith("--") and len(option) > 3 and option not in options:
            begins = [known for known in options if known.startswith(option)]
            for other in begins or difflib.get_close_matches(option, options, 1):
                yield [*argv[:position], other + equals + value, *argv[position + 1 :]]


def _is_task(word: str) -> bool:
    try:
        TaskRef.parse(word)
    except KgcoreError:
        return False
    return True
