# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a living process stands still for its core: by its own clock, in which no thread of it made progress."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .measure import Failed, Series, scratch, timed
from .peers import Command

__all__ = ("Busy", "Standing", "busy", "longest_gaps", "reservation", "standing")

# 16 threads write to 1 GiB, and read the clock all the time. The longest time in which none of them read it stands in
# a file that they map, together with how often they did.
_BUSY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 16 };
struct shown { _Atomic long ready, longest, looks; };
static struct shown *shown;
static _Atomic long last;
static char *memory;
static size_t size;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void *work(void *arg)
{
    unsigned seed = (unsigned)(long)arg;
    for (;;) {
        for (int i = 0; i < 64; i++)
            memory[((size_t)rand_r(&seed) << 8) % size] = (char)seed;
        long here = now(), before = atomic_exchange(&last, here);
        long gap = here - before, most = shown->longest;
        while (gap > most && !atomic_compare_exchange_weak(&shown->longest, &most, gap))
            ;
        shown->looks++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t id;
    int file = open(argv[1], O_RDWR);
    size = (size_t)atol(argv[2]) << 20;
    shown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; at < size; at += 4096)
        memset(memory + at, (int)(at >> 12), 4096);
    last = now();
    for (long i = 0; i < THREADS && argc > 2; i++)
        pthread_create(&id, NULL, work, (void *)i);
    shown->ready = 1;
    pause();
    return 0;
}
"""
# 64 GiB, of which every 64 MiB a page is written.
_RESERVED = """
import mmap, time
memory = mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
for at in range(0, 64 << 30, 64 << 20): memory[at] = 1
print("ready", flush=True); time.sleep(3600)
"""


@dataclass(frozen=True)
class Busy:
    """A process that is busy.

    :ivar shown: what it shows: ready, the longest gap in ns, how often it looked at the clock.
    """

    pid: int
    shown: mmap.mmap

    def longest(self) -> float:
        """Return the longest gap since the last call, in seconds."""
        (gap,) = struct.unpack_from("q", self.shown, 8)
        struct.pack_into("q", self.shown, 8, 0)
        return float(gap) / 1e9


@dataclass
class Standing:
    """What one way to dump costs, by round: how long the process stood still, and how long the dump took."""

    still: Series = field(default_factory=Series)
    whole: Series = field(default_factory=Series)


@contextmanager
def busy(output: Path, mebibytes: int) -> Iterator[Busy]:
    """A busy process with so much memory."""
    if shutil.which("gcc") is None:
        raise Failed("no gcc")
    with scratch(output) as place:
        source, program, file = place / "busy.c", place / "busy", place / "shown"
        source.write_text(_BUSY)
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
        file.write_bytes(bytes(4096))
        with file.open("r+b") as opened, subprocess.Popen([program, file, str(mebibytes)]) as process:
            shown = mmap.mmap(opened.fileno(), 4096)
            try:
                while not shown[0]:
                    if process.poll() is not None:
                        raise Failed("the busy process ended")
                    time.sleep(0.01)
                time.sleep(1)
                yield Busy(process.pid, shown)
            finally:
                process.kill()


def standing(output: Path, victim: Busy, runs: int) -> Mapping[str, Standing]:
    """Dump a busy process in all ways, in turns."""
    kgcore = (sys.executable, "-m", "kgcore", "live", "-v", "0", "-o", "core")
    commands = {
        "fork": Command((*kgcore, "--freeze", "fork", str(victim.pid))),
        "stop": Command((*kgcore, "--freeze", "stop", str(victim.pid))),
    }
    if shutil.which("gdb"):
        words = ("gdb", "-nx", "-q", "-batch", "-p", str(victim.pid), "-ex", "gcore core")
        commands["gdb"] = Command(words)
    if shutil.which("criu"):
        words = ("criu", "dump", "--leave-running", "--shell-job", "-t", str(victim.pid), "-D", ".")
        commands["criu"] = Command(words)
    return longest_gaps(output, victim, runs, {name: partial(timed, command) for name, command in commands.items()})


def longest_gaps(
    output: Path, victim: Busy, runs: int, ways: Mapping[str, Callable[[Path], float]]
) -> Mapping[str, Standing]:
    """Dump a busy process in some ways, in turns, each into an empty directory.

    :param ways: each returns how long it took.
    """
    found = {name: Standing() for name in ways}
    for number in range(runs + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            with scratch(output) as place:
                victim.longest()
                seconds = ways[name](place)
                gap = victim.longest()
            if number:
                found[name].still.seconds.append(gap)
                found[name].whole.seconds.append(seconds)
    return found


def reservation(output: Path) -> tuple[float, int, int]:
    """Dump a process that has 64 GiB reserved, and 4 MiB of it written.

    :return: seconds, bytes that the core takes on the disk, and KiB that the process's RSS has grown by.
    """
    with subprocess.Popen([sys.executable, "-c", _RESERVED], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            before = _rss(process.pid)
            with scratch(output) as place:
                words = (sys.executable, "-m", "kgcore", "live", "-v", "0", "-o", "core", str(process.pid))
                seconds = timed(Command(words), place)
                blocks = (place / "core").stat().st_blocks * 512
            return seconds, blocks, _rss(process.pid) - before
        finally:
            process.kill()


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
