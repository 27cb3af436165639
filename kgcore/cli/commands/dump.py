# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore [PID | TASK]...``, the command without a name, and drgn's ``%gcore``: processes as cores.

The options exist once, in :func:`_add_dump_options`; the two share them.
"""

import argparse
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from kgcore.cli.arguments import (
    FILTER_BITS,
    Parser,
    UsageError,
    add_filter_options,
    add_place_options,
    add_show,
    add_supply_options,
    add_version,
    duration,
    file_name,
    flag,
    option,
    output_name,
    place_of,
    size,
    supplies_of,
    user_id,
    workers,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console
from kgcore.cli.request import Channel, DumpLocation, DumpRequest, Selection
from kgcore.coredump.limits import Limits
from kgcore.errors import KgcoreError
from kgcore.sinks import STDOUT
from kgcore.sinks.outputs import occupied
from kgcore.sources.base import TaskRef

__all__ = ("DumpCommand", "make_parser", "parse", "parse_drgn", "refuse_terminal", "run")

_EPILOG = (
    FILTER_BITS
    + """
commands:
  kgcore ps [--json]           the processes in the dump, by name, user or size (kgcore ps --help)
  kgcore files PID [--json]    the open files of a process; --extract FD writes out what is in one
  kgcore info [--json]         what the dump is, what it holds, and what that means for cores
  kgcore map [PID | TASK]      the address space of a process: as a table, --json, or --html FILE
  kgcore bt PID [--json]       what its threads were doing, without a core
  kgcore debug PID             a debugger on it, with its program and libraries
  kgcore check CORE [--json]   whether a finished core is well-formed and complete
  kgcore check DIR [--json]    whether the files that --sysroot wrote to DIR are whole
  kgcore completion SHELL      completion for bash, zsh or fish

examples:
  kgcore -c vmcore 12345                             core.12345 out of ./vmcore, no debug symbols needed
  kgcore -v 4 -f 21 12345 0xffff880136d72040         two processes, by PID and by task_struct, other memory
  kgcore -c vmcore -o - 12345 | zstd > core.zst      straight into a pipe
  kgcore --match 'nginx*' --uid 33 -D /var/tmp       every process that is called so and runs as that user
  kgcore --all --compress zstd -D /var/tmp           all of them, as core.<tgid>.zst
  kgcore --all --max-time 5m --max-size 2G           what five minutes and two gigabytes suffice for, stacks first
  kgcore --swap /dev/sda2=sda2.img 12345             with the memory that was swapped out
  kgcore --root / --sysroot dir 12345                with the program and its libraries, for a debugger elsewhere
  kgcore -c vmcore                                   the process that was current when the kernel crashed

exit status: 0 complete; 1 a process could not be dumped; 2 usage; 3 written, but the dump lacked some of it.
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
    """``kgcore [PID | TASK]...``"""

    place: DumpLocation
    request: DumpRequest

    @property
    def show(self) -> Channel:
        """The channels of ``-v``."""
        return self.request.show


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DumpCommand:
    """Understand the command line.

    :raises UsageError: it makes no sense.
    :raises Answer: ``--help`` or ``--version``.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    request = _request(parsed)  # first: its mistakes need no look at the disk
    return DumpCommand(place_of(parsed, environ), request)


def parse_drgn(argv: Sequence[str], prog: str) -> DumpRequest:
    """Understand the arguments of drgn's ``%gcore``, which has its dump already.

    :raises UsageError, Answer: as :func:`parse` does.
    """
    return _request(_drgn_parser(prog).parse_intermixed_args(list(argv)))


def run(command: DumpCommand, console: Console) -> int:
    """Write the cores; the exit status."""
    refuse_terminal(command.request, console.out)
    if command.request.output == STDOUT and _same(console.out, console.err):
        raise UsageError(
            "standard error goes where standard output does: messages would end up in the core",
            hint="leave out 2>&1, or give -o FILE",
        )
    limits = Limits(command.request.max_size, command.request.max_time)  # the opening counts, too
    from kgcore.cli.extract import extract

    with opening.opened(command.place, command.show, console, command.request.user_files) as source:
        return extract(source, command.request, console, limits).status


def refuse_terminal(request: DumpRequest, out: TextIO) -> None:
    """A core is no text.

    :raises UsageError: it would go to a terminal.
    """
    if request.output == STDOUT and out.isatty():
        raise UsageError("standard output is a terminal", hint="use a pipe, or -o FILE")


def _same(one: TextIO, two: TextIO) -> bool:
    """Whether two streams lead to one file or pipe. Of a device, such as /dev/null, it does not matter."""
    try:
        first, second = (os.fstat(stream.fileno()) for stream in (one, two))
    except (OSError, ValueError):  # in a test they may be no files at all
        return False
    return os.path.samestat(first, second) and not stat.S_ISCHR(first.st_mode)


# Arguments


def make_parser() -> Parser:
    """Of the command line."""
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
        description="Turn processes inside a Linux kernel crash dump into core dumps that debuggers open.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser)
    _add_dump_options(parser)
    return parser


def _drgn_parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        usage=f"{prog.replace('%', '%%')} [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...",
        description="Write processes of this kernel as core dumps that debuggers open.",
        epilog=_DRGN_EPILOG,
    )
    add_show(parser)
    _add_dump_options(parser)
    return parser


def _add_dump_options(parser: Parser) -> None:
    """What to write: the options that ``kgcore`` and ``%gcore`` have in common."""
    group = parser.add_argument_group("the processes")
    flag(group, "--all", help="every process in the dump that has memory")
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
        help="memory that the dump lacks: leave it out, so that debuggers refuse to read it, or fill in zeros "
        "(default: omit)",
    )
    flag(group, "--no-kgcore-note", help="leave out the note that lists what is missing and why")
    flag(
        group,
        "--share-zeros",
        help="let long ranges that were never touched share one range of zeros in the file (done unasked where the "
        "file would be longer than file systems allow)",
    )
    add_supply_options(group)
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
    parser.add_argument(
        "tasks",
        metavar="PID | TASK",
        nargs="*",
        help="id of any thread in decimal, or address of a task_struct in hexadecimal "
        "(default: the process that was current in the crash)",
    )


def _request(parsed: argparse.Namespace) -> DumpRequest:
    try:
        tasks = tuple(TaskRef.parse(text) for text in parsed.tasks)
        if parsed.compress:
            from kgcore.sinks.compressed import require

            require(parsed.compress)
    except KgcoreError as error:
        raise UsageError(error.message, hint=error.hint) from error
    select = Selection(parsed.all, tuple(parsed.match), tuple(parsed.uid))
    if select.all and (select.match or select.uid):
        raise UsageError("--all takes every process: leave out --match and --uid, or --all")
    if parsed.output and len(tasks) + bool(select) > 1:
        raise UsageError("-o takes one process", hint="give -D DIR to write several, each as core.<tgid>")
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
        user_files=supplies_of(parsed),
        sysroot=parsed.sysroot,
        select=select,
        jobs=parsed.jobs,
        compress=parsed.compress,
        max_size=parsed.max_size,
        max_time=parsed.max_time,
        progress=parsed.progress,
    )
