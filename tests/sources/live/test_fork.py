# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of processes that go on: of one moment, with what fork(2) leaves out; and where there must be no copy."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compiler import compiled
from tests.victims_here import ptrace_or_skip, settled, started, under_seccomp
from tests.vmcore.corefile import Core

PAGE = os.sysconf("SC_PAGESIZE")
PAGES = 2000
NOBODY = 65534

# A sweep over private and shared memory, page by page, again and again: at any moment the pages are of one round up to
# a place, and of the round before behind it. Besides: memory that a fork leaves out, and memory that it wipes.
SWEEPER = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 2000 };

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *own = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *left = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *wiped = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(left, 'l', 2 * page), memset(wiped, 'w', 2 * page);
    if (madvise(left, 3 * page, MADV_DONTFORK) || madvise(wiped, 3 * page, MADV_WIPEONFORK))
        return 1;
    for (volatile unsigned long round = 1; ; round++) {
        for (long i = 0; i < PAGES; i++) {
            *(volatile unsigned long *)(own + i * page) = round;
            *(volatile unsigned long *)(shared + i * page) = round;
        }
        if (round == 2)
            printf("%lu %lu %lu %lu\n", (unsigned long)own, (unsigned long)shared, (unsigned long)left,
                   (unsigned long)wiped), fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def sweeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ptrace_or_skip()
    return compiled(tmp_path_factory.mktemp("sweeper"), SWEEPER, "-O1")


@contextmanager
def saying(*words: object) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A program, and the first line that it says."""
    with started(*words) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline()


def live(pid: int, *options: object) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "kgcore", "live", *(str(option) for option in options), str(pid)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])


def rounds(core: Core, start: int) -> list[int]:
    return [struct.unpack("<Q", core.read(start + number * PAGE, 8))[0] for number in range(PAGES)]


def place(found: list[int]) -> tuple[int, int]:
    """The round that is going on, and the place that it has reached.

    :raises AssertionError: these pages are not of one moment.
    """
    now = found[0]
    reached = next((number for number, value in enumerate(found) if value != now), len(found))
    assert set(found[reached:]) <= {now - 1}
    return now, reached


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_of_one_moment(sweeper: Path, tmp_path: Path, freeze: str) -> None:
    for number in range(3):
        with saying(sweeper) as (process, said):
            own, shared, left, wiped = map(int, said.split())
            path = tmp_path / f"core{number}"
            report = tmp_path / f"report{number}"
            done = live(process.pid, "--freeze", freeze, "-o", path, "--report", report)
            assert (done.returncode, done.stderr) == (0, "")
            core = Core(path)
            (one,) = json.loads(report.read_text())["processes"]
            assert one["freeze"]["how"] == freeze
            assert one["freeze"]["why"] is None
            assert (one["freeze"]["window"] > 0) == (freeze == "fork")
            assert 0 < one["freeze"]["window"] < one["freeze"]["seconds"] or freeze == "stop"
            # The shared page is written right behind the private one.
            mine, others = place(rounds(core, own)), place(rounds(core, shared))
            assert mine in (others, (others[0], others[1] + 1), (others[0] + 1, 1)), (mine, others)
            for start, letter in ((left, b"l"), (wiped, b"w")):
                assert core.read(start, 2 * PAGE) == letter * 2 * PAGE
                assert core.read(start + 2 * PAGE, PAGE) == bytes(PAGE)


def test_shared_memory_may_be_read_late(sweeper: Path, tmp_path: Path) -> None:
    with saying(sweeper) as (process, said):
        own, shared, *_ = map(int, said.split())
        done = live(process.pid, "--freeze", "fork", "--shared", "late", "-o", tmp_path / "core")
        assert done.returncode == 3
        assert "shared memory was read while the process went on: it may be newer than the rest" in done.stderr
        core = Core(tmp_path / "core")
        now, _ = place(rounds(core, own))
        assert min(rounds(core, shared)) >= now - 1
        assert max(rounds(core, shared)) > now + 1  # the test is not about nothing: it did go on


def refused(pid: int, why: str, tmp_path: Path) -> None:
    """No copy is made: it is said why, and the process stands still instead, if the user does not forbid that."""
    done = live(pid, "--freeze", "auto", "-o", tmp_path / "core")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"kgcore: process {pid} stood still for ")
    assert line.endswith(f", until it was read: no copy, since {why}")
    done = live(pid, "--freeze", "fork", "-o", tmp_path / "core2")
    assert done.returncode == 1
    assert done.stderr == (
        f"kgcore: process {pid} cannot be copied: {why} (--freeze stop reads it while it stands still)\n"
    )
    assert not (tmp_path / "core2").exists()


def test_no_copy_of_one_with_seccomp(tmp_path: Path) -> None:
    with saying(under_seccomp(tmp_path)) as (process, _):
        settled(process.pid)
        refused(process.pid, "seccomp may forbid it system calls", tmp_path)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "alive\n"


def test_no_copy_of_one_with_userfaultfd(tmp_path: Path) -> None:
    """Whoever handles its faults would be told of the fork, and the kernel waits for the answer."""
    program = (
        "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <linux/userfaultfd.h>\n#include <stdio.h>\n"
        "#include <sys/ioctl.h>\n#include <sys/mman.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
        "int main(void) { int fd = syscall(SYS_userfaultfd, O_CLOEXEC); "
        "struct uffdio_api api = {UFFD_API, UFFD_FEATURE_EVENT_FORK}; struct uffdio_register reg; "
        'if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) { puts("no"); return 0; } '
        "char *at = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); at[0] = 1; "
        "reg.range.start = (unsigned long)at; reg.range.len = 8192; reg.mode = UFFDIO_REGISTER_MODE_MISSING; "
        'puts(ioctl(fd, UFFDIO_REGISTER, &reg) ? "no" : "ready"); fflush(stdout); pause(); }\n'
    )
    with saying(compiled(tmp_path, program, "-O1")) as (process, said):
        if said != "ready\n":
            pytest.skip("no userfaultfd(2) here")
        refused(process.pid, "userfaultfd(2) watches its memory", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_no_copy_of_one_that_may_not_fork(tmp_path: Path) -> None:
    ptrace_or_skip()
    with subprocess.Popen(["bash", "-c", "ulimit -u 0; exec sleep 1000"], user=NOBODY, cwd="/") as process:
        try:
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                assert process.poll() is None
            settled(process.pid)
            refused(process.pid, "it may have no further processes (pids.max, RLIMIT_NPROC)", tmp_path)
        finally:
            process.kill()


def test_no_copy_without_a_vdso(tmp_path: Path) -> None:
    """It unmapped it: there is no place for a system call."""
    program = (
        "import ctypes, time\n"
        "start, end = next([int(word, 16) for word in line.split()[0].split('-')]"
        " for line in open('/proc/self/maps') if line.endswith('[vdso]\\n'))\n"
        "time.sleep(0)\n"
        "assert ctypes.CDLL(None).munmap(ctypes.c_void_p(start), ctypes.c_size_t(end - start)) == 0\n"
        "import os; os.write(1, b'ready\\n'); ctypes.CDLL(None).pause()"
    )
    with saying(sys.executable, "-c", program) as (process, said):
        assert said == "ready\n"
        settled(process.pid)
        refused(process.pid, "it has no vdso", tmp_path)
