# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers against what the threads themselves had put into them, running ones included."""

import struct
from pathlib import Path
from typing import Any

import pytest

from kgcore.coredump.report import Report
from kgcore.model.process import RegisterSource
from kgcore.sources.base import TaskRef
from tests.vmcore.conftest import MAIN, Extractor, Fixture, main_dump, need
from tests.vmcore.corefile import Core, ThreadNotes

KEXEC = ("k61-kexec", "k72-kexec")
ON_ITS_WAY = "which was entering or leaving the kernel"
# The victims name registers as the assembler does, the core as struct user_regs_struct.
NAMES = {"rip": "ip", "orig_rax": "orig_ax"} | {f"r{name}": name for name in ("ax", "bx", "cx", "dx", "si", "di", "bp")}
NT_PRFPREG, NT_386_IOPERM, NT_X86_XSTATE = 2, 0x201, 0x202
XFEATURE_YMM, XFEATURE_PKRU = 2, 9
# x87 constants by the instruction that loads them, as 80-bit values
X87 = {
    "0": bytes(10),
    "1": bytes.fromhex("0000000000000080ff3f"),
    "pi": bytes.fromhex("35c26821a2da0fc90040"),
    "ln2": bytes.fromhex("ac79cfd1f71772b1fe3f"),
    "log2e": bytes.fromhex("bcf0175c293baab8ff3f"),
}


def core_of(fixture: Fixture, name: str, extract: Extractor) -> tuple[Core, Report, list[dict[str, Any]]]:
    victim = fixture.victims[name]
    path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=0x7F)
    return Core(path), report, victim.said["threads"]


@pytest.mark.parametrize("name", [*MAIN, *KEXEC])
@pytest.mark.parametrize("victim", ["threads", "spin", "iouring", "stopped", "zleader", "crasher"])
def test_general_registers(name: str, victim: str, extract: Extractor) -> None:
    """Blocked in system calls, stopped, on a CPU in user mode, on the CPU that crashed in the kernel."""
    fixture = need(name)
    if victim not in fixture.victims:
        assert (victim == "crasher") != (name in KEXEC)
        return
    core, report, said = core_of(fixture, victim, extract)
    checked = 0
    for thread in said:
        if "regs" not in thread:
            continue
        if name in KEXEC and any(f"thread {thread['tid']} " in text and ON_ITS_WAY in text for text in report.warnings):
            checked += 12
            continue  # the crash stopped it there, by chance; see test_a_running_thread_on_its_way_into_the_kernel
        regs = core.threads[thread["tid"]].regs
        for theirs, value in thread["regs"].items():
            ours = NAMES.get(theirs, theirs)
            if ours == "ip" and thread["role"] == "spin":
                # somewhere in its loop, which is a few instructions long
                assert 0 <= regs["ip"] - value < 64
            elif ours in regs and not (ours == "r10" and regs["orig_ax"] == 202):  # futex_wait_restart has no r10
                assert regs[ours] == value, f"thread {thread['tid']}: {theirs}"
                checked += 1
        (sp,) = struct.unpack("<Q", core.read(thread["rsp_at"], 8))
        assert regs["sp"] == sp
        if thread["role"] == "spin":
            assert regs["orig_ax"] == (1 << 64) - 1, "a thread in user mode is in no system call"
    assert checked >= 12


def test_a_running_thread_inside_an_interrupt(extract: Extractor) -> None:
    """The CPU has the kernel's registers; the thread's own are where its entry put them."""
    fixture = need("k61-la57")
    source = extract.source(fixture.dump("vmcore-2.elf"))
    said = {thread["tid"]: thread for thread in fixture.victims["spin"].said["threads"]}
    image = source.process(TaskRef.parse(str(fixture.victims["spin"].pid))).image
    (running,) = (thread for thread in image.threads if said[thread.tid]["role"] == "spin")
    assert running.regs.source is RegisterSource.ENTRY_FRAME
    regs, checked = running.regs.values, 0
    for theirs, value in said[running.tid]["regs"].items():
        ours = NAMES.get(theirs, theirs)
        if ours in regs and ours != "ip":
            assert regs[ours] == value, theirs
            checked += 1
    assert checked >= 12
    assert 0 <= regs["ip"] - said[running.tid]["regs"]["rip"] < 64
    assert regs["orig_ax"] == (1 << 64) - 1


@pytest.mark.parametrize("dump", ["vmcore-3.elf", "vmcore-4.elf"])
def test_a_running_thread_on_its_way_into_the_kernel(dump: str, extract: Extractor) -> None:
    """Stopped at the first instruction of an interrupt, and before its registers are copied to its stack: what is there
    is of an entry before this one."""
    fixture = need("k61-la57")
    source = extract.source(fixture.dump(dump))
    (spinner,) = (thread["tid"] for thread in fixture.victims["spin"].said["threads"] if thread["role"] == "spin")
    image = source.process(TaskRef.parse(str(fixture.victims["spin"].pid))).image
    sources = {thread.tid: thread.regs.source for thread in image.threads}
    assert sources.pop(spinner) is RegisterSource.UNAVAILABLE
    assert set(sources.values()) == {RegisterSource.ENTRY_FRAME}
    assert any(ON_ITS_WAY in warning for warning in image.warnings)


@pytest.mark.parametrize("name", [*MAIN, *KEXEC])
@pytest.mark.parametrize("victim", ["threads", "iouring"])
def test_floating_point(name: str, victim: str, extract: Extractor) -> None:
    """x87, SSE, AVX, their control words and PKRU of threads asleep."""
    fixture = need(name)
    if victim not in fixture.victims:
        return
    core, _, said = core_of(fixture, victim, extract)
    for thread in said:
        check_floating_point(core.threads[thread["tid"]], thread["regs"])


def check_floating_point(notes: ThreadNotes, said: dict[str, Any]) -> None:
    fx, xstate = notes.note(NT_PRFPREG), notes.note(NT_X86_XSTATE)
    assert fx is not None
    assert xstate is not None
    (xfeatures,) = struct.unpack_from("<Q", xstate, 512)
    for image in (fx, xstate):
        assert struct.unpack_from("<H", image, 0)[0] == said["fcw"]
        assert struct.unpack_from("<I", image, 24)[0] == said["mxcsr"]
        for number, constant in enumerate(said["st"]):
            assert image[32 + 16 * number :][:10] == X87[constant], f"ST({number})"
        for number, value in enumerate(said["ymm"]):
            assert image[160 + 16 * number :][:16].hex() == value[:32], f"xmm{number}"
    assert xfeatures >> XFEATURE_YMM & 1
    for number, value in enumerate(said["ymm"]):
        assert xstate[576 + 16 * number :][:16].hex() == value[32:], f"ymm{number}, upper half"
    if "pkru" in said:
        assert xfeatures >> XFEATURE_PKRU & 1
        assert struct.unpack_from("<I", xstate, len(xstate) - 8)[0] == said["pkru"]


@pytest.mark.parametrize("name", [*MAIN, *KEXEC])
@pytest.mark.parametrize("victim", ["spin", "crasher"])
def test_lost_floating_point_is_told(name: str, victim: str, extract: Extractor) -> None:
    """The FPU registers of a running thread are in no dump. The core says so, and invents nothing."""
    fixture = need(name)
    if victim not in fixture.victims:
        return
    core, report, said = core_of(fixture, victim, extract)
    for thread in said:
        running = thread["role"] in ("spin", "crash")
        remarks = [text for tid, text in report.remarks if tid == thread["tid"]]
        stale = any("floating-point" in text for text in remarks)
        if not running:
            assert not stale
            check_floating_point(core.threads[thread["tid"]], thread["regs"])
        elif not stale:  # the kernel had saved them
            check_floating_point(core.threads[thread["tid"]], thread["regs"])
    if report.remarks:
        assert not report.complete


@pytest.mark.parametrize("name", [*MAIN, *KEXEC])
def test_threads_own_data(name: str, extract: Extractor) -> None:
    """FS and GS base, thread-local storage, signals, nice values, I/O permissions."""
    fixture = need(name)
    core, _, said = core_of(fixture, "threads", extract)
    assert core.psinfo["nice"] == said[0]["nice"]
    for thread in said:
        notes = core.threads[thread["tid"]]
        assert notes.regs["fs_base"] == thread["fs_base"]
        assert notes.regs["gs_base"] == thread["gs_base"]
        assert core.read(thread["tls"]["addr"], 8) == struct.pack("<Q", thread["tls"]["value"])
        assert notes.prstatus["sigpend"] == thread["sigpending"]
        assert notes.prstatus["sighold"] == thread["sigblocked"]
        ioperm = notes.note(NT_386_IOPERM)
        assert (ioperm is not None) == thread["ioperm"]
        if ioperm is not None:
            assert [port for port in range(65536) if not ioperm[port // 8] >> port % 8 & 1] == [0x80]


@pytest.mark.parametrize("name", MAIN)
def test_namespaces_and_credentials(name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims["nspid"]
    path, _ = extract(fixture.dump(), victim.pid, mask=None)
    core = Core(path)
    assert sorted(core.threads) == sorted(victim.said["ns_tids"])
    assert core.psinfo["pid"] == victim.said["ns_pid"]
    assert (core.psinfo["uid"], core.psinfo["gid"]) == (0, 0), "as the process itself sees them"

    victim = fixture.victims["identity"]
    path, _ = extract(fixture.dump(), victim.pid, mask=None)
    core = Core(path)
    stat = Path(victim.proc / "stat").read_bytes().rpartition(b") ")[2].split()
    assert (core.psinfo["uid"], core.psinfo["gid"]) == (12345, 54321)
    assert [core.psinfo[key] for key in ("ppid", "pgrp", "sid")] == [int(word) for word in stat[1:4]]
    assert core.psinfo["nice"] == int(stat[16])
    args = (victim.proc / "cmdline").read_bytes()
    assert core.psinfo["psargs"] == args[:79].replace(b"\0", b" ").ljust(80, b"\0")
    name_ = (victim.proc / "task" / str(victim.pid) / "comm").read_bytes()[:-1]
    assert core.psinfo["fname"] == name_.ljust(16, b"\0")
    (auxv,) = (core.process_note(6),)
    assert auxv == (victim.proc / "auxv").read_bytes()
