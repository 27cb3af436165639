# SPDX-License-Identifier: LGPL-2.1-or-later
"""Call ptrace(2) by ctypes. Each call is of the thread that seized: the kernel refuses it to any other.

Numbers: include/uapi/linux/ptrace.h, the same on all architectures.
"""

import ctypes
import errno
import os

__all__ = (
    "PTRACE_EVENT_STOP",
    "WALL",
    "cont",
    "detach",
    "getregset",
    "interrupt",
    "seize",
    "stop_of",
)

_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_PTRACE_GETREGSET = 0x4204
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
PTRACE_EVENT_STOP = 128
WALL = 0x40000000  # __WALL of wait4(2): also threads that are no children of this one

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


def _ptrace(request: int, tid: int, address: int, data: object) -> int:
    result: int = _libc.ptrace(request, tid, address, data)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def seize(tid: int) -> None:
    """Become the tracer of a thread, which does not notice. (PTRACE_SEIZE)

    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_SEIZE, tid, 0, None)


def interrupt(tid: int) -> None:
    """Ask a thread to stop; waitpid() says when it has. (PTRACE_INTERRUPT)

    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_INTERRUPT, tid, 0, None)


def cont(tid: int, signal: int) -> None:
    """Let a stopped thread run, with the signal that it stopped for. (PTRACE_CONT)

    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_CONT, tid, 0, signal)


def detach(tid: int) -> None:
    """Let a stopped thread go. (PTRACE_DETACH)

    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_DETACH, tid, 0, None)


def getregset(tid: int, kind: int, most: int) -> bytes | None:
    """Return a register set of a stopped thread in the form of its note; None: it has none of this kind.

    :param kind: NT_*.
    :param most: bytes to read at most.
    :raises OSError: what else ptrace(2) raises.
    """
    buffer = ctypes.create_string_buffer(most)
    vector = _Iovec(ctypes.addressof(buffer), most)
    try:
        _ptrace(_PTRACE_GETREGSET, tid, kind, ctypes.addressof(vector))
    except OSError as error:
        # The CPU, the kernel or this thread lacks it: regset->active(), or the regset's own word.
        if error.errno in (errno.EINVAL, errno.ENODEV, errno.ENXIO, errno.EIO, errno.EOPNOTSUPP):
            return None
        raise
    return buffer.raw[: vector.iov_len]


def stop_of(status: int) -> tuple[int, int] | None:
    """Split the status of waitpid(): signal and PTRACE_EVENT_* of a stop; None: the thread has ended."""
    return (os.WSTOPSIG(status), status >> 16) if os.WIFSTOPPED(status) else None
