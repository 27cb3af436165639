# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore completion``: print a shell's completion script, or the processes that the script asks for."""

import contextlib
import io
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kgcore.cli.arguments import add_place_options, add_version, place_of
from kgcore.cli.commands import opening
from kgcore.cli.completion import SHELLS, script
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError
from kgcore.cli.request import Channel
from kgcore.sources.location import Location
from kgcore.text import printable

__all__ = ("CompletionCommand", "make_parser", "parse", "run")

_PROCESSES = "processes"

_EPILOG = """\
Packages put the scripts where the shells look for them. Elsewhere:

  bash   source <(kgcore completion bash)      in ~/.bashrc
  zsh    source <(kgcore completion zsh)       in ~/.zshrc, after compinit
  fish   kgcore completion fish >~/.config/fish/completions/kgcore.fish

The shell completes PIDs if the dump on the command line (else $KGCORE_VMCORE, else ./vmcore) opens within 1.5 seconds,
or within $KGCORE_COMPLETION_TIMEOUT seconds. The scripts ask for them with "processes -- WORD...".
"""


@dataclass(frozen=True, slots=True)
class CompletionCommand:
    """The arguments of ``kgcore completion``.

    :ivar shell: the shell whose script to print; None: list processes.
    :ivar place: the dump with the processes; None: list none.
    """

    shell: str | None
    place: Location | None = None


def parse(words: Sequence[str], environ: Mapping[str, str]) -> CompletionCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    if words[:2] == [_PROCESSES, "--"]:
        return CompletionCommand(None, _place(words[2:], environ))
    return CompletionCommand(make_parser().parse_intermixed_args(list(words)).shell)


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore completion",
        description="Print a shell script that completes options, commands, files and PIDs of kgcore.",
        epilog=_EPILOG,
    )
    add_version(parser)
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SHELLS), help="bash, zsh or fish")
    return parser


def run(command: CompletionCommand, console: Console) -> int:
    """Print the script or the processes. The user is typing, so errors stay silent."""
    if command.shell is not None:
        console.out.write(script(command.shell))
    elif command.place is not None:
        quiet = Console(console.out, io.StringIO())
        with contextlib.suppress(Exception), opening.opened(command.place, Channel(0), quiet) as source:
            for process in source.processes():
                if not process.kernel_thread:
                    print(f"{process.pid}\t{printable(process.comm)}", file=console.out)
    return Status.COMPLETE


def _place(line: Sequence[str], environ: Mapping[str, str]) -> Location | None:
    """The dump that an unfinished command line names, even if the rest of the line is invalid."""
    parser = Parser("kgcore")
    add_place_options(parser, live=True)
    try:
        parsed, _ = parser.parse_known_args(list(_unquoted(line)))
        if parsed.running or parsed.qemu:
            return None  # a guest would be paused
        return place_of(parsed, environ)
    except UsageError:
        return None


def _unquoted(line: Sequence[str]) -> Iterator[str]:
    """The words as the shell will see them, without expansions: bash passes them with their quotes."""
    for word in line:
        if word in ("-h", "--help"):
            continue
        with contextlib.suppress(ValueError):
            (word,) = shlex.split(word)
        yield os.path.expanduser(word)
