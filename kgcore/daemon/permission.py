# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose core a client may have: its own, that of a process that it could trace, and root anybody's."""

import ctypes
import errno
import os
import struct
from contextlib import suppress
from dataclasses import dataclass

from kgcore.daemon.peer import Peer, gone
from kgcore.daemon.refusal import Refusal, number_of
from kgcore.errors import KgcoreError
from kgcore.sources.live.identity import has_ended, verify
from kgcore.sources.live.procfs import read, stat_of, status_of
from kgcore.sources.live.refusals import check
from kgcore.sources.location import Expected
from kgcore.system.children import child, ended

__all__ = ("Allowed", "allowed")

_DEPTH = 1000  # generations of processes
_CAPABILITY_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Allowed:
    """A process that the client may have.

    :ivar tid: of its thread that comes first.
    :ivar expected: who it must be when it stands still.
    :ivar own: it is the client.
    """

    pid: int
    tid: int
    expected: Expected
    own: bool


def allowed(peer: Peer, wanted: int | None, thread: int | None, *, daemon: int, foreign: bool) -> Allowed:
    """Return the process that a client asks for.

    :param wanted: its id, as the client numbers it; None: the client.
    :param thread: id of the thread that comes first, in the same way; None: the leader.
    :param daemon: id of the daemon.
    :param foreign: who may connect may have any process.
    :raises Refusal: it may not have it, or there is no such process.
    """
    if peer.pidfd is None or peer.pid == 0:
        raise gone(peer)
    together = peer.shares("pid")
    privileged = peer.privileged
    if wanted is None or wanted == (peer.pid if together else _innermost(peer.pid)):
        pid, expected = peer.pid, Expected(peer.pidfd, None if privileged else (peer.uid, peer.gid))
        own = True
    elif not together:
        raise Refusal(errno.EPERM, "you are in another pid namespace than the daemon: you may only ask for yourself")
    else:
        pid, pidfd = _found(wanted)
        _refuse_ours(pid, daemon)
        free = privileged or foreign
        if not free:
            _ask_the_kernel(peer, pid)
        expected, own = Expected(pidfd, None if free else (peer.uid, peer.gid)), False
    found = Allowed(pid, _thread(pid, thread, together=together), expected, own)
    if has_ended(peer.pidfd):  # what was read by its id may be another one's
        raise gone(peer)
    try:
        verify(pid, pid, expected)  # once more when it stands still; but who may not have it shall not stop it
    except (KgcoreError, OSError) as error:
        raise Refusal(number_of(error), str(error)) from None
    return found


def _found(wanted: int) -> tuple[int, int]:
    """The process of a thread, and its pidfd."""
    try:
        pid = check(wanted, str(wanted))
        return pid, os.pidfd_open(pid)
    except KgcoreError as error:
        raise Refusal(number_of(error), str(error)) from None
    except OSError as error:
        raise Refusal(errno.ESRCH, f"no process has the id {wanted}: {error.strerror}") from None


def _innermost(pid: int) -> int:
    """The id by which a process knows itself."""
    with suppress(OSError, LookupError, ValueError):
        return int(status_of(read(f"/proc/{pid}/status"))["NSpid"][-1])
    return 0


def _refuse_ours(pid: int, daemon: int) -> None:
    """Refuse the daemon, and all that it started."""
    ancestor = pid
    with suppress(OSError, ValueError):
        for _ in range(_DEPTH):
            if ancestor == daemon:
                raise Refusal(errno.EPERM, f"process {pid} belongs to the daemon itself")
            if ancestor <= 1:
                return
            ancestor = stat_of(read(f"/proc/{ancestor}/stat")).ppid


def _thread(pid: int, thread: int | None, *, together: bool) -> int:
    if thread is None:
        return pid
    if together:
        if os.path.exists(f"/proc/{pid}/task/{thread}"):
            return thread
    else:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/task"):
                if _innermost(int(name)) == thread:
                    return int(name)
    raise Refusal(errno.EINVAL, f"process {pid} has no thread {thread}")


def _ask_the_kernel(peer: Peer, pid: int) -> None:
    """Let the kernel decide, as it would if the client traced the process.

    :raises Refusal: it may not.
    """
    if not peer.shares("user"):
        raise Refusal(errno.EPERM, "you are in another user namespace than the daemon: you may only ask for yourself")
    number = ended(child(lambda: _as_client(peer, pid)), wait=True)
    if number == errno.ESRCH or number == errno.ENOENT:
        raise Refusal(errno.ESRCH, f"process {pid} has ended")
    if number:
        raise Refusal(
            errno.EPERM,
            f"you may not trace process {pid}: it is another user's, not dumpable, or the machine's rules (Yama) "
            "allow it to its parents alone",
        )


def _as_client(peer: Peer, pid: int) -> int:
    """In a child of our own: become the client, open the process's memory for a moment, and return the errno."""
    try:
        if os.geteuid() == 0:
            os.setgroups(peer.groups)
            os.setresgid(peer.gid, peer.gid, peer.gid)
            os.setresuid(peer.uid, peer.uid, peer.uid)
            _drop_capabilities()
        elif os.geteuid() != peer.uid:
            return errno.EPERM
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


def _drop_capabilities() -> None:
    """Have no capability any more, which who becomes another user keeps in some cases (securebits, root).

    :raises OSError: what capset(2) raises.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, bytes(24)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
