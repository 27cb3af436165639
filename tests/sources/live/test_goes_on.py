# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that is taken goes on as if nothing had been, by its own account, even if kgcore is killed meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.compiler import compiled
from tests.victims_here import ptrace_or_skip

# A program that keeps its own books: threads that count, a timer's signals, children that it waits for with
# waitpid(-1), signals that it queues to itself. On SIGTERM it says whether they are right.
BOOKKEEPER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 16 };
static atomic_ulong queued, delivered, wrong, children, reaped, alarms, sigchld;
static atomic_int over, started;
static _Thread_local unsigned long mine;
static unsigned long counts[THREADS];

static void on_queued(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    unsigned long last = atomic_fetch_add(&delivered, 1);
    if ((unsigned long)info->si_value.sival_ptr != last + 1 || info->si_pid != getpid())
        wrong++;
}

static void on_alarm(int number) { (void)number, alarms++; }
static void on_child(int number) { (void)number, sigchld++; }
static void on_end(int number) { (void)number, over = 1; }

/* What a handler needs of a stack later is there from the beginning. */
static void touch_stack(void)
{
    volatile char deep[65536];
    for (unsigned i = 0; i < sizeof deep; i += 1024)
        deep[i] = 1;
}

static void *count(void *arg)
{
    unsigned long *shown = arg;
    double sum = 0;
    touch_stack(), started++;
    while (!over) {
        for (int i = 0; i < 10000; i++) {
            mine++;
            sum += 0.5; /* exact in floating point */
        }
        *shown = mine;
        if (sum != (double)mine / 2)
            wrong++;
        if (mine % 100000 == 0 && usleep(1000) && errno != EINTR)
            wrong++;
    }
    return NULL;
}

int main(void)
{
    pthread_t ids[THREADS];
    struct sigaction action = {.sa_flags = SA_RESTART};
    sigset_t set, before;

    action.sa_handler = on_alarm, sigaction(SIGALRM, &action, NULL);
    action.sa_handler = on_child, sigaction(SIGCHLD, &action, NULL);
    action.sa_handler = on_end, sigaction(SIGTERM, &action, NULL);
    action.sa_sigaction = on_queued, action.sa_flags |= SA_SIGINFO, sigaction(SIGRTMIN, &action, NULL);
    /* The threads take no signals, so that those of one kind arrive in order. */
    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, count, &counts[i]);
    touch_stack();
    while (started < THREADS)
        usleep(1000);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &often, NULL);
    char *untouched = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("ready %p\n", (void *)untouched);
    fflush(stdout);
    while (!over) {
        union sigval value = {.sival_ptr = (void *)++queued};
        while (sigqueue(getpid(), SIGRTMIN, value) && errno == EAGAIN)
            ;
        if (queued % 50 == 0) {
            pid_t child = fork();
            if (child == 0)
                _exit((int)(queued & 127));
            children += child > 0;
            int status;
            pid_t found = waitpid(-1, &status, 0);
            while (found < 0 && errno == EINTR)
                found = waitpid(-1, &status, 0);
            if (found != child || !WIFEXITED(status) || WEXITSTATUS(status) != (int)(queued & 127))
                wrong++;
            reaped += found > 0;
        }
    }
    struct itimerval never = {0};
    setitimer(ITIMER_REAL, &never, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    int left = waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : 1;
    printf("{\"queued\": %lu, \"delivered\": %lu, \"wrong\": %lu, \"children\": %lu, \"reaped\": %lu, "
           "\"sigchld\": %lu, \"left\": %d, \"alarms\": %lu}\n", queued, delivered, wrong, children, reaped, sigchld,
           left, alarms);
    return 42;
}
"""
ROUNDS = int(os.environ.get("KGCORE_LIVE_ROUNDS", "5"))  # by hand: 1000
WINDOWS = int(os.environ.get("KGCORE_LIVE_WINDOWS", "5"))  # by hand: 100
KILLS = int(os.environ.get("KGCORE_LIVE_KILLS", "12"))  # by hand: 500
LATEST = float(os.environ.get("KGCORE_LIVE_LATEST", "0.5"))  # seconds behind its start; by hand: 2
# kgcore's own niceness: with -15, a thousand dumps of a program that wants all CPUs take minutes, not an hour.
NICE = int(os.environ.get("KGCORE_LIVE_NICE", "0"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ptrace_or_skip()
    return compiled(tmp_path_factory.mktemp("bookkeeper"), BOOKKEEPER, "-pthread")


@pytest.fixture
def bookkeeper(program: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("ready ")
            yield process
        finally:
            process.kill()


def close(process: "subprocess.Popen[str]", *, worked: bool = True) -> dict[str, Any]:
    """End the program and return its books, once they are found right.

    :param worked: it had time to do all that it does.
    """
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    books: dict[str, Any] = json.loads(said)
    assert process.returncode == 42
    assert books["wrong"] == 0, books
    assert books["queued"] == books["delivered"], books
    assert books["children"] == books["reaped"], books
    # One for each child at most: signals of one kind that wait are one.
    assert books["sigchld"] <= books["children"], books
    assert (books["sigchld"] > 0) == (books["children"] > 0), books
    assert books["left"] == 0, books
    assert not worked or (books["children"] > 0 and books["alarms"] > 0), books
    return books


def tracer_of(pid: int) -> set[str]:
    return {
        line.split()[1]
        for tid in os.listdir(f"/proc/{pid}/task")
        for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
        if line.startswith("TracerPid:")
    }


def page_counts(pid: int) -> dict[str, int]:
    """Sizes in KiB that reading must not change."""
    # Not VmRSS: since 6.2 (f1a7941243c1 "mm: convert mm's rss stats into percpu_counter") that may be wrong by 32 pages
    # for each CPU.
    found = {}
    for name in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in NAMES:
                found[key] = int(rest.split()[0])
    assert set(found) == set(NAMES)
    return found


NAMES = ("Rss", "Swap", "VmPTE", "VmSize")


def live(pid: int, *options: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "kgcore", "live", "-v", "0", *options, str(pid)]
    before = ["nice", "-n", str(NICE)] if NICE else []
    return subprocess.Popen([*before, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_books_are_right_after_many_dumps(bookkeeper: "subprocess.Popen[str]", freeze: str) -> None:
    before = page_counts(bookkeeper.pid)
    for _ in range(ROUNDS):
        dump = live(bookkeeper.pid, "-o", "/dev/null", "--freeze", freeze)
        assert (dump.communicate()[1], dump.returncode) == (b"", 0)
    after = page_counts(bookkeeper.pid)
    for name, size in before.items():
        assert after[name] <= size * 1.01 + 64, (name, size, after[name])  # the vdso's pages, and malloc()'s
    close(bookkeeper)


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_a_killed_kgcore_lets_it_go(bookkeeper: "subprocess.Popen[str]", tmp_path: Path, freeze: str) -> None:
    """At moments all over its work; the helper program that holds the threads sees that it is gone."""
    words = "-o", str(tmp_path / "core"), "--force", "--freeze", freeze
    for number in range(KILLS):
        dump = live(bookkeeper.pid, *words)
        time.sleep(LATEST * (number + random.random()) / KILLS)
        dump.kill()
        dump.communicate()
    left_alone(bookkeeper.pid)
    close(bookkeeper)


# kgcore with a guardian that holds the window of injection open: while a thread is at the entry of a system call that
# is not its own, it says so, and waits.
SLOW = """
import sys
import kgcore.ptrace.tracee as tracee
tracee._START = (
    "import os, sys, time; from kgcore.ptrace import injection; step = injection.System._to_the_next_stop\\n"
    "def slow(self, tid):\\n"
    "    step(self, tid); open(PATH, 'w').close(); time.sleep(SECONDS)\\n"
    "injection.System._to_the_next_stop = slow; from kgcore.ptrace.guardian import main; main()"
).replace("PATH", repr(sys.argv.pop(1))).replace("SECONDS", sys.argv.pop(1))
from kgcore.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def slow_live(window: Path, seconds: float, pid: int, *options: str) -> "subprocess.Popen[bytes]":
    # Without its state, for which there would be a hundred slow calls.
    words = [sys.executable, "-c", SLOW, str(window), str(seconds), "live", "-v", "0", "--no-state", *options, str(pid)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_killed_while_a_system_call_is_injected(bookkeeper: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """A thread has registers that are not its own then; the guardian puts them back."""
    window = tmp_path / "window"
    for _ in range(WINDOWS):
        window.unlink(missing_ok=True)
        dump = slow_live(window, 0.1, bookkeeper.pid, "-o", str(tmp_path / "core"), "--force", "--freeze", "fork")
        deadline = time.monotonic() + 30
        while not window.exists():
            assert dump.poll() is None, dump.communicate()
            assert time.monotonic() < deadline
        time.sleep(random.uniform(0, 0.3))
        dump.kill()
        dump.communicate()
        left_alone(bookkeeper.pid)
    close(bookkeeper)


def test_a_copy_that_takes_too_long(bookkeeper: "subprocess.Popen[str]", tmp_path: Path) -> None:
    words = "--freeze", "fork", "--max-freeze", "600ms", "-o", str(tmp_path / "core")
    dump = slow_live(tmp_path / "window", 0.5, bookkeeper.pid, *words)
    message = dump.communicate()[1].decode()
    assert dump.returncode == 1
    assert "stood still for 0.6 s and is not read yet: nothing is written (--max-freeze allows more" in message
    assert [path.name for path in tmp_path.iterdir()] == ["window"]
    left_alone(bookkeeper.pid)
    close(bookkeeper)


def left_alone(pid: int) -> None:
    """Wait until nobody traces it, and no copy of it is its child."""
    deadline = time.monotonic() + 20
    while tracer_of(pid) != {"0"} or hidden_children(pid):
        assert time.monotonic() < deadline, (tracer_of(pid), hidden_children(pid))
        time.sleep(0.01)


def hidden_children(pid: int) -> list[int]:
    """Children whose end is no SIGCHLD: copies."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for word in (task / "children").read_text().split():
                with suppress(OSError):
                    # exit_signal, field 38 of /proc/PID/stat
                    if Path(f"/proc/{word}/stat").read_bytes().rpartition(b") ")[2].split()[38 - 3] == b"0":
                        found.append(int(word))
    return found


def test_it_may_end_meanwhile(program: Path, tmp_path: Path) -> None:
    """kgcore says that it has ended, or has a core of before; the program's own status is right either way."""
    for number in range(10):
        with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            dump = live(process.pid, "-o", str(tmp_path / f"core{number}"))
            time.sleep(0.05 * number)
            close(process, worked=False)
            message = dump.communicate()[1].decode()
            assert dump.returncode in (0, 1, 3)
            assert "Traceback" not in message
            assert "unexpected" not in message


def test_a_limit_of_standing_still(tmp_path: Path) -> None:
    """Reading 512 MiB takes longer than 20 ms: there is no core, and the program goes on."""
    program = "import time; data = bytearray(b'x' * (512 << 20)); print('ready', flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for jobs in ("1", "2"):
                core = tmp_path / "core"
                dump = live(process.pid, "--freeze", "stop", "--max-freeze", "20ms", "--jobs", jobs, "-o", str(core))
                message = dump.communicate()[1].decode()
                assert dump.returncode == 1, message
                assert "stood still for 0.02 s" in message or "does not stop" in message
                assert list(tmp_path.iterdir()) == []
                assert tracer_of(process.pid) == {"0"}
        finally:
            process.kill()
