# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define what a process has of its kernel besides memory and registers, as plain values.

A member that is None is not known, and ``unknown`` says why, by its name; none is ever filled in. Times are
nanoseconds. What is left of a timer was left when the process was read: in a vmcore when the kernel last kept time,
at its last tick.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kgcore.model.process import FileType
from kgcore.model.siginfo import numbers_of

__all__ = (
    "NO_LIMIT",
    "AlternateStack",
    "Clocks",
    "Descriptor",
    "EpollItem",
    "EventFd",
    "PendingSignal",
    "Pipe",
    "PosixTimer",
    "ProcessState",
    "Rseq",
    "SharedMapping",
    "SignalAction",
    "SignalFd",
    "ThreadState",
    "TimerFd",
    "TimerValue",
    "gather",
    "pending_signals",
)

NO_LIMIT = -1
"""RLIM_INFINITY, in :attr:`ProcessState.limits`."""

HEX = {"form": "hex"}
"""Of a number that is an address, a mask or opaque: as ``"0x7f00"`` in JSON."""
RAW = {"form": "raw"}
"""Of bytes that are no text: as hexadecimal digits in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalAction:
    """What a process does at a signal: what rt_sigaction(2) takes.

    :ivar handler: 0: the default; 1: it is ignored; else the address of its handler.
    :ivar flags: SA_*.
    :ivar restorer: address of the code that returns from the handler.
    :ivar mask: signals that are blocked meanwhile; signal 1 is bit 0.
    """

    handler: int = field(metadata=HEX)
    flags: int = field(metadata=HEX)
    restorer: int = field(metadata=HEX)
    mask: int = field(metadata=HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignal:
    """A signal that was sent and not yet taken.

    :ivar signal: its number.
    :ivar info: its ``siginfo_t`` as the kernel has it, without the zeros at its end; empty: it has none, since the
        kernel had no memory for it or needs none (SIGKILL).
    """

    signal: int
    info: bytes = field(default=b"", metadata=RAW)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternateStack:
    """What sigaltstack(2) was given.

    :ivar address: of its lowest byte, and ``size`` in bytes.
    :ivar flags: SS_*; 2 (SS_DISABLE): it has no such stack.
    """

    address: int = field(metadata=HEX)
    size: int
    flags: int = field(metadata=HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rseq:
    """What rseq(2) was given.

    :ivar address: of the area; 0: there is no area.
    :ivar size: of the area in bytes.
    :ivar signature: what stands before each abort handler.
    """

    address: int = field(metadata=HEX)
    size: int
    signature: int = field(metadata=HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerValue:
    """The time of a timer.

    :ivar value: what is left of it; 0: it does not run.
    :ivar interval: how often it expires after that; 0: it runs once.
    """

    value: int
    interval: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixTimer:
    """A timer that timer_create(2) made.

    :ivar id: its number.
    :ivar clock: CLOCK_*; negative: a clock of CPU time, as clock_getcpuclockid(3) makes them.
    :ivar notify: SIGEV_*; 4 (SIGEV_THREAD_ID) may be added to others.
    :ivar signal: number of its signal; ``sigval``: what comes with it.
    :ivar thread: the thread that gets it, in the initial pid namespace; 0: the process.
    :ivar timer: its time.
    :ivar unknown: member to reason.
    """

    id: int
    clock: int
    notify: int
    signal: int
    sigval: int = field(metadata=HEX)
    thread: int
    timer: TimerValue | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """What the clocks showed that only go forward, in the process's own time namespace, when it was read.

    :ivar monotonic: CLOCK_MONOTONIC.
    :ivar boottime: CLOCK_BOOTTIME.
    """

    monotonic: int
    boottime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """What each thread has for itself.

    :ivar tid: its id in the initial pid namespace.
    :ivar name: of prctl(2), PR_GET_NAME.
    :ivar blocked: the signals that it blocks, or will when its system call ends: in sigsuspend(2) and the like it has
        other ones for the moment. Signal 1 is bit 0.
    :ivar alternate_stack: for signal handlers.
    :ivar rseq: its area of restartable sequences.
    :ivar personality: of personality(2).
    :ivar no_new_privs: of prctl(2), as are ``securebits``.
    :ivar unknown: member to reason.
    :ivar pending: signals for it alone, in the order in which they were sent.
    :ivar nice: -20 to 19; ``policy`` SCHED_*, ``priority`` that of real-time policies.
    :ivar affinity: the CPUs that it may run on; CPU 0 is bit 0.
    :ivar robust_list: address of its list of robust futexes.
    :ivar clear_child_tid: address of its set_tid_address(2).
    :ivar pdeath_signal: the signal that it gets when its parent dies; 0: none.
    :ivar seccomp: 0: none, 1: strict, 2: filters.
    """

    tid: int
    name: bytes | None = None
    blocked: int | None = field(default=None, metadata=HEX)
    alternate_stack: AlternateStack | None = None
    pending: tuple[PendingSignal, ...] | None = None
    nice: int | None = None
    policy: int | None = None
    priority: int | None = None
    affinity: int | None = field(default=None, metadata=HEX)
    rseq: Rseq | None = None
    robust_list: int | None = field(default=None, metadata=HEX)
    clear_child_tid: int | None = field(default=None, metadata=HEX)
    pdeath_signal: int | None = None
    personality: int | None = field(default=None, metadata=HEX)
    no_new_privs: bool | None = None
    seccomp: int | None = None
    securebits: int | None = field(default=None, metadata=HEX)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMapping:
    """A mapping with MAP_SHARED: those of one device and inode are one object, by any name.

    :ivar start: its first address, and ``end`` the one behind its last.
    :ivar device: major and minor number, as /proc/PID/maps has them; ``inode`` likewise.
    """

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    device: tuple[int, ...]
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFd:
    """An eventfd.

    :ivar count: what is in it.
    :ivar semaphore: EFD_SEMAPHORE; None: not known.
    """

    count: int
    semaphore: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFd:
    """A timerfd.

    :ivar clock: CLOCK_*.
    :ivar timer: value 0: it does not run, or has expired, which ``ticks`` tells.
    :ivar ticks: expirations that nobody has read.
    :ivar flags: TFD_TIMER_* of the last timerfd_settime(2).
    """

    clock: int
    timer: TimerValue
    ticks: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFd:
    """A signalfd.

    :ivar mask: the signals that it takes; signal 1 is bit 0.
    """

    mask: int = field(metadata=HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpollItem:
    """What an epoll set watches.

    :ivar fd: the descriptor's number when it was added.
    :ivar target: a descriptor that is that file now, the lowest; -1: it has none any more.
    :ivar events: EPOLL*; ``data``: what epoll_wait(2) gives back.
    """

    fd: int
    target: int
    events: int = field(metadata=HEX)
    data: int = field(metadata=HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """A pipe or FIFO; ends with one inode are one pipe.

    :ivar size: as F_GETPIPE_SZ tells it.
    :ivar unread: how many bytes are in it.
    :ivar content: those bytes; only the lowest descriptor of the pipe has them.
    :ivar unknown: member to reason.
    """

    size: int | None = None
    unread: int | None = None
    content: bytes | None = field(default=None, metadata=RAW)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A file descriptor.

    :ivar fd: its number.
    :ivar shares: the lowest descriptor with the same ``struct file`` and so the same offset; its own
        number if no lower one has it.
    :ivar close_on_exec: FD_CLOEXEC.
    :ivar path: as ``/proc/PID/fd`` has it, relative to the process's root; empty: it could not be built.
    :ivar flags: of the open file: O_*, without O_CLOEXEC.
    :ivar type: of what the path leads to.
    :ivar offset: ``f_pos``; signed. ``inode`` is ``i_ino``, ``size`` ``i_size`` in bytes.
    :ivar eventfd: what is in an eventfd; None: it is of another kind, or ``unknown`` says why. The same for
        ``timerfd``, ``signalfd``, ``epoll`` (what it watches) and ``pipe``.
    :ivar seals: F_SEAL_* of a memfd; None: the same.
    :ivar unknown: member to reason.
    """

    fd: int
    shares: int
    close_on_exec: bool
    path: bytes
    type: FileType
    flags: int = field(metadata=HEX)
    offset: int
    inode: int
    size: int
    eventfd: EventFd | None = field(default=None, metadata={"optional": True})
    timerfd: TimerFd | None = field(default=None, metadata={"optional": True})
    signalfd: SignalFd | None = field(default=None, metadata={"optional": True})
    epoll: tuple[EpollItem, ...] | None = field(default=None, metadata={"optional": True})
    pipe: Pipe | None = field(default=None, metadata={"optional": True})
    seals: int | None = field(default=None, metadata={"form": "hex", "optional": True})
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """What a process has of its kernel.

    :ivar actions: one for each signal, 1 to 64.
    :ivar pending: signals for the process, in the order in which they were sent.
    :ivar itimer_real: of setitimer(2), as are ``itimer_virtual`` and ``itimer_prof``.
    :ivar posix_timers: by their ids.
    :ivar cwd: path of the working directory, and ``root`` of the root directory, in the process's mount namespace.
    :ivar umask: of the file modes of its new files.
    :ivar oom_score_adj: -1000 to 1000.
    :ivar start_brk: where its heap begins, and ``brk`` where it ends.
    :ivar clocks: what its clocks showed.
    :ivar limits: soft and hard limit for each RLIMIT_*; :data:`NO_LIMIT`: none.
    :ivar dumpable: as PR_GET_DUMPABLE tells it; ``subreaper`` as PR_GET_CHILD_SUBREAPER does.
    :ivar threads: in the order of the image.
    :ivar shared: its MAP_SHARED mappings that have a file, shared anonymous memory included; by address.
    :ivar descriptors: by number.
    :ivar unknown: member to reason, and of ``descriptors`` also what of them could not be read.
    """

    actions: tuple[SignalAction, ...] | None = None
    pending: tuple[PendingSignal, ...] | None = None
    itimer_real: TimerValue | None = None
    itimer_virtual: TimerValue | None = None
    itimer_prof: TimerValue | None = None
    posix_timers: tuple[PosixTimer, ...] | None = None
    cwd: bytes | None = None
    root: bytes | None = None
    umask: int | None = None
    limits: tuple[tuple[int, ...], ...] | None = None
    oom_score_adj: int | None = None
    dumpable: int | None = None
    subreaper: bool | None = None
    start_brk: int | None = field(default=None, metadata=HEX)
    brk: int | None = field(default=None, metadata=HEX)
    clocks: Clocks | None = None
    threads: tuple[ThreadState, ...] | None = None
    shared: tuple[SharedMapping, ...] | None = None
    descriptors: tuple[Descriptor, ...] | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    def without_contents(self, why: str) -> "ProcessState":
        """Return it without the content of pipes.

        :param why: what is said in its place.
        """
        if self.descriptors is None:
            return self

        def without(found: Descriptor) -> Descriptor:
            pipe = found.pipe
            if pipe is None or pipe.content is None:
                return found
            return replace(found, pipe=replace(pipe, content=None, unknown={**pipe.unknown, "content": why}))

        return replace(self, descriptors=tuple(map(without, self.descriptors)))


def pending_signals(bits: int, infos: Iterable[bytes]) -> tuple[PendingSignal, ...]:
    """Return all signals that wait: those in the list, then those that have no place in it.

    :param bits: the set of those that wait: signal 1 is bit 0.
    :param infos: the ``siginfo_t`` of each in the list.
    """
    found = [
        PendingSignal(signal=int.from_bytes(info[:4], "little", signed=True), info=info.rstrip(b"\0")) for info in infos
    ]
    queued = {one.signal for one in found}
    return (*found, *(PendingSignal(signal=number) for number in numbers_of(bits) if number not in queued))


def gather(
    getters: Iterable[tuple[str, Callable[[], object]]],
    expected: tuple[type[Exception], ...],
    why: Callable[[str, Exception], str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Call each getter for the member of its name; return the values, and why others are unknown.

    :param expected: what a getter may raise.
    :param why: says what that means, by the member's name, or raises what is no reason.
    """
    values: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for name, get in getters:
        try:
            values[name] = get()
        except expected as error:
            unknown[name] = why(name, error)
    return values, unknown
