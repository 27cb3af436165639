# SPDX-License-Identifier: LGPL-2.1-or-later
"""The victims of the vmcore fixtures, run on this machine: programs that say what they did, and wait."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compiler import compiled
from tests.vmcore.corefile import Core

VICTIMS = Path(__file__).parent / "vmcore_fixtures" / "make" / "victims"
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_LOCK = Path("/tmp/kgcore-core-pattern.lock")  # one for all test runs of this machine
_PATIENCE = 30


def ptrace_or_skip() -> None:
    """Skip where this machine refuses to trace; CI requires it."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with open(f"/proc/{sleeper.pid}/mem", "rb"):
            pass
    except OSError as error:
        if os.environ.get("KGCORE_REQUIRE_VMCORES"):
            raise
        pytest.skip(f"processes of this machine may not be read: {error.strerror}")
    finally:
        sleeper.kill()
        sleeper.wait()


@contextmanager
def core_pattern(pattern: str) -> Iterator[None]:
    """Set the machine's core_pattern for a while, alone; skip where that is not allowed."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        try:
            CORE_PATTERN.write_text(pattern)
        except OSError as error:
            pytest.skip(f"core_pattern cannot be set: {error.strerror}")
        try:
            yield
        finally:
            CORE_PATTERN.write_text(before)
            assert CORE_PATTERN.read_text() == before


@dataclass
class Running:
    """A victim that waits.

    :ivar said: what it says of itself.
    """

    process: "subprocess.Popen[bytes]"
    directory: Path
    name: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((self.directory / f"{self.name}.json").read_text())
        return said

    def kernel_core(self) -> Path:
        """Have the kernel write its core of the process, which ends it."""
        target = self.directory / f"{self.name}.kernel-core"
        with core_pattern(f"{self.directory}/%p.kernel-core"):
            os.kill(self.pid, signal.SIGABRT)
            self.process.wait(_PATIENCE)
        found = [*self.directory.glob("*.kernel-core")]
        if len(found) != 1:
            pytest.fail(f"the kernel wrote {found}")
        return found[0].rename(target)


def built(directory: Path, name: str) -> Path:
    """A victim, compiled to write what it says into a directory."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    sources = directory / "sources"
    if not sources.exists():
        sources.mkdir()
        (directory / "disk" / "files").mkdir(parents=True)
        for path in [*VICTIMS.glob("*.c"), *VICTIMS.glob("*.h")]:
            text = path.read_text()
            for old, new in (
                ("/truth/victims/", f"{directory}/"),
                ('"/disk', f'"{directory}/disk'),
                # A kernel may lack it, this machine's for one: the bitmap is then part of no core.
                ('check(ioperm(0x80, 1, 1) == 0, "ioperm")', "ioperm(0x80, 1, 1)"),
            ):
                text = text.replace(old, new)
            (sources / path.name).write_text(text)
    program = directory / "sources" / name
    flags = ["-O0"] if name == "dynamic" else ["-O1", "-static"]
    subprocess.run(
        ["gcc", "-g", "-D_GNU_SOURCE", "-pthread", *flags, "-o", program, sources / f"{name}.c"],
        check=True,
        capture_output=True,
    )
    return program


@contextmanager
def running(directory: Path, name: str, *arguments: str, program: Path | None = None) -> Iterator[Running]:
    """A victim that has said what it did; it is killed at the end, with the processes that it started."""
    program = built(directory, name) if program is None else program
    # On one CPU: the kernel writes the number of the CPU into struct rseq.
    words = ["taskset", "-c", "0", str(program), name, *arguments]
    with subprocess.Popen(words, cwd=directory, start_new_session=True) as process:
        try:
            hard = resource.prlimit(process.pid, resource.RLIMIT_CORE)[1]
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (hard, hard))
            deadline = time.monotonic() + _PATIENCE
            while not (directory / f"{name}.ready").exists():
                assert process.poll() is None, f"{name} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{name} is not ready"
                time.sleep(0.01)
            settled(process.pid)
            yield Running(process, directory, name)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def settled(pid: int) -> None:
    """Wait until all threads but those that spin sleep."""
    for _ in range(100):
        states = [
            Path(f"/proc/{pid}/task/{tid}/stat").read_bytes().rpartition(b") ")[2][:1]
            for tid in os.listdir(f"/proc/{pid}/task")
        ]
        if all(state == b"S" for state in states):
            return
        time.sleep(0.01)


@contextmanager
def started(*words: object) -> Iterator["subprocess.Popen[str]"]:
    """A program to whose standard input and output one has the other ends; it is killed at the end."""
    ptrace_or_skip()
    argv = [str(word) for word in words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def sleeping() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing."""
    ptrace_or_skip()
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            settled(process.pid)
            yield process
        finally:
            process.kill()


def live_core(pid: int, path: Path, *options: str) -> Core:
    """The core that ``kgcore live`` writes of a process, without a word of complaint."""
    words = [sys.executable, "-m", "kgcore", "live", *options, "-o", str(path), str(pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Core(path)


def under_seccomp(directory: Path) -> Path:
    """A program that says ``ready``, may only read and write then, waits for a byte, says ``alive`` and spins."""
    text = (
        "#include <stdio.h>\n#include <sys/prctl.h>\n#include <linux/seccomp.h>\n#include <unistd.h>\n"
        'int main(void) { char byte; puts("ready"); fflush(stdout); '
        "prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT); (void)!read(0, &byte, 1); "
        '(void)!write(1, "alive\\n", 6); for (;;) ; }\n'
    )
    return compiled(directory, text, "-O1")


def of_32_bits(directory: Path) -> Path:
    """A program that says ``ready``, waits for a byte, and ends with 42; its text begins with a letter that it wrote.

    It needs no C library of that width.
    """
    source, program = directory / "small.c", directory / "small"
    source.write_text(
        "static int call(int n, int a, int b, int c) { int r; __asm__ volatile ("
        '"int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory"); return r; }\n'
        'char text[] = "of thirty-two bits";\n'
        "void _start(void) { char byte; text[0] = 'O'; call(4, 1, (int)\"ready\\n\", 6); "
        "call(3, 0, (int)&byte, 1); call(1, text[0] == 'O' ? 42 : 1, 0, 0); }\n"
    )
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-o", program, source], check=True)
    return program
