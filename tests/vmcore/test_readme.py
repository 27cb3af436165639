# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's session, run as written: what it shows is what kgcore prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vmcore.tools import tool

README = Path(__file__).parent.parent.parent / "README.md"


def session() -> list[tuple[str, str]]:
    """Commands and what the README says they print."""
    (block,) = re.findall(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in block.split("$ ")[1:]]


def test_session_prints_what_the_readme_shows(tmp_path: Path) -> None:
    (cd, _), *commands = session()
    directory = README.parent / cd.removeprefix("cd ")
    environment = {key: value for key, value in os.environ.items() if key != "KGCORE_VMCORE"}
    # The kgcore of the environment that runs the tests; and cores go to a directory of the test's own.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    assert len(commands) >= 4
    for command, shown in commands:
        if command.startswith("gdb"):
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


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/report.md",
        "docs/progress.md",
        "tests/vmcore_fixtures/README.md",
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    text = (README.parent / name).read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (README.parent / name).parent.joinpath(target).exists()
