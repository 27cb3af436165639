# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process with all kinds of state (stateful.c), the book that it keeps of itself, and what kgcore must say of it."""

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kgcore.model import siginfo
from kgcore.model.state import Descriptor, EpollItem, ProcessState, SignalFd, ThreadState, TimerValue

SOURCE = Path(__file__).with_name("stateful.c")
SECOND = 1_000_000_000
RTMIN = 34  # the C library keeps the first two
SEALS = 2 | 4  # F_SEAL_SHRINK, F_SEAL_GROW
HELLO = b"hello\0 \xff pipe\0" + b"u" * 5000


class Book(NamedTuple):
    """What the process said of itself, and what kgcore said of it."""

    said: dict[str, Any]
    state: ProcessState

    def descriptor(self, name: str) -> Descriptor:
        assert self.state.descriptors is not None
        return next(row for row in self.state.descriptors if row.fd == self.said[name])

    def threads(self) -> list[tuple[dict[str, Any], ThreadState]]:
        """Each thread: in the book, and in the state."""
        assert self.state.threads is not None
        found = {thread.tid: thread for thread in self.state.threads}
        assert found.keys() == {thread["tid"] for thread in self.said["threads"]}
        return [(thread, found[thread["tid"]]) for thread in self.said["threads"]]


def built(folder: Path, *flags: str) -> Path:
    """The program; the test is skipped where it cannot be built."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    path = folder / "stateful"
    words = ["gcc", "-g", "-O1", "-pthread", *flags, "-o", str(path), str(SOURCE)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "sys/rseq.h" in done.stderr:
        pytest.skip("a C library without rseq(2)")
    assert done.returncode == 0, done.stderr
    return path


def nothing_is_unknown(book: Book) -> None:
    assert book.state.unknown == {}
    assert all(thread.unknown == {} for _, thread in book.threads())
    assert all(timer.unknown == {} for timer in book.state.posix_timers or ())


def actions(book: Book) -> None:
    actions = book.state.actions
    assert actions is not None
    assert [[one.handler, one.flags, one.restorer, one.mask] for one in actions] == book.said["actions"]
    assert actions[signal.SIGHUP - 1].handler == 1
    assert actions[signal.SIGUSR1 - 1].mask == 1 << signal.SIGUSR2 - 1


def interval_timers(book: Book) -> None:
    """What was left is less than what was set, by no more than the test may have taken."""
    state = book.state
    for timer, value, interval in (
        (state.itimer_real, 1000, 7.5),
        (state.itimer_virtual, 500, 0),
        (state.itimer_prof, 600, 3),
    ):
        assert timer is not None
        assert timer.interval == interval * SECOND
        assert (value - 100) * SECOND < timer.value <= (value + 1) * SECOND  # those of CPU time count in ticks


def times_of_posix_timers(book: Book) -> None:
    timers = {one.id: one.timer for one in book.state.posix_timers or ()}
    for number, value, interval in ((0, 2000, 11 * SECOND + 5), (2, 3000, 0), (3, 4000, 0), (4, 5000, 2 * SECOND + 5)):
        timer = timers[number]
        assert timer is not None
        assert timer.interval == interval
        assert (value - 100) * SECOND < timer.value <= value * SECOND + 7, number
    assert timers[5] == TimerValue(value=0, interval=0)


def directories_limits_and_flags(book: Book) -> None:
    state, said = book.state, book.said
    assert state.cwd is not None
    assert state.cwd.endswith(b"/dir \\ \xff\n")
    assert state.root == b"/"
    assert (state.umask, state.oom_score_adj) == (0o27, 200)
    assert state.limits is not None
    assert [list(pair) for pair in state.limits] == said["limits"]
    assert state.limits[7] == (777, 1000)
    assert state.brk == said["brk"]
    assert (state.dumpable, state.subreaper) == (said["dumpable"], True)


def pending_signals(book: Book) -> None:
    pending = book.state.pending
    assert pending is not None
    infos = [siginfo.parse(one.info, 8) for one in pending]
    sent = [(info.signal, info.code, info.get("pid"), info.get("value")) for info in infos]
    pid = book.said["pid"]
    queued = [(RTMIN + 2, -1, pid, 1000 + number) for number in (1, 2, 3)]
    assert [row for row in sent if row[0] == RTMIN + 2] == queued
    assert [row[:3] for row in sent if row[0] == signal.SIGUSR2] == [(signal.SIGUSR2, 0, pid)]
    assert len(sent) == 4
    (_, first), (_, second) = book.threads()
    assert first.pending == ()
    assert second.pending is not None
    infos = [siginfo.parse(one.info, 8) for one in second.pending]
    assert [(info.signal, info.code, info.get("value")) for info in infos] == [
        (RTMIN + 4, -1, 0xABCD0001),
        (RTMIN + 4, -1, 0xABCD0002),
    ]


def threads(book: Book) -> None:
    for said, thread in book.threads():
        for name in (
            "nice",
            "affinity",
            "policy",
            "priority",
            "robust_list",
            "seccomp",
            "personality",
            "clear_child_tid",
            "pdeath_signal",
            "securebits",
        ):
            assert getattr(thread, name) == said[name], name
        assert thread.no_new_privs == bool(said["no_new_privs"])
        stack = thread.alternate_stack
        assert stack is not None
        assert [stack.address, stack.size, stack.flags] == said["stack"]
        assert thread.rseq is not None
        assert thread.rseq.address == said["rseq"]
        assert (thread.rseq.signature, thread.rseq.size) == (0x53053053, 32)
    (_, first), (_, second) = book.threads()
    assert (second.affinity, second.no_new_privs) == (1, True)
    assert first.nice is not None
    assert second.nice is not None
    assert second.nice > first.nice  # which is that of whoever runs the tests
    assert (first.pdeath_signal, second.pdeath_signal) == (signal.SIGTERM, 0)
    assert first.securebits == 1 << 4  # SECBIT_KEEP_CAPS


def posix_timers(book: Book) -> None:
    timers = book.state.posix_timers
    assert timers is not None
    rows = [(one.id, one.clock, one.notify, one.signal, one.sigval, one.thread) for one in timers]
    pid, usr1 = book.said["pid"], int(signal.SIGUSR1)
    assert rows == [
        (0, 1, 0, usr1, 0x1111, 0),
        (2, 0, 1, 0, 0x2222, 0),
        (3, 7, 4, RTMIN + 4, 0xFFFFFFFFFFFFFF33, pid),
        (4, -6, 0, usr1, 0x4444, 0),  # CLOCK_PROCESS_CPUTIME_ID, as the kernel has it
        (5, 1, 0, usr1, 0x5555, 0),
    ]


def shared_mappings(book: Book) -> None:
    one, two, anonymous = book.said["shared"]
    shared = {row.start: row for row in book.state.shared or ()}
    assert {one, two, anonymous} <= shared.keys()
    assert (shared[one].device, shared[one].inode) == (shared[two].device, shared[two].inode)
    assert shared[one].inode == book.descriptor("memfd").inode
    assert shared[anonymous].inode != shared[one].inode
    assert shared[anonymous].end - shared[anonymous].start == 8192


def eventfds_timerfds_and_signalfds(book: Book) -> None:
    event, semaphore = book.descriptor("event").eventfd, book.descriptor("semaphore").eventfd
    assert event is not None
    assert semaphore is not None
    assert (event.count, semaphore.count) == (0xFFFFFFFFFFFFFFF5, 0)
    assert (event.semaphore, semaphore.semaphore) in ((False, True), (None, None))
    assert book.descriptor("event").close_on_exec
    assert not book.descriptor("semaphore").close_on_exec
    mask = 1 << signal.SIGCHLD - 1 | 1 << RTMIN + 9 - 1
    assert book.descriptor("signalfd").signalfd == SignalFd(mask=mask)
    waiting, expired = book.descriptor("waiting").timerfd, book.descriptor("expired").timerfd
    assert waiting is not None
    assert expired is not None
    assert (waiting.clock, waiting.ticks, waiting.flags, waiting.timer.interval) == (1, 0, 0, 3 * SECOND)
    assert 1000 * SECOND < waiting.timer.value <= 2000 * SECOND
    assert (expired.clock, expired.ticks, expired.timer) == (0, 1, TimerValue(value=0, interval=0))


def epoll_sets(book: Book) -> None:
    """Of items whose descriptor's number is another file's now, too."""
    said = book.said
    epoll = book.descriptor("epoll").epoll
    assert epoll is not None
    always = 0x8 | 0x10  # EPOLLERR and EPOLLHUP: the kernel adds them
    assert {replace(item, events=item.events & ~always) for item in epoll} == {
        EpollItem(fd=said["event"], target=said["event"], events=4, data=0xFEDCBA9876543210),
        EpollItem(fd=said["read_end"], target=said["read_end"], events=1 | 1 << 31, data=77),
        EpollItem(fd=said["dup_of_semaphore"], target=said["semaphore"], events=1, data=1),
        EpollItem(fd=said["reused"], target=said["event"], events=1, data=2),
    }


def pipes(book: Book) -> None:
    readable, writable, fifo = (book.descriptor(name) for name in ("read_end", "write_end", "fifo"))
    assert readable.pipe is not None
    assert writable.pipe is not None
    assert fifo.pipe is not None
    assert readable.inode == writable.inode
    assert (readable.pipe.size, readable.pipe.unread, readable.pipe.content) == (16384, len(HELLO), HELLO)
    assert (writable.pipe.size, writable.pipe.unread, writable.pipe.content) == (16384, len(HELLO), None)
    assert writable.pipe.unknown == {"content": f"descriptor {readable.fd} has it"}
    assert (fifo.pipe.size, fifo.pipe.content) == (65536, b"fifo")
    assert readable.flags & os.O_NONBLOCK


def shared_offsets_and_seals(book: Book) -> None:
    said = book.said
    assert [book.descriptor(name).shares for name in ("file", "again", "copy")] == [
        said["file"],
        said["again"],
        said["file"],
    ]
    assert [book.descriptor(name).offset for name in ("file", "again", "copy")] == [17, 0, 17]
    assert [book.descriptor(name).close_on_exec for name in ("file", "again", "copy")] == [False, True, False]
    assert book.descriptor("reused").shares == said["read_end"]
    memfd = book.descriptor("memfd")
    assert (memfd.seals, memfd.size, memfd.path) == (SEALS, 65536, b"/memfd:sealed \\ \xfe (deleted)")
    assert all(row.unknown == {} for row in book.state.descriptors or ())


CHECKS = (
    nothing_is_unknown,
    actions,
    interval_timers,
    times_of_posix_timers,
    directories_limits_and_flags,
    pending_signals,
    threads,
    posix_timers,
    shared_mappings,
    eventfds_timerfds_and_signalfds,
    epoll_sets,
    pipes,
    shared_offsets_and_seals,
)
"""Each thing that a book and a state must agree on."""
