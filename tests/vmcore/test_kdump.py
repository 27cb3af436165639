# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook of contrib/kdump in capture kernels of 256 MiB: the cores it takes, and the dump that is taken after it."""

import json
import struct
import subprocess
from pathlib import Path

import pytest

from tests.vmcore.conftest import need
from tests.vmcore.corefile import Core
from tests.vmcore.crash_guest import Crash, Run, crash
from tests.vmcore.patterns import pattern
from tests.vmcore.test_registers import NAMES
from tests.vmcore.tools import kgcore, tool

NAMES_OF_GUESTS = ("k61-kdump", "k72-kdump")
CRASHKERNEL = 256 << 10  # KiB
# Of that, what kgcore may take.
PEAK = 160 << 10
# With a file system of 1 GiB.
LIMITS = "keep_free=64M\nmax_time=200s\n"
FEDORA = LIMITS + "match=mem*\nmatch=threads\ncompress=zstd\n"
# Less than the victim has.
MAX_SIZE = 1 << 20
DEBIAN = LIMITS + f"match=memory\nmax_size={MAX_SIZE >> 20}M\ncompress=none\nthis is not understood\n"


@pytest.fixture(scope="module", params=NAMES_OF_GUESTS)
def crashed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crash:
    return crash(need(request.param), tmp_path_factory.mktemp(request.param), FEDORA, DEBIAN)


def unpacked(run: Run, name: str, folder: Path) -> Path:
    """A core that the hook took, decompressed."""
    with (folder / name).open("wb") as core:
        subprocess.run([tool("zstd"), "-dc", run.directory / f"{name}.zst"], stdout=core, check=True)
    return folder / name


def test_hook_never_fails(crashed: Crash) -> None:
    assert (crashed.fedora.status, crashed.debian.status) == (0, 0)


def test_usual_dump_is_taken(crashed: Crash, tmp_path: Path) -> None:
    """By Debian's own script with its own settings: level 31, where no memory of processes is left."""
    directory, status = crashed.dump
    assert status == 0
    (dump,) = directory.glob("dump.*")
    done = kgcore("-c", dump, "ps", "--json", cwd=tmp_path)
    pids = {row["pid"] for row in json.loads(done.raw)["processes"]}
    assert {said["pid"] for said in crashed.victims.values()} <= pids
    assert "sysrq triggered crash" in next(directory.glob("dmesg.*")).read_text()


def test_memory(crashed: Crash) -> None:
    """All processes and the kernel's own part in it together, and what is resident in kgcore itself."""
    total, first, least = crashed.memory
    assert total < CRASHKERNEL
    assert first - least < PEAK
    assert max(crashed.fedora.peak, crashed.debian.peak) < PEAK
    assert "Out of memory" not in crashed.console


@pytest.mark.parametrize("name", ["memory", "threads"])
def test_same_as_from_the_saved_dump(crashed: Crash, name: str, tmp_path: Path) -> None:
    """What kgcore takes out of a copy of the whole /proc/vmcore, on a machine with all the memory it wants."""
    pid = crashed.victims[name]["pid"]
    taken = unpacked(crashed.fedora, f"core.{pid}", tmp_path)
    (tmp_path / "saved").mkdir()
    done = kgcore("-c", crashed.vmcore, "-D", tmp_path / "saved", pid, cwd=tmp_path)
    assert done.lines == [f"Saved core.{pid}"]
    # The order within the core, segments in parts, and what the note says of limits, are a limited disk's.
    ours, saved = Core(taken), Core(tmp_path / "saved" / f"core.{pid}")
    assert ours.threads == saved.threads
    for size in ("p_filesz", "p_memsz"):
        assert covered(ours, size) == covered(saved, size)
    for load in ours.loads:
        for at, data in ours.segment(load):
            assert saved.read(at, len(data)) == data, hex(at)


def covered(core: Core, size: str) -> list[tuple[int, int]]:
    """The ranges that its segments have, in the file or in memory, those that touch joined."""
    found: list[tuple[int, int]] = []
    for load in core.loads:
        start, end = load.p_vaddr, load.p_vaddr + getattr(load, size)
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        elif start < end:
            found.append((start, end))
    return found


def test_matching_ones_only(crashed: Crash) -> None:
    wanted = {f"core.{crashed.victims[name]['pid']}.zst" for name in ("memory", "threads")}
    assert {path.name for path in crashed.fedora.directory.iterdir()} == {*wanted, "log", "report.json"}


def test_patterns(crashed: Crash, tmp_path: Path) -> None:
    """Every word that the victim wrote and that is in the core."""
    said = crashed.victims["memory"]
    core = Core(unpacked(crashed.fedora, f"core.{said['pid']}", tmp_path))
    checked = 0
    for mapping in said["mappings"]:
        for offset, length in mapping["ranges"]:
            try:
                data = core.read(mapping["addr"] + offset, length)
            except ValueError:
                continue  # the filter
            assert data == pattern(mapping["seed"], offset, length, said["grain"]), mapping["name"]
            checked += 1
    assert checked > 20


def test_registers(crashed: Crash, tmp_path: Path) -> None:
    said = crashed.victims["threads"]
    core = Core(unpacked(crashed.fedora, f"core.{said['pid']}", tmp_path))
    assert sorted(core.threads) == sorted(said["tids"])
    for thread in said["threads"]:
        regs = core.threads[thread["tid"]].regs
        for theirs, value in thread.get("regs", {}).items():
            ours = NAMES.get(theirs, theirs)
            if ours in regs and not (ours == "r10" and regs["orig_ax"] == 202):  # futex_wait_restart has no r10
                assert regs[ours] == value, f"thread {thread['tid']}: {theirs}"
        (sp,) = struct.unpack("<Q", core.read(thread["rsp_at"], 8))
        assert regs["sp"] == sp


def test_limit_cuts_and_says_so(crashed: Crash) -> None:
    report = json.loads((crashed.debian.directory / "report.json").read_text())
    (process,) = report["processes"]
    assert process["stored"] <= MAX_SIZE
    assert process["account"]["missing"]["limit"] > 10 << 20
    assert "kgcore-kdump: done, but not every core is complete" in crashed.console


def test_stacks_before_the_limit(crashed: Crash) -> None:
    said = crashed.victims["memory"]
    core = Core(crashed.debian.directory / f"core.{said['pid']}")
    assert core.read(core.threads[said["pid"]].regs["sp"], 64)


def test_configuration_that_is_not_understood(crashed: Crash) -> None:
    assert "not understood: this is not understood" in crashed.console
