# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fork children of this program, which has but one thread, that do one thing and end."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

__all__ = ("child", "die_with_parent", "ended")

_DEFECT = 70  # EX_SOFTWARE, sysexits.h
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def child(work: Callable[[], int]) -> int:
    """Fork a child that does some work and exits with what that returns; return its id.

    A signal to this program's group that is meant for this program alone (Ctrl-C) does not end it.

    :raises OSError: there can be none.
    """
    # A signal that the child gets before it has handlers of its own would be handled as ours are.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        _run(work)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    raise AssertionError("a child goes on")


def _run(work: Callable[[], int]) -> None:
    """Do the work, and end."""
    status = _DEFECT
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = work()
    except BaseException:  # noqa: BLE001  (a defect, which must not run on as the parent)
        with suppress(BaseException):
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this child when its parent ends; say whether the parent is still there.

    :param parent: its id.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def ended(pid: int, *, wait: bool = False) -> int | None:
    """Return the exit status of a child that has ended, -number for a signal; None: it has not."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
