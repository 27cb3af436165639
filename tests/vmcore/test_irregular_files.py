# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each option that takes a file, with what is none: kgcore says so at once, and waits for nobody."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.vmcore.conftest import COMMITTED

DUMP = str(COMMITTED / "k61-small" / "vmcore")
KINDS = ("fifo", "zero", "directory", "socket", "null")

OPTIONS = {
    "dump": ["-c", "FILE"],
    "part of a set": ["-c", DUMP, "-c", "FILE"],
    "symbols": ["-c", DUMP, "-s", "FILE"],
    "VMCOREINFO": ["-c", DUMP, "--vmcoreinfo", "FILE"],
    "swap": ["-c", DUMP, "--swap", "/dev/zram0=FILE"],
}
COMMANDS = (["ps"], ["info"], ["128"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("irregular")
    os.mkfifo(made / "fifo")
    (made / "zero").symlink_to("/dev/zero")
    (made / "null").symlink_to("/dev/null")
    (made / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(made / "socket"))
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_no_file(folder: Path, tmp_path: Path, kind: str, option: str) -> None:
    for command in COMMANDS:
        if option == "swap" and command != ["128"]:
            continue
        words = [word.replace("FILE", str(folder / kind)) for word in OPTIONS[option]]
        done = subprocess.run(
            [sys.executable, "-m", "kgcore", *command, *words],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        assert done.returncode in (1, 2), done
        assert done.stderr.startswith("kgcore: ")
        assert kind in done.stderr or "swap" in done.stderr
        assert "unexpected" not in done.stderr
        assert not list(tmp_path.iterdir())
