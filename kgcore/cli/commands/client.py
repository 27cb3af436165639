# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore client``: give C programs what they dump themselves with."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgcore.cli.arguments import add_version
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.sharedfiles import shared_file
from kgcore.errors import KgcoreError, OutputError
from kgcore.system.privatedir import PrivateDirectory
from kgcore.text import printable

__all__ = ("ClientCommand", "make_parser", "parse", "run")

_HEADER = "kgcore_client.h"
_SOURCE = "gencore.c"
_LIBRARY = "libgencore.so"
_FLAGS = (
    *("-O2", "-g", "-std=c99", "-fPIC", "-fvisibility=hidden", "-fno-optimize-sibling-calls"),
    *("-shared", f"-Wl,-soname,{_LIBRARY}"),
)  # those of its Makefile
_SHOWN = 20  # lines of what a compiler says

_EPILOG = """\
kgcore_client.h is one file, for C and C++: kgcore_dump("core", NULL) writes a core of the program that calls it, also
from a handler of SIGSEGV, through kgcore daemon. libgencore.so has int gencore(char *path) for programs that look it up
by dlopen() and dlsym(); --build compiles it with your compiler.

examples:
  kgcore client --print-header >kgcore_client.h
  kgcore client --build /usr/local/lib
  kgcore client --build . --cc 'clang -m32'
"""


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """The arguments of ``kgcore client``.

    :ivar build: the directory to put header and library into; None: print the header.
    :ivar compiler: with its own first arguments.
    :ivar force: write over what is there.
    """

    build: str | None
    compiler: tuple[str, ...]
    force: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> ClientCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_args(list(words))
    if parsed.print_header == (parsed.build is not None):
        raise UsageError("give --build DIR or --print-header", hint="see kgcore client --help")
    if parsed.print_header and (parsed.cc or parsed.force):
        raise UsageError("--cc and --force go with --build")
    return ClientCommand(parsed.build, _compiler(parsed.cc or environ.get("CC") or "cc"), parsed.force)


def _compiler(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{text!r} is no compiler: {error}") from None
    if not words:
        raise UsageError("an empty word is no compiler")
    return words


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore client",
        usage="kgcore client --build DIR [--cc PROGRAM] [--force] | --print-header",
        description="Give C programs what they dump themselves with, through kgcore daemon.",
        epilog=_EPILOG,
    )
    add_version(parser)
    option(parser, "--build", metavar="DIR", help=f"put {_HEADER} and {_LIBRARY} there, compiled here and now")
    option(parser, "--cc", metavar="PROGRAM", help="with this compiler, which may have options (default: $CC, else cc)")
    flag(parser, "--force", help="overwrite files")
    flag(parser, "--print-header", help=f"print {_HEADER}")
    return parser


def run(command: ClientCommand, console: Console) -> int:
    """Print the header, or build the library.

    :raises KgcoreError: there is no compiler, it fails, or the directory cannot be written to.
    """
    if command.build is None:
        console.out.write(shared_file(f"client/{_HEADER}").decode())
        return Status.COMPLETE
    files = {name: shared_file(f"client/{name}") for name in (_HEADER, _SOURCE)}
    target = Path(command.build)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {printable(command.build)}: {error.strerror}") from error
    if not command.force:
        _refuse_existing(target)
    # In the same file system, so that each file appears when it is complete.
    with PrivateDirectory(command.build) as work:
        for name, content in files.items():
            Path(work.path, name).write_bytes(content)
        _compile(command.compiler, Path(work.path))
        for name in (_HEADER, _LIBRARY):
            path = Path(work.path, name)
            path.chmod(0o755 if name == _LIBRARY else 0o644)
            _place(path, target / name, force=command.force)
            print(f"Saved {printable(str(target / name))}", file=console.out)
    return Status.COMPLETE


def _refuse_existing(target: Path) -> None:
    for name in (_HEADER, _LIBRARY):
        if os.path.lexists(target / name):
            raise OutputError(f"{printable(str(target / name))} exists", hint="--force overwrites it")


def _place(path: Path, target: Path, *, force: bool) -> None:
    try:
        if force:
            path.replace(target)
        else:
            os.link(path, target)
    except FileExistsError:
        raise OutputError(f"{printable(str(target))} exists", hint="--force overwrites it") from None
    except OSError as error:
        raise OutputError(f"cannot write {printable(str(target))}: {error.strerror}") from error


def _compile(compiler: tuple[str, ...], work: Path) -> None:
    if shutil.which(compiler[0]) is None:
        raise KgcoreError(
            f"there is no C compiler {printable(compiler[0])}", hint="apt install gcc libc6-dev, or name yours: --cc"
        )
    words = [*compiler, *_FLAGS, "-o", str(work / _LIBRARY), str(work / _SOURCE)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, errors="replace", cwd=work)
    if done.returncode or not (work / _LIBRARY).exists():
        said = "".join(f"\n  {printable(line)}" for line in (done.stdout + done.stderr).splitlines()[:_SHOWN])
        raise KgcoreError(f"the C compiler failed: {printable(shlex.join(compiler))}{said}")
