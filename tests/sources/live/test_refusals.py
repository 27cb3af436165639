# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that cannot be taken are refused in one line, which says why and what to do."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgcore import NoSuchTask, open_live
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.live.procfs import read, status_of
from kgcore.sources.live.refusals import refused
from tests.victims_here import ptrace_or_skip, sleeping

NOBODY = 65534
PTRACE_SEIZE = 0x4206
PR_SET_DUMPABLE = 4
PATIENCE = 1000  # looks, each after 10 ms


@pytest.fixture(autouse=True)
def traceable() -> None:
    ptrace_or_skip()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with sleeping() as process:
        yield process


def refusal(pid: int, *options: str, uid: int | None = None) -> str:
    """What ``kgcore live`` says."""
    done = subprocess.run(
        [sys.executable, "-m", "kgcore", "live", "-o", "/dev/null", *options, str(pid)],
        capture_output=True,
        text=True,
        user=uid,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.strip().removeprefix("kgcore: ")


def test_no_such_process(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()
    pid = sleeper.pid
    assert refusal(pid) == f"no thread has the id {pid} (kgcore ps --live lists processes)"


def test_a_zombie() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        for _ in range(PATIENCE):
            if b"Z" in read(f"/proc/{pid}/stat").rpartition(b") ")[2][:1]:
                break
            time.sleep(0.01)
        assert " is a zombie: it has exited, and its memory is gone" in refusal(pid)
    finally:
        os.waitpid(pid, 0)


def test_a_kernel_thread() -> None:
    found = [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and status_says(pid, "Kthread", b"1")]
    if not found:
        pytest.skip("no kernel thread is visible here")
    assert refusal(min(found)).endswith(" is a kernel thread: it has no user memory")


def status_says(pid: str, name: str, value: bytes) -> bool:
    try:
        return status_of(read(f"/proc/{pid}/status")).get(name) == [value]
    except OSError:
        return False


def test_kgcore_itself() -> None:
    program = (
        "import os; from kgcore.errors import KgcoreError; from kgcore import open_live\n"
        "try:\n    with open_live() as source:\n        source.process(os.getpid())\n"
        "except KgcoreError as error:\n    print(error.message, '|', error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" is kgcore itself | a process cannot stop itself\n")


def test_one_that_is_traced(sleeper: "subprocess.Popen[bytes]") -> None:
    """The tracer is named, and --no-registers works all the same."""
    libc = ctypes.CDLL(None, use_errno=True)
    tracer = os.fork()
    if tracer == 0:
        failed = libc.ptrace(PTRACE_SEIZE, sleeper.pid, None, None)
        signal.pause()
        os._exit(failed)
    try:
        for _ in range(PATIENCE):
            if int(status_of(read(f"/proc/{sleeper.pid}/status"))["TracerPid"][0]):
                break
            time.sleep(0.01)
        said = refusal(sleeper.pid)
        assert f"is being traced by {tracer} (" in said
        assert said.endswith("(end that debugger first, or use --no-registers)")
        done = subprocess.run(
            [sys.executable, "-m", "kgcore", "live", "--no-registers", "-o", "/dev/null", str(sleeper.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr  # no registers
        assert "the process went on while it was read" in done.stderr
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_another_users(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    if not os.access(sys.executable, os.X_OK) or not _readable_by_all(Path(sys.executable).resolve()):
        pytest.skip("others may not run this Python")
    said = refusal(sleeper.pid, uid=NOBODY)
    assert said == (
        f"process {sleeper.pid} (sleep): no permission to trace it: it belongs to another user (run it as root)"
    )


def test_one_that_a_guardian_still_holds(sleeper: "subprocess.Popen[bytes]") -> None:
    """As when the kgcore before was killed: it lets go in a moment."""
    with Tracee(sleeper.pid, 5):
        assert f"process {sleeper.pid} is being dumped by another kgcore (try again later)" in refusal(sleeper.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
@pytest.mark.parametrize(("dumpable", "words"), [(0, "it is not dumpable (PR_SET_DUMPABLE)"), (1, "Yama|CAP_SYS")])
def test_why_a_user_may_not_trace_his_own(dumpable: int, words: str) -> None:
    """What a child of ours, as another user, says of another child as the same user."""
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0)
        os.write(writing, b"x")
        signal.pause()
    try:
        os.read(reading, 1)
        asker = os.fork()
        if asker == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writing, str(refused(other, PermissionError(1, "no"))).encode())
            os._exit(0)
        os.waitpid(asker, 0)
        assert re.search(re.escape(words) if dumpable == 0 else words, os.read(reading, 1000).decode())
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        os.close(reading)
        os.close(writing)


def _readable_by_all(path: Path) -> bool:
    return all(one.stat().st_mode & 0o5 == 0o5 for one in [path, *path.parents, *Path(__file__).parents])


def test_a_process_in_an_uninterruptible_sleep_costs_only_the_patience(tmp_path: Path) -> None:
    """vfork(2): the parent is in state D until the child exits or executes a program."""
    source = tmp_path / "vforker.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n#include <sys/wait.h>\n"
        'int main(void) { puts("ready"); fflush(stdout);'
        "if (vfork() == 0) { char byte; (void)!read(0, &byte, 1); _exit(0); } wait(0); return 7; }\n"
    )
    program = tmp_path / "vforker"
    subprocess.run(["gcc", "-o", program, source], check=True)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(PATIENCE):
            if read(f"/proc/{process.pid}/stat").rpartition(b") ")[2][:1] == b"D":
                break
            time.sleep(0.01)
        said = refusal(process.pid, "--max-freeze", "300ms")
        assert said == (
            f"process {process.pid} (vforker): thread {process.pid} does not stop: it is in an uninterruptible sleep "
            "(--no-registers reads it without stopping it; kgcore -k takes it by the kernel's memory)"
        )
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(30) == 7


def test_one_process_that_was_opened(sleeper: "subprocess.Popen[bytes]") -> None:
    """It is the only one in the list, and no other can be taken."""
    with open_live(sleeper.pid) as source:
        assert [process.pid for process in source.processes()] == [sleeper.pid]
        with source.process(sleeper.pid) as process:
            assert process.image.tgid == sleeper.pid
        parent = os.getppid()
        with pytest.raises(NoSuchTask, match=f"belongs to process {parent}, and process {sleeper.pid} was opened"):
            source.process(parent)
