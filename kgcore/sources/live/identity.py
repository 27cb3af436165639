# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a process that stands still is the one that was meant, and still belongs to its user alone."""

import errno
import os
import select
import struct

from kgcore.errors import NoSuchTask, TargetError
from kgcore.sources.live.procfs import read, status_of
from kgcore.sources.location import Expected

__all__ = ("has_ended", "verify")

_AT_NULL, _AT_SECURE = 0, 23  # include/uapi/linux/auxvec.h
_IDS = ("Uid", "Gid")  # in status: real, effective, saved, file system
_OWN_MEMORY = "mem"  # belongs to root if the process is not dumpable: task_dump_owner(), fs/proc/base.c


def has_ended(pidfd: int) -> bool:
    """Say whether the process of a pidfd has ended. While it has not, its id is no other process's."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def verify(pid: int, view: int, expected: Expected) -> None:
    """Check who a process is, once it stands still.

    :param pid: its id.
    :param view: id of one of its threads that has not exited.
    :raises NoSuchTask: it is not the one that was meant: that has ended.
    :raises TargetError: it belongs to another user by now, or has more rights than its user.
    :raises OSError: it has ended.
    """
    if has_ended(expected.pidfd):
        raise NoSuchTask(f"process {pid} has ended, and its id may be another one's", pid=pid)
    if expected.ids is None:
        return
    status = status_of(read(f"/proc/{view}/status"))
    for name, wanted in zip(_IDS, expected.ids, strict=True):
        if {int(word) for word in status[name]} != {wanted}:
            raise _foreign(pid, "it belongs to another user, or is about to")
    if _secure(read(f"/proc/{view}/auxv")):
        raise _foreign(pid, "it executed a program that gives it more rights (set-uid, set-gid, capabilities)")
    if os.stat(f"/proc/{view}/{_OWN_MEMORY}").st_uid != expected.ids[0]:
        raise _foreign(pid, "it is not dumpable (PR_SET_DUMPABLE), or may not read its own program")


def _foreign(pid: int, why: str) -> TargetError:
    error = TargetError(f"process {pid}: no permission to read it: {why}", pid=pid)
    error.__cause__ = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return error


def _secure(auxv: bytes) -> bool:
    """Say whether the kernel told the program at its start that it has more rights than its user (AT_SECURE).

    The words of ``auxv`` are of the program's own width, which its first one tells: no type has a number that large.
    """
    wide = auxv[4:8] == bytes(4)
    for kind, value in struct.iter_unpack("=QQ" if wide else "=II", auxv[: len(auxv) // 16 * 16]):
        if kind == _AT_NULL:
            break
        if kind == _AT_SECURE:
            return bool(value)
    return True  # no program is without it
