# SPDX-License-Identifier: LGPL-2.1-or-later
"""benchmarks/startup.py, and what it shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.vmcore.conftest import MAIN, need
from tests.vmcore.tools import ROOT


@pytest.mark.parametrize("file", ["vmcore.elf", "vmcore.d17-lzo", "vmcore.qemu-flat"])
@pytest.mark.parametrize("name", MAIN)
def test_startup_without_vmlinux(name: str, file: str, tmp_path: Path) -> None:
    script, result = ROOT / "benchmarks" / "startup.py", tmp_path / "result.json"
    command = [sys.executable, str(script), str(need(name).dump(file)), "--json", str(result), "--runs", "5"]
    table = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    (row,) = json.loads(result.read_text())["rows"]
    assert row["way"] == "kgcore, BTF"
    assert f"{row['seconds']:.2f}" in table
    assert row["peak_mib"] < 100
