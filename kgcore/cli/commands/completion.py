# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore completion``: what makes a shell complete kgcore's options, and the processes that its scripts ask for."""

import contextlib
import io
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kgcore.cli.arguments import Parser, UsageError, add_place_options, add_version, place_of
from kgcore.cli.commands import opening
from kgcore.cli.completion import SHELLS, script
from kgcore.cli.console import Console, Status
from kgcore.cli.request import Channel, DumpLocation
from kgcore.text import printable

__all__ = ("CompletionCommand", "make_parser", "parse", "run")

_PROCESSES = "processes"

_EPILOG = """\
Packages put the scripts where the shells look for them. Elsewhere:

  bash   source <(kgcore completion bash)      in ~/.bashrc
  zsh    source <(kgcore completion zsh)       in ~/.zshrc, after compinit
  fish   kgcore completion fish >~/.config/fish/completions/kgcore.fish

PIDs are completed if the dump that the line names (else $KGCORE_VMCORE, else ./vmcore) opens within 1.5 seconds, or as
many as $KGCORE_COMPLETION_TIMEOUT says. "processes -- WORD..." is how the scripts ask for them.
"""


@dataclass(frozen=True, slots=True)
class CompletionCommand:
    """``kgcore completion``

    :ivar shell: whose script is asked for; None: the processes are.
    :ivar place: where they are; None: nowhere that should be looked into for this.
    """

    shell: str | None
    place: DumpLocation | None = None


def parse(words: Sequence[str], environ: Mapping[str, str]) -> CompletionCommand:
    """Understand the words besides the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    if words[:2] == [_PROCESSES, "--"]:
        return CompletionCommand(None, _place(words[2:], environ))
    return CompletionCommand(make_parser().parse_intermixed_args(list(words)).shell)


def make_parser() -> Parser:
    """Of the words besides the command's name."""
    parser = Parser(
        "kgcore completion",
        description="Print the script by which a shell completes options, commands, files and PIDs of kgcore.",
        epilog=_EPILOG,
    )
    add_version(parser)
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SHELLS), help="bash, zsh or fish")
    return parser


def run(command: CompletionCommand, console: Console) -> int:
    """Print it. Somebody is typing: processes are listed as far as it goes, and all else is silence."""
    if command.shell is not None:
        console.out.write(script(command.shell))
    elif command.place is not None:
        quiet = Console(console.out, io.StringIO())
        with contextlib.suppress(Exception), opening.opened(command.place, Channel(0), quiet) as source:
            for process in source.processes():
                if not process.kernel_thread:
                    print(f"{process.pid}\t{printable(process.comm)}", file=console.out)
    return Status.COMPLETE


def _place(line: Sequence[str], environ: Mapping[str, str]) -> DumpLocation | None:
    """The dump that an unfinished line names, whatever else is wrong with it."""
    parser = Parser("kgcore")
    add_place_options(parser)
    try:
        parsed, _ = parser.parse_known_args(list(_unquoted(line)))
        if parsed.live or parsed.qemu:
            return None  # a guest would be paused
        return place_of(parsed, environ)
    except UsageError:
        return None


def _unquoted(line: Sequence[str]) -> Iterator[str]:
    """As the shell will see the words, but for variables and commands in them; bash leaves their quotes on."""
    for word in line:
        if word in ("-h", "--help"):
            continue
        with contextlib.suppress(ValueError):
            (word,) = shlex.split(word)
        yield os.path.expanduser(word)
