# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start a program of kgcore's own beside this one, or fork it, with a socket between them."""

import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from kgcore.system import children

__all__ = ("Companion", "fork", "start")

_FIRST, _LAST = 3, 1 << 30  # descriptors behind the standard streams
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Companion(Protocol):
    """A program beside this one.

    :ivar returncode: its exit status, once that was waited for; None: not yet.
    """

    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        :raises subprocess.TimeoutExpired: it does not end in time.
        """

    def kill(self) -> None:
        """Kill it."""


class _Forked:
    """A copy of this program."""

    def __init__(self, pid: int) -> None:
        self.returncode: int | None = None
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """See :meth:`Companion.wait`."""
        if self.returncode is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self._pid), timeout or 0)
            self.returncode = children.ended(self._pid, wait=True)
            os.close(self._pidfd)
        return self.returncode or 0

    def kill(self) -> None:
        """See :meth:`Companion.kill`."""
        if self.returncode is None:
            os.kill(self._pid, signal.SIGKILL)


def fork(work: Callable[[socket.socket], None]) -> tuple[Companion, socket.socket]:
    """Fork a copy of this program, which must have but one thread; return it with this side's end of a socket to it.

    It has only its own end and the standard streams open: no lock and no file of ours.

    :param work: what it does.
    :raises OSError: it cannot be forked.
    """
    ours, theirs = socket.socketpair()

    def works() -> int:
        gc.disable()  # what is collected would close descriptors, which are others by then
        keep = theirs.fileno()
        os.closerange(_FIRST, keep)
        os.closerange(keep + 1, _LAST)
        work(theirs)
        return 0

    with theirs:
        try:
            return _Forked(children.child(works)), ours
        except BaseException:
            ours.close()
            raise


def start(
    statement: str, *flags: str, passed: Sequence[int] = (), environment: Mapping[str, str] = _NOTHING, **options: Any
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a program, and return it with this side's end of the socket; the other's descriptor is its argument.

    It is exec'ed, not a copy of this one: a thread of this one could hold a lock at the moment of fork().

    :param statement: what it runs. It imports from where this program does.
    :param flags: of the interpreter.
    :param passed: further descriptors that it has.
    :param environment: what it has besides.
    :param options: of :class:`subprocess.Popen`.
    :raises OSError: it cannot be started.
    """
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (package, *sys.path)))
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            program = subprocess.Popen(
                [sys.executable or "python3", *flags, "-c", statement, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *passed),
                stdin=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                **options,
            )
        except BaseException:
            ours.close()
            raise
    return program, ours
