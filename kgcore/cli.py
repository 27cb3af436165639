# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``kgcore`` command: opens the dump, and turns what comes of it into output and an exit status."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from kgcore.arguments import Answer, UsageError, parse, refuse_terminal
from kgcore.console import Console, Status, reason
from kgcore.errors import KgcoreError
from kgcore.model import ProcessSummary
from kgcore.request import CheckCommand, Command, DumpCommand, InfoCommand, Place, PsCommand, Show
from kgcore.sources.base import NO_SUPPLIES, Source, Supplies

if TYPE_CHECKING:
    from kgcore.check import Verdict
    from kgcore.sources.vmcore.target import Target
    from kgcore.sysrootcheck import SysrootVerdict

__all__ = ("entry", "main")


class _Stopped(BaseException):
    """A signal asked us to stop. Like KeyboardInterrupt no Exception, so that no handler on the way swallows it."""


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    console = Console(sys.stdout, sys.stderr)
    show = Show(0)
    try:
        with _stoppable():
            try:
                command = parse(argv, os.environ)
                show = getattr(command, "show", show)
                status = _run(command, console)
            except Answer as answer:
                print(answer, end="", file=console.out)
                status = Status.COMPLETE
            console.out.flush()
            return status
    except UsageError as error:
        console.remark(str(error))
        return Status.USAGE
    except _Stopped as stopped:
        console.remark(f"stopped by {stopped}; no half-written core was left behind")
    except BrokenPipeError:
        console.remark("standard output was closed by its reader")
    except OSError as error:
        console.remark(f"standard output: {reason(error)}")
    except Exception as error:  # noqa: BLE001  (a defect too ends in a reason; -v 2 shows the place)
        if show & Show.LIBRARY and not isinstance(error, KgcoreError):
            traceback.print_exc()
        console.remark(reason(error))
    return Status.FAILED


def _run(command: Command, console: Console) -> int:
    match command:
        case CheckCommand():
            return _check(command, console)
        case InfoCommand():
            return _info(command, console)
        case PsCommand():
            with _opened(command.place, command.show, console) as source:
                return _ps(source, command.json, console)
        case DumpCommand():
            refuse_terminal(command.request, console.out)
            from kgcore.extract import extract

            with _opened(command.place, command.show, console, command.request.supplies) as source:
                return extract(source, command.request, console).status


@contextlib.contextmanager
def _opened(place: Place, show: Show, console: Console, supplies: Supplies = NO_SUPPLIES) -> Iterator[Source]:
    """The processes of a vmcore."""
    with _opened_target(place, show, console) as target:
        from kgcore.sources.vmcore.source import VmcoreSource

        yield VmcoreSource(target, supplies)


@contextlib.contextmanager
def _opened_target(place: Place, show: Show, console: Console) -> Iterator["Target"]:
    """An opened vmcore. The first place that needs drgn, which is why it is imported here."""
    _route_library_messages(show, console)
    from kgcore.sources.vmcore.target import TargetOptions, open_target

    with open_target(TargetOptions(**dataclasses.asdict(place))) as target:
        for message in target.messages:
            console.remark(message)
        yield target


def _route_library_messages(show: Show, console: Console) -> None:
    """drgn logs what troubles it; by default that stays out of sight, as our own messages name what matters."""
    logger = logging.getLogger("drgn")
    logger.propagate = False
    logger.handlers.clear()
    if show & Show.LIBRARY:
        handler = logging.StreamHandler(console.err)
        handler.setFormatter(logging.Formatter("drgn: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
    else:
        logger.addHandler(logging.NullHandler())


def _ps(source: Source, as_json: bool, console: Console) -> int:
    from kgcore import render

    processes: list[ProcessSummary] = []
    status = Status.COMPLETE
    try:
        processes.extend(source.processes())
    except KgcoreError as error:
        # A list that breaks off half-way is still half a list.
        console.remark(reason(error))
        status = Status.FAILED
    if as_json:
        rows = [render.process_json(process) for process in processes]
        json.dump({"version": 1, "source": source.describe(), "processes": rows}, console.out, indent=2)
        console.out.write("\n")
    else:
        render.show_processes(processes, console.out)
    return status


def _info(command: InfoCommand, console: Console) -> int:
    """A dump that is not complete is still one that was looked at successfully: the status says nothing of it."""
    from kgcore import render

    with _opened_target(command.place, command.show, console) as target:
        from kgcore.sources.vmcore.facts import read_facts

        place = command.place
        facts = read_facts(target, (place.core, *place.parts) if place.core else ())
    if command.json:
        json.dump({"version": 1, **dataclasses.asdict(facts)}, console.out, indent=2)
        console.out.write("\n")
    else:
        render.show_facts(facts, console.out)
    return Status.COMPLETE


def _check(command: CheckCommand, console: Console) -> int:
    verdict: Verdict | SysrootVerdict
    if os.path.isdir(command.path):
        from kgcore.sysrootcheck import check_sysroot

        verdict = check_sysroot(command.path)
    else:
        from kgcore.check import check_core

        verdict = check_core(command.path)
    if command.json:
        json.dump(verdict.to_json(), console.out, indent=2)
        console.out.write("\n")
    else:
        for line in verdict.lines():
            console.say(line)
    if not verdict.ok:
        return Status.FAILED
    # None: nothing says that it is complete, as in every core that the kernel wrote, and nothing speaks against it.
    return Status.INCOMPLETE if verdict.complete is False else Status.COMPLETE


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block by an exception, so that unfinished files are cleaned up."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)  # impatience must not interrupt the clean-up
        raise _Stopped(signal.Signals(number).name)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
            previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
