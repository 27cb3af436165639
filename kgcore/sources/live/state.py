# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what a process of this machine has of its kernel: a :class:`kgcore.model.state.ProcessState`."""

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial

from kgcore.arch import ARCHES
from kgcore.model.process import VM_MAYSHARE, ProcessImage
from kgcore.model.state import (
    NO_LIMIT,
    Clocks,
    Descriptor,
    PendingSignal,
    PosixTimer,
    ProcessState,
    Rseq,
    SharedMapping,
    ThreadState,
    gather,
    pending_signals,
)
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.base import OpenFiles
from kgcore.sources.live.asking import Asker, Unknown
from kgcore.sources.live.fdstate import descriptors
from kgcore.sources.live.image import architecture_here
from kgcore.sources.live.procfs import mappings, read, stat_of, status_of

__all__ = ("StateReader",)

_LIMITS_AT = 26  # in a line of /proc/PID/limits, behind the name (proc_pid_limits(), fs/proc/base.c)
_NOTIFY = {"signal": 0, "none": 1, "thread": 2}  # SIGEV_*
_SIGEV_THREAD_ID = 4
_SECOND = 1_000_000_000  # ns
_TIMER = re.compile(
    r"ID: (?P<id>\d+)\nsignal: (?P<signal>\d+)/(?P<value>[0-9a-f]+)\n"
    r"notify: (?P<notify>\w+)/(?P<whom>pid|tid)\.(?P<number>-?\d+)\nClockID: (?P<clock>-?\d+)\n"
)
_EXPECTED = (Unknown, OSError, ValueError, KeyError, IndexError)


class StateReader:
    """Reads one process.

    :param view: id of a thread of it that has not exited.
    :param tracee: the stopped process; None: it runs.
    :param open_files: reads its open files.
    """

    def __init__(
        self, image: ProcessImage, view: int, tracee: Tracee | None, open_files: Callable[[], OpenFiles]
    ) -> None:
        self._image = image
        self._pid = image.tgid
        self._view = f"/proc/{view}"
        self._view_id = view
        self._tracee = tracee
        self._open_files = open_files
        self._asker = Asker(image, tracee)
        self._partly: dict[str, str] = {}

    def read(self) -> ProcessState:
        """Return all that is known."""
        values, unknown = gather(
            (
                ("posix_timers", self._timers),
                ("actions", self._asker.actions),
                ("pending", self._pending),
                ("itimer_real", partial(self._asker.interval_timer, 0)),
                ("itimer_virtual", partial(self._asker.interval_timer, 1)),
                ("itimer_prof", partial(self._asker.interval_timer, 2)),
                ("cwd", partial(self._link, "cwd")),
                ("root", partial(self._link, "root")),
                ("umask", lambda: int(self._status["Umask"][0], 8)),
                ("limits", self._limits),
                ("oom_score_adj", lambda: int(read(f"{self._view}/oom_score_adj"))),
                ("dumpable", self._asker.dumpable),
                ("subreaper", self._asker.subreaper),
                ("start_brk", partial(_known, self._image.start_brk)),
                ("brk", partial(_known, self._image.brk)),
                ("clocks", self._clocks),
                ("threads", lambda: tuple(map(self._thread, (thread.tid for thread in self._image.threads)))),
                ("shared", lambda: tuple(self._shared())),
                ("descriptors", self._descriptors),
            ),
            _EXPECTED,
            _why,
        )
        return ProcessState(unknown={**unknown, **self._partly}, **values)

    @cached_property
    def _status(self) -> dict[str, list[bytes]]:
        return status_of(read(f"{self._view}/status"))

    def _link(self, name: str) -> bytes:
        return os.readlink(os.fsencode(f"{self._view}/{name}"))

    def _limits(self) -> tuple[tuple[int, int], ...]:
        found = []
        for line in read(f"{self._view}/limits").splitlines()[1:]:
            soft, hard = (NO_LIMIT if word == b"unlimited" else int(word) for word in line[_LIMITS_AT:].split()[:2])
            found.append((soft, hard))
        return tuple(found)

    def _clocks(self) -> Clocks:
        ours, its = (_offsets(f"/proc/{name}/timens_offsets") for name in ("self", self._view_id))
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        monotonic, boottime = (at - one + other for at, one, other in zip(now, ours, its, strict=True))
        return Clocks(monotonic=monotonic, boottime=boottime)

    def _shared(self) -> Iterator[SharedMapping]:
        lines = read(f"{self._view}/maps").splitlines()
        shared = b"".join(line + b"\n" for line in lines if line.split(b" ", 2)[1].endswith(b"s"))
        for line in mappings(shared):
            if line.flags & VM_MAYSHARE and (line.inode or line.name.startswith(b"/")):
                yield SharedMapping(start=line.start, end=line.end, device=line.device, inode=line.inode)

    def _descriptors(self) -> tuple[Descriptor, ...]:
        files = self._open_files()
        if files.lost:
            self._partly["descriptors"] = "; ".join(files.lost)
        return descriptors(self._pid, self._view_id, files.files)

    # Signals and timers

    def _pending(self) -> tuple[PendingSignal, ...]:
        bits = int(self._status["ShdPnd"][0], 16)
        return self._signals(bits, self._view_id, shared=True)

    def _signals(self, bits: int, tid: int, *, shared: bool) -> tuple[PendingSignal, ...]:
        """Return pending signals.

        :param bits: their numbers: signal 1 is bit 0.
        """
        if not bits:
            return ()
        if self._tracee is None:
            raise Unknown("the process was not stopped")
        return pending_signals(bits, self._tracee.pending(tid, shared=shared))

    def _timers(self) -> tuple[PosixTimer, ...]:
        text = read(f"{self._view}/timers").decode("ascii")
        lines = sorted(_TIMER.finditer(text), key=lambda found: int(found["id"]))
        self._asker.expect([int(line["id"]) for line in lines])
        return tuple(map(self._timer, lines))

    def _timer(self, line: re.Match[str]) -> PosixTimer:
        number = int(line["id"])
        thread = int(line["number"]) if line["whom"] == "tid" else 0
        values, unknown = gather((("timer", partial(self._asker.timer, number)),), _EXPECTED, _why)
        return PosixTimer(
            id=number,
            clock=int(line["clock"]),
            notify=_NOTIFY[line["notify"]] | (_SIGEV_THREAD_ID if thread else 0),
            signal=int(line["signal"]),
            sigval=int(line["value"], 16),
            thread=thread,
            unknown=unknown,
            **values,
        )

    # Threads

    def _thread(self, tid: int) -> ThreadState:
        where = f"/proc/{self._pid}/task/{tid}"
        status = status_of(read(f"{where}/status"))
        stat = stat_of(read(f"{where}/stat"))
        values, unknown = gather(
            (
                ("name", lambda: read(f"{where}/comm").removesuffix(b"\n")),
                ("blocked", lambda: self._blocked(tid)),
                ("alternate_stack", partial(self._asker.alternate_stack, tid)),
                ("pending", lambda: self._signals(int(status["SigPnd"][0], 16), tid, shared=False)),
                ("nice", partial(_known, stat.nice)),
                ("policy", partial(_known, stat.policy)),
                ("priority", partial(_known, stat.priority)),
                ("affinity", lambda: int(status["Cpus_allowed"][0].replace(b",", b""), 16)),
                ("rseq", lambda: self._rseq(tid)),
                ("robust_list", lambda: self._robust_list(tid)),
                ("clear_child_tid", partial(self._asker.clear_child_tid, tid)),
                ("pdeath_signal", partial(self._asker.pdeath_signal, tid)),
                ("personality", lambda: int(read(f"{where}/personality"), 16)),
                ("no_new_privs", lambda: status["NoNewPrivs"][0] != b"0"),
                ("seccomp", lambda: int(status["Seccomp"][0])),
                ("securebits", partial(self._asker.securebits, tid)),
            ),
            _EXPECTED,
            _why,
        )
        return ThreadState(tid=tid, unknown=unknown, **values)

    def _blocked(self, tid: int) -> int:
        if self._tracee is None:
            raise Unknown("the process was not stopped")
        return self._tracee.blocked(tid)

    def _rseq(self, tid: int) -> Rseq:
        if self._tracee is None:
            raise Unknown("the process was not stopped")
        address, size, signature = self._tracee.rseq(tid)
        return Rseq(address=address, size=size, signature=signature)

    def _robust_list(self, tid: int) -> int:
        here = architecture_here()
        if self._narrow:
            raise Unknown("the kernel tells only the lists of programs of its own width")
        head, length = ctypes.c_void_p(), ctypes.c_size_t()
        call = here.system_calls[ctypes.sizeof(ctypes.c_long)].get_robust_list
        if _libc.syscall(call, tid, ctypes.byref(head), ctypes.byref(length)) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return head.value or 0

    @property
    def _narrow(self) -> bool:
        """Whether it is a program of fewer bits than the kernel has."""
        return ARCHES[self._image.arch].word_size < architecture_here().word_size


_libc = ctypes.CDLL(None, use_errno=True)


def _offsets(path: str) -> tuple[int, int]:
    """Return what a time namespace adds to CLOCK_MONOTONIC and CLOCK_BOOTTIME."""
    try:
        lines = [line.split() for line in read(path).splitlines()]
    except FileNotFoundError:  # CONFIG_TIME_NS is not set: there is but one
        return 0, 0
    found = {name: int(seconds) * _SECOND + int(part) for name, seconds, part in lines}
    return found[b"monotonic"], found[b"boottime"]


def _known(value: int) -> int:
    return value


def _why(_: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, Unknown) else f"/proc does not have it, or in another form: {error}"
