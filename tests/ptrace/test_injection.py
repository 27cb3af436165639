# SPDX-License-Identifier: LGPL-2.1-or-later
"""System calls in a stopped thread, and copies of a process: nothing changes, and by its own account it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kgcore.arch import ARCHES
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.live.calling import convention_of
from tests.compiler import compiled
from tests.victims_here import of_32_bits, ptrace_or_skip, settled, started, under_seccomp

NT_PRSTATUS = 1
GETPID, RT_SIGACTION, RT_SIGSUSPEND, GETTID = 39, 13, 130, 186
EBADF = 9
RED_ZONE = 128

# Threads that wait in all sorts of ways, and one that computes; at the end each says what its call returned.
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int over;
static int ends[2], word;
static long got_read, got_sleep, got_futex, got_sum, suspended, traps;
static struct timespec until;

static void on_end(int number) { (void)number; over = 1; }
static void on_user(int number) { (void)number; suspended++; }

static void *reads(void *arg) { char byte; (void)arg; got_read = read(ends[0], &byte, 1); return NULL; }
static void *sleeps(void *arg)
{
    (void)arg;
    got_sleep = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    return NULL;
}
static void *waits(void *arg)
{
    (void)arg;
    got_futex = syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    return NULL;
}
static void *suspends(void *arg)
{
    sigset_t set;
    (void)arg;
    sigfillset(&set), sigdelset(&set, SIGUSR1), sigdelset(&set, SIGTRAP);
    sigsuspend(&set);
    return NULL;
}
static void *computes(void *arg)
{
    double sum = 0;
    long count = 0;
    (void)arg;
    while (!over)
        sum += 0.5, count++;
    got_sum = sum == (double)count / 2;
    return NULL;
}

int main(void)
{
    pthread_t ids[5];
    void *(*bodies[])(void *) = {reads, sleeps, waits, suspends, computes};
    struct sigaction action = {.sa_handler = on_end}, user = {.sa_handler = on_user}, trap;
    sigset_t all, before;

    signal(SIGTRAP, SIG_IGN);
    if (pipe(ends))
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 4;
    sigaction(SIGTERM, &action, NULL), sigaction(SIGUSR1, &user, NULL);
    sigfillset(&all), sigdelset(&all, SIGTRAP);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (int i = 0; i < 5; i++)
        pthread_create(&ids[i], NULL, bodies[i], NULL);
    puts("ready"), fflush(stdout);
    sigdelset(&all, SIGTERM);
    while (!over)
        sigsuspend(&all);
    sigaction(SIGTRAP, NULL, &trap);
    int left = waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : 1;
    int hidden = waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD ? 0 : 1;
    (void)!write(ends[1], "x", 1);
    word = 1, syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0);
    pthread_kill(ids[3], SIGUSR1);
    for (int i = 0; i < 5; i++)
        pthread_join(ids[i], NULL);
    printf("{\"read\": %ld, \"sleep\": %ld, \"futex\": %ld, \"sum\": %ld, \"suspended\": %ld, \"trap_ignored\": %d, "
           "\"left\": %d, \"hidden\": %d}\n", got_read, got_sleep, got_futex, got_sum, suspended,
           trap.sa_handler == SIG_IGN, left, hidden);
    return 42;
}
"""
GOOD = {"read": 1, "sleep": 0, "futex": 0, "sum": 1, "suspended": 1, "trap_ignored": 1, "left": 0, "hidden": 0}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ptrace_or_skip()
    return compiled(tmp_path_factory.mktemp("injection"), PROGRAM, "-pthread")


@pytest.fixture
def victim(program: Path) -> Iterator["subprocess.Popen[str]"]:
    # On one CPU: the kernel writes the number of the CPU into struct rseq.
    with subprocess.Popen(["taskset", "-c", "0", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            settled(process.pid)
            yield process
        finally:
            process.kill()


def ends_well(process: "subprocess.Popen[str]", hidden: int = 0) -> None:
    """
    :param hidden: children that it finds with __WALL alone.
    """
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert json.loads(said) == GOOD | {"hidden": hidden}
    assert process.returncode == 42


def children_of(pid: int) -> list[int]:
    """Also those that its wait4(2) does not find."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]


def state_of(tracee: Tracee, pid: int) -> tuple[object, ...]:
    """All that could have changed: registers, signal masks, and every byte that is not the kernel's own."""
    sets = [tracee.regsets(tid, (NT_PRSTATUS, 2)) for tid in tracee.threads]
    masks = [
        [
            line
            for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
            if line.startswith(("SigPnd", "SigBlk", "SigIgn", "SigCgt"))
        ]
        for tid in tracee.threads
    ]
    content = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "rw-p" in line:
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if end - start <= 1 << 20:  # stacks of threads are reserved at length
                    with suppress(OSError):
                        content.append((start, os.pread(memory.fileno(), end - start, start)))
    return sets, masks, content


def in_sigsuspend(tid: int) -> bool:
    return Path(f"/proc/{tid}/syscall").read_text().startswith(f"{RT_SIGSUSPEND} ")


def test_system_calls_change_nothing(victim: "subprocess.Popen[str]") -> None:
    pid = victim.pid
    convention = convention_of(ARCHES["x86_64"])
    with Tracee(pid, 5) as tracee:
        assert len(tracee.threads) == 6
        before = state_of(tracee, pid)
        suspended = [tid for tid in tracee.threads if in_sigsuspend(tid)]
        assert len(suspended) == 2
        (chosen, _), *_ = tracee.calls([*suspended, *tracee.threads], convention, [(GETTID,)], red_zone=0, size=64)
        assert chosen not in suspended
        # Those last: their masks of the moment give way to their own, until they suspend again.
        for tid in sorted(tracee.threads, key=lambda tid: tid in suspended):
            requests = [(GETPID,), (RT_SIGACTION, 5, 0, None, 8), (RT_SIGACTION, 15, 0, None, 8)]
            found = tracee.calls([tid], convention, requests, red_zone=RED_ZONE, size=64)
            assert [result for result, _ in found] == [pid, 0, 0]
            assert int.from_bytes(found[1][1][:8], "little") == signal.SIG_IGN
            assert int.from_bytes(found[2][1][:8], "little") > signal.SIG_IGN
            sets, masks, content = state_of(tracee, pid)
            assert (sets, content) == before[::2]
            assert tid in suspended or masks == before[1], tid
    ends_well(victim)


def test_a_copy_that_never_runs(victim: "subprocess.Popen[str]") -> None:
    pid = victim.pid
    convention = convention_of(ARCHES["x86_64"])
    for _ in range(5):
        tracee = Tracee(pid, 5)
        try:
            before = state_of(tracee, pid)
            copy, window = tracee.snapshot(convention)
            assert window > 0
            assert state_of(tracee, pid) == before
            assert children_of(pid) == [copy]
            assert os.listdir(f"/proc/{copy}/fd") == []
            assert Path(f"/proc/{copy}/oom_score_adj").read_text() == "1000\n"
            ours, theirs = (Path(f"/proc/{one}/maps").read_bytes() for one in (pid, copy))
            assert ours == theirs
            tracee.thaw()
            assert "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()
        finally:
            assert tracee.release()
        assert not Path(f"/proc/{copy}").exists()
        assert children_of(pid) == []
    ends_well(victim)


def test_the_copy_goes_with_its_reader(victim: "subprocess.Popen[str]") -> None:
    """Whoever holds the copy is killed: the copy goes, and the process is left without a zombie."""
    program = (
        "import signal, sys; from kgcore.arch import ARCHES; from kgcore.ptrace.tracee import Tracee\n"
        "from kgcore.sources.live.calling import convention_of\n"
        "tracee = Tracee(int(sys.argv[1]), 5); tracee.snapshot(convention_of(ARCHES['x86_64'])); tracee.thaw()\n"
        "print('ready', flush=True); signal.pause()"
    )
    words = [sys.executable, "-c", program, str(victim.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        had = children_of(victim.pid)
        reader.kill()
    assert len(had) == 1
    deadline = time.monotonic() + 20
    while children_of(victim.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ends_well(victim)


def test_a_process_that_ends_before_its_copy(victim: "subprocess.Popen[str]") -> None:
    tracee = Tracee(victim.pid, 5)
    try:
        copy, _ = tracee.snapshot(convention_of(ARCHES["x86_64"]))
        tracee.thaw()
        ends_well(victim, hidden=1)
        assert Path(f"/proc/{copy}").exists()
    finally:
        tracee.release()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{copy}").exists():  # reaped by init
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_thread_that_is_killed_while_the_copy_goes(victim: "subprocess.Popen[str]") -> None:
    """Whoever takes the copy away cannot let that thread go then: nothing is killed twice, above all not itself."""
    program = (
        "import errno, sys; from kgcore.arch import ARCHES; from kgcore.ptrace import calls\n"
        "from kgcore.ptrace.guardian import Threads; from kgcore.sources.live.calling import convention_of\n"
        "threads = Threads(); threads.stop(int(sys.argv[1]), 5); threads.snapshot(convention_of(ARCHES['x86_64']))\n"
        "threads.release(); detach = calls.detach\n"
        "def fails(tid): detach(tid); raise OSError(errno.ESRCH, 'it was killed')\n"
        "calls.detach = fails\n"
        "print(threads.drop())"
    )
    words = [sys.executable, "-c", program, str(victim.pid)]
    # A session of its own: a signal to a process 0 goes to a whole group.
    done = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert children_of(victim.pid) == []
    ends_well(victim)


def test_a_program_of_32_bits(tmp_path: Path) -> None:
    """It has another instruction, other numbers and other registers."""
    with started(of_32_bits(tmp_path)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        settled(process.pid)
        convention = convention_of(ARCHES["ia32"])
        tracee = Tracee(process.pid, 5)
        try:
            before = state_of(tracee, process.pid)
            found = tracee.calls(tracee.threads, convention, [(20,), (6, 99)], red_zone=0, size=64)
            assert [result for result, _ in found] == [process.pid, -EBADF]  # getpid, close
            tracee.snapshot(convention)
            assert state_of(tracee, process.pid) == before
        finally:
            assert tracee.release()
        process.communicate("x", timeout=30)
        assert process.returncode == 42


def test_seccomp_is_respected(tmp_path: Path) -> None:
    """A filter could kill the process for a system call that is not its own: none is made."""
    with started(under_seccomp(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        settled(process.pid)
        with Tracee(process.pid, 5) as tracee, pytest.raises(OSError, match="seccomp may forbid it system calls"):
            tracee.snapshot(convention_of(ARCHES["x86_64"]))
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "alive\n"
