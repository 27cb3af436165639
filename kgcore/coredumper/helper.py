# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program that dumps for another one, which cannot trace itself and is not to be burdened with it.

It is exec'ed, not forked: another thread of that program may hold any lock. It does what one Wish says, tells its
progress, and ends; it gives up as soon as its socket is closed.
"""

import pickle
import select
import socket
import sys
import traceback
from typing import Any

from kgcore.coredump.report import Report
from kgcore.coredumper.making import make
from kgcore.coredumper.wish import Wish
from kgcore.errors import Cancelled, KgcoreError
from kgcore.system import frames

__all__ = ("main", "receive", "send")


def send(connection: socket.socket, value: object) -> None:
    """Send a value to the program at the other end, which is of the same version.

    :raises OSError: it is gone.
    """
    frames.send(connection, pickle.dumps(value))


def receive(connection: socket.socket) -> Any:
    """Return the next value of the program at the other end, which started this one or was started by it.

    :raises EOFError: it is gone.
    :raises OSError: what recv(2) raises.
    """
    return pickle.loads(frames.receive(connection))  # noqa: S301  (of a socket pair that nobody else has)


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        wish: Wish = receive(connection)
        answer: tuple[str, object]
        try:
            answer = "report", _dump(wish, connection)
        except KgcoreError as error:
            answer = "error", error
        except Exception:  # noqa: BLE001  (a defect, to be told by whoever asked)
            answer = "defect", traceback.format_exc()
        send(connection, answer)
    except (EOFError, OSError):
        pass


def _dump(wish: Wish, connection: socket.socket) -> Report:
    def progress(done: int, total: int) -> None:
        if select.select([connection], [], [], 0)[0]:  # there is nothing more to be said but that it is closed
            raise Cancelled("the program that wanted this core has gone, or wants it no more")
        if wish.progress:
            send(connection, ("progress", (done, total)))

    report, _ = make(wish, progress)
    return report
