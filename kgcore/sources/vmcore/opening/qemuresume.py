# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that lets a QEMU guest run again when its parent has finished with it, or has died, however it died.

Its text is started as a script by :mod:`kgcore.sources.vmcore.opening.qemu` with two file descriptors: the read end
of a pipe whose write end only the parent has, and the QMP connection.
"""

import os
import signal
import socket
import sys

_CONTINUE = b'{"execute": "cont", "id": "kgcore-resume"}\n'
_PATIENCE = 30  # seconds


def guard(pipe: int, connection: int) -> None:
    """Wait for the pipe's end, then say ``cont`` and wait for the answer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # those are for the parent
        signal.signal(number, signal.SIG_IGN)
    os.close(1)  # our standard output: tells the parent that we are ready
    while os.read(pipe, 1):
        pass
    with socket.socket(fileno=connection) as qmp:
        qmp.settimeout(_PATIENCE)
        qmp.sendall(_CONTINUE)
        answer = b""
        while b'"kgcore-resume"' not in answer and (data := qmp.recv(1 << 16)):
            answer = answer[-64:] + data


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]))
