# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command of kgcore's in a process of its own, and what it cost."""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_MEMORY = 4 << 30  # of addresses: for the sake of whoever else is on this machine
_CPU = 60  # seconds


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
        child = os.fork()
        if not child:
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
                resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU + 1))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.environ["PYTHONPATH"] = str(ROOT)
                if cwd is not None:
                    os.chdir(cwd)
                os.execvp(argv[0], argv)
            finally:
                os._exit(127)
        _, state, used = os.wait4(child, 0)
        for file in (out, err):
            file.seek(0)
        return Measured(
            -os.WTERMSIG(state) if os.WIFSIGNALED(state) else os.WEXITSTATUS(state),
            out.read().decode(errors="backslashreplace"),
            err.read().decode(errors="backslashreplace"),
            used.ru_utime + used.ru_stime,
            used.ru_maxrss << 10,
        )
