# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that does what kgcore's never would: it answers with garbage, or dies in the middle."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("=IHHQ")
DONE, ERROR = 17, 18


@dataclass
class Asked:
    """A request, and how to answer it.

    :ivar descriptors: those that came with it; closed when it has been answered.
    """

    connection: socket.socket
    packet: bytes
    descriptors: list[int]

    @property
    def id(self) -> int:
        return int(HEADER.unpack_from(self.packet)[3])

    @property
    def peer(self) -> int:
        """The process that asks."""
        return int(struct.unpack("=iII", self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    @property
    def settings(self) -> list[str]:
        return self.packet[HEADER.size :].decode().split("\0")[:-1]

    def answer(self, kind: int, body: bytes, *, length: int | None = None, version: int = 1, id: int = -1) -> None:  # noqa: A002
        size = HEADER.size + len(body) if length is None else length
        self.connection.send(HEADER.pack(size, version, kind, self.id if id == -1 else id) + body)

    def done(self, status: int = 0, size: int = 0) -> None:
        self.answer(DONE, struct.pack("=iIQ", status, 0, size))

    def error(self, number: int, text: str) -> None:
        self.answer(ERROR, struct.pack("=iI", number, 0) + text.encode())


Answer = Callable[[Asked], None]


@dataclass
class FakeDaemon:
    """Answers each request with :attr:`answer`.

    :ivar asked: the requests so far.
    """

    path: Path
    answer: Answer
    asked: list[Asked] = field(default_factory=list)

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def serve(self, listening: socket.socket) -> None:
        with suppress(OSError):  # it is closed
            while True:
                connection, _ = listening.accept()
                with connection:
                    packet, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 8)
                    asked = Asked(connection, packet, descriptors)
                    if not packet:
                        continue  # it has changed its mind
                    self.asked.append(asked)
                    try:
                        self.answer(asked)
                    finally:
                        for descriptor in descriptors:
                            os.close(descriptor)


@contextmanager
def faked(directory: Path, answer: Answer = Asked.done) -> Iterator[FakeDaemon]:
    """Such a daemon, on a socket in a directory."""
    daemon = FakeDaemon(directory / "socket", answer)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(daemon.path))
        listening.listen(8)
        server = threading.Thread(target=daemon.serve, args=(listening,))
        server.start()
        try:
            yield daemon
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            server.join()
            daemon.path.unlink()
