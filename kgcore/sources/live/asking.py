# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask a process's kernel what only the process itself may ask: system calls that the guardian makes in its threads."""

import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from kgcore.arch import ARCHES, Arch
from kgcore.model.process import ProcessImage
from kgcore.model.siginfo import NSIG
from kgcore.model.state import AlternateStack, SignalAction, TimerValue
from kgcore.ptrace.injection import Convention
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.live.calling import convention_of
from kgcore.sources.live.image import architecture_here

__all__ = ("Answer", "Asker", "Unknown")

_SCRATCH = 64  # bytes; the longest answer is a struct sigaction's
_SIGSET = 8
_SS_ONSTACK = 1
# include/uapi/linux/prctl.h
_PR_GET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_GET_SECUREBITS = 2, 3, 27
_PR_GET_CHILD_SUBREAPER, _PR_GET_TID_ADDRESS = 37, 40
_NS = 1_000_000_000
_MOST_THREADS = 256  # each takes 2 ms or less, in which the process stands still

_T = TypeVar("_T")


class Unknown(Exception):
    """A value is not known; the message says why."""


class Answer(NamedTuple):
    """What a system call returned, and what it wrote.

    :ivar result: -errno: it failed.
    """

    result: int
    content: bytes

    def take(self, form: str) -> tuple[int, ...]:
        """Return what it wrote, as numbers.

        :raises Unknown: it failed.
        """
        self.check()
        return struct.unpack_from(form, self.content)

    def check(self) -> int:
        """Return its result.

        :raises Unknown: it failed.
        """
        if self.result < 0:
            raise Unknown(os.strerror(-self.result))
        return self.result


class Asker:
    """Makes system calls in the threads of a stopped process.

    :param tracee: None: the process runs, and cannot be asked.
    """

    def __init__(self, image: ProcessImage, tracee: Tracee | None) -> None:
        self._image = image
        self._tracee = tracee
        self._of: dict[int, list[Answer] | Unknown] = {}
        self._process: list[Answer] | Unknown | None = None
        self._timers: list[int] = []
        self._threads = 0

    def expect(self, timers: Sequence[int]) -> None:
        """Say which timers there are, by their ids: all of the process's questions are asked at once."""
        self._timers = list(timers)

    # Of the process

    def actions(self) -> tuple[SignalAction, ...]:
        """Return what the process does at each signal (rt_sigaction(2)).

        :raises Unknown: it is not known.
        """
        form = "<QQQQ" if self._wide else "<IIIQ"
        found = []
        for answer in self._answers()[:NSIG]:
            handler, flags, restorer, mask = answer.take(form)
            found.append(SignalAction(handler=handler, flags=flags, restorer=restorer, mask=mask))
        return tuple(found)

    def interval_timer(self, which: int) -> TimerValue:
        """Return a timer of setitimer(2).

        :param which: ITIMER_*.
        :raises Unknown: it is not known.
        """
        return self._time(self._answers()[NSIG + which], 1000)

    def timer(self, number: int) -> TimerValue:
        """Return what is left of a timer of timer_create(2).

        :raises Unknown: it is not known.
        """
        return self._time(self._answers()[NSIG + 5 + self._timers.index(number)], 1)

    def dumpable(self) -> int:
        """Return PR_GET_DUMPABLE.

        :raises Unknown: it is not known.
        """
        return self._answers()[NSIG + 3].check()

    def subreaper(self) -> bool:
        """Return PR_GET_CHILD_SUBREAPER.

        :raises Unknown: it is not known.
        """
        return bool(self._answers()[NSIG + 4].take("<i")[0])

    def _time(self, answer: Answer, unit: int) -> TimerValue:
        interval, part, value, rest = answer.take("<qqqq" if self._wide else "<iiii")
        return TimerValue(value=value * _NS + rest * unit, interval=interval * _NS + part * unit)

    def _answers(self) -> list[Answer]:
        if self._process is None:
            requests: list[tuple[str, tuple[int | None, ...]]] = [
                *(("rt_sigaction", (number, 0, None, _SIGSET)) for number in range(1, NSIG + 1)),
                *(("getitimer", (which, None)) for which in range(3)),
                ("prctl", (_PR_GET_DUMPABLE, 0, 0, 0, 0)),
                ("prctl", (_PR_GET_CHILD_SUBREAPER, None, 0, 0, 0)),
                *(("timer_gettime", (number, None)) for number in self._timers),
            ]
            tids = tuple(thread.tid for thread in self._image.threads)
            self._process = self._ask(tids, requests)
        return _given(self._process)

    # Of a thread

    def alternate_stack(self, tid: int) -> AlternateStack:
        """Return a thread's sigaltstack(2).

        :raises Unknown: it is not known.
        """
        address, flags, size = self._thread(tid)[0].take("<Qi4xQ" if self._wide else "<IiI")
        return AlternateStack(address=address, size=size, flags=flags & ~_SS_ONSTACK & 0xFFFFFFFF)

    def clear_child_tid(self, tid: int) -> int:
        """Return a thread's PR_GET_TID_ADDRESS.

        :raises Unknown: it is not known.
        """
        return self._thread(tid)[1].take("<Q" if self._wide else "<I")[0]

    def pdeath_signal(self, tid: int) -> int:
        """Return a thread's PR_GET_PDEATHSIG.

        :raises Unknown: it is not known.
        """
        return self._thread(tid)[2].take("<i")[0]

    def securebits(self, tid: int) -> int:
        """Return a thread's PR_GET_SECUREBITS.

        :raises Unknown: it is not known.
        """
        return self._thread(tid)[3].check()

    def _thread(self, tid: int) -> list[Answer]:
        if tid not in self._of:
            self._threads += 1
            if self._threads > _MOST_THREADS:
                self._of[tid] = Unknown(f"only {_MOST_THREADS} threads are asked, since the process stands still")
            else:
                self._of[tid] = self._ask(
                    (tid,),
                    [
                        ("sigaltstack", (0, None)),
                        ("prctl", (_PR_GET_TID_ADDRESS, None, 0, 0, 0)),
                        ("prctl", (_PR_GET_PDEATHSIG, None, 0, 0, 0)),
                        ("prctl", (_PR_GET_SECUREBITS, 0, 0, 0, 0)),
                    ],
                )
        return _given(self._of[tid])

    # Asking

    @property
    def _arch(self) -> Arch:
        return ARCHES[self._image.arch]

    @property
    def _convention(self) -> Convention:
        return convention_of(self._arch)

    @property
    def _wide(self) -> bool:
        return self._convention.word == 8

    def _ask(
        self, tids: Sequence[int], requests: Sequence[tuple[str, tuple[int | None, ...]]]
    ) -> list[Answer] | Unknown:
        if self._tracee is None:
            return Unknown("only the process itself can ask its kernel for it, and it was not stopped")
        convention = self._convention
        known = architecture_here().system_calls[convention.word]
        calls = [(known.injected[name], *arguments) for name, arguments in requests]
        try:
            found = self._tracee.calls(tids, convention, calls, red_zone=self._arch.red_zone, size=_SCRATCH)
        except OSError as error:
            return Unknown(f"the process cannot ask its kernel for it: {_words(error)}")
        return [Answer(result, content) for result, content in found]


def _given(found: list[Answer] | Unknown) -> list[Answer]:
    if isinstance(found, Unknown):
        raise found
    return found


def _words(error: OSError) -> str:
    if error.errno == errno.ENOTSUP and error.filename:
        return str(error.filename)
    if error.errno == errno.EFAULT:
        return "it has no memory below its stack pointer"
    return error.strerror or str(error)
