# SPDX-License-Identifier: LGPL-2.1-or-later
"""The timers of a process: those of setitimer(2) and of timer_create(2), as the kernel's getitimer() and
common_timer_get() tell them."""

import struct
from collections.abc import Sequence

from drgn import FaultError, TypeKind, offsetof

from kgcore.model.siginfo import parse
from kgcore.model.state import PosixTimer, TimerValue
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import why_lost
from kgcore.sources.vmcore.task.clock import CLOCK_BOOTTIME_ALARM, CLOCK_REALTIME_ALARM, Clock

__all__ = ("Timers",)

_CPU = ("utime", "stime", "se.sum_exec_runtime", "signal")
_SIGNAL = ("utime", "stime", "sum_sched_runtime", "it_real_incr", "it[0].expires", "it[0].incr", "it[1].expires",
           "it[1].incr")  # fmt: skip
_PROF, _VIRT = 0, 1  # CPUCLOCK_*, include/linux/posix-timers.h
_PER_THREAD, _WHICH, _CLOCKFD = 4, 3, 3
_SIGEV_NONE, _SIGEV_THREAD_ID = 1, 4
_ALARMS = CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM
_MAX_TIMERS = 1 << 16
_USEC = 1000


class Timers:
    """The timers of one process.

    :param threads: addresses of the ``struct task_struct`` of all its threads.
    :raises FaultError: its ``struct signal_struct`` is not in the dump.
    """

    def __init__(self, kernel: Kernel, clock: Clock, signal: int, threads: Sequence[int]) -> None:
        self._kernel = kernel
        self._clock = clock
        # 52dea0a15cc8 "posix-timers: Convert timer list to hlist" (6.12)
        ends = kernel.prog.type("struct signal_struct").member("posix_timers").type.tag == "hlist_head"
        self._first = "posix_timers.first" if ends else "posix_timers.next"
        self._signal = kernel.structs("struct signal_struct", *_SIGNAL, self._first).read(signal)
        self._threads = threads
        self._cpu = kernel.structs("struct task_struct", *_CPU)

    # setitimer()

    def real(self) -> TimerValue:
        """Return ITIMER_REAL.

        :raises FaultError, LookupError: it is not known.
        """
        left, runs = self._clock.left(self._signal.address + self._at("struct signal_struct", "real_timer"))
        value = max(left, _USEC) if runs else 0
        return TimerValue(value=value, interval=int(self._signal["it_real_incr"]))

    def virtual(self) -> TimerValue:
        """Return ITIMER_VIRTUAL.

        :raises FaultError: it is not known.
        """
        return self._of_cpu(_VIRT)

    def prof(self) -> TimerValue:
        """Return ITIMER_PROF.

        :raises FaultError: it is not known.
        """
        return self._of_cpu(_PROF)

    def _of_cpu(self, which: int) -> TimerValue:
        expires, interval = int(self._signal[f"it[{which}].expires"]), int(self._signal[f"it[{which}].incr"])
        value = max(expires - self._group_time(which), _USEC) if expires else 0
        return TimerValue(value=value, interval=interval)

    def _group_time(self, which: int) -> int:
        """Return CPU time of the whole process, of threads that have exited, too (thread_group_cputime())."""
        threads = [thread for thread in map(self._cpu.read, self._threads) if thread["signal"] == self._signal.address]
        exited = self._signal["sum_sched_runtime" if which not in (_PROF, _VIRT) else "utime"]
        exited += self._signal["stime"] if which == _PROF else 0
        return int(exited) + sum(_time(thread, which) for thread in threads)

    # timer_create()

    def posix(self) -> tuple[PosixTimer, ...]:
        """Return the timers by their ids.

        :raises FaultError: they are not in the dump.
        """
        node = self._signal[self._first]
        head = self._signal.address + self._at("struct signal_struct", "posix_timers")
        at = self._at("struct k_itimer", "list")
        kind = self._kernel.prog.type("struct k_itimer")
        # 6017a158beb1 "posix-timers: Embed sigqueue in struct k_itimer" (6.13)
        embedded = kind.member("sigq").type.kind is not TypeKind.POINTER
        timers = self._kernel.structs(
            "struct k_itimer", "list.next", "it_id", "it_clock", "it_sigev_notify", "it_interval", "it_pid",
            "sigq.info" if embedded else "sigq",
        )  # fmt: skip
        found: dict[int, PosixTimer] = {}
        seen: set[int] = set()
        while node and node != head:
            if node in seen or len(seen) >= _MAX_TIMERS:
                raise FaultError("the list of timers is circular", node)
            seen.add(node)
            timer = timers.read(node - at)
            info = timer["sigq.info"] if embedded else self._info(timer["sigq"])
            found[int(timer["it_id"])] = self._timer(timer, info)
            node = timer["list.next"]
        return tuple(found[number] for number in sorted(found))

    def _info(self, sigqueue: int) -> bytes:
        found: bytes = self._kernel.structs("struct sigqueue", "info").read(sigqueue)["info"]
        return found

    def _timer(self, timer: Members, raw: bytes) -> PosixTimer:
        info = parse(raw, self._kernel.word_size)
        notify = int(timer["it_sigev_notify"])
        value, unknown = None, {}
        try:
            value = self._value(timer, notify)
        except FaultError as error:
            unknown["timer"] = why_lost(error)
        except LookupError as error:
            unknown["timer"] = str(error)
        return PosixTimer(
            id=int(timer["it_id"]),
            clock=int(timer["it_clock"]),
            notify=notify,
            signal=info.signal,
            sigval=_sigval(raw, self._kernel.word_size),
            thread=self._number(timer["it_pid"]) if notify & _SIGEV_THREAD_ID else 0,
            timer=value,
            unknown=unknown,
        )

    def _number(self, pid: int) -> int:
        """Return the number of a ``struct pid`` in the initial namespace."""
        return int(self._kernel.structs("struct pid", "numbers[0].nr").read(pid)["numbers[0].nr"])

    def _value(self, timer: Members, notify: int) -> TimerValue:
        interval, clock = int(timer["it_interval"]), int(timer["it_clock"])
        where = timer.address + self._at("struct k_itimer", "it")
        if clock < 0 and clock & _WHICH != _CLOCKFD:
            left, runs = self._left_of_cpu(where, clock)
        elif clock in _ALARMS:
            left, runs = self._clock.left_of_alarm(where, clock)
        else:
            left, runs = self._clock.left(where)
        if left is None or (not runs and not interval and notify != _SIGEV_NONE):
            return TimerValue(value=0, interval=interval)
        if left <= 0 and interval and not runs:  # its signal waits to be taken, or it has none
            left += (-left // interval + 1) * interval
        if left <= 0:
            left = 0 if notify == _SIGEV_NONE else 1
        return TimerValue(value=left, interval=interval)

    def _left_of_cpu(self, address: int, clock: int) -> tuple[int | None, bool]:
        """Return what is left of a timer of CPU time, None if it was not set, and whether it runs.

        :raises FaultError, LookupError: it is not known.
        """
        found = self._kernel.structs("struct cpu_timer", "node.expires", "head", "pid").read(address)
        expires = int(found["node.expires"])
        if not expires:
            return None, False
        if clock & _PER_THREAD:
            tid = self._number(found["pid"])
            tasks = self._kernel.structs("struct task_struct", "pid", *_CPU)
            thread = next((task for task in map(tasks.read, self._threads) if task["pid"] == tid), None)
            if thread is None:
                raise LookupError(f"it counts the time of thread {tid}, which the process does not have")
            now = _time(thread, clock & _WHICH)
        else:
            now = self._group_time(clock & _WHICH)
        return expires - now, bool(found["head"])

    def _at(self, type_name: str, member: str) -> int:
        return int(offsetof(self._kernel.prog.type(type_name), member))


def _time(thread: Members, which: int) -> int:
    """Return a thread's CPU time, by CPUCLOCK_*."""
    if which == _PROF:
        return int(thread["utime"]) + int(thread["stime"])
    return int(thread["utime" if which == _VIRT else "se.sum_exec_runtime"])


def _sigval(raw: bytes, word_size: int) -> int:
    """Return ``si_value`` of a ``siginfo_t``: behind si_timerid and si_overrun."""
    at, form = (24, "<Q") if word_size == 8 else (20, "<I")
    return int(struct.unpack_from(form, raw, at)[0])
