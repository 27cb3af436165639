# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real dumps, cut off at many places: told at the start, all that is still there is used, and nothing is made up."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.vmcore import reshape
from tests.vmcore.conftest import Extractor, main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.tools import kgcore

FILES = ("vmcore.elf", "vmcore.d31-elf", "vmcore.d1-zlib", "vmcore.d17-lzo", "vmcore.d17-zstd", "vmcore.qemu-flat")
PLACES = (0.9999, 0.999, 0.99, 0.95, 0.8, 0.5, 0.2, 0.01)
VICTIM = "memory"


@pytest.mark.parametrize("file", FILES)
def test_cut_off(file: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need("k61")
    pid = fixture.victims[VICTIM].pid
    whole = Core(extract(fixture.dump(main_dump(fixture)), pid, mask=None, vendor_note=False)[0])
    taken = 0
    for place in PLACES:
        size = fixture.dump(file).stat().st_size
        path = reshape.truncated(fixture.dump(file), tmp_path / "vmcore", int(size * place))
        core, report = tmp_path / f"core{place}", tmp_path / f"report{place}"
        done = kgcore("-c", path, "-f", "process", "-o", core, "--report", report, pid, cwd=tmp_path)
        told = done.remarks[0]
        assert told.startswith("kgcore: ")
        assert "cut off" in told
        if "within its headers" not in told:
            assert "the dump is cut off: it lacks at least" in told
        assert not any("Traceback" in line or "unexpected" in line for line in done.remarks)
        if done.status == 1:
            assert not core.exists()
            assert len(done.remarks) <= 2
            continue
        taken += 1
        check_core(whole, Core(core), json.loads(report.read_text())["processes"][0])
    assert taken > 0


def check_core(whole: Core, ours: Core, report: dict[str, Any]) -> None:
    """No wrong byte, and what is missing is listed."""
    stored = 0
    for load in ours.loads:
        for address, data in ours.segment(load):
            assert whole.read(address, len(data)) == data
            stored += len(data)
    missing = report["missing"]
    assert isinstance(missing, list)
    for gap in missing:
        with pytest.raises(ValueError, match="is not in"):
            ours.read(int(gap["start"], 16) if isinstance(gap["start"], str) else gap["start"], 1)
    tids = list(ours.threads)
    assert tids == list(whole.threads)[: len(tids)]
    # Where their structures lie is each guest's own.
    ended = f"the list of threads ends early after {len(tids)}: "
    assert len(tids) == len(whole.threads) or any(line.startswith(ended) for line in report["warnings"])


@pytest.mark.parametrize("name", ["k510", "k612", "k72"])
def test_a_little_is_lost(name: str, tmp_path: Path) -> None:
    """The end of RAM is where the tables of the direct map lie: without them drgn alone reads nothing."""
    fixture = need(name)
    pid = fixture.victims["threads"].pid
    whole = fixture.dump("vmcore.d17-lzo")
    path = reshape.truncated(whole, tmp_path / "vmcore", int(whole.stat().st_size * 0.999))
    done = kgcore("-c", path, "-o", tmp_path / "core", pid, cwd=tmp_path)
    assert done.status in (0, 3), done.remarks
    assert "the dump is cut off: it lacks at least" in done.remarks[0]
    assert len(Core(tmp_path / "core").threads) == len(fixture.victims["threads"].tids)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("name", ["k510", "k61", "k72"])
def test_no_space_left(name: str, extract: Extractor, tmp_path: Path, *, flag: bool) -> None:
    """makedumpfile on a full disk: as with a file cut off, all that was written is used, and no byte made up."""
    fixture = need(name)
    victim = fixture.victims["threads"]
    whole = Core(extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None, vendor_note=False)[0])
    told = "its writer ran out of space" if flag else "pages were never written"
    taken = 0
    # Which pages lie at the end of RAM is each guest's own: the process's task_struct may.
    for share in (0.9999, 0.98):
        path = reshape.out_of_space(fixture.dump("vmcore.d1-zlib"), tmp_path / "vmcore", share, flag=flag)
        core, report = tmp_path / f"core.{share}", tmp_path / f"report.{share}"
        done = kgcore("-c", path, "-f", "process", "-o", core, "--report", report, victim.pid, cwd=tmp_path)
        assert done.status in (0, 1, 3), done.remarks
        assert done.remarks[0] == f"kgcore: the dump is incomplete: {told}"
        if done.status == 1:
            assert "is not in the dump" in done.remarks[1]
            assert len(done.remarks) == 2
            continue
        taken += 1
        process = json.loads(report.read_text())["processes"][0]
        check_core(whole, Core(core), process)
        details = {gap["detail"] for gap in process["missing"] if gap["reason"] == "excluded"}
        assert details <= {"never written: the dump is incomplete"}
    assert taken > 0


def test_no_space_for_the_kernel_itself(tmp_path: Path) -> None:
    """Where the kernel's own data were not written, no debug package helps, and none is asked for."""
    path = reshape.out_of_space(need("k61").dump("vmcore.d1-zlib"), tmp_path / "vmcore", 0.01)
    for words in (("info",), (1,)):
        done = kgcore(*words, "-c", path, cwd=tmp_path)
        assert done.status == 1
        assert "its writer ran out of space" in done.remarks[0]
        assert "the kernel's own data are not in the dump" in done.remarks[0]
        assert "-dbg" not in done.remarks[0]
