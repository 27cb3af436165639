# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``kgcore [PID | TASK]...``, ``kgcore live`` and ``%gcore`` share: their options, and writing the cores."""

import argparse
import os
import stat
from dataclasses import dataclass
from typing import TextIO

from kgcore.cli.arguments import add_filter_options, tasks_of, user_files_of
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

__all__ = ("DumpCommand", "add_core_options", "add_dump_options", "refuse_terminal", "request_of", "run")


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """The arguments of a command that writes cores."""

    place: Location
    request: DumpRequest

    @property
    def show(self) -> Channel:
        """The channels of ``-v``, from the request."""
        return self.request.show


def run(command: DumpCommand, console: Console) -> int:
    """Write the cores and return the exit status."""
    refuse_terminal(command.request, console.out)
    if command.request.output == STDOUT and _same(console.out, console.err):
        raise UsageError(
            "standard error and standard output are the same file: messages would corrupt the core",
            hint="drop 2>&1, or use -o FILE",
        )
    request = command.request
    limits = Limits(request.max_size, request.max_time, rule=request.limit)  # the opening counts, too
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


def add_dump_options(parser: Parser) -> None:
    """Add the options of commands that write cores of several processes: ``kgcore``, ``kgcore live`` and ``%gcore``."""
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
    add_core_options(parser)


def add_core_options(parser: Parser, *, held: bool = False) -> None:
    """Add the options of all commands that write cores.

    :param held: what there is is what a filter has left, and all of it is the default.
    """
    group = parser.add_argument_group("the core")
    add_filter_options(group, held=held)
    option(
        group,
        "--profile",
        choices=("full", "mini"),
        default="full",
        help="mini: of that memory only stacks, thread-local storage and what else backtraces need (default: full)",
    )
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
        "--no-state",
        help="omit from that note what the process had of the kernel: signal actions, timers, limits, what is in pipes "
        "and other descriptors",
    )
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
        "--limit",
        choices=("priority", "largest-first", "truncate"),
        help="what the two cost first: what matters least, the ends of the largest mappings, or the end of the file as "
        "the kernel has it (default: priority)",
    )
    option(
        group,
        "--progress",
        choices=("auto", "never", "json"),
        default="auto",
        help="auto: a bar with -v 1 on a terminal; json: lines for programs on standard error (default: auto)",
    )


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
    if parsed.limit and parsed.max_size is None and parsed.max_time is None:
        raise UsageError("--limit says what a limit costs: it takes --max-size or --max-time")
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
        rules=parsed.rules,
        missing=parsed.missing,
        note=not parsed.no_kgcore_note,
        state=not parsed.no_state,
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
        limit=parsed.limit or "priority",
        profile=parsed.profile,
        progress=parsed.progress,
    )
