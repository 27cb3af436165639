# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the process: a child of this program that executes the same program as the core's, stopped before its first
instruction. It dies with this program, until it is let go."""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from kgcore.errors import NotRestarted
from kgcore.ptrace import calls
from kgcore.ptrace.injection import Convention, Site, System
from kgcore.ptrace.threads import Interrupted, stopped

__all__ = ("Launch", "Stub", "failed")

_NT_PRSTATUS = 1
_CLONE3 = 435  # of all architectures
_CLONE_ARGS = struct.Struct("=11Q")
_CLONE_NEWTIME = 0x80
_EVENT_EXEC = 4
_OPTIONS = calls.PTRACE_O_EXITKILL | calls.PTRACE_O_TRACESYSGOOD | calls.PTRACE_O_TRACECLONE | 1 << _EVENT_EXEC
_ALL_SIGNALS = (1 << 64) - 1
_SECOND = 1_000_000_000  # ns
_MOST_WORDS = 1 << 16  # bytes

# It keeps Python's lock: another thread of this program must not have it in the child.
_libc = ctypes.PyDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the child does before it executes the program.

    :ivar pid: the id that it is to have.
    :ivar program: descriptor of the program.
    :ivar name: what is its only argument.
    :ivar placed: our descriptors, and which it has them as.
    :ivar kept: further descriptors of ours that it keeps, under their numbers.
    :ivar above: all of ours that matter have this number or a higher one, those of the new process a lower one.
    :ivar watched: of epoll sets: descriptor of the set, of the file, its number in the set, ``struct epoll_event``.
    :ivar cwd: its working directory.
    :ivar umask: of its new files.
    :ivar clocks: what CLOCK_MONOTONIC and CLOCK_BOOTTIME are to show, in ns, and by how much our own differ from the
        machine's; None: they are the machine's.
    """

    pid: int
    program: int
    name: bytes
    placed: tuple[tuple[int, int], ...]
    kept: tuple[int, ...]
    above: int
    watched: tuple[tuple[int, int, int, bytes], ...]
    cwd: bytes
    umask: int
    clocks: tuple[tuple[int, int], tuple[int, int]] | None


def failed(step: str, call: str, error: OSError | int) -> NotRestarted:
    """Return the error for a step that failed."""
    number = error if isinstance(error, int) else error.errno or 0
    return NotRestarted(f"cannot restart it: {step}: {call}: {os.strerror(number)}")


class Stub:
    """The half-made process: its threads are stopped, and make the system calls that they are to make.

    :ivar pid: its id.
    """

    def __init__(self, launch: Launch, convention: Convention) -> None:
        """
        :raises NotRestarted: it cannot be made; nothing of it is left.
        """
        self._convention = convention
        self._instruction = 0
        self._threads: list[int] = []
        self.pid = 0
        with _blocked():
            ours, theirs = socket.socketpair()
            try:
                self.pid = _clone(launch.pid)
                if not self.pid:
                    _child(launch, ours, theirs)
                theirs.close()
                self._begin(ours)
            except BaseException:
                self.kill()
                raise
            finally:
                ours.close()
                theirs.close()

    def _begin(self, connection: socket.socket) -> None:
        """Become the tracer, and let it execute the program."""
        try:
            calls.seize(self.pid, _OPTIONS)
        except OSError as error:
            raise failed("trace it", "ptrace", error) from error
        connection.sendall(b"\1")
        try:
            while True:
                number, event = stopped(self.pid)
                if event == _EVENT_EXEC:
                    break
                calls.cont(self.pid, 0 if event else number)
            calls.interrupt(self.pid)
            calls.cont(self.pid, 0)
            while stopped(self.pid)[1] != calls.PTRACE_EVENT_STOP:
                calls.cont(self.pid, 0)
            calls.setsigmask(self.pid, _ALL_SIGNALS)
        except Interrupted:
            said = connection.recv(_MOST_WORDS).decode("utf-8", "replace")
            self.pid, gone = 0, self.pid
            raise NotRestarted(f"cannot restart it: {said}" if said else f"the new process {gone} was killed") from None

    # System calls

    def use(self, instruction: int) -> None:
        """Say where an instruction is that makes system calls."""
        self._instruction = instruction

    def call(self, tid: int, number: int, *arguments: int) -> int:
        """Make a system call in a thread and return its result: -errno if it failed.

        :raises NotRestarted: the thread was killed.
        :raises OSError: what ptrace(2) raises.
        """
        desc = calls.getregset(tid, _NT_PRSTATUS, self._convention.size) or b""
        system = System(Site(tid, self._instruction), self._convention, desc)
        try:
            result = system.call(number, *arguments)
        except Interrupted:
            raise NotRestarted("the new process was killed") from None
        if system.born:
            self._threads.append(system.born)
            with suppress(Interrupted):
                stopped(system.born)
        return result

    def registers(self, tid: int, kind: int, desc: bytes) -> None:
        """Give a thread a register set.

        :raises OSError: what ptrace(2) raises.
        """
        calls.setregset(tid, kind, desc)

    def release(self, tids: Sequence[int]) -> None:
        """Let the threads go.

        :raises OSError: what ptrace(2) raises.
        """
        for tid in tids:
            calls.detach(tid)

    def kill(self) -> None:
        """Take it away, if it is not gone."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            # The process has ended when its tracer has seen the end of each thread.
            for tid in (*self._threads, self.pid):
                with suppress(OSError):
                    while calls.stop_of(os.waitpid(tid, calls.WALL)[1]) is not None:
                        pass
            self.pid = 0


@contextmanager
def _blocked() -> Iterator[None]:
    """Block all signals: the child, which begins as a copy of this program, must not handle ours."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _clone(pid: int) -> int:
    """Fork, and return the id of the child, which is the wanted one; in the child 0.

    :raises NotRestarted: that id is not free, or not allowed.
    """
    wanted = ctypes.c_int32(pid)
    raw = _CLONE_ARGS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    arguments = ctypes.create_string_buffer(raw, len(raw))
    result = int(_libc.syscall(_CLONE3, arguments, len(raw)))
    if result < 0:
        raise failed(f"make process {pid}", "clone3", ctypes.get_errno())
    return result


# In the child


def _child(launch: Launch, ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """Get ready and execute the program; on an error say what failed, and die."""
    try:
        ours.close()
        # Out of the way of the new descriptors.
        theirs = socket.socket(fileno=fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, launch.above))
        if theirs.recv(1):  # else this program has ended
            _execute(launch)
    except BaseException as error:  # noqa: BLE001  (it ends here in any case)
        with suppress(BaseException):
            theirs.sendall(str(error).encode())
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def _execute(launch: Launch) -> None:
    clocks = launch.clocks
    if clocks is not None:
        _step("make a time namespace", lambda: _set_clocks(*clocks))
    for source, target in launch.placed:
        _step(f"have descriptor {target}", partial(os.dup2, source, target))
    for kept in launch.kept:
        _step("keep a file", partial(os.set_inheritable, kept, True))
    start = 0
    for target in (*sorted(target for _, target in launch.placed), launch.above):
        if start < target:  # an empty range would be all: Python asks for the last one before 0
            os.closerange(start, target)
        start = target + 1
    for epoll, file, number, event in launch.watched:
        _step(f"watch descriptor {number}", partial(_watch, epoll, file, number, event))
    _step(f"enter {launch.cwd!r}", partial(os.chdir, launch.cwd))
    os.umask(launch.umask)
    _step("execute the program", partial(os.execve, launch.program, [launch.name], {}))


def _step(what: str, do: Callable[[], object]) -> None:
    try:
        do()
    except OSError as error:
        raise OSError(f"{what}: {error.strerror}") from None


def _set_clocks(wanted: tuple[int, int], ours: tuple[int, int]) -> None:
    import time

    if _libc.unshare(_CLONE_NEWTIME) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    lines = []
    for name, want, at, offset in zip(("monotonic", "boottime"), wanted, now, ours, strict=True):
        seconds, part = divmod(want - (at - offset), _SECOND)
        lines.append(f"{name} {seconds} {part}\n")
    with open("/proc/self/timens_offsets", "w") as file:
        file.write("".join(lines))
    descriptor = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    if _libc.setns(descriptor, _CLONE_NEWTIME) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(descriptor)


def _watch(epoll: int, file: int, number: int, event: bytes) -> None:
    """Add a file to an epoll set under a number that may be another file's: for that moment it is this one's."""
    spare = -1
    if number != file:
        with suppress(OSError):
            spare = os.dup(number)
        os.dup2(file, number)
    try:
        content = ctypes.create_string_buffer(event, len(event))
        if _libc.epoll_ctl(epoll, 1, number, content) != 0 and ctypes.get_errno() != errno.EEXIST:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        if number != file:
            os.close(number)
            if spare >= 0:
                os.dup2(spare, number)
                os.close(spare)
