# SPDX-License-Identifier: LGPL-2.1-or-later
"""Standard streams that are closed, full, or read by nobody: no core is lost for it, and nothing gets into one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_source import COMPLETE, DEFECT, INCOMPLETE, KERNEL_THREAD, LARGE, MARKED

ROOT = Path(__file__).resolve().parents[2]


def shell(redirection: str, *words: object, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    """kgcore on the fake source, with its streams as a shell redirects them."""
    (cwd / "vmcore").touch()
    command = [sys.executable, "-m", "tests.fake_source", *map(str, words)]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )


def expected(cwd: Path) -> dict[str, bytes]:
    """The cores of the processes below."""
    (cwd / "expected").mkdir()
    shell("", "-D", "expected", COMPLETE, INCOMPLETE, LARGE, cwd=cwd)
    return {path.name: path.read_bytes() for path in (cwd / "expected").iterdir()}


def cores(cwd: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cwd.iterdir() if path.name not in ("vmcore", "expected")}


READER_GONE = "| true"  # "| head" that has seen enough


@pytest.mark.parametrize(
    ("redirection", "status"),
    [
        ("2>&-", 3),
        ("2>/dev/full", 3),
        ("<&-", 3),
        (">&-", 1),
        (">/dev/full", 1),
        (">&- 2>&-", 1),
        ("<&- >&- 2>&-", 1),
        (">/dev/full 2>&1", 1),
        (f"2>&1 {READER_GONE}; exit ${{PIPESTATUS[0]}}", 1),
        (f"{READER_GONE}; exit ${{PIPESTATUS[0]}}", 1),
    ],
)
@pytest.mark.parametrize("more", [[], ["-v", 3], ["--progress", "json", "-v", 0]])
def test_every_core_is_written(redirection: str, status: int, more: list[object], tmp_path: Path) -> None:
    wanted = expected(tmp_path)
    done = shell(redirection, *more, COMPLETE, INCOMPLETE, LARGE, cwd=tmp_path)
    assert cores(tmp_path) == wanted
    assert done.returncode == status
    for sign in (b"AttributeError", b"Traceback", b"Exception ignored", b"unexpected"):
        assert sign not in done.stdout + done.stderr
    if "2>" not in redirection and status == 1:
        said = (
            b"kgcore: the reader of standard output closed it"
            if READER_GONE in redirection
            else b"kgcore: standard output: "
        )
        assert done.stderr.count(said) == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_defect_does_not_cost_the_others(redirection: str, tmp_path: Path) -> None:
    assert shell(redirection, "-v", 2, DEFECT, KERNEL_THREAD, COMPLETE, cwd=tmp_path).returncode == 1
    assert list(cores(tmp_path)) == ["core.100"]


@pytest.mark.parametrize("pid", [COMPLETE, INCOMPLETE, MARKED])
@pytest.mark.parametrize("redirection", ["2>&-", "<&- 2>&-", "2>/dev/full"])
def test_nothing_is_appended_to_a_core(pid: int, redirection: str, tmp_path: Path) -> None:
    shell("", "-o", "core", pid, cwd=tmp_path)
    done = shell(redirection, "-o", "-", "-v", 7, "--progress", "json", pid, cwd=tmp_path)
    assert done.stdout == (tmp_path / "core").read_bytes()


@pytest.mark.parametrize("words", [["ps", "--json"], ["map", "--json", INCOMPLETE], ["--report", "-", INCOMPLETE, 404]])
def test_nothing_gets_into_json(words: list[object], tmp_path: Path) -> None:
    assert json.loads(shell("2>&-", *words, cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    "words", [["ps"], ["ps", "--json"], ["--help"], ["--version"], ["--dry-run", COMPLETE, LARGE], ["map", COMPLETE],
              ["-o", "-", COMPLETE], ["completion", "bash"]],
)  # fmt: skip
def test_a_result_that_cannot_be_shown_is_told_in_a_line(words: list[object], tmp_path: Path) -> None:
    for redirection in (">&-", ">/dev/full"):
        done = shell(redirection, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(b"kgcore: ")
        assert os.strerror(9 if "-" in redirection else 28).encode() in done.stderr


def test_messages_do_not_go_where_the_core_goes(tmp_path: Path) -> None:
    """``kgcore -o - 1234 > core 2>&1``, as in a crontab."""
    for redirection in ("> core 2>&1", "2>&1 | cat > core; exit ${PIPESTATUS[0]}"):
        assert shell(redirection, "-o", "-", COMPLETE, cwd=tmp_path).returncode == 2
        assert b"standard error and standard output are the same file" in (tmp_path / "core").read_bytes()
    assert shell("> /dev/null 2>&1", "-o", "-", COMPLETE, cwd=tmp_path).returncode == 0
    assert shell("> core 2> messages", "-o", "-", COMPLETE, cwd=tmp_path).returncode == 0
    assert (tmp_path / "core").read_bytes()[:4] == b"\x7fELF"


def test_no_descriptor_is_left_to_start_with() -> None:
    script = (
        "import os\nfrom kgcore.cli import main as cli\n"
        "def pipe(): raise OSError(24, os.strerror(24))\nos.pipe = pipe\ncli.entry()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, b"kgcore: cannot start: Too many open files\n")
