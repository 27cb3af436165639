# SPDX-License-Identifier: LGPL-2.1-or-later
"""Send a core through a program that compresses it."""

import os
import subprocess
import threading
from contextlib import suppress
from typing import NamedTuple, Self

from kgcore.errors import OutputError
from kgcore.sinks.base import BaseSink, Sink

__all__ = ("Program", "ProgramSink")

_CHUNK = 1 << 20


class Program(NamedTuple):
    """A program that compresses its standard input to its standard output.

    :ivar name: of the program, or its path.
    :ivar arguments: behind the name.
    :ivar suffix: of the files that it makes: ``.xz``.
    """

    name: str
    arguments: tuple[str, ...]
    suffix: str


class ProgramSink(BaseSink):
    """Sends a core through a program, and what that writes to another sink, whose ``with`` block this one enters and
    leaves.

    :param inner: the sink for what the program writes.
    :param program: what to run.
    """

    def __init__(self, inner: Sink, program: Program) -> None:
        super().__init__()
        self.path = inner.path
        self._inner = inner
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._inner.__enter__()
        try:
            self._start()
        except BaseException:
            self._inner.abort()
            raise
        return self

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [self._program.name, *self._program.arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as error:
            raise OutputError(f"cannot run {self._program.name}: {error.strerror}") from error
        self._pump = threading.Thread(target=self._pass_on, args=(self._process,), daemon=True)
        self._pump.start()

    def _pass_on(self, process: "subprocess.Popen[bytes]") -> None:
        """Write to the inner sink what the program writes, while it gets its input."""
        assert process.stdout is not None
        try:
            while data := os.read(process.stdout.fileno(), _CHUNK):
                self._inner.write(data)
        except BaseException as error:  # noqa: BLE001  (told by whoever writes)
            self._failed = error
            process.kill()

    def write(self, data: bytes | memoryview) -> None:
        """See :meth:`Sink.write`."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(data)
        except (OSError, ValueError) as error:
            self._end()
            raise self._failure() from error
        self.used += len(data)  # how much of it the program still has is unknown: it is never less

    def restart(self) -> bool:
        """See :meth:`Sink.restart`."""
        self._stop()
        if not self._inner.restart():
            return False
        self.used = 0
        self._failed = None
        self._start()
        return True

    def commit(self) -> None:
        """See :meth:`Sink.commit`."""
        status = self._end()
        if status or self._failed is not None:
            raise self._failure()
        self._inner.commit()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._stop()
        self._inner.abort()

    def _failure(self) -> BaseException:
        if self._failed is not None:
            return self._failed
        status = self._process.returncode if self._process is not None else 0
        how = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
        return OutputError(f"{self._program.name} did not compress the core: {how}")

    def _end(self) -> int:
        """Give the program the end of its input, wait for the last of its output, and return its status."""
        if self._process is None or self._pump is None:
            return 0
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._pump.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait()

    def _stop(self) -> None:
        """End the program, no matter what it has got."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
            self._end()
        self._process = self._pump = None
