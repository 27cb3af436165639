# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stop and release the threads of a process, in a small program of its own.

It outlives a kgcore that is killed, and lets the process go as soon as its socket is closed. It reads no memory, writes
no files and blocks all signals. Should it be killed itself, the kernel lets the threads go.

It imports only the standard library, little of it: each dump starts one.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from kgcore.ptrace import calls
from kgcore.ptrace.injection import Convention, borrowed, injecting, site
from kgcore.ptrace.snapshot import Snapshot
from kgcore.ptrace.threads import Interrupted, stops, threads_of
from kgcore.system import frames

__all__ = ("NAME", "main", "receive", "send", "serve")

NAME = "kgcore-guardian"
"""Its name, as ps shows it."""
_MAX_REGSET = 1 << 16  # bytes; AMX has some 11 000, an I/O bitmap 8192
_MAX_PENDING = 1 << 16  # signals
_MAX_ROUNDS = 1000  # of looking for new threads


class Threads:
    """The threads of a process, stopped one by one.

    :ivar stopped: those that stand still.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._seized: set[int] = set()
        self._snapshot: Snapshot | None = None
        self._instructions: dict[str, int] = {}  # what makes a call, to its address
        self.stopped: list[int] = []

    def stop(self, pid: int, seconds: float) -> tuple[float, list[int]]:
        """Stop all threads; return when that began, by time.monotonic(), and their ids, in the order of /proc.

        :raises OSError: what ptrace(2) raises, ETIMEDOUT if a thread does not stop in time, with its id as file name.
        """
        self._pid = pid
        start = time.monotonic()
        deadline = start + seconds
        for _ in range(_MAX_ROUNDS):
            new = [tid for tid in threads_of(pid) if tid not in self._seized]
            if not new:
                return start, self.stopped
            for tid in new:
                self._seize(tid)
            for tid in new:
                with suppress(Interrupted):  # it has ended
                    if not stops(tid, deadline):
                        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(tid))
                    self.stopped.append(tid)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(pid))

    def _seize(self, tid: int) -> None:
        self._seized.add(tid)
        try:
            calls.seize(tid)
            calls.interrupt(tid)
        except OSError as error:
            if error.errno != errno.ESRCH and not (error.errno == errno.EPERM and _has_exited(tid)):
                self._seized.discard(tid)
                raise OSError(error.errno, error.strerror, str(tid)) from error

    def snapshot(self, convention: Convention) -> tuple[int, int]:
        """Make a copy of the process, and return its id and the nanoseconds in which registers were not a thread's own.

        :raises OSError: see :class:`kgcore.ptrace.snapshot.Snapshot`.
        """
        self._snapshot = Snapshot(self._pid, self.stopped, convention)
        return self._snapshot.pid, self._snapshot.window

    def drop(self) -> bool:
        """Take the copy away, and say whether the process is as if it had never been there."""
        snapshot, self._snapshot = self._snapshot, None
        return snapshot is None or snapshot.drop(self.stopped)

    def calls(
        self, tids: list[int], convention: Convention, requests: Any, red_zone: int, size: int
    ) -> list[tuple[int, str]]:
        """Make system calls in one of the stopped threads; return each result, and what is in the scratch memory then.

        :param tids: the threads to choose from, in order.
        :param requests: number and arguments of each; an argument None is the address of the scratch memory, which is
            zeros before each call.
        :param size: bytes of scratch memory.
        :raises OSError: ENOTSUP: none of the threads will do; EFAULT: there is no scratch memory.
        """
        where = site(tids, convention, self._instructions.get(convention.instruction))
        self._instructions[convention.instruction] = where.instruction
        found = []
        try:
            # The thread's own stack first; below it there may never have been memory.
            lenders = (where.tid, *(tid for tid in self.stopped if tid != where.tid))
            with borrowed(lenders, convention, red_zone, size) as scratch, injecting(where, convention) as system:
                for number, *arguments in requests:
                    scratch.clear()
                    words = (scratch.address if word is None else word for word in arguments)
                    found.append((system.call(number, *words), scratch.content().hex()))
        except Interrupted as interrupted:
            raise interrupted.error(where.tid) from None
        return found

    def release(self) -> None:
        """Let all threads go on. What cannot be released now (it is in an uninterruptible sleep) the kernel releases
        when this program ends."""
        for tid in self.stopped:
            try:
                calls.detach(tid)
            except OSError:  # it was killed
                continue
        self.stopped = []
        self._seized.clear()


def _has_exited(tid: int) -> bool:
    """Whether a thread is a zombie: ptrace(2) says EPERM then."""
    try:
        with open(f"/proc/{tid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


def _pending(tid: int, *, shared: bool) -> list[bytes]:
    """Return the ``siginfo_t`` of all signals that wait for a thread, or for its process."""
    found: list[bytes] = []
    while len(found) < _MAX_PENDING:
        some = calls.peeksiginfo(tid, len(found), shared=shared)
        if not some:
            break
        found += some
    return found


def _answer(threads: Threads, request: Any) -> Any:
    """Do what a request says: its name, and its arguments."""
    match tuple(request):
        case ("stop", pid, seconds):
            return threads.stop(pid, seconds)
        case ("regsets", tid, kinds):
            found = [calls.getregset(tid, kind, _MAX_REGSET) for kind in kinds]
            return [None if desc is None else desc.hex() for desc in found]
        case ("own_view", tid):
            return [desc.hex() for desc in (calls.getregs(tid), calls.getfpregs(tid))]
        case ("pending", tid, shared):
            return [info.hex() for info in _pending(tid, shared=shared)]
        case ("rseq", tid):
            return calls.rseq(tid)
        case ("blocked", tid):
            return calls.getsigmask(tid)
        case ("snapshot", convention):
            return threads.snapshot(Convention(*convention))
        case ("calls", tids, convention, requests, red_zone, size):
            return threads.calls(tids, Convention(*convention), requests, red_zone, size)
        case ("drop",):
            return threads.drop()
        case ("thaw",):
            threads.release()
            return time.monotonic()
        case ("release",):
            clean = threads.drop()
            threads.release()
            return clean
    return None


def send(connection: socket.socket, value: Any) -> None:
    """Send a value of plain types.

    :raises OSError: the other side is gone.
    """
    frames.send(connection, json.dumps(value).encode())


def receive(connection: socket.socket) -> Any:
    """Return the next value.

    :raises EOFError: the other side is gone.
    :raises OSError: what recv(2) raises.
    """
    return json.loads(frames.receive(connection))


def main() -> None:
    """Serve the socket whose descriptor is the only argument, until it is closed."""
    serve(socket.socket(fileno=int(sys.argv[1])))


def serve(connection: socket.socket) -> None:
    """Serve a socket until it is closed."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(NAME)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # needs CAP_SYS_RESOURCE
        file.write("-1000")
    with suppress(OSError):  # needs CAP_SYS_NICE
        # While it lets threads go one by one, those that run already do not keep it from the others.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    threads = Threads()
    try:
        while True:
            request = receive(connection)
            try:
                answer = (True, _answer(threads, request))
            except OSError as error:
                answer = (False, (error.errno, error.strerror, str(error.filename or "")))
            send(connection, answer)
    except (EOFError, OSError):
        pass
    finally:
        threads.drop()
        threads.release()
