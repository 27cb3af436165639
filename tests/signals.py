# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals and core files as a program finds them at a terminal, whatever pytest was started by."""

import resource
import signal

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def heeds_signals() -> None:
    """For ``preexec_fn``. nohup ignores SIGHUP, a script's "&" SIGINT and SIGQUIT, and children inherit that."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def dumps_no_core() -> None:
    """For ``preexec_fn``. Where core_pattern is a pipe no other limit counts; 1 is the kernel's own word for "none"
    (do_coredump(), fs/coredump.c), so that timeout(1) has no core to tell of."""
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
