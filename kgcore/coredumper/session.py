# SPDX-License-Identifier: LGPL-2.1-or-later
"""Have the helper program dump, and hear from it."""

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kgcore.coredump.report import Report
from kgcore.coredump.writer import Progress
from kgcore.coredumper import helper
from kgcore.coredumper.wish import Wish
from kgcore.errors import Cancelled, KgcoreError
from kgcore.system import companion

__all__ = ("Session",)

_START = "from kgcore.coredumper.helper import main; main()"
_LOOK = 0.1  # seconds between two looks whether the dump is still wanted
_PATIENCE = 10  # seconds for the helper to end by itself


class Session:
    """A helper program at work.

    :param wish: what it does.
    :param allow: called with its id before it begins: it may need a permission.
    """

    def __init__(self, wish: Wish, allow: Callable[[int], None] = lambda pid: None) -> None:
        passed = () if wish.descriptor is None else (wish.descriptor,)
        self._helper, connection = companion.start(
            _START, passed=passed, environment=os.environ, stdout=subprocess.DEVNULL
        )
        self._connection: socket.socket | None = connection
        try:
            allow(self._helper.pid)
            helper.send(connection, wish)
        except BaseException:
            self.cancel()
            raise

    def wait(self, progress: Progress | None = None, cancel: Callable[[], bool] | None = None) -> Report:
        """Wait for the end, and return what the core holds.

        :param progress: called now and then with the bytes of memory written so far, and in all.
        :param cancel: asked now and then whether to give up.
        :raises KgcoreError: it failed; Cancelled: it was given up.
        """
        connection = self._connection
        if connection is None:
            raise Cancelled("the dump was given up")
        try:
            while True:
                kind, value = self._next(connection, cancel)
                if kind == "progress":
                    if progress is not None:
                        progress(*value)
                elif kind == "report" and isinstance(value, Report):
                    return value
                elif kind == "error" and isinstance(value, KgcoreError):
                    raise value
                else:
                    raise KgcoreError(f"the program that dumps failed: {value} (please report it)")
        except (EOFError, OSError):
            raise KgcoreError("the program that dumps has ended", hint="was it killed?") from None
        finally:
            self.cancel()

    def _next(self, connection: socket.socket, cancel: Callable[[], bool] | None) -> tuple[str, Any]:
        if cancel is not None:
            while True:
                if cancel():
                    raise Cancelled("the dump was given up")
                connection.settimeout(_LOOK)
                try:
                    if not connection.recv(1, socket.MSG_PEEK):
                        raise EOFError
                    break
                except TimeoutError:
                    continue
                finally:
                    connection.settimeout(None)
        kind, value = helper.receive(connection)
        return kind, value

    def cancel(self) -> None:
        """Give up, if it has not ended. The process that is being dumped goes on at once."""
        if self._connection is None:
            return
        self._connection.close()
        self._connection = None
        with suppress(subprocess.TimeoutExpired):
            self._helper.wait(_PATIENCE)
            return
        self._helper.kill()
        self._helper.wait()
