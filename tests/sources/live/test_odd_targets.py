# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes in states and places that are not usual: each is dumped, by both ways, and is afterwards what it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kgcore import check_core
from tests.compiler import compiled
from tests.victims_here import live_core, of_32_bits, settled, started
from tests.vmcore.corefile import Core

FREEZES = pytest.mark.parametrize("freeze", ["fork", "stop"])
PATIENCE = 1000  # looks, each after 10 ms


def live(pid: int, path: Path, freeze: str, *options: str) -> Core:
    core = live_core(pid, path, "--freeze", freeze, *options)
    assert check_core(path).problems == ()
    return core


def letter(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@FREEZES
def test_one_that_is_stopped(tmp_path: Path, freeze: str) -> None:
    """It stays so, and goes on when it is told to."""
    with started("sh", "-c", "kill -STOP $$; echo on; read line") as process:
        for _ in range(PATIENCE):
            if letter(process.pid) == "T":
                break
            time.sleep(0.01)
        live(process.pid, tmp_path / "core", freeze)
        assert letter(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.communicate("\n", timeout=30)
        assert process.returncode == 0


@FREEZES
def test_many_threads(tmp_path: Path, freeze: str) -> None:
    program = (
        "import threading, time\n"
        "threading.stack_size(65536)\n"
        "threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(500)]\n"
        "for thread in threads: thread.start()\n"
        "print('ready', flush=True); input(); print('alive', len(threading.enumerate()), flush=True)\n"
        "import os; os._exit(3)"
    )
    with started(sys.executable, "-c", program) as process:
        assert process.stdout is not None
        process.stdout.readline()
        settled(process.pid)
        core = live(process.pid, tmp_path / "core", freeze)
        assert len(core.threads) == 501
        assert {*core.threads} == {int(name) for name in os.listdir(f"/proc/{process.pid}/task")}
        assert process.communicate("\n", timeout=60)[0] == "alive 501\n"
        assert process.returncode == 3


@FREEZES
def test_threads_that_are_born_and_die(tmp_path: Path, freeze: str) -> None:
    text = (
        "#include <pthread.h>\n#include <stdio.h>\n#include <stdatomic.h>\n#include <signal.h>\n#include <unistd.h>\n"
        "static atomic_int over; static void on_end(int n) { (void)n; over = 1; }\n"
        "static void *none(void *arg) { return arg; }\n"
        "static void *makes(void *arg) { for (long n = 1; !over; n++) { pthread_t id; void *found;\n"
        "  if (pthread_create(&id, NULL, none, (void *)n)) continue;\n"
        "  if (pthread_join(id, &found) || found != (void *)n) _exit(9); } return arg; }\n"
        'int main(void) { pthread_t ids[4]; signal(SIGTERM, on_end); puts("ready"); fflush(stdout);\n'
        "  for (int i = 0; i < 4; i++) pthread_create(&ids[i], NULL, makes, NULL);\n"
        "  for (int i = 0; i < 4; i++) pthread_join(ids[i], NULL); return 42; }\n"
    )
    with started(compiled(tmp_path, text, "-pthread")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(3):
            core = live(process.pid, tmp_path / f"core{number}", freeze)
            assert process.pid in core.threads
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 42


@FREEZES
def test_one_that_executes_and_forks(tmp_path: Path, freeze: str) -> None:
    """A shell that starts programs all the time, and replaces itself: it counts to the end."""
    script = tmp_path / "again"
    script.write_text(
        'n=$1\n/bin/true || exit 9\n[ "$n" -lt 400 ] || { echo "$n"; exit 42; }\nexec sh "$0" $((n + 1))\n'
    )
    with started("sh", script, "0") as process:
        for number in range(4):
            words = [sys.executable, "-m", "kgcore", "live", "--freeze", freeze, "-o", str(tmp_path / f"core{number}")]
            done = subprocess.run([*words, str(process.pid)], capture_output=True, text=True, check=False)
            assert done.returncode in (0, 1, 3), done.stderr
            assert "Traceback" not in done.stderr
            assert "unexpected" not in done.stderr
        assert process.communicate(timeout=60)[0] == "400\n"
        assert process.returncode == 42


@FREEZES
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
def test_one_in_namespaces_of_its_own(tmp_path: Path, freeze: str) -> None:
    """Its ids are those that its own pid namespace has; its first process has no parent there."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    words = "unshare", "--fork", "--pid", "--mount", "--user", "--map-root-user", "--mount-proc"
    script = "echo ready; read line; echo \"$$ $(ls /proc | grep -c '^[0-9]')\"; exit 42"
    with started(*words, "bash", "-c", script) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("no namespaces here")
        (inner,) = (int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        settled(inner)
        core = live(inner, tmp_path / "core", freeze)
        assert [*core.threads] == [1]
        said, _ = process.communicate("\n", timeout=30)
        assert said.split()[0] == "1"
        assert int(said.split()[1]) <= 4  # itself, the two of the pipe: no copy is left in there
        assert process.returncode == 42


@FREEZES
def test_a_program_of_32_bits(tmp_path: Path, freeze: str) -> None:
    with started(of_32_bits(tmp_path)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        settled(process.pid)
        core = live(process.pid, tmp_path / "core", freeze)
        assert core.bits == 32
        assert any(b"Of thirty-two bits" in bytes(data) for load in core.loads for _, data in core.segment(load))
        process.communicate("x", timeout=30)
        assert process.returncode == 42


@FREEZES
def test_one_that_traces_a_child(tmp_path: Path, freeze: str) -> None:
    """A debugger: it waits for all its children, also for those that are none of its own making (__WALL)."""
    text = (
        "#include <errno.h>\n#include <stdio.h>\n#include <sys/ptrace.h>\n#include <sys/wait.h>\n#include <unistd.h>\n"
        "#include <signal.h>\n"
        "int main(void) { pid_t child = fork(); if (!child) { ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); "
        "char byte; (void)!read(0, &byte, 1); _exit(7); }\n"
        " int status; if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return 1;\n"
        ' ptrace(PTRACE_CONT, child, 0, 0); puts("ready"); fflush(stdout);\n'
        " pid_t found = waitpid(-1, &status, 0);\n"
        " if (found != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) return 2;\n"
        " return waitpid(-1, &status, 0) == -1 && errno == ECHILD ? 42 : 3; }\n"
    )
    with started(compiled(tmp_path, text, "-O1")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        settled(process.pid)
        live(process.pid, tmp_path / "core", freeze)
        process.communicate("x", timeout=30)
        assert process.returncode == 42
