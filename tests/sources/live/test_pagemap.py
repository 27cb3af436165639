# SPDX-License-Identifier: LGPL-2.1-or-later
"""What PAGEMAP_SCAN says of a process, against /proc/PID/pagemap itself."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kgcore.sources.live.pagemap import PageMap
from tests.victims_here import ptrace_or_skip

PAGE = 4096
PROGRAM = """
import mmap, sys, time
size, step = int(sys.argv[1]), int(sys.argv[2])
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
for at in range(0, size, step): memory[at] = 1
print("ready", flush=True); time.sleep(1000)
"""


@pytest.fixture(params=[(64 << 30, 64 << 20), (1 << 30, 1 << 19), (1 << 25, 2 * PAGE), (1 << 25, PAGE)])
def sparse(request: pytest.FixtureRequest) -> Iterator[tuple[int, int, int]]:
    """A process, and the mapping of which it has written a page in every so many bytes."""
    ptrace_or_skip()
    size, step = request.param
    words = [sys.executable, "-c", PROGRAM, str(size), str(step)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if end - start >= size:
                    yield process.pid, start, end
                    return
        finally:
            process.kill()


def test_each_page_once(sparse: tuple[int, int, int]) -> None:
    pid, start, end = sparse
    table = PageMap(pid, PAGE)
    try:
        scanned = [(low, high) for low, high, _ in table.mapped(start, end)]
        read = [(low, high) for low, high, _ in table._table(start, end)]
    finally:
        table.close()
    assert all(before[1] <= after[0] for before, after in pairwise(scanned))
    assert joined(scanned) == joined(read)
    assert scanned


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and found[-1][1] == low:
            found[-1] = found[-1][0], high
        else:
            found.append((low, high))
    return found
