# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets: their kind, and their local and peer addresses."""

import socket
from ipaddress import IPv4Address, IPv6Address

from drgn import offsetof

from kgcore.model.process import Socket
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("Sockets",)

_COMMON = "skc_family", "skc_rcv_saddr", "skc_daddr", "skc_num", "skc_dport", "skc_v6_rcv_saddr", "skc_v6_daddr"
_INTERNET = socket.AF_INET, socket.AF_INET6
_PORTS = socket.SOCK_STREAM, socket.SOCK_DGRAM
_SUN_PATH = 2  # offset in struct sockaddr_un
_UNIX_MAX = 110  # its size


class Sockets:
    """Reads ``struct socket``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def read(self, address: int) -> Socket:
        """Read a socket.

        :param address: of the ``struct socket``
        :raises FaultError: it is not in the dump.
        """
        found = self._kernel.structs("struct socket", "type", "sk").read(address)
        common = self._kernel.structs("struct sock_common", *_COMMON).read(found["sk"])
        family, kind = common["skc_family"], found["type"]
        local = remote = b""
        if family in _INTERNET and kind in _PORTS:  # others have a protocol where these have a port
            local, remote = self._internet(common, family)
        elif family == socket.AF_UNIX:
            local = self._unix(found["sk"])
        return Socket(_name(socket.AddressFamily, family), _name(socket.SocketKind, kind), local, remote)

    def _internet(self, common: Members, family: int) -> tuple[bytes, bytes]:
        """Return the local and peer addresses, as getsockname() and getpeername() do."""
        port, peer = common["skc_num"], int.from_bytes(common["skc_dport"].to_bytes(2, "little"), "big")
        form = "%s:%d"
        own: IPv4Address | IPv6Address
        other: IPv4Address | IPv6Address
        if family == socket.AF_INET6:
            form = "[%s]:%d"
            own, other = IPv6Address(common["skc_v6_rcv_saddr"]), IPv6Address(common["skc_v6_daddr"])
        else:
            own, other = (IPv4Address(common[name].to_bytes(4, "little")) for name in ("skc_rcv_saddr", "skc_daddr"))
        return (form % (own, port)).encode() if port else b"", (form % (other, peer)).encode() if peer else b""

    def _unix(self, sk: int) -> bytes:
        """Return the name that a Unix socket is bound to."""
        structs = self._kernel.structs
        address = structs("struct unix_sock", "addr").read(sk)["addr"]
        if not address:
            return b""
        size = structs("struct unix_address", "len").read(address)["len"]
        start = address + int(offsetof(self._kernel.prog.type("struct unix_address"), "name"))
        if not _SUN_PATH < size <= _UNIX_MAX:
            return b""
        path = kernel_bytes(self._kernel.prog, start + _SUN_PATH, size - _SUN_PATH)
        # An abstract name begins with a NUL; any further NULs are part of it.
        return b"@" + path[1:] if path.startswith(b"\0") else path.split(b"\0")[0]


def _name(names: type[socket.AddressFamily] | type[socket.SocketKind], value: int) -> str:
    try:
        return names(value).name.partition("_")[2].lower()
    except ValueError:
        return str(value)
