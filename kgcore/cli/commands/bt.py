# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore bt``: show backtraces of threads without writing a core."""

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kgcore.cli.arguments import (
    add_json,
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
from kgcore.cli.console import Console, Status, reason
from kgcore.cli.parser import Parser, flag
from kgcore.cli.request import Channel
from kgcore.errors import KgcoreError
from kgcore.model.traces import End, Frame, ThreadTrace, grouped, ranges
from kgcore.sources.base import TaskRef, UserFiles
from kgcore.sources.location import Location
from kgcore.text import first_names, plain, printable

if TYPE_CHECKING:
    from kgcore.views.backtrace import Backtrace

__all__ = ("BtCommand", "make_parser", "parse", "run")

_NAMES = 3
"""Thread names that stand over a stack."""

_RANGES = 8
"""Ranges of thread ids there."""

_EPILOG = """\
A stack may end early; the line below it says why. kgcore takes programs and libraries from the dump, then from --root,
from debug files on this machine with the same build id, and from the debuginfod servers in $DEBUGINFOD_URLS.

examples:
  kgcore bt -c vmcore                        the process that was current when the kernel crashed
  kgcore bt --all-threads 12345              all its threads; threads with the same stack share one
  kgcore bt --all-threads --kernel-stack 12345   with their kernel stacks
  kgcore bt --root / 12345                   on the machine that crashed, after its reboot

exit status: 0 all stacks are complete; 1 a process could not be unwound; 2 usage; 3 a stack ends early.
"""


@dataclass(frozen=True, slots=True)
class BtCommand:
    """The arguments of ``kgcore bt``.

    :ivar tasks: never empty.
    """

    place: Location
    show: Channel
    tasks: tuple[TaskRef, ...]
    user_files: UserFiles
    all_threads: bool
    kernel: bool
    json: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> BtCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    return BtCommand(
        place=place_of(parsed, environ),
        show=Channel(parsed.show),
        tasks=tasks_of(parsed) or (TaskRef.current(),),
        user_files=user_files_of(parsed),
        all_threads=parsed.all_threads,
        kernel=parsed.kernel_stack,
        json=parsed.json,
    )


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore bt",
        usage="kgcore bt [-c VMCORE] [--all-threads] [--kernel-stack] [--json] [PID | TASK]...",
        description="Show backtraces of processes in a vmcore.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser, live=True)
    add_json(parser)
    group = parser.add_argument_group("the stacks")
    flag(group, "--all-threads", help="show all threads, not only the named one or the first")
    flag(group, "--kernel-stack", help="also show kernel stacks")
    add_supply_options(group)
    add_tasks(parser)
    return parser


def run(command: BtCommand, console: Console) -> int:
    """Show the backtraces and return the exit status."""
    from kgcore.views.backtrace import backtrace, document

    found: list[Backtrace] = []
    failures: list[dict[str, str]] = []
    with opening.opened(command.place, command.show, console, command.user_files) as source:
        for ref in command.tasks:
            try:
                one = backtrace(
                    source,
                    ref,
                    all_threads=command.all_threads,
                    kernel=command.kernel,
                    root=command.user_files.root,
                )
            except Exception as error:  # noqa: BLE001  (a defect, ours or drgn's, must not cost the other processes)
                text = reason(error)
                if not isinstance(error, KgcoreError):
                    text = f"{ref.text}: {text}"
                    if command.show & Channel.LIBRARY:
                        traceback.print_exc(file=console.err)
                failures.append({"task": ref.text, "reason": plain(text)})
                console.fail(text)
                continue
            for remark in one.remarks:
                console.remark(f"process {one.tgid}: {remark}")
            if not command.json:
                for line in _lines(one):
                    print(line, file=console.out)
            found.append(one)
    status = Status.COMPLETE if all(one.complete for one in found) else Status.INCOMPLETE
    status = Status.FAILED if failures else status
    if command.json:
        json.dump(document(found, failures, status), console.out, indent=2)
        console.out.write("\n")
    return status


# For people


def _lines(process: "Backtrace") -> Iterator[str]:
    """The lines of a process, safe for a terminal."""
    more = "" if not process.others else f", and {process.others} more: --all-threads shows them"
    count = len(process.threads)
    threads = "1 thread" if count == 1 else f"{count} threads"
    yield f"Process {process.tgid} ({printable(process.comm)}): {threads}{more}"
    if process.dying is not None:
        yield f"Dying: {process.dying.words()}"
    for group in grouped(process.threads):
        yield ""
        yield _title(group)
        thread = group[0]
        yield from _stack(thread.frames, thread.end)
        if thread.kernel is not None and (thread.kernel.frames or thread.kernel.end.text):
            yield "in the kernel:"
            yield from _stack(thread.kernel.frames, thread.kernel.end)


def _title(group: Sequence[ThreadTrace]) -> str:
    names = dict.fromkeys(printable(thread.comm) for thread in group)
    first = group[0]
    marks = [first_names(names, _NAMES, number=False)]
    if first.cpu is not None:
        marks.append(f"running on CPU {first.cpu}")
    if first.crashed:
        marks.append("the kernel crashed here")
    if len(group) == 1:
        return f"Thread {first.tid}: {'; '.join(marks)}"
    ids = first_names(ranges(one.tid for one in group), _RANGES, number=False)
    return f"Threads {ids} ({len(group)}): {'; '.join(marks)}"


def _stack(frames: Iterable[Frame], end: End) -> Iterator[str]:
    for number, frame in enumerate(frames):
        yield f"#{number:<3}{_call(frame)}"
    if end.text:
        yield f"    ends here: {printable(end.text)}"


def _call(frame: Frame) -> str:
    function = "??"
    if frame.function is not None:
        function = printable(frame.function)
        if frame.offset is not None:
            function += f"+{frame.offset:#x}"
    place = ""
    if frame.source is not None:
        place = f" at {printable(frame.source[0])}:{frame.source[1]}"
    elif frame.module is not None:
        offset = f"+{frame.module_offset:#x}" if frame.function is None and frame.module_offset is not None else ""
        build_id = f", build id {frame.build_id}" if frame.function is None and frame.build_id else ""
        place = f" in {printable(frame.module)}{offset}{build_id}"
    return f"{frame.ip:#018x} {function}{place}{' (inlined)' if frame.inline else ''}"
