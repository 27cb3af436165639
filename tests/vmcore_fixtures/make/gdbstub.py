# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest stopped at the first instruction of a function, by QEMU's gdb server: what is half done there is so for sure.

QEMU compares addresses as it translates code (emulation only): not a byte of the guest's memory is changed.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from types import TracebackType

from .common import BuildError

TIMEOUT = 120
INTERRUPT = b"\x03"


class GdbStub:
    """A connection to a guest that is stopped; it runs on after its end.

    https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html

    :param path: the socket of ``-gdb unix:...``.
    """

    def __init__(self, path: Path | str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(str(path))
        self._buffer = b""
        self._ask("?")

    def __enter__(self) -> GdbStub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask("D")
        finally:
            self._socket.close()

    def run_to(self, address: int, skip: int = 0, cpu: int | None = None) -> None:
        """Let the guest run until a CPU comes to an address, and then so many times more.

        :param cpu: the only one that counts.
        """
        end = time.monotonic() + TIMEOUT
        stopped, met = "", -1
        while met < skip:
            if time.monotonic() > end:
                raise BuildError(f"CPU {cpu} of the guest does not come to where it shall be stopped")
            if stopped:  # on from where it stands, else that would count again
                self._ask("s")
            self._ask(f"Z0,{address:x},1")
            try:
                self._socket.settimeout(max(0.1, end - time.monotonic()))
                stopped = self._ask("c")
            finally:
                self._socket.settimeout(TIMEOUT)
                self._ask(f"z0,{address:x},1")
            thread = re.search(r"thread:p?(?:\w+\.)?(\w+);", stopped)
            if cpu is None or (thread and int(thread[1], 16) == cpu + 1):
                met += 1

    def _ask(self, command: str) -> str:
        packet = command.encode()
        self._socket.sendall(b"$%s#%02x" % (packet, sum(packet) & 0xFF))
        try:
            answer = self._packet()
        except TimeoutError as error:
            self._socket.sendall(INTERRUPT)
            self._socket.settimeout(TIMEOUT)
            self._packet()
            raise BuildError(f"the guest does not come to where it shall be stopped ({command})") from error
        # How it stopped, or that all is well.
        if not answer.startswith("T" if command[0] in "?cs" else "OK"):
            raise BuildError(f"QEMU's gdb server answers {answer!r} to {command!r}")
        return answer

    def _packet(self) -> str:
        while not (found := re.search(rb"\$([^#]*)#..", self._buffer)):
            data = self._socket.recv(65536)
            if not data:
                raise BuildError("QEMU closed its gdb server")
            self._buffer += data
        self._buffer = self._buffer[found.end() :]
        self._socket.sendall(b"+")
        return found[1].decode()
