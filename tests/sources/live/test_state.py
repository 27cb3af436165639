# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of a process of this machine, beside the book that it keeps of itself; and it is afterwards as before."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kgcore.check.core import check_core
from kgcore.cli.main import main
from kgcore.library import open_live
from kgcore.model.state import ProcessState
from kgcore.sources.base import HasState
from tests.compiler import compiled
from tests.statebook import CHECKS, Book, built
from tests.victims_here import ptrace_or_skip, settled, started

BY_CALL_ALONE = {"actions", "itimer_real", "itimer_virtual", "itimer_prof", "dumpable", "subreaper"}
"""What /proc and ptrace(2) do not tell."""
OF_THREADS_BY_CALL_ALONE = {"alternate_stack", "clear_child_tid", "pdeath_signal", "securebits"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ptrace_or_skip()
    return built(tmp_path_factory.mktemp("stateful"))


@contextmanager
def running(program: Path, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The process, when its book is written."""
    words = [program, folder / "book"]
    with subprocess.Popen(words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def state_of(process: "subprocess.Popen[bytes]", *, registers: bool = True) -> ProcessState:
    with open_live(registers=registers) as source, source.process(process.pid) as live:
        assert isinstance(live, HasState)
        return live.state()


@pytest.fixture(scope="module")
def book(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    folder = tmp_path_factory.mktemp("book")
    with running(program, folder) as process:
        state = state_of(process)
        yield Book(json.loads((folder / "book").read_text()), state)
        # It goes on, and finds all as it was.
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize("check", CHECKS)
def test_it_is_as_the_book_says(check: Callable[[Book], None], book: Book) -> None:
    check(book)


def test_without_registers_the_rest_is_the_same(program: Path, tmp_path: Path) -> None:
    """Nothing is stopped: what ptrace(2) would tell is unknown, too."""
    with running(program, tmp_path) as process:
        state = state_of(process, registers=False)
    assert state.unknown.keys() == BY_CALL_ALONE | {"pending"}
    assert state.threads is not None
    assert {name for thread in state.threads for name in thread.unknown} == OF_THREADS_BY_CALL_ALONE | {
        "pending",
        "rseq",
        "blocked",
    }
    assert state.umask == 0o27


def test_the_core_has_it(program: Path, tmp_path: Path) -> None:
    """``kgcore live`` writes it into the note, unless it is not wanted, and ``kgcore check`` reads it back."""
    core, without = tmp_path / "core", tmp_path / "without"
    with running(program, tmp_path) as process:
        assert main(["live", "-o", str(core), str(process.pid)]) == 0
        assert main(["live", "--no-state", "-o", str(without), str(process.pid)]) == 0
    note = check_core(str(core)).facts["kgcore"]
    assert note["state"]["umask"] == 0o27
    assert check_core(str(core)).ok
    assert "state" not in check_core(str(without)).facts["kgcore"]


@pytest.mark.parametrize("rule", [(), ("--redact", "name:nothing")])
def test_what_is_in_a_pipe_where_rules_leave_memory_out(tmp_path: Path, rule: tuple[str, ...]) -> None:
    """Who redacts memory does not want the rest of a pipe in the note."""
    ptrace_or_skip()
    secret = b"what-nobody-is-to-see"
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(secret)
            process.stdin.flush()
            settled(process.pid)
            core = tmp_path / "core"
            words = [sys.executable, "-m", "kgcore", "live", *rule, "-o", str(core), str(process.pid)]
            subprocess.run(words, check=True, capture_output=True)
            assert (secret.hex().encode() in core.read_bytes()) == (not rule)
        finally:
            process.kill()


def test_names_masks_and_clocks(program: Path, tmp_path: Path) -> None:
    """A thread in sigsuspend(2) has another mask for the moment than afterwards."""
    text = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
static void *waits(void *arg)
{
    sigset_t mine, other;
    sigemptyset(&mine), sigaddset(&mine, SIGUSR1), sigaddset(&mine, SIGRTMAX);
    sigemptyset(&other), sigaddset(&other, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &mine, 0);
    prctl(PR_SET_NAME, "a b\\c\xff");
    puts("ready"), fflush(stdout);
    sigsuspend(&other);
    return arg;
}
int main(void) { pthread_t thread; pthread_create(&thread, 0, waits, 0); pthread_join(thread, 0); }
"""
    with started(compiled(tmp_path, text, "-pthread")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        settled(process.pid)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with open_live() as source, source.process(process.pid) as live:
            assert isinstance(live, HasState)
            state = live.state()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert state.threads is not None
        found = {thread.name: thread.blocked for thread in state.threads}
        assert found == {b"program": 0, b"a b\\c\xff": 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGRTMAX - 1}
        assert state.clocks is not None
        assert before[0] <= state.clocks.monotonic <= after[0]
        assert before[1] <= state.clocks.boottime <= after[1]


def test_clocks_in_a_time_namespace(tmp_path: Path) -> None:
    """They are the process's own."""
    ptrace_or_skip()
    words = ["unshare", "--time", "--monotonic", "5000000", "--boottime", "7000000", "sleep", "1000"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        try:
            while (name := Path(f"/proc/{process.pid}/comm").read_text()) != "sleep\n" and process.poll() is None:
                assert name in ("unshare\n", "python\n", "python3\n", "pytest\n")
            if process.poll() is not None:
                pytest.skip("time namespaces are not allowed here")
            state = state_of(process)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            assert state.clocks is not None
            assert 0 <= now + 5_000_000 * 10**9 - state.clocks.monotonic < 100 * 10**9
            assert state.clocks.boottime - state.clocks.monotonic >= 2_000_000 * 10**9
        finally:
            process.kill()
