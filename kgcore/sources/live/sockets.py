# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sockets of a network namespace, by inode: /proc/PID/net."""

import socket
from contextlib import suppress

from kgcore.model.process import Socket
from kgcore.sources.live.procfs import read

__all__ = ("Sockets",)

# File of /proc/PID/net: family and type
_INTERNET = {
    "tcp": ("inet", "stream"),
    "tcp6": ("inet6", "stream"),
    "udp": ("inet", "dgram"),
    "udp6": ("inet6", "dgram"),
    "raw": ("inet", "raw"),
    "raw6": ("inet6", "raw"),
}
_TYPES = {1: "stream", 2: "dgram", 5: "seqpacket"}


class Sockets:
    """What /proc/PID/net says of the sockets in a process's network namespace. Read when the first is asked for.

    :param pid: id of the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._found: dict[int, Socket] | None = None

    def of(self, inode: int) -> Socket | None:
        """Return the socket of an inode; None: /proc does not list it."""
        if self._found is None:
            self._found = {}
            for name, (family, kind) in _INTERNET.items():
                with suppress(OSError, ValueError, IndexError):
                    self._internet(name, family, kind)
            with suppress(OSError, ValueError, IndexError):
                self._unix()
            with suppress(OSError, ValueError, IndexError):
                self._netlink()
        return self._found.get(inode)

    def _internet(self, name: str, family: str, kind: str) -> None:
        assert self._found is not None
        for line in read(f"/proc/{self._pid}/net/{name}").splitlines()[1:]:
            words = line.split()
            self._found[int(words[9])] = Socket(family, kind, _address(words[1]), _address(words[2], peer=True))

    def _unix(self) -> None:
        assert self._found is not None
        for line in read(f"/proc/{self._pid}/net/unix").splitlines()[1:]:
            words = line.split(None, 7)
            kind = int(words[4], 16)
            self._found[int(words[6])] = Socket(
                "unix", _TYPES.get(kind, str(kind)), words[7] if len(words) > 7 else b""
            )

    def _netlink(self) -> None:
        assert self._found is not None
        for line in read(f"/proc/{self._pid}/net/netlink").splitlines()[1:]:
            words = line.split()
            self._found[int(words[9])] = Socket("netlink", "raw")


def _address(text: bytes, peer: bool = False) -> bytes:
    """An address as /proc/net/tcp has it: words of the machine's byte order, and a port."""
    raw, _, port = text.partition(b":")
    words = bytes.fromhex(raw.decode())
    data = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    if peer and not any(data) and int(port, 16) == 0:
        return b""
    if len(data) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, data)}:{int(port, 16)}".encode()
    return f"[{socket.inet_ntop(socket.AF_INET6, data)}]:{int(port, 16)}".encode()
