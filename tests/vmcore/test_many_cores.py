# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several processes in one run, side by side, compressed and limited, on real dumps."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.signals import heeds_signals
from tests.vmcore.conftest import MAIN, Extractor, Fixture, main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.tools import ROOT, gdb, kgcore, run, same_bytes, tool

OTHER_UIDS = (1000, 12345)


@pytest.fixture
def k61() -> Fixture:
    return need("k61", committed=False)


def saved(lines: list[str]) -> set[int]:
    assert all(line.startswith("Saved core.") for line in lines)
    return {int(line.split(".")[1]) for line in lines}


def uids(fixture: Fixture) -> dict[int, int]:
    """Real user ids as /proc had them."""
    found = {}
    for victim in fixture.victims.values():
        status = victim.proc / "status"
        if status.exists():
            (line,) = [line for line in status.read_text(errors="replace").splitlines() if line.startswith("Uid:")]
            found[victim.pid] = int(line.split()[1])
    return found


# Which processes


def test_all_processes(k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    """All that had memory in the guest, each as when it is asked for alone."""
    done = kgcore("-c", k61.dump(), "--all", "-v", 0, cwd=tmp_path)
    assert done.status == 3
    cores = saved(done.lines)
    with_memory = {
        victim.pid for victim in k61.victims.values() if (victim.proc / "maps").exists() and victim.name != "zombie"
    }
    assert with_memory <= cores
    assert k61.victims["zombie"].pid not in cores
    assert 2 not in cores
    for name in ("threads", "identity", "dynamic"):
        pid = k61.victims[name].pid
        assert same_bytes(tmp_path / f"core.{pid}", extract(k61.dump(), pid)[0])


def test_names_programs_and_users(k61: Fixture, tmp_path: Path) -> None:
    pid = k61.victims["threads"].pid
    assert saved(kgcore("-c", k61.dump(), "--match", "thread[s]", cwd=tmp_path).lines) == {pid}
    of = uids(k61)
    for uid in OTHER_UIDS:
        wanted = {pid for pid, its in of.items() if its == uid}
        done = kgcore("-c", k61.dump(), "--uid", uid, "-v", 0, "--force", cwd=tmp_path)
        assert wanted, "no victim has that uid"
        assert wanted <= saved(done.lines)
        assert not {pid for pid, its in of.items() if its != uid} & saved(done.lines)
    done = kgcore("-c", k61.dump(), "--match", "no such*", cwd=tmp_path)
    assert (done.status, done.lines, len(done.remarks)) == (1, [], 1)


# Side by side, compressed


@pytest.mark.parametrize("name", MAIN)
def test_jobs_and_streams_and_compression_change_nothing(name: str, tmp_path: Path) -> None:
    fixture = need(name, committed=False)
    words = ["-c", fixture.dump(main_dump(fixture)), "-v", 0, fixture.victims["memory"].pid]
    alone = tmp_path / "alone"
    kgcore(*words, "--jobs", 1, "-o", alone, cwd=tmp_path)
    for jobs in (2, 5):
        kgcore(*words, "--jobs", jobs, "-o", f"file{jobs}", cwd=tmp_path)
        assert same_bytes(alone, tmp_path / f"file{jobs}")
    assert kgcore(*words, "--jobs", 2, "-o", "-", cwd=tmp_path).raw == alone.read_bytes()
    zstandard = pytest.importorskip("zstandard")
    for method, suffix in (("zstd", "zst"), ("gzip", "gz")):
        for jobs in (1, 2):
            kgcore(*words, "--jobs", jobs, "--compress", method, "--force", cwd=tmp_path)
            packed = tmp_path / f"core.{words[-1]}.{suffix}"
            unpacked = subprocess.run([tool(method), "-dc", packed], capture_output=True, check=True).stdout
            assert hashlib.sha256(unpacked).digest() == hashlib.sha256(alone.read_bytes()).digest()
            if method == "gzip":
                assert gzip.decompress(packed.read_bytes()) == unpacked
            else:
                with packed.open("rb") as file:
                    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                    assert reader.read() == unpacked
        raw = kgcore(*words, "--jobs", 2, "--compress", method, "-o", "-", cwd=tmp_path).raw
        assert subprocess.run([tool(method), "-dc"], input=raw, capture_output=True, check=True).stdout == unpacked


# Limits


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cut_core_has_its_stacks(size: int, jobs: int, k61: Fixture, tmp_path: Path) -> None:
    """Debuggers show where it was, and refuse what is not there."""
    victim = k61.victims["memory"]
    words = ["-c", k61.dump(), "--jobs", jobs, "--max-size", size, victim.pid, "--report", "r.json"]
    done = kgcore(*words, cwd=tmp_path)
    assert (done.status, done.lines) == (3, [f"Saved core.{victim.pid}"])
    (told,) = [line for line in done.remarks if "CUT SHORT" in line]
    assert "the size limit of" in told
    core = tmp_path / f"core.{victim.pid}"
    assert core.stat().st_blocks * 512 <= size
    report = json.loads((tmp_path / "r.json").read_text())["processes"][0]
    assert core.stat().st_size == report["size"]
    gaps = [gap for gap in report["missing"] if gap["reason"] == "limit"]
    assert gaps
    middle = max(gaps, key=lambda gap: int(gap["end"] - gap["start"]))["start"]
    shown = gdb(core, k61.path / "sysroot", "victims/memory", "bt", f"x/1gx {middle:#x}", "info threads")
    assert "block_for_ever" in shown
    assert " main (" in shown
    assert f"Cannot access memory at address {middle:#x}" in shown
    for address, answer in ((f"{middle:#x}", f"core file does not contain {middle:#x}"), ("$rsp", "0x7ff")):
        look = ("-o", f"target create --core {core}", "-o", f"memory read -c 8 {address}")
        assert answer in run("lldb", "--no-lldbinit", "--batch", *look, status=None).splitlines()[-1]
    checked = kgcore("check", core, cwd=tmp_path)
    assert checked.status == 3
    assert checked.lines[0].endswith("ok, INCOMPLETE")
    lost = [line for line in checked.lines if line.endswith(f"limit ({report['limit']})")]
    assert len(lost) == min(len(gaps), 40)
    assert f"TID {victim.pid}" in run("eu-stack", f"--core={core}", f"-e{k61.path}/sysroot/victims/memory", status=None)
    program = f"import drgn; p = drgn.Program(); p.set_core_dump({str(core)!r}); print([t.tid for t in p.threads()])"
    assert str(victim.pid) in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout


def test_what_is_there_of_a_cut_core_is_right(k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    victim = k61.victims["memory"]
    whole = Core(extract(k61.dump(), victim.pid)[0])
    kgcore("-c", k61.dump(), "--max-size", "4M", victim.pid, "-v", 0, cwd=tmp_path)
    path = tmp_path / f"core.{victim.pid}"
    cut, data, reference = Core(path), path.read_bytes(), whole.path.read_bytes()
    seen = 0
    for mine in cut.loads:
        (its,) = [load for load in whole.loads if load.p_vaddr <= mine.p_vaddr < load.p_vaddr + load.p_memsz]
        at, length = its.p_offset + mine.p_vaddr - its.p_vaddr, mine.p_filesz
        assert mine.p_offset + length <= len(data)
        seen += length
        assert data[mine.p_offset :][:length] == reference[at:][:length]
    assert seen > 3 << 20


def test_the_time_is_up(k61: Fixture, tmp_path: Path) -> None:
    done = kgcore("-c", k61.dump(), "--all", "--max-time", "0.001", cwd=tmp_path)
    assert (done.status, done.lines) == (1, [])
    assert done.remarks[-1].endswith("reached the time limit of 0.001 s")
    assert list(tmp_path.iterdir()) == []


# What may happen to workers


def test_a_signal_leaves_nobody_and_nothing(tmp_path: Path) -> None:
    fixture = need("k61-many", committed=False)
    pid = fixture.victims["manyvmas"].pid
    words = [sys.executable, "-m", "kgcore", "-c", str(fixture.dump()), "--jobs", "2", str(pid)]
    process = subprocess.Popen(
        words,
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children: list[int] = []
    while len(children) < 2 and process.poll() is None:
        time.sleep(0.01)
        children = [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert err == b"kgcore: stopped by SIGINT; removed the incomplete core\n"
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert list(tmp_path.iterdir()) == []


def test_progress_of_several(k61: Fixture, tmp_path: Path) -> None:
    done = kgcore("-c", k61.dump(), "--match", "memory", "--progress", "json", "-v", 0, cwd=tmp_path)
    events: list[dict[str, Any]] = [json.loads(line) for line in done.remarks if line.startswith("{")]
    count = len(done.lines)
    assert count == 4
    ends = [(event["event"], event["index"], event["count"]) for event in events if event["event"] != "progress"]
    assert ends == [(name, index, count) for index in range(1, count + 1) for name in ("start", "end")]
    assert all(event["done"] == event["total"] > 8 << 20 for event in events if event["event"] == "end")
