# SPDX-License-Identifier: LGPL-2.1-or-later
"""Outputs that are there already: pipes by name, ``>(command)``, /dev/null. And what must not be taken for one."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kgcore.errors import OutputError
from kgcore.sinks.outputs import named, occupied, output, standard
from tests.fake_source import COMPLETE, INCOMPLETE, LARGE

ROOT = Path(__file__).resolve().parents[2]
KGCORE = f"{sys.executable} -m tests.fake_source"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vmcore").touch()
    return tmp_path


def bash(line: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """A line of shell in which ``kgcore`` is the command."""
    code = f'kgcore() {{ {KGCORE} "$@"; }}; {line}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, env=environment, **more)


@pytest.fixture
def core() -> bytes:
    assert bash(f"kgcore {LARGE}").returncode == 0
    return Path(f"core.{LARGE}").read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "kgcore -o >(cat > got; touch done) {pid}; while [ ! -e done ]; do sleep 0.01; done",
        "mkfifo pipe; cat pipe > got & kgcore -o pipe {pid}; status=$?; wait; exit $status",
        "kgcore -o /dev/fd/7 {pid} 7> got",
        "kgcore -o /proc/self/fd/7 {pid} 7> got",
        "kgcore -o /dev/stdout {pid} > got",
        "kgcore -o /dev/fd/1 {pid} > got",
        "kgcore -o /dev/fd/7 --jobs 4 {pid} 7> got",
        "kgcore --compress gzip -o >(gunzip > got; touch done) {pid}; while [ ! -e done ]; do sleep 0.01; done",
    ],
)
def test_a_core_goes_to_what_is_there(line: str, core: bytes) -> None:
    done = bash(line.format(pid=LARGE))
    assert done.returncode == 0, done.stderr
    assert Path("got").read_bytes() == core
    assert list(Path().glob(".*")) == []


def test_nothing_is_left_of_a_core_that_is_thrown_away() -> None:
    done = bash(f"kgcore -o /dev/null --report - {COMPLETE}")
    assert done.returncode == 0
    assert json.loads(done.stdout)["processes"][0]["complete"]
    assert os.listdir() == ["vmcore"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_device_that_is_full() -> None:
    done = bash(f"kgcore -o /dev/full {COMPLETE}")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_reader_of_a_pipe_that_goes_away() -> None:
    done = bash(f"mkfifo pipe; head -c 4 pipe > got & kgcore -o pipe {LARGE}")
    assert done.returncode == 1
    assert "the reader closed the pipe" in done.stderr
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"--report >(cat > got; touch done) {COMPLETE}", '"tgid": 100'),
        (f"--report /dev/fd/7 {COMPLETE} 7> got; touch done", '"tgid": 100'),
    ],
)
def test_reports_too(line: str, text: str) -> None:
    done = bash(f"kgcore {line}; while [ ! -e done ]; do sleep 0.01; done")
    assert done.returncode == 0, done.stderr
    assert text in Path("got").read_text()


def test_a_core_and_its_report_are_two_things() -> None:
    done = bash(f"kgcore -o - --report /dev/stdout {COMPLETE}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot both go to standard output" in done.stderr
    assert json.loads(bash(f"kgcore --report - {INCOMPLETE}").stdout)["status"] == 3


def test_a_descriptor_that_is_not_open() -> None:
    """It is looked at before anything is opened that might get its number."""
    done = bash(f"kgcore -o /dev/fd/77 {COMPLETE}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/fd/77: Bad file descriptor" in done.stderr


def test_a_terminal_takes_no_core() -> None:
    terminal, end = os.openpty()
    try:
        done = bash(f"kgcore -o /dev/fd/{end} {COMPLETE}", pass_fds=[end])
    finally:
        os.close(terminal)
        os.close(end)
    assert done.returncode == 1
    assert "is a terminal" in done.stderr


@pytest.mark.parametrize("kind", ["link to a pipe", "link to null", "socket", "directory"])
def test_what_takes_no_core(kind: str) -> None:
    """A planted link would show it to whoever reads the pipe."""
    os.mkfifo("pipe")
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("target")
    elif kind == "directory":
        os.mkdir("target")
    else:
        os.symlink("pipe" if "pipe" in kind else "/dev/null", "target")
    for force in (False, True):
        with pytest.raises(OutputError, match="is not a regular file"), named("target", force=force):
            pass
    assert occupied("target")


def test_names_that_kgcore_makes_are_files() -> None:
    """A pipe that waits under the name of a core gets none."""
    os.mkfifo("core.100")
    done = bash(f"kgcore --force {COMPLETE}")
    assert done.returncode == 1
    assert "core.100 exists and is not a regular file" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pipe of somebody else's")
def test_a_pipe_that_somebody_planted(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chmod(shared, 0o1777)
    os.mkfifo(shared / "core")
    os.chown(shared / "core", 12345, 12345)
    with pytest.raises(OutputError, match="a pipe of another user"), named(str(shared / "core")):
        pass
    os.chmod(shared, 0o755)  # in a directory of one's own it was put there on purpose
    reader = os.open(shared / "core", os.O_RDONLY | os.O_NONBLOCK)
    with named(str(shared / "core")) as sink:
        sink.write(b"core")
        assert os.read(reader, 9) == b"core"
    os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mknod"), reason="only root can make a device")
def test_a_disk_is_not_overwritten() -> None:
    for number, kind in ((os.makedev(7, 255), stat.S_IFBLK), (os.makedev(1, 1), stat.S_IFCHR)):
        os.mknod("device", kind | 0o600, number)
        with pytest.raises(OutputError, match="is not a regular file"), output("device", force=True):
            pass
        os.unlink("device")


def test_names_of_standard_output() -> None:
    assert [standard(name) for name in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")] == ["-"] * 4
    assert [standard(name) for name in ("a", "/dev/stderr", "./-", "/dev/null")] == [
        "a",
        "/dev/stderr",
        "./-",
        "/dev/null",
    ]
