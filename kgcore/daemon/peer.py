# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who asks: the process that connected, as the kernel says."""

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from kgcore.daemon.refusal import Refusal
from kgcore.sources.live.identity import has_ended
from kgcore.sources.live.procfs import read, status_of
from kgcore.text import printable

__all__ = ("Peer", "connected_before", "gone", "ids_of", "peer_of")

_SO_PEERGROUPS, _SO_PEERPIDFD = 59, 77  # include/uapi/asm-generic/socket.h; the second since 6.5
_UCRED = struct.Struct("=iII")
_MOST_GROUPS = 1024  # bytes; what getsockopt() of Python takes
_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Peer:
    """A client.

    :ivar pid: of the process that connected; 0: it is in a pid namespace that we do not see.
    :ivar uid: its effective user then, ``gid`` its group, ``groups`` its further groups.
    :ivar pidfd: refers to it; None: it is not there any more, or not seen.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    pidfd: int | None

    def shares(self, kind: str) -> bool:
        """Say whether it is in our own namespace of a kind (``pid``, ``user``)."""
        with suppress(OSError):
            return os.readlink(f"/proc/{self.pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
        return False

    @property
    def privileged(self) -> bool:
        """Whether it is root and may trace any process that we see."""
        if self.uid != 0 or self.pidfd is None or not (self.shares("user") and self.shares("pid")):
            return False
        try:
            capabilities = int(status_of(read(f"/proc/{self.pid}/status"))["CapEff"][0], 16)
        except (OSError, LookupError, ValueError):
            return False
        return bool(capabilities >> _CAP_SYS_PTRACE & 1) and not has_ended(self.pidfd)

    def words(self) -> str:
        """Return who it is, for a log."""
        comm = b"?"
        with suppress(OSError):
            comm = read(f"/proc/{self.pid}/comm").removesuffix(b"\n")
        return f"pid {self.pid} ({printable(comm)}), uid {self.uid}"


def ids_of(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, user and group of a client, as of its connect(2)."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def peer_of(connection: socket.socket, since: float) -> Peer:
    """Return who connected.

    :param since: when the connection was accepted, by CLOCK_BOOTTIME: on kernels before 6.5 a process that began later
        is not the client.
    """
    pid, uid, gid = ids_of(connection)
    groups = b""
    with suppress(OSError):  # too many: nothing depends on them but who sees /proc
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    return Peer(pid, uid, gid, struct.unpack(f"={len(groups) // 4}I", groups), _pidfd(connection, pid, since))


def _pidfd(connection: socket.socket, pid: int, since: float) -> int | None:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT or not pid:
            return None
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        if connected_before(pid, since):
            return pidfd
        os.close(pidfd)
    return None


def connected_before(pid: int, since: float) -> bool:
    """Say whether a process began before a moment, by CLOCK_BOOTTIME."""
    fields = read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    return int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK") <= since  # starttime


def gone(peer: Peer) -> Refusal:
    """Return the answer to a client that we cannot see."""
    if peer.pid == 0:  # it has a pidfd all the same
        return Refusal(errno.ESRCH, "you are in a pid namespace that the daemon does not see")
    return Refusal(errno.ESRCH, f"process {peer.pid}, which connected, has ended")
