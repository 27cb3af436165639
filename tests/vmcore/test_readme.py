# SPDX-License-Identifier: LGPL-2.1-or-later
"""The documents' sessions, run as written: what they show is what kgcore prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import DOCUMENTS, Task, tasks
from tests.vmcore.conftest import need
from tests.vmcore.tools import ROOT, plain_environment, tool

SESSIONS = sorted(name for name in DOCUMENTS if "\n```console\n" in (ROOT / name).read_text())


def session(document: Path) -> list[tuple[str, str]]:
    """Commands and what the document says they print. Each block goes on where the one before it ended; the first
    says where that is."""
    blocks = re.findall(r"^```console\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def environment() -> dict[str, str]:
    """With the kgcore of the environment that runs the tests."""
    kept = {key: value for key, value in plain_environment().items() if key != "KGCORE_VMCORE"}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONPATH": str(ROOT)}


def test_the_sessions_are_found() -> None:
    pages = ("bt", "cli", "crash-users", "debug", "kdump", "map", "ps", "tutorial")
    assert {"README.md", *(f"docs/{page}.md" for page in pages)} <= set(SESSIONS)


@pytest.mark.parametrize("name", SESSIONS)
def test_session_prints_what_the_document_shows(name: str, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    commands = session(ROOT / name)
    assert len(commands) >= 2, "cd, and what is run there"
    directory = None
    for command, shown in commands:
        if command.startswith("cd "):
            directory = ROOT / command.removeprefix("cd ")
            continue
        assert directory, "it does not say where it is"
        if command.startswith(("gdb", "kgcore debug")):
            tool("gdb")
        done = subprocess.run(
            ["bash", "-c", command.replace("/tmp", str(tmp_path))],  # cores go to a directory of the test's own
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.stdout.replace(str(tmp_path), "/tmp") == shown, command


def test_examples_of_processes_and_files(tmp_path: Path) -> None:
    """Those that need a whole dump; process ids change whenever that is made again, and so may an inode's number."""
    guest = need("k61-files")
    text = "".join((ROOT / name).read_text() for name in DOCUMENTS)
    blocks = re.findall(r"^```text\n(\$ kgcore .*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [part.partition("\n") for block in blocks for part in block.split("$ ")[1:]]
    assert len(shown) >= 3
    for command, _, expected in shown:
        words = command.replace(" 142", f" {guest.victims['openfiles'].pid}")
        done = subprocess.run(
            ["bash", "-c", words],
            cwd=tmp_path,
            env=environment() | {"KGCORE_VMCORE": str(guest.dump())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert without_numbers(done.stdout) == without_numbers(expected), command


def without_numbers(text: str) -> str:
    """Without ids, which are the first numbers of a row, and without the inodes of files that have no name."""
    text = re.sub(r"^ *\d+ +(\d+|-) +\d+|#\d+|^ *PID +NSPID +PPID", "", text, flags=re.MULTILINE)
    # How many of its pages a process has touched differs by one or two, too.
    return re.sub(r"(?m)^.*  contained  .*$", lambda row: re.sub(r" +\d+(?= )", " N", row[0]), text)


@pytest.mark.parametrize("task", [task for task in tasks() if task.command.startswith("kgcore")], ids=lambda t: t.name)
def test_command_of_a_task_does_it(task: Task, tmp_path: Path) -> None:
    """As written, but for the id and the program. (drgn, Python: test_api_document.py; the hook: test_kdump.py.)"""
    pytest.importorskip("drgn")
    fixture = ROOT / "tests" / "vmcore_fixtures" / "k61-crash-small"
    for name in ("gdb", "zstd"):
        if f"{name} " in task.command:
            tool(name)
    command = task.command.replace("12345", "110").replace(" program ", f" {fixture}/sysroot/victims/crasher ")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment() | {"KGCORE_VMCORE": str(fixture / "vmcore")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 3), done.stdout
    says, writes = {
        "Find the process": ("crasher crasher 0x33", ""),
        "Get its core": ("Saved core.110", "core.110"),
        "See its threads": ("Process 110 (crasher): 3 threads", ""),
        "See why a page is missing": ("left out by the filter: 732 KiB", ""),
        "Get its binaries": ("sysroot dir: 1 file", "dir/kgcore-sysroot.json"),
        "Choose which memory": ("MISSING", "core.110"),
        "Into a pipe": ("Saved core.110", "core.zst"),
    }[task.name]
    assert says in done.stdout
    assert not writes or (tmp_path / writes).stat().st_size
