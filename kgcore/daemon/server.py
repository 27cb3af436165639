# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon: it accepts clients, lets each wait for its turn, and forks a process for it.

It has but one thread and everything imported, so that a fork is all that a client has to wait for.
"""

import errno
import gc
import os
import resource
import select
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from kgcore.daemon.log import Level, say
from kgcore.daemon.notify import tell
from kgcore.daemon.peer import ids_of
from kgcore.daemon.session import Settings, refuse, serve
from kgcore.system.children import child, ended

__all__ = ("MAX_WAITING", "Server")

MAX_WAITING = 512  # connections
MAX_OF_ONE_USER = 256
_MAX_REFUSALS = 8  # processes
_MAX_REFUSED = 64  # connections
_REQUEST_TIME = 5.0  # seconds from connecting to the request
_GRACE = 30.0  # seconds that a process may take longer than a dump
_OTHER_DESCRIPTORS = 200
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(slots=True)
class _Client:
    """A connection that waits.

    :ivar since: when it was accepted, by CLOCK_BOOTTIME.
    :ivar deadline: for its request, by time.monotonic(); inf: that is there.
    """

    connection: socket.socket
    uid: int
    since: float
    deadline: float


@dataclass(slots=True)
class _Child:
    """A process of ours.

    :ivar uid: of its client; None: it only refuses one.
    :ivar deadline: by time.monotonic(); inf: it is killed, and counts for its client alone.
    """

    pid: int
    pidfd: int
    uid: int | None
    deadline: float


class Server:
    """Serves clients until a signal ends it, or it has been idle for long enough.

    :param listeners: where clients connect.
    :param workers: how many dumps there may be at once.
    :param idle_exit: seconds without a client after which it ends; None: never.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], settings: Settings, *, workers: int, idle_exit: float | None
    ) -> None:
        self._listeners = list(listeners)
        self._settings = settings
        self._workers = workers
        self._most = min(MAX_WAITING, _descriptors() - _OTHER_DESCRIPTORS)
        self._idle_exit = inf if idle_exit is None else idle_exit
        self._epoll = select.epoll()
        self._idle: dict[int, _Client] = {}  # those that have not asked yet, by descriptor
        self._queue: dict[int, _Client] = {}
        self._refused: deque[tuple[socket.socket, int, str]] = deque()
        self._children: dict[int, _Child] = {}  # by pidfd
        self._served: dict[int, int] = {}  # user to the number of its latest turn
        self._turns = 0
        self._accepting = False
        self._wake = self._waking = -1  # a pipe: signals
        self._stopping = False
        self._last = time.monotonic()

    def run(self) -> None:
        """Serve."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake, self._waking = reading, writing
        before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, there were no exit statuses
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # a collection in a child would touch, and so copy, what it shares with us
        try:
            for listener in self._listeners:
                listener.setblocking(False)
            self._epoll.register(reading, select.EPOLLIN)
            tell("READY=1")
            while not self._finished():
                self._once()
        finally:
            gc.unfreeze()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)
            self._epoll.close()

    def _finished(self) -> bool:
        busy = self._idle or self._queue or self._refused or self._children
        if self._stopping:
            return not busy
        if not busy and time.monotonic() - self._last >= self._idle_exit:
            say(Level.INFO, f"idle for {self._idle_exit:g} s: ends")
            self._stop()
            return True
        return False

    def _once(self) -> None:
        """Wait for the next event, and do what is to be done."""
        self._accept_or_not()
        for descriptor, events in self._epoll.poll(self._time_left()):
            if descriptor == self._wake:
                self._signalled()
            elif descriptor in self._children:
                self._ended(descriptor)
            elif descriptor in self._idle:
                self._heard(descriptor, events)
            elif descriptor in self._queue:
                self._refused.append((self._forget(self._queue, descriptor).connection, 0, "gone"))
            else:
                self._accept(descriptor)
        self._too_late()
        self._start()

    def _time_left(self) -> float | None:
        """Seconds until something is too late; None: nothing will be."""
        moments = [client.deadline for client in self._idle.values()]
        moments += [each.deadline for each in self._children.values()]
        if not (self._idle or self._queue or self._children or self._stopping):
            moments.append(self._last + self._idle_exit)
        first = min(moments, default=inf)
        return None if first == inf else max(first - time.monotonic(), 0)

    def _accept_or_not(self) -> None:
        """Leave clients in the kernel's queue while too many are to be refused."""
        wanted = not self._stopping and len(self._refused) < _MAX_REFUSED
        if wanted != self._accepting:
            for listener in self._listeners:
                if wanted:
                    self._epoll.register(listener, select.EPOLLIN)
                else:
                    self._epoll.unregister(listener)
            self._accepting = wanted

    def _accept(self, descriptor: int) -> None:
        listener = next((each for each in self._listeners if each.fileno() == descriptor), None)
        if listener is None:  # it was closed by an earlier event of this round
            return
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                say(Level.ERROR, f"cannot accept: {error.strerror}")
                time.sleep(0.1)  # no descriptor, no memory: not as fast as one can
            return
        self._last = time.monotonic()
        _, uid, _ = ids_of(connection)
        waiting = [client.uid for client in (*self._idle.values(), *self._queue.values())]
        if len(waiting) >= self._most or (uid and waiting.count(uid) >= MAX_OF_ONE_USER):
            self._refused.append((connection, errno.EAGAIN, "too many clients wait: try again later"))
            return
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        client = _Client(connection, uid, since, time.monotonic() + _REQUEST_TIME)
        self._idle[connection.fileno()] = client
        self._epoll.register(connection, select.EPOLLIN | select.EPOLLRDHUP)

    def _heard(self, descriptor: int, events: int) -> None:
        """A client has sent something, or has gone. Nobody reads it here."""
        if events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            self._refused.append((self._forget(self._idle, descriptor).connection, 0, "gone"))
            return
        client = self._queue[descriptor] = self._idle.pop(descriptor)
        client.deadline = inf
        self._epoll.modify(descriptor, select.EPOLLRDHUP)

    def _forget(self, clients: dict[int, _Client], descriptor: int) -> _Client:
        self._epoll.unregister(descriptor)
        return clients.pop(descriptor)

    def _too_late(self) -> None:
        now = time.monotonic()
        for descriptor in [key for key, client in self._idle.items() if client.deadline <= now]:
            connection = self._forget(self._idle, descriptor).connection
            self._refused.append((connection, errno.ETIMEDOUT, f"no request within {_REQUEST_TIME:g} s"))
        for each in self._children.values():
            if each.deadline <= now:
                say(Level.ERROR, f"process {each.pid} of uid {each.uid} does not end: killed")
                each.deadline = inf
                os.kill(each.pid, signal.SIGKILL)  # it is our child, and nobody has waited for it

    def _start(self) -> None:
        """Fork processes for those whose turn it is."""
        refusing = sum(1 for each in self._children.values() if each.uid is None)
        while self._refused and refusing < _MAX_REFUSALS:
            connection, number, message = self._refused.popleft()
            refusing += 1
            self._fork(connection, None, 1.0, lambda c=connection, n=number, m=message: refuse(c, n, m))  # type: ignore[misc]
        while (descriptor := self._next()) is not None:
            client = self._forget(self._queue, descriptor)
            self._turns += 1
            self._served[client.uid] = self._turns
            limit = self._settings.max_time + _GRACE
            self._fork(
                client.connection,
                client.uid,
                limit,
                lambda c=client: serve(c.connection, self._settings, c.since),  # type: ignore[misc]
            )
        if len(self._served) > MAX_WAITING:
            self._served.clear()

    def _next(self) -> int | None:
        """The descriptor of the client whose turn it is: of the user with the fewest dumps, and the longest ago."""
        alive = [each.uid for each in self._children.values() if each.uid is not None and each.deadline != inf]
        if not self._queue or len(alive) >= self._workers:
            return None
        running = Counter(each.uid for each in self._children.values())
        # One user alone cannot have all.
        free = [
            descriptor
            for descriptor, client in self._queue.items()
            if client.uid == 0 or running[client.uid] < max(1, self._workers - 1)
        ]
        return min(
            free,
            key=lambda key: (running[self._queue[key].uid], self._served.get(self._queue[key].uid, 0)),
            default=None,
        )

    def _fork(self, connection: socket.socket, uid: int | None, seconds: float, work: Callable[[], int]) -> None:
        """Fork a process for a client, which has its connection alone as soon as it begins."""
        reading, writing = os.pipe2(os.O_CLOEXEC)

        def works() -> int:
            os.close(writing)
            self._close_all_but(connection)
            os.read(reading, 1)  # until the daemon has closed its own
            os.close(reading)
            return work()

        try:
            pid = child(works)
        except OSError as error:
            say(Level.ERROR, f"cannot fork: {error.strerror}")
            return
        finally:
            connection.close()
            os.close(reading)
            os.close(writing)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = _Child(pid, pidfd, uid, time.monotonic() + seconds)
        self._epoll.register(pidfd, select.EPOLLIN)

    def _close_all_but(self, connection: socket.socket) -> None:
        """In a child: close what is the daemon's, or other clients'."""
        self._epoll.close()
        os.close(self._wake)
        os.close(self._waking)
        for each in (*self._listeners, *(client.connection for client in self._idle.values())):
            each.close()
        for each in (*(client.connection for client in self._queue.values()), *(it[0] for it in self._refused)):
            if each is not connection:
                each.close()
        for pidfd in self._children:
            os.close(pidfd)

    def _ended(self, pidfd: int) -> None:
        each = self._children.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        status = ended(each.pid, wait=True)
        if status and each.uid is not None:
            say(Level.ERROR, f"the process {each.pid} for a client of uid {each.uid} ended with status {status}")
        self._last = time.monotonic()

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake, 64)
        if self._stopping:
            for each in self._children.values():
                os.kill(each.pid, signal.SIGTERM)
                each.deadline = min(each.deadline, time.monotonic() + 1)
        else:
            self._stop()

    def _stop(self) -> None:
        """Take no more clients, and let dumps end."""
        self._stopping = True
        tell("STOPPING=1")
        self._accept_or_not()
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        for clients in (self._idle, self._queue):
            for descriptor in list(clients):
                connection = self._forget(clients, descriptor).connection
                self._refused.append((connection, errno.ECANCELED, "the daemon ends"))


def _descriptors() -> int:
    """Raise the limit of descriptors to what is enough, if that is allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_WAITING + _OTHER_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _ignore(number: int, frame: object) -> None:
    """Let set_wakeup_fd() do the work."""
