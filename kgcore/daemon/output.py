# SPDX-License-Identifier: LGPL-2.1-or-later
"""Receive a request and the descriptor that comes with it, and check whether that will take a core."""

import array
import errno
import fcntl
import os
import select
import socket
import stat
from dataclasses import dataclass

from kgcore.daemon.protocol import MAX_REQUEST
from kgcore.daemon.refusal import Refusal

__all__ = ("Output", "checked", "received")

_MOST = 2  # descriptors; one too many is seen, and the kernel keeps the rest
_O_PATH = 0o10000000  # include/uapi/asm-generic/fcntl.h
_NULL = os.makedev(1, 3)
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_FUTURE_WRITE if hasattr(fcntl, "F_SEAL_FUTURE_WRITE") else 0x18
_MODES = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True)
class Output:
    """Where a client wants its core.

    :ivar descriptor: of a new, empty file, a pipe or /dev/null.
    :ivar is_pipe: nobody may read it who stands still.
    """

    descriptor: int
    is_pipe: bool


def received(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """Return the next packet, which is there, its descriptors, and whether there were more.

    A packet that is too long has more than MAX_REQUEST bytes here, but not all.

    :raises OSError: what recvmsg(2) raises.
    """
    numbers = array.array("i")
    data, ancillary, flags, _ = connection.recvmsg(
        MAX_REQUEST + 1, socket.CMSG_SPACE(_MOST * numbers.itemsize), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
    return data, list(numbers), bool(flags & socket.MSG_CTRUNC)


def checked(descriptors: list[int], *, too_many: bool) -> Output:
    """Return the output among the descriptors of a request.

    :raises Refusal: there is not exactly one, or it takes no core.
    """
    if too_many or len(descriptors) > 1:
        raise Refusal(errno.EINVAL, "more than one descriptor: expected that of the output alone")
    if not descriptors:
        raise Refusal(errno.EINVAL, "no descriptor: expected that of the output")
    descriptor = descriptors[0]
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & _O_PATH:
        raise Refusal(errno.EBADF, "the output is only a place (O_PATH): open it for writing")
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise Refusal(errno.EISDIR, "the output is a directory: expected a new file or a pipe")
    if flags & os.O_ACCMODE not in (os.O_WRONLY, os.O_RDWR):
        raise Refusal(errno.EBADF, "the output is not open for writing")
    if stat.S_ISFIFO(status.st_mode):
        _check_pipe(descriptor, flags)
    elif stat.S_ISREG(status.st_mode):
        _check_file(descriptor, flags, status)
    elif not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
        raise Refusal(errno.EINVAL, "the output is a socket or a device: expected a new file or a pipe")
    return Output(descriptor, stat.S_ISFIFO(status.st_mode))


def _check_pipe(descriptor: int, flags: int) -> None:
    if flags & os.O_NONBLOCK:
        raise Refusal(errno.EINVAL, "the output is a pipe with O_NONBLOCK: expected one that waits for its reader")
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise Refusal(errno.EPIPE, "the output is a pipe that nobody reads")


def _check_file(descriptor: int, flags: int, status: os.stat_result) -> None:
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & (_SEALED | fcntl.F_SEAL_GROW)
    except OSError:  # no memfd
        sealed = 0
    if sealed:
        raise Refusal(errno.EPERM, "the output is a memfd that is sealed against writing or growing")
    if status.st_size:
        raise Refusal(errno.EEXIST, "the output is a file with content: expected a new, empty one")
    if status.st_mode & _MODES:
        raise Refusal(errno.EPERM, "the output is a set-uid or set-gid file")
    if os.lseek(descriptor, 0, os.SEEK_CUR):
        raise Refusal(errno.EINVAL, "the output is a file that is not at its beginning")
    if flags & os.O_DIRECT:
        raise Refusal(errno.EINVAL, "the output is a file with O_DIRECT")
