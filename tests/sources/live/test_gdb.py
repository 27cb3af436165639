# SPDX-License-Identifier: LGPL-2.1-or-later
"""Living processes against gdb's gcore of the same process: every byte that both have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.victims_here import live_core, ptrace_or_skip, running, settled
from tests.vmcore.corefile import Core

PAGE = 4096
# What the kernel gives to no tracer, and gdb fills with zeros or leaves out.
KERNELS = ("[vvar", "[vsyscall]", "[uprobes]")
PROGRAM = """
import array, sys, threading, time
numbers = array.array("Q", range(1 << 18))
names = {f"key {number}": "x" * number for number in range(2000)}
threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(4)]
for thread in threads: thread.start()
print("ready", flush=True)
time.sleep(1000)
"""


def live(pid: int, path: Path, freeze: str) -> Core:
    return live_core(pid, path, "--freeze", freeze, "-f", "0x7f")


def gdbs(pid: int, path: Path) -> Core:
    words = ["gdb", "-nx", "-q", "-batch", "-p", str(pid), "-ex", f"gcore {path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert path.exists(), done.stderr
    return Core(path)


def compare(ours: Core, theirs: Core, pid: int) -> int:
    """How many bytes both have; each of them is the same."""
    kernels = set()
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        if any(name in line for name in KERNELS):
            kernels.add(int(line.split("-")[0], 16))
    same = 0
    for load in theirs.loads:
        if load.p_vaddr in kernels:
            continue
        for address, data in theirs.segment(load):
            for at in range(0, len(data), PAGE):
                page = bytes(data[at : at + PAGE])
                try:
                    mine = ours.read(address + at, len(page))
                except ValueError:
                    continue  # gdb stores pages of files that nobody asked for
                if mine != page:
                    # gdb writes zeros for all that it reads at once if it cannot read all of it: behind the end of a
                    # file, and around guard pages (MADV_GUARD_INSTALL). The process itself is the judge then.
                    assert not any(page), hex(address + at)
                    assert mine == of_the_process(pid, address + at, len(page)), hex(address + at)
                    continue
                same += len(page)
    return same


def of_the_process(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), size, address)


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_a_victim_of_the_fixtures(tmp_path: Path, freeze: str) -> None:
    ptrace_or_skip()
    with running(tmp_path, "memory", "0x7f") as victim:
        ours, theirs = live(victim.pid, tmp_path / "ours", freeze), gdbs(victim.pid, tmp_path / "gdbs")
        assert compare(ours, theirs, victim.pid) > 1 << 20


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_a_python_program(tmp_path: Path, freeze: str) -> None:
    ptrace_or_skip()
    words = ["taskset", "-c", "0", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            settled(process.pid)
            ours, theirs = live(process.pid, tmp_path / "ours", freeze), gdbs(process.pid, tmp_path / "gdbs")
            assert [*ours.threads] == sorted(theirs.threads)
            assert compare(ours, theirs, process.pid) > 4 << 20
        finally:
            process.kill()
