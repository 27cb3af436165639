# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command ``kgcore`` as users run it, on real dumps."""

import functools
import json
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

drgn = pytest.importorskip("drgn")

from drgn.helpers.linux.pid import find_task

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import Options, prepare
from kgcore.coredump.report import make_report
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.corefile import Core, Phdr
from tests.vmcore.test_registers import check_floating_point
from tests.vmcore.tools import Done, kgcore, same_bytes

PAGE = 4096
NO_SUCH_PID = 4194303
VERSION = 1


@functools.cache
def ps(dump: Path) -> dict[int, dict[str, Any]]:
    """The rows of ``kgcore ps --json`` by pid."""
    done = kgcore("ps", "--json", "-c", dump, cwd=dump.parent)
    assert (done.status, done.remarks) == (0, [])
    listing = json.loads(done.raw)
    assert listing["version"] == VERSION
    assert [row["pid"] for row in listing["processes"]] == sorted(row["pid"] for row in listing["processes"])
    return {row["pid"]: row for row in listing["processes"]}


@pytest.fixture
def k61() -> Fixture:
    return need("k61")


def status_of(path: Path) -> dict[str, str]:
    """/proc/PID/status"""
    lines = path.read_text(errors="surrogateescape").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def shape(core: Path) -> list[tuple[int, int, int]]:
    return [(load.p_vaddr, load.p_memsz, load.p_filesz) for load in Core(core).loads]


# Which processes


@pytest.mark.parametrize("place", ["./vmcore", "$KGCORE_VMCORE"])
def test_the_line_of_the_issue(place: str, k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    """``kgcore -v 4 -f 21 12345 0xffff880136d72040``, as it stands, where the vmcore is found by default."""
    first, second = k61.victims["dynamic"], k61.victims["identity"]
    task = ps(k61.dump())[second.pid]["task"]
    assert re.fullmatch("0xffff[0-9a-f]{12}", task)
    if place == "./vmcore":
        (tmp_path / "vmcore").symlink_to(k61.dump())
        done = kgcore("-v", 4, "-f", 21, first.pid, task, cwd=tmp_path)
    else:  # and options between and behind the operands, and the address without 0x
        done = kgcore(first.pid, "-v", 4, task[2:], "-f", "0x15", cwd=tmp_path, vmcore=k61.dump())
    assert done.lines == [f"Saved core.{first.pid}", f"Saved core.{second.pid}"]
    reports = []
    for victim in (first, second):
        path, report = extract(k61.dump(), victim.pid, mask=21)
        assert same_bytes(tmp_path / f"core.{victim.pid}", path)
        assert Core(path).psinfo["pid"] == victim.pid
        reports.append(report)
    assert done.status == (0 if all(report.complete for report in reports) else 3)


def test_an_address_in_decimal(k61: Fixture, tmp_path: Path) -> None:
    victim = k61.victims["identity"]
    done = kgcore("-c", k61.dump(), int(ps(k61.dump())[victim.pid]["task"], 16), cwd=tmp_path)
    assert (done.status, done.lines) == (0, [f"Saved core.{victim.pid}"])


@pytest.mark.parametrize("name", ["threads", "nspid", "spin"])
def test_a_threads_id(name: str, k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    """The whole process, named after its tgid, that thread first, the others in the kernel's order."""
    victim = k61.victims[name]
    tid = victim.tids[len(victim.tids) // 2]
    assert tid != victim.pid
    done = kgcore("-c", k61.dump(), tid, cwd=tmp_path)
    assert done.lines == [f"Saved core.{victim.pid}"]
    by_leader, _ = extract(k61.dump(), victim.pid)
    ids = victim.said.get("ns_tids") or list(victim.tids)  # a core speaks in the numbers of the process's namespace
    first = ids[victim.tids.index(tid)]
    assert list(Core(by_leader).threads) == ids
    core = Core(tmp_path / f"core.{victim.pid}")
    assert list(core.threads) == [first, *(other for other in ids if other != first)]
    assert core.psinfo == Core(by_leader).psinfo


def test_a_leader_that_has_exited(k61: Fixture, tmp_path: Path) -> None:
    victim = k61.victims["zleader"]
    done = kgcore("-c", k61.dump(), victim.pid, cwd=tmp_path)
    assert (done.status, done.lines) == (0, [f"Saved core.{victim.pid}"])
    assert sorted(Core(tmp_path / f"core.{victim.pid}").threads) == victim.said["tids"]


def test_what_is_no_process(k61: Fixture, tmp_path: Path) -> None:
    """One line each that says what it is, in the order given, among processes that work; and the rest go on."""
    good, other = k61.victims["identity"], k61.victims["threads"]
    zombie = k61.victims["zombie"]
    task = int(ps(k61.dump())[good.pid]["task"], 16)
    symbols = {}
    for line in (k61.path / "truth/system/kallsyms").read_text().splitlines():
        address, _, symbol = line.split()[:3]
        symbols[symbol] = f"0x{address}"
    bad = [
        ("2", "2 is the kernel thread kthreadd: it has no user memory"),
        (str(NO_SUCH_PID), f"no thread has the id {NO_SUCH_PID}"),
        (symbols["init_uts_ns"], f"{symbols['init_uts_ns']} is not the address of a task_struct"),
        (f"{task + 1:#x}", f"{task + 1:#x} is not the address of a task_struct"),
        (f"{task + 64:#x}", f"{task + 64:#x} is not the address of a task_struct"),
        ("0x10", "0x10 is not the address of a task_struct"),
        ("0xffffffffffffffff", "0xffffffffffffffff is not the address of a task_struct"),
        (symbols["init_task"], f"{symbols['init_task']} is the kernel thread swapper/0: it has no user memory"),
        (str(zombie.pid), f"process {zombie.pid} (zombie) is a zombie"),
        (ps(k61.dump())[zombie.pid]["task"], f"process {zombie.pid} (zombie) is a zombie"),
    ]
    operands = [operand for operand, _ in bad]
    words = ["-c", k61.dump(), *operands[:3], good.pid, *operands[3:], other.tids[1]]
    done = kgcore(*words, cwd=tmp_path, stderr=subprocess.STDOUT)
    assert done.status == 1
    want = [f"kgcore: {line}" for _, line in bad]
    want = [*want[:3], f"Saved core.{good.pid}", *want[3:], f"Saved core.{other.pid}"]
    assert len(done.lines) == len(want)
    for line, start in zip(done.lines, want, strict=True):
        assert line.startswith(start)
        assert line.startswith("Saved") or "kgcore ps lists" in line or "zombie" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"core.{good.pid}", f"core.{other.pid}"])


@pytest.mark.parametrize("name", ["k61-kexec", "k72-kexec"])
def test_the_process_that_crashed(name: str, tmp_path: Path) -> None:
    """Without an operand: the process of the task on the CPU that crashed, that thread first."""
    fixture = need(name)
    victim = fixture.victims["crasher"]
    crashed = next(thread for thread in victim.said["threads"] if thread["role"] == "crash")
    saved = fpu_was_saved(fixture, crashed["tid"])
    for dump in (entry["file"] for entry in fixture.manifest["dumps"]):
        done = kgcore("-c", fixture.dump(dump), "--force", cwd=tmp_path)
        if name == "k72-kexec" and dump.startswith("vmcore.d31") and done.status == 1:
            # makedumpfile 1.7.8 leaves slab pages of this kernel out at this level: that, and no other tale, is told.
            assert done.remarks[0].startswith("kgcore: current: its kernel structures are not in the dump: ")
            continue
        assert done.lines == [f"Saved core.{victim.pid}"]
        core = Core(tmp_path / f"core.{victim.pid}")
        assert next(iter(core.threads)) == crashed["tid"]
        assert core.threads[crashed["tid"]].regs["bx"] == crashed["regs"]["rbx"]
        if name == "k72-kexec" and dump.startswith("vmcore.d31") and len(core.threads) < len(victim.tids):
            assert any("the list of threads ends early" in line for line in done.remarks)  # for the same reason
        else:
            assert sorted(core.threads) == sorted(victim.tids)
        # Its vector registers were in the CPU, unless the kernel had saved them: those are the thread's own then.
        if not any(f"thread {crashed['tid']}: it was running" in line for line in done.remarks):
            assert saved
            check_floating_point(core.threads[crashed["tid"]], crashed["regs"])
            assert done.status == (3 if dump.startswith("vmcore.d31") else 0)
        else:
            assert not saved
            assert done.status == 3


def fpu_was_saved(fixture: Fixture, tid: int) -> bool:
    """Whether the kernel had saved a running thread's vector registers (TIF_NEED_FPU_LOAD, arch/x86/include/asm/
    thread_info.h): by the kernel's debug information, without kgcore. It depends on which interrupts came in."""
    prog = drgn.Program()
    prog.set_core_dump(str(fixture.dump("vmcore.kexec")))
    prog.load_debug_info([str(fixture.vmlinux)])
    flags: int = find_task(prog, tid).thread_info.flags.value_()
    return bool(flags >> (19 if fixture.version >= (6, 18) else 14) & 1)


def test_nothing_crashed(k61: Fixture, tmp_path: Path) -> None:
    """QEMU took the dump of a guest that was well."""
    done = kgcore("-c", k61.dump(), cwd=tmp_path)
    assert (done.status, done.lines, len(done.remarks)) == (1, [], 1)
    assert done.remarks[0].startswith("kgcore: no PID given, and the dump does not say which task was current")
    assert "kgcore ps" in done.remarks[0]
    assert list(tmp_path.iterdir()) == []


# Exit status


def test_exit_status(k61: Fixture, tmp_path: Path) -> None:
    lacking = k61.dump("vmcore.d31-zstd")
    pid = k61.victims["identity"].pid
    cases: list[tuple[int, list[object]]] = [
        (0, ["-c", k61.dump(), pid]),
        (1, ["-c", k61.dump(), pid]),  # the file of the first line is there
        (0, ["-c", k61.dump(), "--force", pid]),
        (0, ["-c", k61.dump(), "--force", pid, pid]),
        (1, ["-c", k61.dump(), NO_SUCH_PID]),
        (2, [pid]),  # no ./vmcore
        (2, ["-c", k61.dump(), "-f", 128, pid]),
        (1, ["-c", k61.path / "manifest.toml", pid]),
        (3, ["-c", lacking, "--force", pid]),
        (1, ["-c", lacking, "--force", pid, NO_SUCH_PID]),  # a failure weighs more
    ]
    for status, words in cases:
        done = kgcore(*words, cwd=tmp_path)
        assert done.status == status, (words, done)
        assert (done.remarks == []) is (status == 0)


# ps


@pytest.mark.parametrize("name", MAIN)
def test_ps(name: str) -> None:
    """Against /proc/PID of every victim, as it was just before the dump."""
    fixture = need(name)
    rows = ps(fixture.dump())
    wrong = []
    for victim in fixture.victims.values():
        if not victim.proc.exists():
            continue
        row, said = rows[victim.pid], status_of(victim.proc / "status")
        got = {key: row[key] for key in ("pid", "ppid", "uid", "threads", "state")}
        want = {
            "pid": int(said["Pid"]),
            "ppid": int(said["PPid"]),
            "uid": int(said["Uid"].split()[0]),
            "threads": int(said["Threads"]),
            "state": said["State"][0],
        }
        got |= {"comm": raw(row["comm"]), "args": row["args"] and [raw(arg) for arg in row["args"]]}
        want |= {"comm": (victim.proc / "comm").read_bytes()[:-1], "args": arguments(victim)}
        if victim.name != "zleader":
            got["rss"], want["rss"] = row["rss"], resident(victim)
        if got != want or row["kernel_thread"]:
            wrong.append((victim.name, got, want))
    assert wrong == []
    assert (rows[2]["comm"], rows[2]["kernel_thread"], rows[2]["args"]) == ("kthreadd", True, None)


def arguments(victim: Victim) -> list[bytes] | None:
    """/proc/PID/cmdline. Of a zombie it is empty; of a leader that has exited too, where ours asks a thread."""
    if victim.name == "zleader":
        return [b"zleader", b"zleader", b"0x7f"]
    return (victim.proc / "cmdline").read_bytes().split(b"\0")[:-1] or None


def resident(victim: Victim) -> int:
    """RSS as /proc/PID/smaps counts it, page by page.

    VmRSS in status is not exact: each task keeps up to 64 events to itself (SPLIT_RSS_COUNTING), and since 6.2 each CPU
    up to 32 pages per counter. kgcore adds those up.
    """
    lines = (victim.proc / "smaps").read_text(errors="surrogateescape").splitlines()
    rss = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    if victim.name == "vfork_child" and victim.fixture.version < (6, 2):
        # What is not in the mm yet is with the parent's thread, which is another process's.
        return PAGE
    return rss


@pytest.mark.parametrize("name", MAIN)
def test_ps_of_a_leader_that_has_exited(name: str) -> None:
    """Its threads still have the memory."""
    fixture = need(name)
    victim = fixture.victims["zleader"]
    said = status_of(victim.proc / f"task/{victim.said['tids'][0]}/status")
    row = ps(fixture.dump())[victim.pid]
    assert row["state"] == "Z"
    slack = 3 * 2 * 32 * PAGE  # counters, CPUs, pages
    assert 1024 * int(said["VmRSS"].split()[0]) - slack <= row["rss"] <= 1024 * int(said["VmSize"].split()[0])
    assert row["rss"] > 100 * PAGE


def raw(text: str) -> bytes:
    """The bytes that kgcore's JSON means: UTF-8, and ``\\xNN`` for what is none."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())


def test_ps_table(k61: Fixture, tmp_path: Path) -> None:
    """The same as a table: a line each, whatever the names hold."""
    done = kgcore("ps", "-c", k61.dump(), cwd=tmp_path)
    assert done.status == 0
    titles, *lines = done.lines
    names = ["PID", "NSPID", "PPID", "UID", "THREADS", "RSS/KiB", "~CORE/KiB", "~HELD/KiB", "S", "COMM", "COMMAND"]
    assert titles.split() == names
    rows = ps(k61.dump())
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        inside = row["pids"][-1] if len(row["pids"]) > 1 else "-"
        sizes = [row[key] // 1024 for key in ("rss", "core_estimate", "held_estimate")]
        shown = [row["pid"], inside, row["ppid"], row["uid"], row["threads"], *sizes, row["state"]]
        assert line.split()[:9] == list(map(str, shown))
        assert line.isprintable()
    assert any(line.endswith("[kthreadd]") for line in lines)
    assert any(line.endswith("  threads threads 0x7f") for line in lines)
    assert any(line.endswith("  zombie              ?") for line in lines)


# Reports


@pytest.mark.parametrize("missing", ["omit", "zero"])
def test_report(missing: str, k61: Fixture, tmp_path: Path) -> None:
    """Its numbers are the core's, and the same ranges stand in the core's note."""
    victim = k61.victims["memory"]
    words = ["-c", k61.dump("vmcore.d31-zstd"), "-f", "0x7f", "--missing", missing, "--report", "r.json"]
    done = kgcore(*words, victim.pid, NO_SUCH_PID, cwd=tmp_path)
    assert done.status == 1
    report = json.loads((tmp_path / "r.json").read_bytes())
    (account,) = report["processes"]
    assert (report["status"], account["complete"]) == (1, False)
    assert report["failures"][0]["task"] == str(NO_SUCH_PID)
    assert report["failures"][0]["reason"] == done.remarks[-1].removeprefix("kgcore: ")
    path = tmp_path / f"core.{victim.pid}"
    assert (account["tgid"], account["comm"], account["threads"]) == (victim.pid, "memory", 1)
    assert account["size"] == path.stat().st_size
    core = Core(path)
    note = json.loads(core.vendor_notes[0].desc)
    gaps = [(gap["start"], gap["end"], gap["reason"]) for gap in account["missing"]]
    assert [(int(start, 16), int(end, 16), reason) for start, end, reason, _ in note["missing"]] == gaps
    assert {reason for *_, reason in gaps} >= {"excluded", "file"}
    assert account["missing_bytes"] == sum(end - start for start, end, _ in gaps)
    in_file = sum(load.p_filesz for load in core.loads)
    filled = account["missing_bytes"] if missing == "zero" else 0
    assert in_file == account["data"] + account["zero"] + filled
    uncached = next(entry for entry in victim.said["mappings"] if entry["name"] == "ext4-private-uncached")
    assert (uncached["addr"], uncached["addr"] + uncached["length"], "file") in gaps
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("dump", ["vmcore.elf", "vmcore.d31-zstd"])
def test_dry_run(dump: str, k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    """Nothing is written, and the numbers are those of the core."""
    victim = k61.victims["memory"]
    done = kgcore("-c", k61.dump(dump), "--dry-run", victim.pid, cwd=tmp_path)
    assert (done.status, done.remarks, list(tmp_path.iterdir())) == (0, [], [])
    rows = [line.split(maxsplit=5) for line in done.lines if re.match("[0-9a-f]{12,16}-[0-9a-f]{12,16} ", line)]
    path, report = extract(k61.dump(dump), victim.pid)
    spans = []
    for span, perms, _, kept, missing, *_ in rows:
        start, end = (int(part, 16) for part in span.split("-"))
        spans.append((start, end, perms))
        loads = [load for load in Core(path).loads if start <= load.p_vaddr < end]
        assert sum(load.p_filesz for load in loads) == int(kept), span
        assert sum(gap.end - gap.start for gap in report.missing if start <= gap.start < end) == int(missing), span
    assert spans == maps(victim)
    for line in report.lines():
        assert line in done.lines


def maps(victim: Victim) -> list[tuple[int, int, str]]:
    """(start, end, permissions) of each mapping, as the guest's /proc/PID/maps has them."""
    lines = (victim.proc / "maps").read_text(errors="surrogateescape").splitlines()
    found = []
    for span, perms in (line.split()[:2] for line in lines):
        start, end = (int(part, 16) for part in span.split("-"))
        found.append((start, end, perms))
    return found


# Output


def test_standard_output(k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    """``-o -``: the core through a pipe, and nothing else; the same bytes as in a file."""
    victim = k61.victims["threads"]
    done = kgcore("-c", k61.dump(), "-o", "-", victim.pid, cwd=tmp_path)
    assert (done.status, done.remarks, list(tmp_path.iterdir())) == (0, [f"Saved core.{victim.pid}"], [])
    (tmp_path / "there").mkdir()
    other = kgcore("-c", k61.dump(), "-D", "there", victim.pid, cwd=tmp_path, umask=0)
    assert (other.status, other.lines, other.remarks) == (0, [f"Saved core.{victim.pid}"], [])
    path = tmp_path / "there" / f"core.{victim.pid}"
    assert path.read_bytes() == done.raw
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_blocks * 512 < path.stat().st_size  # sparse
    assert same_bytes(path, extract(k61.dump(), victim.pid)[0])


@pytest.mark.parametrize("name", MAIN)
def test_same_bytes_from_another_run(name: str, extract: Extractor, tmp_path: Path) -> None:
    """Another process, where hashes and addresses are others; and another format of the same dump."""
    fixture = need(name)
    victim = fixture.victims["dynamic"]
    once, _ = extract(fixture.dump(), victim.pid)
    kgcore("-c", fixture.dump(), "-o", "again", victim.pid, cwd=tmp_path)
    assert same_bytes(tmp_path / "again", once)
    kgcore("-c", fixture.dump("vmcore.qemu-kdump"), "-o", "kdump", "--no-kgcore-note", victim.pid, cwd=tmp_path)
    bare, _ = extract(fixture.dump(), victim.pid, vendor_note=False)
    assert same_bytes(tmp_path / "kdump", bare)


def test_symbols_make_no_difference(k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    victim = k61.victims["threads"]
    words = ["-c", k61.dump(), "--no-kgcore-note", "-s", k61.vmlinux, "-o", "dwarf"]
    assert kgcore(*words, victim.pid, cwd=tmp_path).status == 0
    bare, _ = extract(k61.dump(), victim.pid, vendor_note=False)
    assert same_bytes(tmp_path / "dwarf", bare)


@pytest.mark.parametrize("name", MAIN)
def test_each_process_its_own_filter(name: str, tmp_path: Path) -> None:
    """``-f process``: the segments of the kernel's cores, which went by the same setting.

    Except that of a file which was in no page cache the kernel could look for an ELF header: ours has the page of which
    it is not known, as a missing one.
    """
    fixture = need(name)
    victims = [fixture.victims[victim] for victim in ("memory01", "memory10", "memory33", "dynamic")]
    pids = [victim.pid for victim in victims]
    # As one segment per mapping, which the pages that are in no dump would otherwise split.
    done = kgcore("-c", fixture.dump(), "-f", "process", "--no-kgcore-note", "--missing", "zero", *pids, cwd=tmp_path)
    assert done.lines == [f"Saved core.{pid}" for pid in pids]
    for victim in victims:
        assert victim.core is not None
        unknown = {entry["addr"] for entry in victim.said.get("mappings", ()) if entry["name"] in UNREADABLE}
        found, kernels = shape(tmp_path / f"core.{victim.pid}"), shape(victim.core)
        assert [entry for entry in found if entry[0] not in unknown] == [
            entry for entry in kernels if entry[0] not in unknown
        ], victim.name
        assert Core(tmp_path / f"core.{victim.pid}").vendor_notes == []


def test_note(k61: Fixture, extract: Extractor) -> None:
    """Unless it is left out, every core has it, and it says which dump this is from."""
    core, _ = extract(k61.dump(), k61.victims["threads"].pid)
    (note,) = Core(core).vendor_notes
    content = json.loads(note.desc)
    assert content["source"]["kernel"] == k61.manifest["release"]
    assert [thread["tid"] for thread in content["threads"]] == list(k61.victims["threads"].tids)


# check


def verdict(core: Path, *words: str) -> Done:
    return kgcore("check", *words, core, cwd=core.parent)


def test_check(k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
    victim = k61.victims["threads"]
    tids = list(victim.tids)
    whole, _ = extract(k61.dump(), victim.pid)
    lacking, report = extract(k61.dump("vmcore.d31-zstd"), victim.pid)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert victim.core is not None
    for core, status, first in (
        (whole, 0, "ok, complete"),
        (lacking, 3, "ok, INCOMPLETE"),
        (victim.core, 0, "ok, completeness unknown"),
        (cut, 1, "CUT SHORT, INCOMPLETE"),
    ):
        done = verdict(core)
        assert (done.status, done.lines[0]) == (status, f"{core}: {first}"), done
        assert f"x86_64, {len(tids)} threads, " in done.lines[1]
    assert "problem: the file is cut off" in "\n".join(verdict(cut).lines)
    found = json.loads(verdict(lacking, "--json").raw)
    assert (found["ok"], found["complete"], found["facts"]["threads"]) == (True, False, tids)
    assert len(found["lacks"]) >= len(report.missing)


@pytest.mark.parametrize("name", MAIN)
def test_check_finds_nothing_wrong_with_the_kernels_cores(name: str) -> None:
    """Of every victim, those of 32 bits and with dead leaders included."""
    for victim in need(name).victims.values():
        if victim.core is not None:
            found = check_core(victim.core)
            assert (found.ok, found.complete, found.problems) == (True, None, ()), victim.name
            assert found.facts["machine"] == ("i386" if victim.name == "ia32" else "x86_64")
            assert found.facts["threads"] == list(Core(victim.core).threads)


# The filter

Rule = Callable[[int], bool]
"""Whether a filter keeps the whole of a mapping."""

KINDS: dict[str, Rule] = {
    "anon-private": lambda mask: bool(mask & 1),
    "anon-private-thp": lambda mask: bool(mask & 1),
    "anon-private-dontdump": lambda _: False,
    "anon-shared": lambda mask: bool(mask & 2),
    "file-private": lambda mask: bool(mask & 4),
    "file-private-deleted": lambda mask: bool(mask & 4),
    "file-private-pgoff4": lambda mask: bool(mask & 4),
    "file-private-header": lambda mask: bool(mask & 4),
    # Private memory of the process's own among pages of a file: either bit.
    "file-private-written": lambda mask: bool(mask & 5),
    "file-private-written-part": lambda mask: bool(mask & 5),
    "file-private-written-deleted": lambda mask: bool(mask & 5),
    "file-shared": lambda mask: bool(mask & 8),
    # Opened for reading only: no write can ever be shared, and the kernel treats the mapping as private.
    "file-shared-readonly": lambda mask: bool(mask & 4),
    # A file without a name is anonymous memory by another name.
    "file-shared-deleted": lambda mask: bool(mask & 2),
    "hugetlb-private": lambda mask: bool(mask & 32),
    "hugetlb-shared": lambda mask: bool(mask & 64),
}
UNTOUCHED = ("anon-untouched", "anon-zero-page")
"""Anonymous memory that nothing was ever written to: the kernel's core leaves it out, as it can only be zeros."""
HEADERS = ("ext4-elf-magic", "ext4-exec-bit", "tmpfs-elf-magic", "tmpfs-exec-bit", "elf-mapped", "memfd-private")
"""Those whose first page bit 16 keeps: of an ELF file, or of one that may be executed, as every memfd may be."""
UNREADABLE = ("ext4-private-uncached",)
"""A file in no page cache: it may be an ELF file, so its first page is missing rather than left out."""


def wanted(entry: dict[str, Any], mask: int) -> int:
    """How many bytes of a mapping a core has under a filter, by what the victim says that it mapped."""
    if entry["name"] not in UNTOUCHED and KINDS[entry["kind"]](mask):
        return int(entry["length"])
    return PAGE if mask & 16 and entry["name"] in HEADERS + UNREADABLE else 0


@pytest.mark.parametrize("bit", [0, 1, 2, 4, 8, 16, 32, 64])
def test_one_bit(bit: int, k61: Fixture, extract: Extractor) -> None:
    """What the core really holds."""
    victim = k61.victims["memory"]
    path, _ = extract(k61.dump(), victim.pid, mask=bit, missing="zero", vendor_note=False)
    loads = Core(path).loads
    wrong = [
        (entry["name"], found, wanted(entry, bit))
        for entry in victim.said["mappings"]
        if (found := within(loads, entry)) != wanted(entry, bit)
    ]
    assert wrong == []


def within(loads: list[Phdr], entry: dict[str, Any]) -> int:
    start = entry["addr"]
    return sum(load.p_filesz for load in loads if start <= load.p_vaddr < start + entry["length"])


def test_all_filters(k61: Fixture) -> None:
    """0 to 127, by the account of the plan, with everything that a single bit may hide in another's."""
    victim = k61.victims["memory"]
    mappings = victim.said["mappings"]
    with open_target(DumpLocation(core=str(k61.dump()))) as target:
        source = VmcoreSource(target)
        for mask in range(128):
            plan = prepare(source, TaskRef.parse(str(victim.pid)), Options(mask=mask, missing="zero")).plan
            held = {vma.start: vma.data + vma.zero + vma.missing for vma in make_report(plan).vmas}
            for entry in mappings:
                spans = range(entry["addr"], entry["addr"] + entry["length"], PAGE)
                assert sum(held.get(at, 0) for at in spans) == wanted(entry, mask), (mask, entry["name"])


def test_dontdump(k61: Fixture, tmp_path: Path) -> None:
    victim = k61.victims["memory"]
    entry = next(entry for entry in victim.said["mappings"] if entry["name"] == "dontdump")
    for words, size in ((["--dontdump"], entry["length"]), ([], 0)):
        kgcore("-c", k61.dump(), "--force", *words, "-o", "core", victim.pid, cwd=tmp_path)
        assert within(Core(tmp_path / "core").loads, entry) == size
