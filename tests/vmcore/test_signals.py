# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals at any moment of a run on a real dump, from kgcore's first instruction to its last: it dies of them, and what
it leaves is whole. And no plugin of drgn's is in the way."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.signals import heeds_signals
from tests.vmcore.tools import ROOT, TIMEOUT, kgcore

DUMP = ROOT / "tests/vmcore_fixtures/k61-crash-small/vmcore"
SEED = int(os.environ.get("KGCORE_SIGNAL_SEED", "13"))
TIMES = int(os.environ.get("KGCORE_SIGNALS", "12"))  # for each signal and command

# It says when the first instruction of kgcore is to come. What Python does before is not kgcore's.
START = "import os, sys; os.write(1, b'.'); from kgcore.cli.main import entry; entry()"
COMMANDS = {
    "cores": ["--all", "--jobs", "2", "-D", "."],
    "sysroot": ["--compress", "gzip", "--sysroot", "sysroot", "--report", "report", "110", "118"],
    "bt": ["bt", "110"],
}


def start(directory: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", START, "-c", str(DUMP), *words],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        start_new_session=True,
    )


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def of_session(session: int) -> list[str]:
    """Processes that live on. (Who collects the dead ones is not ours to say.)"""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, theirs = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(theirs) == session and state not in "ZX":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_at_any_moment(words: list[str], number: signal.Signals, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    begun = time.monotonic()
    process = start(whole, words)
    process.communicate(timeout=TIMEOUT)
    status, duration = process.returncode, time.monotonic() - begun
    expected = files(whole)
    chance = random.Random(f"{SEED} {words} {number}")
    died = 0
    for turn in range(TIMES):
        directory = tmp_path / str(turn)
        directory.mkdir()
        process = start(directory, words)
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(chance.random() * duration)
        send = os.killpg if turn % 2 else os.kill  # as Ctrl-C does, as kill does
        for _ in range(1 + turn % 4 // 2 if number == signal.SIGHUP else 1):  # a terminal that is closed sends two
            if process.poll() is None:
                send(process.pid, number)
        _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode in (-number, status)
        died += process.returncode == -number
        assert b"Traceback" not in err
        assert b"ignored" not in err
        for _ in range(50):
            if not (left := of_session(process.pid)):
                break
            time.sleep(0.1)
        assert not left
        found = files(directory)
        found.pop("sysroot/kgcore-sysroot.json", None)  # it grows with each process
        assert found.items() <= expected.items(), f"turn {turn}: {sorted(found)}"
        assert list((directory / "tmp").iterdir()) == []
    assert died, "all came too late"


def test_no_plugin_of_others_is_loaded(tmp_path: Path) -> None:
    """One that says so, and ends kgcore."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import os, signal\nprint('loaded')\nos.kill(os.getpid(), signal.SIGINT)\n"
        "def drgn_prog_set(prog):\n    print('called')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "kgcore", "-c", DUMP, "ps"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DRGN_PLUGINS": f"mine={plugin}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.encode() == kgcore("-c", DUMP, "ps", cwd=tmp_path).raw
    assert "crasher" in done.stdout


def test_programs_of_others_have_their_plugins(tmp_path: Path) -> None:
    """A library's user opens a dump with kgcore, and then one with drgn."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text("def drgn_prog_set(prog):\n    print('called', prog.core_dump_path)\n")
    code = f"""\
import drgn, kgcore
with kgcore.open_vmcore({str(DUMP)!r}):
    print("open")
prog = drgn.Program()
prog.set_core_dump({str(DUMP)!r})
with kgcore.open_vmcore({str(DUMP)!r}):
    print("open")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DRGN_PLUGINS": f"mine={plugin}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.stdout, done.stderr) == (f"open\ncalled {DUMP}\nopen\n", "")
