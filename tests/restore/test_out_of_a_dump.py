# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``kgcore restart -c VMCORE`` takes, and what it says of files in a dump."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from kgcore.cli.commands.restart import parse
from kgcore.cli.parser import UsageError
from kgcore.sources.location import CoreLocation, DumpLocation
from tests.restore.going_on import KGCORE
from tests.vmcore.conftest import need

DIRTY = "may not have come to its disk"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("core.1", "one", "two", "vmcore"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_core_or_a_dump(files: Path) -> None:
    assert parse(["core.1"], {}).place == CoreLocation("core.1")
    command = parse(["-c", "one", "-c", "two", "--keep", "there", "--allow", "files", "0x12ab"], {})
    assert isinstance(command.place, DumpLocation)
    assert (command.place.core, command.place.parts, command.keep) == ("one", ("two",), "there")
    assert command.task.text == "0x12ab"
    command = parse(["118"], {})
    assert isinstance(command.place, DumpLocation)
    assert command.place.core == "vmcore"
    assert parse(["118"], {"KGCORE_VMCORE": "two"}).place == DumpLocation(core="two")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "neither a core nor a process is named"),
        (["core.2"], "no such core: 'core.2'"),
        (["--keep", "there", "core.1"], "--keep is about what is taken out of a dump"),
        (["--root", ".", "core.1"], "--root is about what is taken out of a dump"),
        (["-s", "one", "core.1"], "takes no --symbols"),
        (["-c", "one", "core.1"], "core.1"),
    ],
)
def test_what_makes_no_sense(files: Path, words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(words, {})


def test_files_that_the_disk_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the victim says of itself: pages that it wrote, and that had not been written back."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    guest = need("k61-server")
    victim = guest.victims["unsaved"]
    words = [*KGCORE, "restart", "--dry-run", "--json", "-c", str(guest.dump()), str(victim.pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=guest.path)
    assert done.returncode == 1, done.stderr
    refused = [row for row in json.loads(done.stdout)["refused"] if DIRTY in row["what"]]
    dirty = {file["fd"] for file in victim.said["files"] if file["dirty"] and "deleted" not in file["what"]}
    assert dirty
    assert {int(row["what"].split()[1]) for row in refused} == dirty
    assert all(row["word"] == "files" and row["allowable"] for row in refused)
    assert os.listdir(tmp_path) == []
