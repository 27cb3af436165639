# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small cores and cut cores of living processes: debuggers show of them what they show of whole ones."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kgcore import Limits, Options, open_live, save
from kgcore.check.core import check_core
from kgcore.coredump.important import Group, important
from kgcore.errors import LimitReached
from kgcore.sources.base import TaskRef
from tests.compiler import compiled
from tests.victims_here import ptrace_or_skip

GIB = 1 << 30
PATIENCE = 60

# Threads deep in recursion; one in a signal handler on another stack; one that ran over its stack, in the handler.
DEEP = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static __thread int mine;
static volatile int ready;

static int deep(int left, const char *text)
{
    char here[200];
    memset(here, 'a' + left % 26, sizeof here);
    here[9] = 0;
    if (left)
        return deep(left - 1, left % 3 ? here : text) + here[3];
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static void handler(int number) { deep(number % 5, "in the handler"); }

static void take(int number)
{
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(number, &action, NULL);
}

static void *recurse(void *arg)
{
    char *text = strdup("a string on the heap");
    mine = (long)arg;
    return (void *)(long)deep(mine * 40, text);
}

static void *on_another_stack(void *arg)
{
    char here[100000];
    memset(here, 1, sizeof here);
    take(SIGUSR1);
    raise(SIGUSR1);
    return here + (long)arg;
}

static int over(int number)
{
    volatile char here[4000];
    here[0] = number;
    return over(number + 1) + here[0];
}

static void *run_over(void *arg)
{
    take(SIGSEGV);
    return (void *)(long)over((long)arg);
}

int main(int argc, char **argv)
{
    size_t size = strtoul(argv[argc - 1], NULL, 0);
    char *large = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t small;
    pthread_t id;
    memset(large, 7, size);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 20);
    for (long i = 1; i <= 6; i++)
        pthread_create(&id, NULL, recurse, (void *)i);
    pthread_create(&id, NULL, on_another_stack, NULL);
    pthread_create(&id, &small, run_over, NULL);
    while (ready < 8)
        usleep(1000);
    puts("ready");
    fflush(stdout);
    deep(60, large);
}
"""

PYTHON = """
import threading, time
def inner(left):
    if left:
        return inner(left - 1)
    ready.append(1)
    time.sleep(1000)
ready = []
held = [{"number": n, "text": str(n)} for n in range(200_000)]
for n in range(3):
    threading.Thread(target=inner, args=(20 + n,), daemon=True).start()
while len(ready) < 3:
    time.sleep(0.01)
print("ready", flush=True)
inner(5)
"""


@pytest.fixture(autouse=True)
def _allowed() -> None:
    ptrace_or_skip()


@contextmanager
def waiting(*words: str | Path) -> Iterator[int]:
    """The pid of a program that has said that it is ready."""
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.05)  # into its last system call
            yield process.pid
        finally:
            process.kill()


def cores(pid: int, tmp_path: Path, **options: object) -> tuple[Path, Path]:
    """A full core and a small one, of the same moment but for a step of kgcore's."""
    for name in ("full", "mini"):
        with open_live() as source:
            save(source, pid, tmp_path / name, Options(profile=name, **options))  # type: ignore[arg-type]
    return tmp_path / "full", tmp_path / "mini"


def shown(core: Path, program: Path, reader: str) -> str:
    """The backtraces of all threads, as a debugger shows them."""
    if shutil.which(reader) is None:
        pytest.skip(f"no {reader}")
    words = {
        "gdb": [
            *("-nx", "-batch", "-iex", "set auto-load safe-path /", "-ex", "thread apply all bt"),
            *("-ex", "thread apply all -s print mine", program, core),  # thread-local
        ],
        "lldb": ["-x", "-b", "-o", "bt all", "-c", core, program],
        "eu-stack": ["-n", "0", f"--core={core}", "-e", program],
    }[reader]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEBUGINFOD")}
    done = subprocess.run(
        [reader, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, env=environment
    )
    text = done.stdout.decode("utf-8", "replace")
    return text.replace(str(core), "CORE")


def frames(text: str) -> list[str]:
    return re.findall(r"#\d+:? .*", text)


@pytest.mark.parametrize("reader", ["gdb", "lldb", "eu-stack"])
def test_a_small_core_shows_every_backtrace(tmp_path: Path, reader: str) -> None:
    program = compiled(tmp_path, DEEP, "-g", "-O0", "-pthread")
    with waiting(program, str(1 << 20)) as pid:
        full, mini = cores(pid, tmp_path)
    whole, small = (shown(core, program, reader) for core in (full, mini))
    assert len(frames(whole)) > 600
    assert small == whole
    assert reader != "gdb" or {f"= {number}" for number in range(1, 7)} <= set(
        re.findall(r"= [1-6]$", small, re.MULTILINE)
    )
    for name in ("deep", "handler", "over", "run_over", "main"):
        assert name in small
    verdict = check_core(mini)
    assert verdict.ok
    assert verdict.complete, "nothing is missing that was asked for"


def test_two_percent_of_a_gibibyte(tmp_path: Path) -> None:
    program = compiled(tmp_path, DEEP, "-g", "-O0", "-pthread")
    with waiting(program, str(GIB)) as pid, open_live() as source:
        report = save(source, pid, tmp_path / "core", Options(profile="mini"))
    taken = (tmp_path / "core").stat()
    assert taken.st_blocks * 512 <= taken.st_size <= GIB // 50
    assert report.complete
    assert report.filtered > GIB - (GIB >> 8)
    assert report.account.total > GIB
    assert {vma.reason for vma in report.vmas} >= {"stack", "linker", "headers", "registers", "not-in-mini"}
    headers = subprocess.run(["readelf", "-lW", tmp_path / "core"], capture_output=True, text=True).stdout
    memory = sum(int(line.split()[5], 16) for line in headers.splitlines() if line.split()[:1] == ["LOAD"])
    assert memory == report.account.total, "all of it is in the headers"
    assert "main" in shown(tmp_path / "core", program, "gdb")


@pytest.mark.parametrize("reader", ["gdb", "lldb", "eu-stack", "pystack"])
def test_an_interpreter(tmp_path: Path, reader: str) -> None:
    """Its frames are objects that its stacks lead to."""
    (tmp_path / "program.py").write_text(PYTHON)
    with waiting(sys.executable, tmp_path / "program.py") as pid:
        program = Path(os.readlink(f"/proc/{pid}/exe"))
        full, mini = cores(pid, tmp_path)
    assert mini.stat().st_blocks < full.stat().st_blocks // 8
    if reader != "pystack":
        whole, small = (shown(core, program, reader) for core in (full, mini))
        assert frames(whole)
        assert frames(small) == frames(whole)
        return
    pystack = Path(sysconfig.get_path("scripts")) / "pystack"
    if not pystack.exists():
        pytest.skip("no pystack")
    whole, small = (
        subprocess.run([pystack, "core", core, program], capture_output=True, text=True, timeout=PATIENCE).stdout
        for core in (full, mini)
    )
    assert whole.count("in inner") == 21 + 22 + 23 + 6
    assert small == whole


def test_a_program_without_position_independence_and_a_static_one(tmp_path: Path) -> None:
    for name, flags in (("fixed", ["-no-pie"]), ("static", ["-static"]), ("static-pie", ["-static-pie"])):
        directory = tmp_path / name
        directory.mkdir()
        program = compiled(directory, DEEP, "-g", "-O0", "-pthread", *flags)
        with waiting(program, str(1 << 20)) as pid:
            full, mini = cores(pid, directory)
        for reader in ("gdb", "eu-stack"):
            whole, small = (frames(shown(core, program, reader)) for core in (full, mini))
            assert len(whole) > 600
            assert small == whole, (name, reader)


def test_a_cut_core_shows_the_first_thread_whole(tmp_path: Path) -> None:
    """At a limit just above what the first groups take: notes, headers, stacks, and the linker's list, without which
    gdb finds no library. More room keeps more."""
    program = compiled(tmp_path, DEEP, "-g", "-O0", "-pthread")
    wanted: list[str] = []
    with waiting(program, str(32 << 20)) as pid:
        with open_live() as source:
            save(source, pid, tmp_path / "full")
        wanted = trace(tmp_path / "full", program)
        assert len(wanted) > 60
        before, least, notes = 0, 0, notes_of(tmp_path / "full")
        with open_live() as source, source.process(TaskRef.of(pid)) as process:
            ranges, memory = important(process.image, process.memory), process.memory
            first = sum(
                run.length
                for vma in process.image.vmas
                for start, end, group in ranges.within(vma.start, vma.end)
                for run in memory.runs(vma, start, end)
                if group <= Group.LINKER and run.provenance.stored
            )
        assert first < 3 << 20
        with pytest.raises(LimitReached), open_live() as source:
            save(source, pid, tmp_path / "core", limits=Limits(notes - 1))
        enough = notes + first + (48 << 10)  # what the note says of what is missing
        for size in (*range(notes + (16 << 10), enough, 200 << 10), enough, 8 << 20, 32 << 20, 1 << 30):
            with open_live() as source:
                report = save(source, pid, tmp_path / "core", limits=Limits(size), force=True)
            assert (tmp_path / "core").stat().st_blocks * 512 <= size
            assert check_core(tmp_path / "core").ok
            assert report.data >= before
            before = report.data
            if trace(tmp_path / "core", program) == wanted:
                least = least or size
            else:
                assert not least, f"whole with {least}, and not with {size}"
        assert notes < least <= enough
        assert report.complete


def notes_of(core: Path) -> int:
    """Bytes before the memory of a core."""
    headers = subprocess.run(["readelf", "-lW", core], capture_output=True, text=True).stdout
    return min(int(line.split()[1], 16) for line in headers.splitlines() if line.split()[:1] == ["LOAD"])


def trace(core: Path, program: Path) -> list[str]:
    """The functions in the first thread, as gdb unwinds them."""
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    words = ["gdb", "-nx", "-batch", "-ex", "set width 0", "-ex", "bt", str(program), str(core)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    return re.findall(r"^#\d+ +(?:0x\w+ in )?(\w+)", done.stdout, re.MULTILINE)
