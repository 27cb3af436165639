# SPDX-License-Identifier: LGPL-2.1-or-later
"""Thousands of descriptors of a living process: which are one open file, and what it costs to find out."""

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest

from kgcore.sources.live import descriptors
from tests.victims_here import ptrace_or_skip

EVENTFDS = 500
# Eventfds that all have one inode, a copy of each seventh, and a file that is open twice.
PROGRAM = f"""
import json, os, sys
fds = [os.eventfd(0) for _ in range({EVENTFDS})]
copies = [(fd, os.dup(fd)) for fd in fds[::7]]
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
print(json.dumps([fds, copies, files]), flush=True)
sys.stdin.read()
"""


def test_shared_files_of_many_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    ptrace_or_skip()
    calls = 0
    libc = ctypes.CDLL(None, use_errno=True)

    class Counting:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        @staticmethod
        def syscall(*arguments: Any) -> int:
            nonlocal calls
            calls += 1
            return int(libc.syscall(*arguments))

    monkeypatch.setattr(ctypes, "CDLL", Counting)
    words = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        fds, copies, files = json.loads(line)
        found = {file.fd: file.file for file in descriptors.open_files(process.pid, process.pid).files}
        assert process.stdin is not None
        process.stdin.close()
    assert len({found[fd] for fd in fds}) == EVENTFDS
    assert all(found[one] == found[other] for one, other in copies)
    assert found[files[0]] != found[files[1]]
    assert calls < 12 * len(found)
