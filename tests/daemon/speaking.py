# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's protocol spoken by hand, as docs/daemon.md has it: nothing here is kgcore's own.

Tests import it, and programs of other users, who may not read these files, have it as text.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import Any

HEADER = struct.Struct("=IHHQ")  # length, version, type, id
DUMP, CANCEL, PROGRESS, DONE, ERROR, STARTED = 1, 2, 16, 17, 18, 19
ID = 0x1122334455667788
PATIENCE = 60


def connected(path: str) -> socket.socket:
    """A connection to the daemon."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)  # waits while too many others connect
    except OSError:
        connection.close()
        raise
    connection.settimeout(PATIENCE)
    return connection


def packet(*words: str, kind: int = DUMP, version: int = 1, length: int | None = None) -> bytes:
    """A message."""
    body = b"".join(word.encode() + b"\0" for word in words)
    return HEADER.pack(HEADER.size + len(body) if length is None else length, version, kind, ID) + body


def send(connection: socket.socket, data: bytes, *descriptors: int) -> None:
    """Send a message with descriptors."""
    if descriptors:
        socket.send_fds(connection, [data], list(descriptors))
    else:
        connection.send(data)


def answers(connection: socket.socket) -> Iterable[tuple[int, int, bytes]]:
    """All messages of the daemon: type, id, body. If it ends without the last one, the last is (0, 0, b"")."""
    while True:
        data = connection.recv(1 << 17)
        if not data:
            yield 0, 0, b""
            return
        length, version, kind, number = HEADER.unpack_from(data)
        assert (length, version) == (len(data), 1), data
        yield kind, number, data[HEADER.size :]
        if kind in (DONE, ERROR):
            return


def answer(connection: socket.socket, *, said_id: bool = True) -> dict[str, Any]:
    """The last message of the daemon, and which came before it.

    :param said_id: the request had an id that could be read.
    """
    before: list[int] = []
    for kind, number, body in answers(connection):
        assert number == (ID if said_id and kind else 0), (kind, number)
        if kind == DONE:
            status, truncated, size = struct.unpack_from("=iIQ", body)
            return {
                "errno": "",
                "status": status,
                "size": size,
                "truncated": truncated,
                "report": body[16:].decode(),
                "before": before,
            }
        if kind == ERROR:
            code, zero = struct.unpack_from("=iI", body)
            assert zero == 0
            return {"errno": errno.errorcode[code], "text": body[8:].decode(), "before": before}
        before.append(kind)
    return {"errno": "closed", "before": before[:-1]}


def new_file(name: str) -> int:
    """A new file."""
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def asked(path: str, data: bytes, *descriptors: int) -> dict[str, Any]:
    """What the daemon says to a request."""
    with connected(path) as connection:
        send(connection, data, *descriptors)
        return answer(connection)
