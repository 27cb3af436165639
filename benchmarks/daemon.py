# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a request to the daemon costs, beside kgcore live of the same process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kgcore import client

from .live import Busy, Standing, longest_gaps
from .measure import Failed, Series, scratch, timed
from .peers import Command

__all__ = ("requests", "serving", "standing")

_LIVE = (sys.executable, "-m", "kgcore", "live", "-v", "0", "-o", "core")


@contextmanager
def serving(output: Path) -> Iterator[Path]:
    """A daemon that listens; the path of its socket."""
    with scratch(output) as place, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(60)
        words = ["env", f"NOTIFY_SOCKET={place / 'notify'}", sys.executable, "-m", "kgcore", "daemon"]
        with subprocess.Popen([*words, "--socket", str(place / "socket")], stderr=subprocess.DEVNULL) as process:
            try:
                if manager.recv(100) != b"READY=1":
                    raise Failed("the daemon does not start")
                yield place / "socket"
            finally:
                process.terminate()


def requests(output: Path, path: Path, count: int, runs: int) -> Mapping[str, Series]:
    """Have an idle process dumped so often, by the daemon and by kgcore live, in turns."""
    with subprocess.Popen(["sleep", "3600"]) as victim:
        words = Command((*_LIVE, str(victim.pid)))

        def ask(place: Path) -> None:
            if not client.dump(place / "core", victim.pid, socket=str(path)).complete:
                raise Failed("a core is incomplete")

        ways: dict[str, Callable[[Path], object]] = {"daemon": ask, "live": lambda place: timed(words, place)}
        try:
            found = {name: Series() for name in ways}
            for number in range(runs + 1):
                for name in list(ways)[:: -1 if number % 2 else 1]:
                    seconds = 0.0
                    with scratch(output) as place:
                        for _ in range(count if number else 1):
                            start = time.monotonic()
                            ways[name](place)
                            seconds += time.monotonic() - start
                            (place / "core").unlink()
                    if number:
                        found[name].seconds.append(seconds)
            return found
        finally:
            victim.kill()


def standing(output: Path, path: Path, victim: Busy, runs: int) -> Mapping[str, Standing]:
    """Dump a busy process by the daemon and by kgcore live, in turns: how long it stands still."""

    def ask(place: Path) -> float:
        start = time.monotonic()
        client.dump(place / "core", victim.pid, socket=str(path), freeze="fork")
        return time.monotonic() - start

    words = Command((*_LIVE, "--freeze", "fork", str(victim.pid)))
    return longest_gaps(output, victim, runs, {"daemon": ask, "live": lambda place: timed(words, place)})
