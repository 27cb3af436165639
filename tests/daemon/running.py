# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon for tests, and clients that speak its protocol by hand, by docs/daemon.md and not by kgcore's own code."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct("=IHHQ")
DUMP, CANCEL, PROGRESS, DONE, ERROR, STARTED = 1, 2, 16, 17, 18, 19
ID = 0x1122334455667788
_PATIENCE = 60


@dataclass
class Daemon:
    """A daemon that listens.

    :ivar log: its standard error.
    """

    process: "subprocess.Popen[bytes]"
    path: Path
    log: Path

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)


@contextmanager
def everybodys_directory() -> Iterator[Path]:
    """A directory that all users may use; pytest's own are private."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


@contextmanager
def daemon(*options: str, prefix: Sequence[str] = ()) -> Iterator[Daemon]:
    """A daemon, which listens already, in a directory that all users may use."""
    with everybodys_directory() as directory:
        path, log = directory / "socket", directory / "log"
        words = [*prefix, sys.executable, "-m", "kgcore", "daemon", "--socket", str(path), *options]
        with (
            notified(directory) as (environment, ready),
            log.open("wb") as errors,
            subprocess.Popen(words, stderr=errors, env=environment, start_new_session=True) as process,
        ):
            try:
                assert ready() == b"READY=1", log.read_text()
                yield Daemon(process, path, log)
            finally:
                process.kill()
                process.wait()


@contextmanager
def notified(directory: Path) -> Iterator[tuple[dict[str, str], Callable[[], bytes]]]:
    """An environment with a NOTIFY_SOCKET, and what waits for the next word to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        os.chmod(directory / "notify", 0o666)
        manager.settimeout(_PATIENCE)
        yield os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}, lambda: manager.recv(1000)
