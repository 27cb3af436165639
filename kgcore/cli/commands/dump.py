# SPDX-License-Identifier: LGPL-2.1-or-later

"""Run ``kgcore [PID | TASK]...``, the default command, and drgn's ``%gcore``: write processes as cores.

Both share the options in :func:`add_dump_options`.
"""

import argparse
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from kgcore.cli.arguments import (
    FILTER_BITS,
    add_filter_options,
    add_place_options,
    add_show,
    add_supply_options,
    add_tasks,
    add_version,
    place_of,
    tasks_of,
    user_files_of,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.request import Channel, DumpRequest, Selection
from kgcore.cli.values import duration, file_name, output_name, size, user_id, workers
from kgcore.coredump.limits import Limits
from kgcore.errors import KgcoreError
from kgcore.sinks import STDOUT
from kgcore.sinks.outputs import occupied
from kgcore.sources.base import TaskRef
from kgcore.sources.location import Location

__all__ = (
    "DumpCommand",
    "add_dump_options",
    "make_parser",
    "parse",
    "parse_drgn",
    "refuse_terminal",
    "request_of",
    "run",
)

_EPILOG = (
    FILTER_BITS
    + """
commands:
  kgcore ps [--json]           list the processes in the dump, by name, user or size (kgcore ps --help)
  kgcore files PID [--json]    list the open files of a process; --extract FD writes the content of one
  kgcore info [--json]         say what the dump is, what it holds, and what that means for cores
  kgcore map [PID | TASK]      show the address space of a process: as a table, --json, or --html FILE
  kgcore bt PID [--json]       show backtraces of its threads without writing a core
  kgcore debug PID             start a debugger on it, with its program and libraries
  kgcore check CORE [--json]   check that a finished core is well-formed and complete
  kgcore check DIR [--json]    check that the files that --sysroot wrote to DIR are complete
  kgcore completion SHELL      print the completion script for bash, zsh or fish

examples:
  kgcore -c vmcore 12345                             core.12345 from ./vmcore, no debug symbols needed
  kgcore -v 4 -f 21 12345 0xffff880136d72040         two processes, by PID and by task_struct, with filter 21
  kgcore -c vmcore -o - 12345 | zstd > core.zst      into a pipe
  kgcore --match 'nginx*' --uid 33 -D /var/tmp       every process with that name and user
  kgcore --all --compress zstd -D /var/tmp           all processes, as core.<tgid>.zst
  kgcore --all --max-time 5m --max-size 2G           within five minutes and two gigabytes, stacks first
  kgcore --swap /dev/sda2=sda2.img 12345             with the memory that was swapped out
  kgcore --root / --sysroot dir 12345                with the program and its libraries, for a debugger elsewhere
  kgcore -c vmcore                                   the process that was current when the kernel crashed

exit status: 0 complete; 1 a process could not be dumped; 2 usage; 3 written, but incomplete.
"""
)

_DRGN_EPILOG = (
    FILTER_BITS
    + """
Without a PID or TASK: crash mode's current context, else the process that was current when the kernel crashed.
"""
)


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """The arguments of ``kgcore [PID | TASK]...``."""

    place: Location
    request: DumpRequest

    @property
    def show(self) -> Channel:
        """The channels of ``-v``, from the request."""
        return self.request.show


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DumpCommand:
    """Parse the command line.

    :raises UsageError: it is invalid.
    :raises Answer: ``--help`` or ``--version``.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    request = request_of(parsed)  # first: its mistakes need no look at the disk
    return DumpCommand(place_of(parsed, environ), request)


def parse_drgn(argv: Sequence[str], prog: str) -> DumpRequest:
    """Parse the arguments of drgn's ``%gcore``, where the dump is open already.

    :raises UsageError, Answer: as :func:`parse` does.
    """
    return request_of(_drgn_parser(prog).parse_intermixed_args(list(argv)))


def run(command: DumpCommand, console: Console) -> int:
    """Write the cores and return the exit status."""
    refuse_terminal(command.request, console.out)
    if command.request.output == STDOUT and _same(console.out, console.err):
        raise UsageError(
            "standard error and standard output are the same file: messages would corrupt the core",
            hint="drop 2>&1, or use -o FILE",
        )
    limits = Limits(command.request.max_size, command.request.max_time)  # the opening counts, too
    from kgcore.cli.extract import extract

    with opening.opened(command.place, command.show, console, command.request.user_files) as source:
        return extract(source, command.request, console, limits).status


def refuse_terminal(request: DumpRequest, out: TextIO) -> None:
    """Refuse to write a core to a terminal.

    :raises UsageError: standard output is a terminal.
    """
    if request.output == STDOUT and out.isatty():
        raise UsageError("standard output is a terminal", hint="use a pipe, or -o FILE")


def _same(one: TextIO, two: TextIO) -> bool:
    """Say whether two streams lead to one file or pipe. Devices such as /dev/null do not matter."""
    try:
        first, second = (os.fstat(stream.fileno()) for stream in (one, two))
    except (OSError, ValueError):  # in a test they may be no files at all
        return False
    return os.path.samestat(first, second) and not stat.S_ISCHR(first.st_mode)


# Arguments


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        "kgcore",
        usage="kgcore [-c VMCORE] [-s SYMBOLS]... [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...\n"
        "       kgcore [--all | [--match GLOB]... [--uid UID]...] [--compress zstd | gzip] [--max-size SIZE] "
        "[--max-time DURATION] ...\n"
        "       kgcore ps [--json]\n"
        "       kgcore files [--extract FD [-o FILE] | --list FILE] [--json] PID | TASK\n"
        "       kgcore info [--json]\n"
        "       kgcore map [-f FILTER] [--json | --html FILE] [PID | TASK]\n"
        "       kgcore bt [--all-threads] [--kernel-stack] [--json] [PID | TASK]...\n"
        "       kgcore debug [--debugger gdb|lldb] [--print] [PID | TASK] [-- ARGUMENTS]\n"
        "       kgcore check CORE | DIR [--json]\n"
        "       kgcore completion bash | zsh | fish",
        description="Write processes of a Linux kernel crash dump as core files that debuggers open.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser)
    add_dump_options(parser)
    add_supply_options(parser.add_argument_group("further memory"))
    return parser


def _drgn_parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        usage=f"{prog.replace('%', '%%')} [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...",
        description="Write processes of this kernel as core files that debuggers open.",
        epilog=_DRGN_EPILOG,
    )
    add_show(parser)
    add_dump_options(parser)
    add_supply_options(parser.add_argument_group("further memory"))
    return parser


def add_dump_options(parser: Parser) -> None:
    """Add the options of all commands that write cores: ``kgcore``, ``kgcore live`` and ``%gcore``."""
    group = parser.add_argument_group("the processes")
    flag(group, "--all", help="every process that has memory")
    group.add_argument(
        "--match",
        metavar="GLOB",
        type=file_name,
        action="append",
        default=[],
        help="those whose name (COMM), or the base name of whose program (argv[0]), fits a pattern such as 'nginx*'; "
        "may be given more than once",
    )
    group.add_argument(
        "--uid",
        metavar="UID",
        type=user_id,
        action="append",
        default=[],
        help="those of this real user id; may be given more than once; with --match both must hold",
    )
    group = parser.add_argument_group("the core")
    add_filter_options(group)
    option(
        group,
        "--missing",
        choices=("omit", "zero"),
        default="omit",
        help="what to do with memory that the dump lacks: omit it, so that debuggers cannot read it, or write zeros "
        "(default: omit)",
    )
    flag(group, "--no-kgcore-note", help="omit the note that lists what is missing and why")
    flag(
        group,
        "--share-zeros",
        help="let long ranges that were never touched share one range of zeros in the file (done unasked where the "
        "file would be longer than file systems allow)",
    )
    output = group.add_mutually_exclusive_group()
    option(output, "-D", dest="directory", metavar="DIR", type=file_name, help="write core.<tgid> there")
    option(
        output, "-o", dest="output", metavar="FILE", type=output_name, help="write one core to FILE; -: standard output"
    )
    option(
        group,
        "--sysroot",
        metavar="DIR",
        type=file_name,
        help="also write the program, its interpreter and its libraries there, for gdb's set sysroot",
    )
    flag(group, "--force", help="overwrite files")
    flag(group, "--dry-run", help="show what would be written, and write nothing")
    option(
        group,
        "--report",
        metavar="FILE",
        type=output_name,
        help="write what was saved and what is missing, as JSON; -: standard output",
    )
    option(group, "--compress", choices=("zstd", "gzip"), help="write core.<tgid>.zst or .gz, or compress what -o gets")
    group = parser.add_argument_group("the work")
    option(
        group,
        "--jobs",
        metavar="N",
        type=workers,
        help="processes that read and compress side by side (default: as many as there are CPUs to use)",
    )
    option(
        group,
        "--max-size",
        metavar="SIZE",
        type=size,
        help="write at most so many bytes of cores in all (K, M, G, T: powers of 1024), what matters most first",
    )
    option(
        group,
        "--max-time",
        metavar="DURATION",
        type=duration,
        help="write for at most so many seconds in all (or m, h), what matters most first",
    )
    option(
        group,
        "--progress",
        choices=("auto", "never", "json"),
        default="auto",
        help="auto: a bar with -v 1 on a terminal; json: lines for programs on standard error (default: auto)",
    )
    add_tasks(parser)


def request_of(parsed: argparse.Namespace) -> DumpRequest:
    """Return what the options of :func:`add_dump_options` and :func:`add_supply_options` say.

    :raises UsageError: they contradict each other, or files.
    """
    tasks = tasks_of(parsed)
    try:
        if parsed.compress:
            from kgcore.sinks.compressed import require

            require(parsed.compress)
    except KgcoreError as error:
        raise UsageError(error.message, hint=error.hint) from error
    select = Selection(parsed.all, tuple(parsed.match), tuple(parsed.uid))
    if select.all and (select.match or select.uid):
        raise UsageError("--all takes every process: leave out --match and --uid, or --all")
    if parsed.output and len(tasks) + bool(select) > 1:
        raise UsageError("-o takes one process", hint="use -D DIR to write several, each as core.<tgid>")
    if parsed.directory and not os.path.isdir(parsed.directory):
        raise UsageError(f"-D: {parsed.directory!r} is not a directory")
    if parsed.dry_run and parsed.report:
        raise UsageError("--dry-run writes nothing, so it has no --report")
    if parsed.sysroot and os.path.lexists(parsed.sysroot) and not os.path.isdir(parsed.sysroot):
        raise UsageError(f"--sysroot: {parsed.sysroot!r} is not a directory")
    # Found out now rather than after an hour of writing cores.
    if parsed.report == STDOUT and parsed.output == STDOUT:
        raise UsageError("the core and --report cannot both go to standard output", hint="give one of them a FILE")
    if parsed.report and occupied(parsed.report) and not parsed.force:
        raise UsageError(f"--report: {parsed.report!r} exists", hint="--force overwrites it")
    return DumpRequest(
        tasks=tasks if tasks or select else (TaskRef.current(),),
        mask=parsed.mask,
        dontdump=parsed.dontdump,
        dax=parsed.dax,
        missing=parsed.missing,
        note=not parsed.no_kgcore_note,
        share_zeros=parsed.share_zeros,
        directory=parsed.directory or "",
        output=parsed.output,
        force=parsed.force,
        dry_run=parsed.dry_run,
        report=parsed.report,
        show=parsed.show,
        user_files=user_files_of(parsed),
        sysroot=parsed.sysroot,
        select=select,
        jobs=parsed.jobs,
        compress=parsed.compress,
        max_size=parsed.max_size,
        max_time=parsed.max_time,
        progress=parsed.progress,
    )
