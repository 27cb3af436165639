# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's session, run as written: what it shows is what kgcore prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vmcore.conftest import need
from tests.vmcore.tools import tool

README = Path(__file__).parent.parent.parent / "README.md"


def sessions() -> list[list[tuple[str, str]]]:
    """Commands and what the README says they print."""
    blocks = re.findall(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    return [[(part.partition("\n")[0], part.partition("\n")[2]) for part in block.split("$ ")[1:]] for block in blocks]


@pytest.mark.parametrize("session", sessions(), ids=lambda session: session[-1][0].split()[0])
def test_session_prints_what_the_readme_shows(session: list[tuple[str, str]], tmp_path: Path) -> None:
    (cd, _), *commands = session
    directory = README.parent / cd.removeprefix("cd ")
    environment = {key: value for key, value in os.environ.items() if key != "KGCORE_VMCORE"}
    # The kgcore of the environment that runs the tests; and cores go to a directory of the test's own.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    assert len(commands) >= 2
    for command, shown in commands:
        if command.startswith(("gdb", "kgcore debug")):
            tool("gdb")
        done = subprocess.run(
            ["bash", "-c", command.replace("/tmp", str(tmp_path))],
            cwd=directory,
            env=environment,
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
    environment = {**os.environ, "KGCORE_VMCORE": str(guest.dump()), "PYTHONPATH": str(README.parent)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    blocks = re.findall(r"^```text\n(\$ kgcore .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    shown = [part.partition("\n") for block in blocks for part in block.split("$ ")[1:]]
    assert len(shown) >= 3
    for command, _, expected in shown:
        words = command.replace(" 142", f" {guest.victims['openfiles'].pid}")
        done = subprocess.run(
            ["bash", "-c", words],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert without_numbers(done.stdout) == without_numbers(expected), command


def without_numbers(text: str) -> str:
    """Without ids, which are the first numbers of a row, and without the inodes of files that have no name."""
    return re.sub(r"^ *\d+ +(\d+|-) +\d+|#\d+|^ *PID +NSPID +PPID", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/report.md",
        "docs/progress.md",
        "docs/ps.md",
        "docs/files.md",
        "docs/map.md",
        "docs/bt.md",
        "tests/vmcore_fixtures/README.md",
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    path = README.parent / name
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists()
        assert not heading or heading in headings(there)


def headings(path: Path) -> set[str]:
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in path.read_text().splitlines()
        if line.startswith("#")
    }
