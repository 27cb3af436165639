# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore info`` against what is known of the guests."""

import calendar
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.vmcore import reshape
from tests.vmcore.conftest import MAIN, Fixture, need
from tests.vmcore.tools import kgcore

FORMATS = {
    "qemu-elf": "ELF64",
    "kexec-elf": "ELF64",
    "makedumpfile-elf": "ELF64",
    "makedumpfile": "kdump",
    "qemu-kdump": "kdump",
    "makedumpfile-flattened": "kdump (flattened)",
    "qemu-kdump-flattened": "kdump (flattened)",
}


def info(path: Path, *options: object) -> dict[str, Any]:
    done = kgcore("info", "--json", "-c", path, *options, cwd=path.parent)
    assert done.status == 0, done.remarks
    return dict(json.loads(done.raw))


def ram(fixture: Fixture) -> int:
    """Bytes of System RAM in /proc/iomem, and what QEMU dumps besides: the firmware below 1 MiB and below 4 GiB."""
    text = (fixture.path / "truth" / "system" / "iomem").read_text()
    rows = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", text, re.MULTILINE)
    return sum(int(last, 16) + 1 - int(first, 16) for first, last in rows)


@pytest.mark.parametrize("name", [*MAIN, "k61-kexec", "k72-kexec", "k61-la57", "k61-novmcoreinfo"])
def test_every_dump(name: str) -> None:
    fixture = need(name)
    manifest = fixture.manifest
    build = (fixture.path / "truth" / "system" / "version").read_text().strip()
    for dump in manifest["dumps"]:
        if dump.get("error"):
            continue
        path = fixture.dump(dump["file"])
        found = info(path)
        assert found["format"] == FORMATS[dump["format"]]
        assert found["compression"] == dump["compressor"].replace("elf", "none")
        if found["format"].startswith("kdump"):
            # QEMU calls its own 1, though it leaves nothing out.
            assert found["level"] == (1 if dump["tool"] == "qemu" else dump["level"])
        else:
            assert found["level"] is None
        assert found["size"] == path.stat().st_size
        assert (found["missing_bytes"], found["cut_off"]) == (0, 0)
        assert found["release"] == manifest["release"]
        assert found["build"] in build
        assert found["architecture"] == "x86_64"
        assert found["levels"] == (4 if "-la57" in manifest["cpu"] else 5)
        assert found["cpus"] == manifest["cpus"]
        assert found["types"] == "the kernel's own BTF and kallsyms"
        if dump["level"] in (0, 1):
            assert found["excluded"] <= 1 << 20
            assert abs(found["stored"] - ram(fixture)) < 1 << 20 or "kexec" in name
        else:
            assert found["excluded"] > 10 << 20
        check_user_memory(found, dump["level"], dump["format"])
        check_crash(found, fixture)


def check_user_memory(found: dict[str, Any], level: int, form: str) -> None:
    if level < 20:
        assert found["user_memory"] == "yes"
        assert found["meaning"].startswith("cores are complete")
    elif level == 23:
        assert found["user_memory"] == "yes"
        assert "excluded pages of files" in found["meaning"]
    elif form == "makedumpfile-elf":  # where a few pages that should be left out would cost more than they take
        assert found["user_memory"] in ("no", "partly")
        assert "missing" in found["meaning"] or "left out" in found["meaning"]
    else:
        assert found["user_memory"] == "no"
        words = "makedumpfile level 31 excluded user memory from this dump; level 17 keeps it: "
        assert found["meaning"].startswith(words)


def check_crash(found: dict[str, Any], fixture: Fixture) -> None:
    if "kexec" not in fixture.name:
        assert (found["crash_time"], found["panic"]) == (None, None)
        return
    assert found["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    before, after = fixture.manifest["crashed"]
    assert before - 60 < found["crash_time"] < after + 60, "the guest has a clock of its own"


def test_table() -> None:
    fixture = need("k61-kexec")
    done = kgcore("info", "-c", fixture.dump("vmcore.d31-zstd"), cwd=fixture.path)
    facts = {line[:12].strip(): line[13:] for line in done.lines}
    assert (done.status, done.remarks) == (0, [])
    assert facts["format"] == "kdump, zstd, level 31"
    assert facts["machine"] == "x86_64, 4-level page tables"
    assert facts["user memory"] == "no"
    crashed = time.strptime(facts["crashed"], "%Y-%m-%d %H:%M:%S UTC")
    assert calendar.timegm(crashed) == info(fixture.dump("vmcore.d31-zstd"))["crash_time"]


def test_with_dwarf_and_with_a_btf_file(tmp_path: Path) -> None:
    fixture = need("k61")
    vmlinux = fixture.vmlinux.resolve()
    assert info(fixture.dump(), "-s", vmlinux)["types"] == f"DWARF in {vmlinux}"


def test_cut_off(tmp_path: Path) -> None:
    fixture = need("k61")
    whole = fixture.dump("vmcore.d17-zlib")
    path = reshape.truncated(whole, tmp_path / "vmcore", whole.stat().st_size - 200_000)
    found = info(path)
    assert found["missing_bytes"] == 200_000
    assert found["cut_off"] > 0
    assert "cut off" in found["notices"][0]
    assert "missing" in found["meaning"]


def test_live_kernel() -> None:
    """Where there is no /proc/kcore: one clear error. Where there is, its facts."""
    done = kgcore("info", "-k", cwd=Path("/"))
    if Path("/proc/kcore").exists() and done.status == 0:
        assert done.lines[0].split() == ["format", "running", "kernel"]
        return
    assert done.status == 1
    (remark,) = done.remarks
    assert remark.startswith("kgcore: the running kernel: ")
    assert "CONFIG_PROC_KCORE" in remark or "root" in remark
