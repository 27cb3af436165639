# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that are taken by ``kgcore live``, killed, and restarted from their cores."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kgcore.restore.corefile import FinishedCore
from kgcore.restore.here import here
from tests.victims_here import ptrace_or_skip

SOURCE = Path(__file__).with_name("itemized.c")
PATIENCE = 60
KGCORE = (sys.executable, "-m", "kgcore")


def may_choose_ids() -> bool:
    """Whether this program may give a process an id; CI requires it."""
    allowed = here().ids
    if not allowed and os.environ.get("KGCORE_REQUIRE_VMCORES"):
        pytest.fail("ids of processes cannot be chosen here")
    return allowed


needs_ids = pytest.mark.skipif(not may_choose_ids(), reason="ids of processes cannot be chosen here")


def compiled(source: Path, program: Path, *flags: str) -> Path:
    """A program out of a file."""
    done = subprocess.run(["gcc", *flags, "-o", program, source, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def until(true: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait for what a process does."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it does not"
        time.sleep(0.005)


def until_ready(place: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a program that runs in a folder has said ``ready``."""
    until(lambda: b"ready\n" in (place / "out").read_bytes(), process)


@contextmanager
def running(folder: Path, *words: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in a folder, whose output goes into ``out`` there; it is killed at the end."""
    ptrace_or_skip()
    folder.mkdir(exist_ok=True)
    with (folder / "out").open("wb") as out:
        argv = [str(word) for word in words]
        process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def taken(process: "subprocess.Popen[bytes]", core: Path, *options: str) -> Path:
    """Its core; it is killed then."""
    words = [*KGCORE, "live", *options, "-o", str(core), str(process.pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    process.kill()
    process.wait()
    return core


@contextmanager
def core_of_the_items(folder: Path) -> Iterator[FinishedCore]:
    """The core of the program that judges itself item by item."""
    program, place = compiled(SOURCE, folder / "items", "-O1", "-pthread"), folder / "place"
    with running(place, program) as process:
        until_ready(place, process)
        path = taken(process, folder / "core")
    with closing(FinishedCore.open(str(path))) as core:
        yield core


def restart(core: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """What ``kgcore restart`` says, and its exit status, which is the process's."""
    words: Sequence[str] = [*KGCORE, "restart", *options, str(core)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
