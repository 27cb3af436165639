# SPDX-License-Identifier: LGPL-2.1-or-later
"""The threads of a process, and waiting until one has stopped.

It imports only the standard library, little of it: the guardian does.
"""

import errno
import os
import time

from kgcore.ptrace import calls

__all__ = ("Interrupted", "stopped", "stops", "threads_of")

_PAUSES = (0.0,) * 50 + (0.0001,) * 50  # seconds between two looks whether a thread has stopped; then the last:
_LONG_PAUSE = 0.001


class Interrupted(Exception):
    """A signal that cannot be blocked came between, or the thread ended.

    :ivar signal: the signal that it is to have; 0: it has ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    def error(self, tid: int) -> OSError:
        """Return it as an error of a thread: EINTR, or ESRCH if it has ended."""
        number = errno.EINTR if self.signal else errno.ESRCH
        return OSError(number, os.strerror(number), str(tid))


def threads_of(pid: int) -> list[int]:
    """Return the ids of the threads of a process, ascending.

    :raises OSError: ESRCH: it has ended.
    """
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid)) from None


def stopped(tid: int) -> tuple[int, int]:
    """Wait for the next stop: its signal and PTRACE_EVENT_*.

    :raises Interrupted: the thread has ended.
    """
    found = _look(tid, 0)
    assert found is not None
    return found


def stops(tid: int, deadline: float) -> bool:
    """Wait until a thread that was asked to has stopped; False: it does not in time.

    :param deadline: by time.monotonic().
    :raises Interrupted: the thread has ended.
    """
    looks = 0
    while True:
        found = _look(tid, os.WNOHANG)
        if found is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSES[looks] if looks < len(_PAUSES) else _LONG_PAUSE)
            looks += 1
            continue
        number, event = found
        if event == calls.PTRACE_EVENT_STOP:
            return True
        # It is about to take a signal: it shall have it, and stop behind that.
        calls.cont(tid, number)


def _look(tid: int, options: int) -> tuple[int, int] | None:
    """Return what waitpid(2) says of a thread: signal and PTRACE_EVENT_* of a stop; None: it has not stopped."""
    try:
        found, status = os.waitpid(tid, calls.WALL | options)
    except ChildProcessError:  # it had ended before it was seized
        raise Interrupted(0) from None
    if found == 0:
        return None
    stop = calls.stop_of(status)
    if stop is None:
        raise Interrupted(0)
    return stop
