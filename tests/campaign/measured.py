# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command of kgcore's in a process of its own, and what it cost."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_MEMORY = 4 << 30  # of addresses: for the sake of whoever else is on this machine
_CPU = 60  # seconds
# A program between: a process has the peak of the one that it was a copy of, which may be pytest and large.
_LAUNCHER = """
import os, resource, signal, sys
report, memory, cpu = map(int, sys.argv[1:4])
child = os.fork()
if not child:
    try:
        os.close(report)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvp(sys.argv[4], sys.argv[4:])
    finally:
        os._exit(127)
_, state, used = os.wait4(child, 0)
os.write(report, f"{state} {used.ru_utime + used.ru_stime} {used.ru_maxrss}".encode())
"""


@dataclass(frozen=True)
class Measured:
    """:ivar status: exit status; below 0: the signal that it died of.
    :ivar cpu: seconds of the process and all that it waited for.
    :ivar peak: bytes of RAM that one of them had at most.
    """

    status: int
    out: str
    err: str
    cpu: float
    peak: int

    @property
    def said(self) -> str:
        return self.out + self.err


def run(
    *words: str | os.PathLike[str],
    memory: int = _MEMORY,
    cwd: str | os.PathLike[str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "kgcore"),
) -> Measured:
    """Run ``kgcore WORDS``."""
    argv = [*program, *(os.fspath(word) for word in words)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        taker, giver = os.pipe()
        subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, str(giver), str(memory), str(_CPU), *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            pass_fds=[giver],
            check=True,
        )
        os.close(giver)
        with open(taker, encoding="ascii") as pipe:
            state, cpu, peak = pipe.read().split()
        for file in (out, err):
            file.seek(0)
        return Measured(
            os.waitstatus_to_exitcode(int(state)),
            out.read().decode(errors="backslashreplace"),
            err.read().decode(errors="backslashreplace"),
            float(cpu),
            int(peak) << 10,
        )
