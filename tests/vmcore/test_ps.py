# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore ps`` beside what /proc said of the same processes just before the dump."""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.summary import ProcessSummary
from tests.vmcore.conftest import MAIN, Extractor, Fixture, need
from tests.vmcore.tools import kgcore

FILES = ("k510-files", "k61-files", "k612-files", "k72-files", "k61-686pae-files")
KIB = 1024
EXACT = (6, 2)
"""From here on /proc/PID/status has what CPUs have not handed in yet."""


def symbols(guest: Fixture) -> tuple[str, ...]:
    return (str(guest.vmlinux),) if "686" in guest.name else ()


def rows_of(guest: Fixture, extract: Extractor, dump: str = "vmcore.elf") -> dict[int, ProcessSummary]:
    return {row.pid: row for row in extract.source(guest.dump(dump), symbols=symbols(guest)).processes()}


def status(text: str) -> dict[str, list[str]]:
    """/proc/PID/status"""
    return {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}


def kib(said: dict[str, list[str]], *keys: str) -> int:
    return sum(int(said[key][0]) for key in keys if key in said) * KIB


@pytest.mark.parametrize("name", [*FILES, *MAIN, "k612-zram", "k72-zram", "k61-686"])
def test_memory_is_as_proc_counts_it(name: str, extract: Extractor) -> None:
    guest = need(name)
    rows = rows_of(guest, extract)
    seen = 0
    for victim in guest.victims.values():
        said, row = status((victim.proc / "status").read_text(errors="replace")), rows[victim.pid]
        assert row.pids == tuple(map(int, said["NSpid"]))
        assert row.state == said["State"][0] or victim.name == "vfork_child"
        assert row.threads == int(said["Threads"][0])
        if "VmSize" not in said or "everything" in victim.name:  # a zombie; or it was swapped in again to be asked
            continue
        if "vfork" in victim.name and guest.version < EXACT:  # there each counts a part of what both have
            continue
        seen += 1
        assert row.size == kib(said, "VmSize")
        if guest.version >= EXACT:
            assert row.rss == kib(said, "RssAnon", "RssFile", "RssShmem")
            assert row.swap == kib(said, "VmSwap")
            assert row.core <= kib(said, "RssAnon", "RssShmem", "VmSwap", "HugetlbPages")
            assert row.core >= kib(said, "RssAnon", "VmSwap")  # of the others see test_servers.py
        else:  # there it lags behind by up to 64 pages of each kind and thread; smaps counts the pages themselves
            smaps = (victim.proc / "smaps").read_text(errors="replace")
            found = sum(map(int, re.findall(r"^Rss: +(\d+) kB", smaps, re.MULTILINE))) * KIB
            assert abs(row.rss - found) <= 2 * 4096, victim.name  # the vdso's pages are in no counter
    assert seen >= 5


@pytest.mark.parametrize("name", FILES)
def test_control_groups(name: str, extract: Extractor) -> None:
    """The unified hierarchy's where that says something, else the other's."""
    guest = need(name)
    rows = rows_of(guest, extract)
    for victim in ("docker", "pod", "lxc", "service", "openfiles"):
        told = guest.victims[victim].said
        lines = ("1:name=systemd:/\n0::/\n" if victim == "openfiles" else told["cgroup"]).splitlines()
        named, unified = (line.split(":", 2)[2] for line in sorted(lines, reverse=True))
        assert rows[told["pid"]].cgroup == (unified if unified != "/" else named).encode(), victim
    assert rows[1].cgroup == b"/"


@pytest.mark.parametrize("name", FILES)
def test_pid_namespaces(name: str, extract: Extractor) -> None:
    guest = need(name)
    rows = rows_of(guest, extract)
    for victim, levels in (("docker", 1), ("pod", 3), ("service", 0)):
        told = guest.victims[victim].said
        assert len(rows[told["pid"]].pids) == levels + 1
        assert rows[told["pid"]].pids == tuple(map(int, status(told["status"])["NSpid"]))


@pytest.mark.parametrize("name", [*MAIN, "k510-disk", "k61-disk", "k612-disk", "k72-disk"])
def test_the_estimate_is_near_the_core(name: str, extract: Extractor) -> None:
    """Beside the account of every page."""
    guest = need(name)
    rows = rows_of(guest, extract)
    left_out = rows_of(guest, extract, "vmcore.d31-zlib" if "disk" in name else "vmcore.d31-zstd")
    for victim in ("threads", "dynamic") if "disk" in name else ("memory", "threads", "identity"):
        row = rows[guest.victims[victim].pid]
        _, report = extract(guest.dump(), row.pid, mask=0x33)
        there = sum(vma.data for vma in report.vmas)
        assert there / 2 <= row.core <= there * 1.5, (victim, there, row.core)
        assert row.held == row.core - row.swap
        other = left_out[row.pid]
        assert other.held == 0
        # Of 7.2 makedumpfile takes pages of slab for user memory now and then: mappings, and a whole mm_struct.
        assert other.core == row.core or guest.version >= (7, 0)


# The command


@functools.cache
def listing(guest_name: str, *words: str) -> list[dict[str, Any]]:
    guest = need(guest_name)
    done = kgcore("ps", "--json", "-c", guest.dump(), *words, cwd=guest.path)
    assert (done.status, done.remarks) == (0, [])
    rows: list[dict[str, Any]] = json.loads(done.raw)["processes"]
    return rows


def test_match_and_uid() -> None:
    everything = listing("k61")
    identity = need("k61").victims["identity"].pid
    assert [row["pid"] for row in listing("k61", "--uid", "12345")] == [identity]
    matched = listing("k61", "--match", "thr*", "--match", "spin")
    assert {row["pid"] for row in matched} >= {need("k61").victims[name].pid for name in ("threads", "spin")}
    assert all(row["comm"].startswith(("thr", "spin")) or "/" not in row["comm"] for row in matched)
    assert len(matched) < len(everything)
    assert listing("k61", "--match", "thr*", "--uid", "12345") == []
    assert listing("k61", "--match", "kthreadd") == [row for row in everything if row["pid"] == 2]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("pid", lambda row: row["pid"]),
        ("rss", lambda row: row["rss"]),
        ("comm", lambda row: row["comm"].lower().encode()),
        ("uid", lambda row: row["uid"]),
        ("threads", lambda row: row["threads"]),
        ("size", lambda row: row["size"]),
        ("core", lambda row: row["core_estimate"]),
        ("missing", lambda row: row["core_estimate"] - row["held_estimate"]),
    ],
)
def test_sort(word: str, key: Callable[[dict[str, Any]], Any]) -> None:
    rows = listing("k61", "--sort", word)
    assert sorted(row["pid"] for row in rows) == [row["pid"] for row in listing("k61")]
    keys = [key(row) for row in rows]
    assert keys == sorted(keys)
    assert keys[0] != keys[-1]


def test_columns_of_containers() -> None:
    """Only where there are any; ids of 64 digits are cut as their engines do it."""
    guest = need("k61-files")
    table = kgcore("ps", "-c", guest.dump(), cwd=guest.path).lines
    assert table[0].split()[:3] == ["PID", "NSPID", "PPID"]
    assert "CGROUP" in table[0]
    pid = str(guest.victims["docker"].pid)
    (line,) = (line for line in table if line.split()[0] == pid)
    assert line.split()[1] == "1"
    assert " docker-0123456789ab.scope " in line
    plain = kgcore("ps", "-c", need("k61-disk").dump(), cwd=guest.path).lines
    assert "NSPID" not in plain[0]
    assert "CGROUP" not in plain[0]
