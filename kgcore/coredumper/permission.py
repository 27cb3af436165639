# SPDX-License-Identifier: LGPL-2.1-or-later
"""Let the helper program trace this one, for as long as that takes."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("allow_tracing", "dumpable")

# include/uapi/linux/prctl.h
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_SET_PTRACER = 0x59616D61
_SUID_DUMP_DISABLE, _SUID_DUMP_USER = 0, 1  # include/linux/sched/coredump.h
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def dumpable() -> Iterator[None]:
    """Make this program dumpable for a while, if it has forbidden it by prctl(PR_SET_DUMPABLE, 0)."""
    if _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != _SUID_DUMP_DISABLE:
        yield
        return
    _libc.prctl(_PR_SET_DUMPABLE, _SUID_DUMP_USER, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_DUMPABLE, _SUID_DUMP_DISABLE, 0, 0, 0)


def allow_tracing(pid: int) -> None:
    """Allow a program, and what it starts, to trace this one, where Yama wants that said (kernel.yama.ptrace_scope 1).

    :param pid: its id; when it has ended, nobody is allowed.
    """
    try:
        with open(_YAMA, "rb") as file:
            scope = int(file.read())
    except (OSError, ValueError):
        return
    if scope == 1:
        _libc.prctl(_PR_SET_PTRACER, pid, 0, 0, 0)
