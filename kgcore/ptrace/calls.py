# SPDX-License-Identifier: LGPL-2.1-or-later
"""Call ptrace(2) by ctypes. Each call is of the thread that seized: the kernel refuses it to any other.

Numbers: include/uapi/linux/ptrace.h, the same on all architectures.
"""

import ctypes
import errno
import os
import signal
import struct

__all__ = (
    "PTRACE_EVENT_CLONE",
    "PTRACE_EVENT_STOP",
    "PTRACE_O_EXITKILL",
    "PTRACE_O_TRACECLONE",
    "PTRACE_O_TRACESYSGOOD",
    "SYSCALL_STOP",
    "WALL",
    "cont",
    "detach",
    "geteventmsg",
    "getfpregs",
    "getregs",
    "getregset",
    "getsigmask",
    "interrupt",
    "peeksiginfo",
    "rseq",
    "seize",
    "setoptions",
    "setregset",
    "setsigmask",
    "stop_of",
    "syscall",
)

_PTRACE_CONT = 7
_PTRACE_GETREGS = 12
_PTRACE_GETFPREGS = 14
_PTRACE_DETACH = 17
_PTRACE_SYSCALL = 24
_PTRACE_SETOPTIONS = 0x4200
_PTRACE_GETEVENTMSG = 0x4201
_PTRACE_GETREGSET = 0x4204
_PTRACE_SETREGSET = 0x4205
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_PEEKSIGINFO = 0x4209
_PEEKSIGINFO_SHARED = 1
_SIGINFO = 128  # bytes of a siginfo_t
_AT_ONCE = 32  # signals
_PTRACE_GETSIGMASK = 0x420A
_PTRACE_SETSIGMASK = 0x420B
_PTRACE_GET_RSEQ_CONFIGURATION = 0x420F  # 90f093fa8ea4 "rseq, ptrace: Add PTRACE_GET_RSEQ_CONFIGURATION request" (5.13)
PTRACE_EVENT_CLONE = 3
PTRACE_EVENT_STOP = 128
PTRACE_O_TRACESYSGOOD = 1
PTRACE_O_TRACECLONE = 1 << PTRACE_EVENT_CLONE
PTRACE_O_EXITKILL = 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
"""The signal of a stop at the entry or the exit of a system call, with PTRACE_O_TRACESYSGOOD."""
# struct user_regs_struct and struct user_i387_struct (arch/x86/include/asm/user_64.h, user_32.h)
_OWN_SIZES = {_PTRACE_GETREGS: 27 * 8, _PTRACE_GETFPREGS: 512}
if struct.calcsize("P") == 4:
    _OWN_SIZES = {_PTRACE_GETREGS: 17 * 4, _PTRACE_GETFPREGS: 108}
_RSEQ = struct.Struct("=QIII4x")  # struct ptrace_rseq_configuration
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


def seize(tid: int, options: int = 0) -> None:
    """Become the tracer of a thread, which does not notice. (PTRACE_SEIZE)

    :param options: sum of PTRACE_O_*.
    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_SEIZE, tid, 0, options)


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


def getregs(tid: int) -> bytes:
    """Return the general registers of a stopped thread as this program's own view has them. (PTRACE_GETREGS)

    :return: ``struct user_regs_struct``, also if the thread runs code of another width: arch_ptrace() of
        arch/x86/kernel/ptrace.c asks the view of whoever traces, PTRACE_GETREGSET that of the thread's code.
    :raises OSError: what ptrace(2) raises.
    """
    return _own_view(_PTRACE_GETREGS, tid)


def getfpregs(tid: int) -> bytes:
    """Return the floating-point registers of a stopped thread as this program's own view has them. (PTRACE_GETFPREGS)

    :return: ``struct user_i387_struct``; see :func:`getregs`.
    :raises OSError: what ptrace(2) raises.
    """
    return _own_view(_PTRACE_GETFPREGS, tid)


def _own_view(request: int, tid: int) -> bytes:
    size = _OWN_SIZES[request]
    buffer = ctypes.create_string_buffer(size)
    _ptrace(request, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def setregset(tid: int, kind: int, data: bytes) -> None:
    """Give a stopped thread a register set. (PTRACE_SETREGSET)

    :param kind: NT_*.
    :raises OSError: what ptrace(2) raises.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Iovec(ctypes.addressof(buffer), len(data))
    _ptrace(_PTRACE_SETREGSET, tid, kind, ctypes.addressof(vector))


def syscall(tid: int) -> None:
    """Let a stopped thread run to the entry or the exit of its next system call. (PTRACE_SYSCALL)

    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_SYSCALL, tid, 0, 0)


def setoptions(tid: int, options: int) -> None:
    """Set the options of a stopped thread. (PTRACE_SETOPTIONS)

    :param options: sum of PTRACE_O_*.
    :raises OSError: what ptrace(2) raises.
    """
    _ptrace(_PTRACE_SETOPTIONS, tid, 0, options)


def geteventmsg(tid: int) -> int:
    """Return what a stop for an event tells: the id of a new process. (PTRACE_GETEVENTMSG)

    :raises OSError: what ptrace(2) raises.
    """
    message = ctypes.c_ulong()
    _ptrace(_PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def getsigmask(tid: int) -> int:
    """Return the signals that a stopped thread blocks, or will when its system call ends. (PTRACE_GETSIGMASK)

    :raises OSError: what ptrace(2) raises.
    """
    mask = ctypes.c_uint64()
    _ptrace(_PTRACE_GETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))
    return mask.value


def setsigmask(tid: int, mask: int) -> None:
    """Set the signals that a stopped thread blocks. (PTRACE_SETSIGMASK)

    :param mask: bit n - 1 is signal n.
    :raises OSError: what ptrace(2) raises.
    """
    value = ctypes.c_uint64(mask)
    _ptrace(_PTRACE_SETSIGMASK, tid, ctypes.sizeof(value), ctypes.addressof(value))


def rseq(tid: int) -> tuple[int, int, int]:
    """Return address, size and signature of a stopped thread's ``struct rseq``. (PTRACE_GET_RSEQ_CONFIGURATION)

    :return: address 0: it has none.
    :raises OSError: what ptrace(2) raises; EIO: the kernel does not tell (before 5.13).
    """
    buffer = ctypes.create_string_buffer(_RSEQ.size)
    _ptrace(_PTRACE_GET_RSEQ_CONFIGURATION, tid, _RSEQ.size, ctypes.addressof(buffer))
    address, size, signature, _ = _RSEQ.unpack(buffer.raw)
    return address, size, signature


def peeksiginfo(tid: int, offset: int, *, shared: bool) -> list[bytes]:
    """Return some ``siginfo_t`` of signals that wait for a stopped thread, or for its process; [] behind the last.

    :param offset: how many to pass over.
    :raises OSError: what ptrace(2) raises.
    """
    wanted = struct.pack("=QIi", offset, _PEEKSIGINFO_SHARED if shared else 0, _AT_ONCE)
    arguments = ctypes.create_string_buffer(wanted, len(wanted))
    buffer = ctypes.create_string_buffer(_AT_ONCE * _SIGINFO)
    count = _ptrace(_PTRACE_PEEKSIGINFO, tid, ctypes.addressof(arguments), ctypes.addressof(buffer))
    return [buffer.raw[at : at + _SIGINFO] for at in range(0, count * _SIGINFO, _SIGINFO)]


def stop_of(status: int) -> tuple[int, int] | None:
    """Split the status of waitpid(): signal and PTRACE_EVENT_* of a stop; None: the thread has ended."""
    return (os.WSTOPSIG(status), status >> 16) if os.WIFSTOPPED(status) else None
