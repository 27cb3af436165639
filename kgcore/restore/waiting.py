# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for a child that goes on in our place: signals that we get are passed on to it."""

import os
import signal
from contextlib import suppress

__all__ = ("wait_for",)

_SI_KERNEL = 0x80  # of a signal from the terminal, which its whole process group gets
_PASSED = frozenset(
    (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGCONT,
        signal.SIGALRM,
    )
)
_SIGNALLED = 128  # as shells count


def wait_for(pid: int) -> int:
    """Wait until a child has ended, and return its exit status; if a signal ended it, as shells count.

    Signals for us are passed on; one from the terminal the child has had already, since it is in our process group.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED, signal.SIGCHLD})
    try:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _SIGNALLED + os.WTERMSIG(status)
            info = signal.sigwaitinfo({*_PASSED, signal.SIGCHLD})
            if info.si_signo in _PASSED and info.si_code != _SI_KERNEL:
                with suppress(ProcessLookupError):
                    os.kill(pid, info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
