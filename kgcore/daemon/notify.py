# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd gives a service, and wants to hear of it: sd_listen_fds(3), sd_notify(3)."""

import os
import socket
from contextlib import suppress

from kgcore.errors import KgcoreError

__all__ = ("inherited", "tell")

_FIRST = 3  # SD_LISTEN_FDS_START


def inherited() -> list[socket.socket]:
    """Return the listening sockets that systemd passed on; none if it did not.

    :raises KgcoreError: they are no listening sockets of the right kind.
    """
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    found = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            listener = socket.socket(fileno=descriptor)
            kind = (listener.family, listener.type, listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError as error:
            raise KgcoreError(f"descriptor {descriptor} of LISTEN_FDS is no socket: {error.strerror}") from error
        if kind != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 1):
            raise KgcoreError(
                f"descriptor {descriptor} of LISTEN_FDS is not a listening UNIX socket of SOCK_SEQPACKET",
                hint="ListenSequentialPacket= in the .socket unit, systemd-socket-activate --seqpacket",
            )
        found.append(listener)
    return found


def tell(state: str) -> None:
    """Tell the service manager, if there is one that listens (``READY=1``)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
