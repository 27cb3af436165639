# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore restart``: let a process go on from its core, or out of a dump."""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kgcore.cli.arguments import (
    add_json,
    add_place_options,
    add_show,
    add_supply_options,
    add_version,
    existing,
    place_of,
    task_of,
    user_files_of,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.request import Channel
from kgcore.cli.values import file_name
from kgcore.errors import NotRestarted
from kgcore.sources.base import TaskRef, UserFiles
from kgcore.sources.location import CoreLocation, DumpLocation, Location

if TYPE_CHECKING:
    from kgcore.cli.takingout import TakenOut
    from kgcore.coredump.writer import Progress
    from kgcore.restore.descriptors import Instead
    from kgcore.restore.paths import Paths
    from kgcore.restore.plan import Plan

__all__ = ("RestartCommand", "make_parser", "parse", "run")

_EPILOG = """\
The core is one that kgcore wrote: it says what the process had of its kernel. The process goes on where it was,
under its old id, with its memory, threads, descriptors, signals and timers. What cannot be had again is refused, with
what would allow it, before anything is started. If a step fails, or kgcore is killed, nothing of the process is left.

Out of a vmcore it needs no core: kgcore takes out all of the process's memory, its program and libraries if they are
not here, and open files that only the memory of that machine had.

examples:
  kgcore restart core.12345                        it goes on; kgcore passes signals on, and exits as it does
  kgcore restart --dry-run core.12345              what is restored, what is different, what is refused and why
  kgcore restart --fd 7=closed core.12345          without its descriptor 7
  kgcore restart --allow files core.12345          though a file is longer than it was
  kgcore restart --stopped --detach core.12345     leave it stopped, for a debugger
  kgcore restart -c vmcore --keep DIR 12345        out of a dump; files that only its memory had are in DIR then

exit status: the process's own, 128 and a signal's number if that ended it; 1 it is not restarted; 2 usage. With
--dry-run 0 if nothing is refused, else 1.
"""
_MOST_FD = 1 << 20


@dataclass(frozen=True, slots=True)
class RestartCommand:
    """The arguments of ``kgcore restart``.

    :ivar place: the core, or the dump.
    :ivar task: the process in the dump.
    :ivar keep: directory for what is taken out of the dump; None: one that is removed.
    :ivar instead: what ``--fd`` says: number and ``closed``, ``@`` and a number, or a path.
    :ivar moved: what ``--map`` says: beginnings of names, and what they are here.
    :ivar allow: words of refusals that do not count.
    """

    place: Location
    task: TaskRef
    show: Channel
    user_files: UserFiles
    keep: str | None
    dry_run: bool
    json: bool
    clock: Literal["keep", "jump"] | None
    instead: tuple[tuple[int, str], ...]
    moved: tuple[tuple[str, str], ...]
    sysroot: str | None
    allow: frozenset[str]
    stopped: bool
    detach: bool


def parse(words: Sequence[str], environ: Mapping[str, str]) -> RestartCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    if parsed.json and not parsed.dry_run:
        raise UsageError("--json shows a plan", hint="it goes with --dry-run")
    numbers = [number for number, _ in parsed.fd]
    if len(set(numbers)) != len(numbers):
        raise UsageError("--fd names a descriptor twice")
    place = _place(parsed, environ)
    return RestartCommand(
        place=place,
        task=task_of(parsed),
        show=Channel(parsed.show),
        user_files=user_files_of(parsed),
        keep=parsed.keep,
        dry_run=parsed.dry_run,
        json=parsed.json,
        clock=parsed.clock,
        instead=tuple(parsed.fd),
        moved=tuple(parsed.map),
        sysroot=parsed.sysroot,
        allow=_words(parsed),
        stopped=parsed.stopped,
        detach=parsed.detach,
    )


def _place(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Location:
    """The core, or the dump that has the process."""
    dump = bool(parsed.core or parsed.running or parsed.qemu)
    if parsed.task is None and not dump:
        raise UsageError("neither a core nor a process is named", hint="give a core, or -c VMCORE and a PID")
    if not dump and not re.fullmatch("(0[xX])?[0-9a-fA-F]+", parsed.task):
        existing(parsed.task, "core")
    place = place_of(parsed, environ)
    if isinstance(place, CoreLocation) and (parsed.keep or parsed.root):
        option = "--keep" if parsed.keep else "--root"
        raise UsageError(f"{option} is about what is taken out of a dump: it goes with -c VMCORE and a PID")
    return place


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore restart",
        usage="kgcore restart [--dry-run [--json]] [--fd N=WHAT]... [--map OLD=NEW]... [--sysroot DIR] "
        "[--clock keep|jump] [--allow WORD,...] CORE\n"
        "       kgcore restart -c VMCORE [--keep DIR] ... [PID | TASK]",
        description="Let a process go on from its core, where it was.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_json(parser)
    add_place_options(parser)
    group = parser.add_argument_group("what to do")
    flag(group, "--dry-run", help="show the plan; start nothing")
    flag(group, "--stopped", help="leave it stopped (SIGSTOP)")
    flag(group, "--detach", help="do not wait for it: print its id and end")
    group = parser.add_argument_group("how it goes on")
    group.add_argument(
        "--fd",
        metavar="N=WHAT",
        type=_descriptor,
        action="append",
        default=[],
        help="its descriptor N is: a PATH, opened as it was; @M, kgcore's own descriptor M; or closed",
    )
    group.add_argument(
        "--map",
        metavar="OLD=NEW",
        type=_moved,
        action="append",
        default=[],
        help="files whose names begin with OLD (its program and libraries, descriptors, working directory) are in NEW",
    )
    option(
        group,
        "--sysroot",
        metavar="DIR",
        type=file_name,
        help="files that DIR has are taken from there, as kgcore --sysroot DIR wrote them",
    )
    option(
        group,
        "--clock",
        choices=("keep", "jump"),
        help="keep: its clocks go on from the moment of the core, in a time namespace; jump: they are this machine's "
        "(default: keep where that is allowed)",
    )
    option(group, "--allow", metavar="WORD,...", help="restart it though the plan refuses it with these words")
    flag(group, "--force", help="--allow with all words that can be allowed")
    group = parser.add_argument_group("out of a dump")
    option(
        group,
        "--keep",
        metavar="DIR",
        type=file_name,
        help="write what is taken out of the dump to DIR, a new directory, and leave it there (default: a private "
        "directory, which is removed when the process goes on)",
    )
    add_supply_options(group)
    parser.add_argument(
        "task",
        metavar="CORE | PID | TASK",
        nargs=argparse.OPTIONAL,
        help="a core; or, out of a dump, id of any thread in decimal, or address of a task_struct in hexadecimal",
    )
    return parser


def _descriptor(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,7})=(closed|@[0-9]{1,7}|(?!@).+)", text, re.DOTALL)
    if match is None or int(match[1]) >= _MOST_FD:
        raise argparse.ArgumentTypeError(f"{text!r} is not N=PATH, N=@M or N=closed")
    return int(match[1]), match[2]


def _moved(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old.startswith("/") or not new:
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW, the names of directories or files")
    return old, os.path.abspath(new)


def _words(parsed: argparse.Namespace) -> frozenset[str]:
    from kgcore.restore.words import WORDS

    words = frozenset(filter(None, (parsed.allow or "").split(",")))
    for word in sorted(words):
        if word not in WORDS:
            raise UsageError(f"--allow: {word!r} cannot be allowed", hint=f"it takes {', '.join(WORDS)}")
    return frozenset(WORDS) if parsed.force else words


def run(command: RestartCommand, console: Console) -> int:
    """Plan, restart and wait; return the exit status."""
    from kgcore.restore.waiting import wait_for

    with ExitStack() as stack:
        taken = None if isinstance(command.place, CoreLocation) else _take_out(command, stack, console)
        plan, pid = _restart(command, taken, console)
        if command.dry_run:
            return Status.FAILED if plan.refused else Status.COMPLETE
    if command.detach:
        console.say(str(pid))
        return Status.COMPLETE
    return wait_for(pid)


def _take_out(command: RestartCommand, stack: ExitStack, console: Console) -> "TakenOut":
    """Take out of the dump what the process needs; the stack removes it again."""
    from kgcore.cli import render
    from kgcore.cli.takingout import directory_for, take_out

    shown = bool(command.show & Channel.PROGRESS) and console.err.isatty()

    def progress(name: str, size: int) -> "AbstractContextManager[Progress | None]":
        return render.progress(name, console.err, size) if shown else nullcontext()

    directory = stack.enter_context(directory_for(command.keep))
    with opening.opened(command.place, command.show, console, command.user_files) as source:
        return take_out(
            source,
            command.task,
            directory,
            kept=command.keep is not None,
            paths=_paths(command),
            instead=frozenset(number for number, _ in command.instead),
            progress=progress,
        )


def _restart(command: RestartCommand, taken: "TakenOut | None", console: Console) -> "tuple[Plan, int]":
    """Plan, and show that or start the process: its id, else 0.

    :raises NotRestarted: it is refused, or a step failed.
    """
    from kgcore.restore.corefile import FinishedCore
    from kgcore.restore.do import restart
    from kgcore.restore.here import here
    from kgcore.restore.need import need_of
    from kgcore.restore.plan import Wishes, make_plan

    paths = _paths(command)
    core = FinishedCore.open(_path(command) if taken is None else taken.core)
    try:
        need = need_of(core)
        wishes = Wishes(
            clock=command.clock,
            paths=paths,
            instead={number: _instead(what) for number, what in command.instead},
            allow=command.allow,
            stopped=command.stopped,
        )
        if taken is not None:
            from kgcore.cli.takingout import with_directories

            taken = with_directories(taken, need.state, paths)
            paths = replace(paths, taken=taken.names, nameless=taken.nameless)
            wishes = replace(wishes, paths=paths, refused=taken.refused, different=taken.different)
        plan = make_plan(core, need, here(), wishes)
        if command.dry_run:
            _show(plan, command, console)
            return plan, 0
        if plan.refused:
            for line in _refusals(plan):
                console.remark(line)
            raise NotRestarted(f"process {plan.need.pid} is not restarted", hint="--dry-run shows the whole plan")
        for line in (*plan.different, *(f"allowed: {refusal.what}" for refusal in plan.allowed)):
            console.remark(line)
        return plan, restart(plan, core)
    finally:
        core.close()


def _path(command: RestartCommand) -> str:
    """What the user named: the core, or the dump."""
    if isinstance(command.place, CoreLocation):
        return str(command.place.core)
    assert isinstance(command.place, DumpLocation)
    return command.place.core or command.place.qemu or "/proc/kcore"


def _paths(command: RestartCommand) -> "Paths":
    from kgcore.restore.paths import Paths

    return Paths(
        tuple((os.fsencode(old), os.fsencode(new)) for old, new in command.moved),
        os.fsencode(os.path.abspath(command.sysroot)) if command.sysroot else b"",
    )


def _instead(what: str) -> "Instead":
    from kgcore.restore.descriptors import Instead

    if what == "closed":
        return Instead()
    return Instead(ours=int(what[1:])) if what.startswith("@") else Instead(path=os.fsencode(what))


def _show(plan: "Plan", command: RestartCommand, console: Console) -> None:
    if command.json:
        json.dump(_to_json(plan, _path(command)), console.out, indent=2)
        console.out.write("\n")
        return
    for line in plan.restored:
        console.say(f"restored: {line}")
    for call in plan.calls:
        if call.refused in plan.refused:
            continue
        console.say(f"restored: thread {call.tid}: {call.call}() starts again")
    for line in plan.different:
        console.say(f"different: {line}")
    for refusal in plan.allowed:
        console.say(f"allowed: {refusal.what}")
    for line in _refusals(plan):
        console.say(line)


def _refusals(plan: "Plan") -> Iterator[str]:
    for refusal in plan.refused:
        yield f"refused ({refusal.word}): {refusal.what}" + (f" ({refusal.hint})" if refusal.hint else "")


def _to_json(plan: "Plan", path: str) -> dict[str, Any]:
    return {
        "version": 1,
        "core": path,
        "pid": plan.need.pid,
        "threads": [thread.tid for thread in plan.need.threads],
        "calls": [{"tid": call.tid, "call": call.call, "remark": call.remark} for call in plan.calls],
        "restored": list(plan.restored),
        "different": list(plan.different),
        "allowed": [_refusal(one) for one in plan.allowed],
        "refused": [_refusal(one) for one in plan.refused],
    }


def _refusal(one: Any) -> dict[str, Any]:
    return {"word": one.word, "what": one.what, "hint": one.hint, "allowable": one.allowable}
