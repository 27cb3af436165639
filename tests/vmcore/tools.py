# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that tests run: the debuggers that read our cores, and kgcore itself as its users run it."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACKAGES = {
    "chromedriver": "chromium-driver",
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
