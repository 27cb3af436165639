# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a copy-on-write copy of a stopped process, which is read while the process goes on, and take it away again.

The copy is a child of the process that never runs: it is made by clone(2) without a signal for its end, traced from its
first moment, and killed by the kernel if the guardian ends. It closes its copies of the descriptors at once: files,
sockets and locks behave as if it were not there. The process's own waitpid(2) does not see it (only a caller with
__WALL or __WCLONE would), and at the end it is reaped in the process's name, before that can.

It imports only the standard library, little of it: the guardian does.
"""

import errno
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from kgcore.ptrace import calls
from kgcore.ptrace.injection import Convention, Site, System, injecting, site, unfit
from kgcore.ptrace.threads import Interrupted, stopped, stops, threads_of

__all__ = ("Snapshot",)

# include/uapi/linux/sched.h, close_range.h, wait.h
_CLONE_FILES = 0x00000400
_CLOSE_RANGE_UNSHARE = 1 << 1
_UINT_MAX = (1 << 32) - 1
_WALL_NOHANG = calls.WALL | 1
# A place where nothing is: should the copy ever run, it ends there.
_NO_STACK = 64
_TRIES = 50  # of reaping
_PAUSE = 0.002  # seconds between two
_PATIENCE = 0.05  # seconds for a thread to stop; then it is another's turn


class Snapshot:
    """A copy of a process.

    :ivar pid: its id in our own pid namespace.
    :ivar window: nanoseconds that a thread of the process had registers that are not its own.

    :param parent: id of the process; all its threads are stopped.
    :param threads: their ids.
    :raises OSError: there can be no copy: ENOTSUP and ``filename`` say why in words, else it is clone(2)'s error.
    """

    def __init__(self, parent: int, threads: Iterable[int], convention: Convention) -> None:
        self._parent = parent
        self._convention = convention
        self._inside = 0
        self.pid = 0
        self.window = 0
        where = site(threads, convention)
        start = time.monotonic_ns()
        try:
            with injecting(where, convention) as system:
                self._clone(system)
            self.window = time.monotonic_ns() - start
            self._close_files(where.instruction)
        except Interrupted as interrupted:
            self.drop(threads)
            raise interrupted.error(where.tid) from None
        except OSError:
            self.drop(threads)
            raise

    def _clone(self, system: System) -> None:
        self._inside = system.call(self._convention.clone, _CLONE_FILES, _NO_STACK)
        if self._inside < 0:
            number, self._inside = -self._inside, 0
            raise OSError(number, os.strerror(number), "clone")
        if not system.born:  # kill(2) and waitpid(2) take 0 for others
            raise OSError(errno.EIO, "the kernel does not say which process it made", "clone")
        self.pid = system.born
        # Its first stop; from then on it dies with this program.
        stopped(self.pid)
        calls.setoptions(self.pid, calls.PTRACE_O_EXITKILL)
        # If memory gets short, it is the copy that goes.
        with suppress(OSError), open(f"/proc/{self.pid}/oom_score_adj", "wb") as file:
            file.write(b"1000")

    def _close_files(self, instruction: int) -> None:
        """Let go of the descriptors, which it has had in common with the process, before that can close one."""
        with injecting(Site(self.pid, instruction), self._convention, calls.PTRACE_O_EXITKILL) as system:
            result = system.call(self._convention.close_range, 0, _UINT_MAX, _CLOSE_RANGE_UNSHARE)
        if result < 0:
            raise OSError(-result, os.strerror(-result), "close_range")

    def drop(self, threads: Iterable[int]) -> bool:
        """Take the copy away, and say whether the process is as if it had never been there.

        :param threads: stopped threads of the process, if there are some; else one of them is stopped for a moment.
        """
        if not self.pid:
            return True
        threads = list(threads)
        if threads:
            return self._drop(threads)
        for tid in self._running_threads():
            with suppress(OSError, Interrupted):
                calls.seize(tid)
                try:
                    calls.interrupt(tid)
                    if stops(tid, time.monotonic() + _PATIENCE) and not unfit(tid, self._convention):
                        return self._drop([tid])
                finally:
                    with suppress(OSError):  # it was killed; the copy is not to be dropped twice for that
                        calls.detach(tid)
        return self._drop([])

    def _drop(self, threads: list[int]) -> bool:
        pid, self.pid = self.pid, 0
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            while calls.stop_of(os.waitpid(pid, calls.WALL)[1]) is not None:
                pass
        try:
            with injecting(site(threads, self._convention), self._convention) as system:
                for _ in range(_TRIES):
                    result = system.call(self._convention.wait4, self._inside, 0, _WALL_NOHANG)
                    if result:
                        return result == self._inside
                    time.sleep(_PAUSE)
        except (OSError, Interrupted):
            pass
        return not os.path.exists(f"/proc/{pid}")

    def _running_threads(self) -> list[int]:
        """The threads of the process; [] if it is gone: its id may be another's by now."""
        with suppress(OSError), open(f"/proc/{self.pid}/status", "rb") as file:
            if f"\nPPid:\t{self._parent}\n".encode() in file.read():
                return threads_of(self._parent)
        return []
