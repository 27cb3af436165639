# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running commands: in turns, so that a busy machine is busy for all of them; and what memory they take."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.vmcore_fixtures.make.common import say

from .peers import Command

ROOT = Path(__file__).resolve().parent.parent
PERIOD = 0.02
TIMEOUT = 3600
# An incomplete core (something is missing) is measured too.
GOOD = frozenset({0, 3})
# Pages that cannot be dropped, those that forked processes share counted once.
UNSHARED = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)


class Failed(Exception):
    """A command that is to be measured does not work; the message says how."""


@dataclass
class Series:
    """The times that one command took, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)


def ratio(one: Series, other: Series) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def rounds(
    commands: Mapping[str, Command], runs: int, output: Path, *, before: Callable[[], None] | None = None
) -> dict[str, Series]:
    """Run commands in turns, after one round that warms the page cache; what they write is deleted each time.

    :param before: called before each command, not timed.
    """
    found = {name: Series() for name in commands}
    for number in range(runs + 1):
        # Each second round backwards: nobody always follows the same one.
        for name in list(commands)[:: -1 if number % 2 else 1]:
            with scratch(output) as place:
                if before:
                    before()
                seconds = timed(commands[name], place)
            say(f"  {name}: {seconds:.2f} s{'' if number else ' (not counted)'}")
            if number:
                found[name].seconds.append(seconds)
    return found


@contextmanager
def scratch(output: Path) -> Iterator[Path]:
    """An empty directory, with nothing left to be written back by what was before."""
    os.sync()
    with tempfile.TemporaryDirectory(dir=output, prefix="run-") as place:
        yield Path(place)


def timed(command: Command, place: Path) -> float:
    """Run a command there and return how long it took."""
    start = time.monotonic()
    with _started(command, place):
        pass
    return time.monotonic() - start


def peak_mib(command: Command, place: Path) -> float:
    """Run a command there and return the most unshared memory that it and its children had at a time."""
    most, over = 0, threading.Event()

    def watch(pid: int) -> None:
        nonlocal most
        while not over.wait(PERIOD):
            most = max(most, sum(_unshared_kib(each) for each in _tree(pid)))

    with _started(command, place) as process:
        thread = threading.Thread(target=watch, args=(process.pid,))
        thread.start()
        try:
            process.wait(TIMEOUT)
        finally:
            over.set()
            thread.join()
    return most / 1024


@contextmanager
def _started(command: Command, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as text:
        text.write(command.text.encode())
        text.seek(0)
        with subprocess.Popen(
            command.words, stdin=text, stdout=said, stderr=subprocess.STDOUT, cwd=place, env=environment
        ) as process:
            try:
                yield process
                process.wait(TIMEOUT)
            except BaseException:
                process.kill()
                raise
        written = sum(file.stat().st_size for file in place.iterdir())
        if process.returncode not in GOOD or written < command.least:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
            tail = said.read().decode(errors="replace").strip().splitlines()[-3:]
            raise Failed(
                f"{' '.join(command.words[:8])}: exit status {process.returncode}, {written} bytes: {' / '.join(tail)}"
            )


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for task in _listed(Path(f"/proc/{each}/task")):
            found += map(int, _text(task / "children").split())
    return found


def _listed(path: Path) -> Sequence[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return ()


def _text(path: Path) -> str:
    """What a file in /proc says; nothing once the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _unshared_kib(pid: int) -> int:
    return sum(map(int, UNSHARED.findall(_text(Path(f"/proc/{pid}/smaps_rollup")))))


def machine(output: Path) -> dict[str, str]:
    """What the numbers were measured on."""
    cpu = re.search(r"^model name\s*: (.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    memory = re.search(r"^MemTotal: +(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    mount = max(
        (line.split() for line in _text(Path("/proc/mounts")).splitlines()),
        key=lambda words: len(words[1]) if output.is_relative_to(words[1]) else -1,
        default=["", "", "unknown"],
    )
    try:
        drgn = version("drgn")
    except PackageNotFoundError:
        drgn = "unknown"
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{int(memory[1]) / (1 << 20):.0f}" if memory else "unknown",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "drgn": drgn,
        "file_system": mount[2],
        "free_gib": f"{shutil.disk_usage(output).free / (1 << 30):.0f}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
