# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that tests run: the debuggers that read our cores, and kgcore itself as its users run it."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

PACKAGES = {
    "chromedriver": "chromium-driver",
    "pahole": "dwarves",
    "eu-stack": "elfutils",
    "eu-unstrip": "elfutils",
    "eu-readelf": "elfutils",
}
TIMEOUT = 120
ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI says that nothing may be."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("KGCORE_REQUIRE_VMCORES"):
        pytest.fail(f"{name} is not installed: apt install {PACKAGES.get(name, name)}")
    pytest.skip(f"{name} is not installed")


def run(name: str, *args: str | Path, status: int | None = 0) -> str:
    """What a program prints, both streams, byte for byte (Latin-1 keeps them apart).

    :param status: the exit status it must have; None: any.
    """
    done = subprocess.run(
        [tool(name), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="latin-1",
        timeout=TIMEOUT,
        env=plain_environment(),
    )
    assert status is None or done.returncode == status, done.stdout
    return done.stdout


def same_bytes(one: Path, two: Path) -> bool:
    """Whether two files are equal. (pytest would explain for minutes how many megabytes differ.)"""
    return filecmp.cmp(one, two, shallow=False)


def plain_environment() -> dict[str, str]:
    """Ours without what would send debuggers to the network, or change what they print."""
    return {key: value for key, value in os.environ.items() if not key.startswith("DEBUGINFOD")} | {
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
    }


def gdb(core: Path, sysroot: Path, program: str, *commands: str) -> str:
    """What gdb prints for commands on a core; an error in one does not stop the rest."""
    setup = (f"set sysroot {sysroot}", "set width 0", "set pagination off", "set print frame-arguments all")
    words = [*setup, f"file {sysroot / program}", f"core-file {core}", *commands]
    return run("gdb", "-batch", "-nx", *(part for word in words for part in ("-ex", word)), status=None)


@contextmanager
def serving(content: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A web server of some paths, and of no others: its address without a slash, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = content.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def lwps(text: str) -> dict[int, int]:
    """gdb's thread number -> kernel's id, from ``info threads``."""
    pattern = r"^[* ] +(\d+) .*?\bLWP (\d+)"
    return {int(number): int(lwp) for number, lwp in re.findall(pattern, text, re.MULTILINE)}


def kgcore(*args: object, cwd: Path, vmcore: str | Path | None = None, **options: Any) -> "Done":
    """The command as a user runs it.

    :param cwd: in this directory.
    :param vmcore: with this in $KGCORE_VMCORE.
    :param options: for :func:`subprocess.run`.
    """
    environment = {key: value for key, value in os.environ.items() if key != "KGCORE_VMCORE"}
    environment["PYTHONPATH"] = str(ROOT)
    if vmcore is not None:
        environment["KGCORE_VMCORE"] = str(vmcore)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [sys.executable, "-m", "kgcore", *map(str, args)]
    run_: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run
    done = run_(words, cwd=cwd, env=environment, timeout=TIMEOUT, **(streams | options))
    return Done(done.returncode, done.stdout or b"", (done.stderr or b"").decode().splitlines())


@dataclass(frozen=True)
class Done:
    """What a run of kgcore came to.

    :ivar raw: its standard output.
    :ivar remarks: the lines of its standard error.
    """

    status: int
    raw: bytes
    remarks: list[str]

    @property
    def lines(self) -> list[str]:
        return self.raw.decode().splitlines()
