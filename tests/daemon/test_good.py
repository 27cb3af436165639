# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that get their core."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgcore import check_core, client
from tests.daemon.running import Daemon, daemon
from tests.victims_here import ptrace_or_skip, sleeping
from tests.vmcore.corefile import Core


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    ptrace_or_skip()
    with daemon() as found:
        yield found


ITSELF = """
import ctypes, json, sys, threading
from kgcore import client
letters = ctypes.create_string_buffer(b"what only this program knows", 4096)
def work():
    done = client.dump(sys.argv[1], report=True, progress=lambda *at: seen.append(at))
    print(json.dumps({"tid": threading.get_native_id(), "address": ctypes.addressof(letters), "complete": done.complete,
                      "size": done.size, "report": json.loads(done.report), "seen": seen}))
seen = []
thread = threading.Thread(target=work); thread.start(); thread.join()
"""


def test_a_program_gets_its_own(served: Daemon, tmp_path: Path) -> None:
    """With the thread that asks first."""
    words = [sys.executable, "-c", ITSELF, str(tmp_path / "core")]
    done = subprocess.run(
        words, env=os.environ | {"KGCORE_SOCKET": str(served.path)}, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["complete"]
    assert said["size"] == (tmp_path / "core").stat().st_size == said["report"]["size"]
    assert check_core(tmp_path / "core").problems == ()
    core = Core(tmp_path / "core")
    assert next(iter(core.threads)) == said["tid"]
    assert core.read(said["address"], 28) == b"what only this program knows"


def test_another_process(served: Daemon, tmp_path: Path) -> None:
    with sleeping() as process:
        done = client.dump(tmp_path / "core", process.pid, socket=str(served.path))
        assert done.complete
        assert next(iter(Core(tmp_path / "core").threads)) == process.pid
        with pytest.raises(FileExistsError):
            client.dump(tmp_path / "core", process.pid, socket=str(served.path))
        assert process.poll() is None


def test_it_ends_with_a_signal_and_takes_its_socket_along() -> None:
    with daemon() as served:
        assert served.path.is_socket()
        assert served.end() == 0
        assert not served.path.exists()
        assert served.process.returncode != -signal.SIGTERM
        with pytest.raises(FileNotFoundError):
            client.dump(1, socket=str(served.path))
