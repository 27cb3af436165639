# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that resumes a QEMU guest when its parent is done with it or dies, even by SIGKILL.

:mod:`kgcore.sources.vmcore.opening.qemu` runs the text of this module as a script, with two file descriptors: the read
end of a pipe whose write end only the parent holds, and the QMP connection.
"""

import os
import signal
import socket
import sys

_CONTINUE = b'{"execute": "cont", "id": "kgcore-resume"}\n'
_PATIENCE = 30  # seconds


def guard(pipe: int, connection: int) -> None:
    """Wait until the parent closes the pipe, then send ``cont`` and wait for the answer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are meant for the parent
        signal.signal(number, signal.SIG_IGN)
    os.close(1)  # standard output: closing it tells the parent that this process is ready
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
