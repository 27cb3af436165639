# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore debug``: start a debugger on a process, with its program and libraries set up."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kgcore.cli.arguments import (
    add_mask_option,
    add_place_options,
    add_show,
    add_supply_options,
    add_task,
    add_version,
    place_of,
    task_of,
    user_files_of,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.request import Channel
from kgcore.cli.values import file_name
from kgcore.errors import KgcoreError
from kgcore.sources.base import Source, TaskRef, UserFiles
from kgcore.sources.location import Location
from kgcore.system import stopping
from kgcore.system.privatedir import PrivateDirectory
from kgcore.text import first_names, human_size, plain, printable

if TYPE_CHECKING:
    from kgcore.binaries.sysroot import SysrootFile, SysrootReport
    from kgcore.coredump.report import Report
    from kgcore.views.debugger import Session

__all__ = ("DebugCommand", "make_parser", "parse", "run")

_FILES_NAMED = 3
_SIGNALLED = 128  # as shells count
_PATIENCE = 2  # seconds that a debugger may take to end
_PAUSE = 0.02

_EPILOG = """\
The core and the mapped programs come from the crashed machine, so kgcore disables scripts that the debugger may find in
them. debuginfod keeps your settings.

examples:
  kgcore debug -c vmcore                             gdb on the process that was current when the kernel crashed
  kgcore debug 12345 -- -batch -ex 'thread apply all backtrace'
  kgcore debug --debugger lldb --keep --directory . 12345
  kgcore debug --print 12345                         write the files and print the command that starts gdb on them

exit status: the debugger's; 1 the process could not be written, or the debugger not started; 2 usage.
"""


@dataclass(frozen=True, slots=True)
class DebugCommand:
    """The arguments of ``kgcore debug``.

    :ivar mask: as in :class:`kgcore.cli.request.DumpRequest`.
    :ivar directory: where to make the private directory; None: where temporary files go.
    :ivar arguments: the debugger's own.
    """

    place: Location
    show: Channel
    task: TaskRef
    user_files: UserFiles
    mask: int | None
    debugger: str
    directory: str | None
    keep: bool
    print_only: bool
    arguments: tuple[str, ...]


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DebugCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    own, more = list(words), []
    if "--" in own:
        position = own.index("--")
        own, more = own[:position], own[position + 1 :]
    parsed = make_parser().parse_intermixed_args(own)
    if parsed.directory and not os.path.isdir(parsed.directory):
        raise UsageError(f"--directory: {parsed.directory!r} is not a directory")
    return DebugCommand(
        place=place_of(parsed, environ),
        show=Channel(parsed.show),
        task=task_of(parsed),
        user_files=user_files_of(parsed),
        mask=parsed.mask,
        debugger=parsed.debugger,
        directory=parsed.directory,
        keep=parsed.keep or parsed.print_only,
        print_only=parsed.print_only,
        arguments=tuple(more),
    )


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore debug",
        usage="kgcore debug [-c VMCORE] [--debugger gdb|lldb] [--directory DIR] [--keep] [--print] [PID | TASK] "
        "[-- ARGUMENTS]",
        description="Write the core, program and libraries of a process in a vmcore, and start a debugger on them.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser, live=True)
    group = parser.add_argument_group("the debugger")
    option(group, "--debugger", choices=("gdb", "lldb"), default="gdb", help="which one (default: gdb)")
    flag(group, "--print", dest="print_only", help="print the command instead of running it; keep the files")
    option(group, "--directory", metavar="DIR", type=file_name, help="write to a new private directory in DIR")
    flag(group, "--keep", help="keep the files when the debugger ends")
    group = parser.add_argument_group("the core")
    add_mask_option(group, "in kgcore --help")
    add_supply_options(group)
    add_task(parser)
    return parser


def run(command: DebugCommand, console: Console) -> int:
    """Write the files, run the debugger and return the exit status."""
    from kgcore.views.debugger import command_line, find_debugger

    if not command.print_only:
        find_debugger(command.debugger)  # before all the work
    with PrivateDirectory(command.directory) as directory:
        with opening.opened(command.place, command.show, console, command.user_files) as source:
            session = _write(source, command, directory.path, console)
        directory.kept = command.keep
        words = command_line(command.debugger, session, command.arguments)
        if command.print_only:
            print(_shell(words), file=console.out)
            return Status.COMPLETE
        if directory.kept:
            console.remark(f"the files are in {directory.path}")
        return _run(words)


def _write(source: Source, command: DebugCommand, directory: str, console: Console) -> "Session":
    """Write the core and the sysroot, and say what they lack."""
    from kgcore.binaries.localcopies import completed, mapped_build_ids
    from kgcore.cli import render
    from kgcore.coredump.pipeline import Options
    from kgcore.saving import CoreWriter
    from kgcore.views.debugger import Session, program_of

    sysroot = os.path.join(directory, "sysroot")
    os.mkdir(sysroot, 0o700)
    writer = CoreWriter(Options(mask=command.mask), directory=directory, sysroot=sysroot)
    shown = bool(command.show & Channel.PROGRESS) and console.err.isatty()
    with writer.prepare(source, command.task) as prepared:
        core, name, size = writer.path(prepared), writer.name(prepared), prepared.plan.data
        with render.progress(name, console.err, size) if shown else nullcontext() as progress:
            report = writer.write(prepared, progress)
        files = writer.write_files(prepared)
        assert files is not None
        files.raise_problems()
        if command.user_files.root is not None:
            found = mapped_build_ids(prepared.image, prepared.memory)
            files = completed(files, command.user_files.root, found)
    program = program_of(prepared.image, files.files, sysroot)
    for line in _lacking(report, files, program):
        console.remark(line)
    return Session(core, sysroot, program)


def _lacking(report: "Report", sysroot: "SysrootReport", program: str | None) -> Iterator[str]:
    """Say what the debugger will not find."""
    yield f"process {report.tgid} ({printable(report.comm)}): core of {human_size(report.size)}"
    if report.missing:
        reasons = ", ".join(f"{human_size(size)} {reason}" for reason, size in report.account.missing.items())
        yield f"not in the core: {reasons}; the debugger cannot read it"
    for tid, text in report.remarks:
        yield f"thread {tid}: {text}"
    if program is None:
        yield "the dump does not hold the program file, so its symbols are missing"
    partial = [file for file in sysroot.files if not file.whole]
    if partial:
        names = first_names(partial, _FILES_NAMED, _partial)
        yield f"incomplete: {names}; use --root DIR or debuginfod for the rest"
    yield from (*sysroot.lost, *report.warnings)


def _partial(file: "SysrootFile") -> str:
    build_id = f", build id {file.build_id}" if file.build_id else ""
    return f"{plain(file.path)} ({human_size(file.missing_bytes)} of {human_size(file.size)} missing{build_id})"


def _shell(words: Sequence[str]) -> str:
    """The command for a shell, on one line even if file names hold newlines."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    """A word with control characters escaped, as bash, zsh and ksh read them."""
    octets = os.fsencode(word)
    return "$'" + "".join(chr(c) if 32 <= c < 127 and c not in b"'\\" else f"\\x{c:02x}" for c in octets) + "'"


def _run(words: Sequence[str]) -> int:
    """Run the debugger. It owns the terminal, so kgcore ignores Ctrl-C meanwhile."""
    with stopping.left_to_others(signal.SIGINT):
        try:
            with stopping.held():
                debugger = subprocess.Popen(words)
                forget = stopping.clean_up(lambda: _end(debugger))
        except OSError as error:
            raise KgcoreError(f"{words[0]} cannot be started: {error.strerror}") from error
        try:
            status = debugger.wait()
        except BaseException:
            _end(debugger)
            raise
        finally:
            forget()
    return status if status >= 0 else _SIGNALLED - status


def _end(debugger: "subprocess.Popen[bytes]") -> None:
    """End the debugger. It restores the terminal's mode when it is asked to end."""
    debugger.terminate()
    limit = time.monotonic() + _PATIENCE
    # Not debugger.wait(), which may be what a signal came into.
    while os.waitid(os.P_PID, debugger.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > limit:
            debugger.kill()
            break
        time.sleep(_PAUSE)
