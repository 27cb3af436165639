# SPDX-License-Identifier: LGPL-2.1-or-later
"""Send and receive bytes over a stream socket, as many at a time as were sent.

It imports only the standard library, little of it: the guardian does.
"""

import socket
import struct

__all__ = ("receive", "send")

_LENGTH = struct.Struct("<Q")
_AT_ONCE = 1 << 20


def send(connection: socket.socket, data: bytes) -> None:
    """Send bytes.

    :raises OSError: the other side is gone.
    """
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes:
    """Return what the other side sent with one call.

    :raises EOFError: the other side is gone.
    :raises OSError: what recv(2) raises.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), _AT_ONCE))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
