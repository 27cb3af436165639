#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long it takes until kgcore can look at a process, and how much memory: open the dump, types, symbols, a task.

    python3 benchmarks/startup.py [--runs N] [--json FILE] DUMP [VMLINUX]

Each run is a process of its own; a row is the median of the runs, without one that warms the file cache.
With VMLINUX also with DWARF, and with crash where it is installed (it lists one task and exits).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OPEN = """
import sys
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from drgn.helpers.linux.pid import find_task
kind, pid, dump, *symbols = sys.argv[1:]
with open_target(DumpLocation(core=dump, symbols=tuple(symbols), symbols_from=kind)) as target:
    assert find_task(target.prog, int(pid)).pid.value_() == int(pid)
"""


@dataclass(frozen=True)
class Row:
    """A way to start.

    :ivar seconds: median.
    :ivar slowest: of the runs.
    :ivar peak_mib: median of the peak resident memory.
    :ivar note: why there are no numbers, else "".
    """

    way: str
    seconds: float = 0
    slowest: float = 0
    peak_mib: float = 0
    note: str = ""


def measure(way: str, command: Sequence[str], runs: int, text: str = "") -> Row:
    """Run a command some times."""
    times, peaks = [], []
    for number in range(runs + 1):
        with tempfile.TemporaryFile() as output:
            start = time.monotonic()
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, text=True
            )
            assert process.stdin
            try:
                process.stdin.write(text)
                process.stdin.close()
            except BrokenPipeError:
                pass
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            return Row(way, note=f"exit status {process.returncode}: {said[-1] if said else 'no output'}")
        if number:
            times.append(seconds)
            peaks.append(usage.ru_maxrss / 1024)
    return Row(way, statistics.median(times), max(times), statistics.median(peaks))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("vmlinux", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=7, help="at least 5 (default 7)")
    parser.add_argument("--pid", type=int, default=1, help="the task to find (default 1)")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    runs = max(options.runs, 5)
    dump = str(options.dump.resolve())

    def kgcore(way: str, kind: str, *symbols: str) -> Row:
        return measure(way, [sys.executable, "-c", OPEN, kind, str(options.pid), dump, *symbols], runs)

    rows = [kgcore("kgcore, BTF", "btf")]
    if options.vmlinux:
        vmlinux = str(options.vmlinux.resolve())
        rows.append(kgcore("kgcore, DWARF", "dwarf", vmlinux))
        rows.append(crash(vmlinux, dump, runs))
    print(f"{'way':<24} {'seconds':>8} {'slowest':>8} {'peak MiB':>9}")
    for row in rows:
        numbers = row.note or f"{row.seconds:8.2f} {row.slowest:8.2f} {row.peak_mib:9.0f}"
        print(f"{row.way:<24} {numbers}")
    if options.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "dump": options.dump.name, "runs": runs}
        options.json.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def crash(vmlinux: str, dump: str, runs: int) -> Row:
    """crash with the fewest things it can start with; old releases of it refuse new kernels."""
    program = shutil.which("crash")
    if program is None:
        return Row("crash", note="not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    name = next((line for line in version if line.startswith("crash")), "crash")
    return measure(name, [program, "-s", "--no_modules", vmlinux, dump], runs, "ps 1\nquit\n")


if __name__ == "__main__":
    main()
