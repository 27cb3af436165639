# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon for tests, and programs that ask it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import speaking

NOBODY = 65534
PYTHON = "/usr/bin/python3"  # one that all users may run
_PATIENCE = 60
_BEGINNING = Path(speaking.__file__).read_text() + """
import json, sys, threading
path = sys.argv[1]
def say(**what):
    print(json.dumps(what | {"pid": os.getpid(), "tid": threading.get_native_id()}), flush=True)
"""


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
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # also what the prefix started
                process.wait()


@contextmanager
def notified(directory: Path) -> Iterator[tuple[dict[str, str], Callable[[], bytes]]]:
    """An environment with a NOTIFY_SOCKET, and what waits for the next word to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        os.chmod(directory / "notify", 0o666)
        manager.settimeout(_PATIENCE)
        yield os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}, lambda: manager.recv(1000)


def words_of(served: Daemon, text: str) -> list[str]:
    """A program that speaks with the daemon by hand, and that all users may run."""
    if not os.access(PYTHON, os.X_OK):
        pytest.skip(f"no {PYTHON}")
    return [PYTHON, "-I", "-S", "-c", _BEGINNING + text, str(served.path)]


def program(served: Daemon, text: str, directory: Path, *prefix: str, user: int | None = None) -> dict[str, Any]:
    """Run such a program in a directory, and return what it says.

    :param prefix: a program that runs it.
    :param user: whose it is.
    """
    as_user: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(
        [*prefix, *words_of(served, text)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
        **as_user,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def root_or_skip() -> None:
    """Skip where this program cannot be another user's."""
    if os.geteuid():
        pytest.skip("needs root to be somebody else")
