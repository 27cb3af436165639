# SPDX-License-Identifier: LGPL-2.1-or-later
"""Independent readers open our cores: what gdb, lldb, elfutils, drgn and pystack read is what the victims said of
themselves, what the guest saw in /proc, and what the same reader makes of the kernel's own core of the same process."""

import math
import re
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

drgn = pytest.importorskip("drgn")

from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.corefile import Core
from tests.vmcore.patterns import splitmix64
from tests.vmcore.tools import gdb, lwps, run, tool

ENDS = ("k61", "k72")
"""For readers that care little about the kernel."""
LEVELS = ["level5", "level4", "level3", "level2", "level1"]
CONSTANTS = {"ln2": math.log(2), "0": 0.0, "1": 1.0, "log2e": math.log2(math.e), "pi": math.pi}
EVERYTHING = 0x7F


def ours(extract: Extractor, victim: Victim, **options: Any) -> Path:
    """Our core of a victim, made like the kernel's own."""
    path, _ = extract(victim.fixture.dump(), victim.pid, **({"mask": None} | options))
    return path


def kernels(victim: Victim) -> Path:
    assert victim.core is not None
    return victim.core


def sysroot(fixture: Fixture) -> Path:
    return fixture.path / "sysroot"


def program(victim: Victim) -> Path:
    return sysroot(victim.fixture) / "victims" / victim.name


def mapping(victim: Victim, name: str) -> dict[str, Any]:
    return next(dict(found) for found in victim.said["mappings"] if found["name"] == name)


def word(victim: Victim, found: dict[str, Any], offset: int) -> int:
    """What the victim wrote at an offset of a mapping."""
    grain = victim.said.get("grain", 8)
    return splitmix64(found["seed"] ^ offset & ~(grain - 1))


def mapped_files(victim: Victim) -> list[tuple[int, int, int, str]]:
    """(start, end, offset, name) of each mapped file, as the guest's /proc/PID/maps has them."""
    found = []
    for line in (victim.proc / "maps").read_text(errors="surrogateescape").splitlines():
        span, _, offset, _, inode, *name = line.split(maxsplit=5)
        if int(inode):
            start, end = (int(part, 16) for part in span.split("-"))
            found.append((start, end, int(offset, 16), name[0].strip()))
    assert found
    return found


def in_group(names: Iterable[str], wanted: list[str]) -> list[str]:
    return [name for name in names if name in wanted]


# gdb


def backtraces(text: str) -> dict[int, list[str]]:
    """``thread apply all bt``: thread id -> frames, each the line as it stands."""
    found: dict[int, list[str]] = {}
    for block in re.split(r"^Thread \d+ \(.*?(?=LWP)", text, flags=re.MULTILINE)[1:]:
        frames = re.findall(r"^#\d+ .*", block, re.MULTILINE)
        found[int(block.split("LWP ")[1].split(")")[0])] = frames
    return found


def function(frame: str) -> str:
    """``#1  0x0000 in level5 (depth=5) at dynamic.c:33`` -> ``level5``."""
    return re.sub(r"^#\d+ +(0x[0-9a-f]+ in )?", "", frame).split(" (")[0]


def answers(text: str) -> dict[int, list[str]]:
    """What ``ask`` printed, by the kernel's thread id."""
    ids = lwps(text)
    found: dict[int, list[str]] = defaultdict(list)
    for number, values in re.findall(r"^@(\d+) (.*)$", text, re.MULTILINE):
        found[ids[int(number)]] += values.split()
    return dict(found)


def ask(shape: str, *values: str) -> str:
    """A gdb command that prints values in every thread that has registers (zleader's leader, which gdb finds in the
    threads library's list, has none)."""
    return f'thread apply all -q -s printf "@%d {shape}\\n", $_thread, {", ".join(values)}'


@pytest.mark.parametrize("name", MAIN)
def test_gdb_backtraces(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    commands = ("info threads", "thread apply all bt")
    text = gdb(ours(extract, victim), sysroot(victim.fixture), "victims/dynamic", *commands)
    assert sorted(lwps(text).values()) == sorted(victim.tids)
    found = backtraces(text)
    for number, thread in enumerate(victim.said["threads"]):
        frames = found[thread["tid"]]
        assert in_group(map(function, frames), LEVELS) == thread["backtrace"] == LEVELS
        assert f"level5 (depth=5, thread={number})" in "\n".join(frames)  # arguments, out of the stack
    # Down to the last frame, address and argument as gdb sees them in the kernel's core.
    assert found == backtraces(gdb(kernels(victim), sysroot(victim.fixture), "victims/dynamic", *commands))


@pytest.mark.parametrize("name", MAIN)
def test_gdb_mapped_files(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    text = gdb(ours(extract, victim), sysroot(victim.fixture), "victims/dynamic", "info proc mappings")
    rows = re.findall(r"^ +(0x\w+) +(0x\w+) +(0x\w+) +(0x\w+) (.*)$", text, re.MULTILINE)
    found = [(int(start, 16), int(end, 16), int(offset, 16), file.strip()) for start, end, _, offset, file in rows]
    assert found == mapped_files(victim)


@pytest.mark.parametrize("name", MAIN)
def test_gdb_odd_file_names(name: str, extract: Extractor) -> None:
    """Deleted, of System V, with line breaks, terminal sequences and bytes that are no UTF-8: as the kernel."""
    victim = need(name).victims["memory"]
    text, theirs = (
        gdb(core, sysroot(victim.fixture), "victims/memory", "info proc mappings").split("Mapped address spaces:")[1]
        for core in (ours(extract, victim), kernels(victim))
    )
    assert text == theirs
    for part in ("memory-new\nline", "/SYSV00000000 (deleted)", "/memfd:kgcore test (deleted)", "/dev/zero (deleted)"):
        assert part in text


@pytest.mark.parametrize("name", MAIN)
def test_gdb_variables(name: str, extract: Extractor) -> None:
    """A global, and a thread-local variable in each thread."""
    victim = need(name).victims["dynamic"]
    text = gdb(
        ours(extract, victim),
        sysroot(victim.fixture),
        "victims/dynamic",
        "info threads",
        "print dynamic_global",
        ask("%lu %lu", "dynamic_tls", "&dynamic_tls"),
    )
    assert f"$1 = {victim.said['globals']['dynamic_global']}" in text
    want = {thread["tid"]: thread["tls"] for thread in victim.said["threads"]}
    assert answers(text) == {tid: [str(tls["value"]), str(tls["addr"])] for tid, tls in want.items()}


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("victim_name", ["threads", "zleader", "spin"])
def test_gdb_registers(name: str, victim_name: str, extract: Extractor) -> None:
    """General, vector, x87 and control registers of each thread, the running one's general registers included."""
    victim = need(name).victims[victim_name]
    threads = {thread["tid"]: thread for thread in victim.said["threads"]}
    text = gdb(
        ours(extract, victim),
        sysroot(victim.fixture),
        f"victims/{victim_name}",
        "info threads",
        ask("%lu %lu %lu %lu", "$rbx", "$rbp", "$r12", "$r15"),
        ask("%d %d %lu", "(int)$mxcsr", "$fctrl", "$pkru"),
        ask("%016lx%016lx%016lx%016lx", *(f"$ymm3.v4_int64[{number}]" for number in range(4))),
        ask("%016lx%016lx", "$xmm7.v2_int64[0]", "$xmm7.v2_int64[1]"),
        ask("%.17g %.17g %.17g %.17g %.17g", *(f"(double)$st{number}" for number in range(5))),
    )
    found = answers(text)
    assert set(found) == set(threads)
    for tid, thread in threads.items():
        regs = thread["regs"]
        general, rest = found[tid][:4], found[tid][4:]
        assert [int(value) for value in general] == [regs[key] for key in ("rbx", "rbp", "r12", "r15")]
        if thread["role"] == "spin":
            continue  # its vector registers may have been in the CPU when the dump was made
        assert [int(value) for value in rest[:3]] == [regs["mxcsr"], regs["fcw"], regs["pkru"]]
        assert [memory_order(value) for value in rest[3:5]] == [regs["ymm"][3], regs["ymm"][7][:32]]
        assert [float(value) for value in rest[5:]] == [CONSTANTS[constant] for constant in regs["st"]]


def memory_order(words: str) -> str:
    """64-bit words in hexadecimal as the bytes in memory."""
    return b"".join(int(words[at : at + 16], 16).to_bytes(8, "little") for at in range(0, len(words), 16)).hex()


@pytest.mark.parametrize("name", MAIN)
def test_gdb_thread_local_memory(name: str, extract: Extractor) -> None:
    """fs_base and gs_base of each thread, and the memory they lead to."""
    victim = need(name).victims["threads"]
    threads = {thread["tid"]: thread for thread in victim.said["threads"]}
    text = gdb(
        ours(extract, victim),
        sysroot(victim.fixture),
        "victims/threads",
        "info threads",
        ask("%lu %lu", "(unsigned long)$fs_base", "(unsigned long)$gs_base"),
        *(
            f'printf "tls %d %lu\\n", {tid}, *(unsigned long *){thread["tls"]["addr"]}'
            for tid, thread in threads.items()
        ),
    )
    want = {tid: [str(thread["fs_base"]), str(thread["gs_base"])] for tid, thread in threads.items()}
    assert answers(text) == want
    values = dict(re.findall(r"^tls (\d+) (\d+)$", text, re.MULTILINE))
    assert values == {str(tid): str(thread["tls"]["value"]) for tid, thread in threads.items()}


# Memory that is not in the dump


@pytest.mark.parametrize("missing", ["omit", "zero"])
def test_gdb_refuses_missing_memory(missing: str, extract: Extractor) -> None:
    """Of a level 31 dump, and of a file that was in no page cache: refused, or zeros where zeros were asked for."""
    fixture = need("k61")
    victim = fixture.victims["memory"]
    full, uncached = mapping(victim, "anon-full"), mapping(victim, "ext4-private-uncached")
    options: dict[str, Any] = {"mask": EVERYTHING, "missing": missing}
    for dump, gone, there in (
        ("vmcore.elf", [uncached], [full]),
        ("vmcore.d31-zstd", [uncached, full], [mapping(victim, "thp-zero")]),
    ):
        core, report = extract(fixture.dump(dump), victim.pid, **options)
        assert not report.complete
        spots = [found["addr"] + 8 * 515 for found in (*gone, *there)]
        text = gdb(core, sysroot(fixture), "victims/memory", *(f"x/gx {spot:#x}" for spot in spots))
        lines = dict(re.findall(r"^(0x[0-9a-f]+):\t(0x[0-9a-f]{16})$", text, re.MULTILINE))
        read = [lines.get(hex(spot)) for spot in spots]
        refused = [f"Cannot access memory at address {spot:#x}\n" in text for spot in spots]
        values = [word(victim, found, 8 * 515) if found["ranges"] else 0 for found in there]
        assert read[len(gone) :] == [f"{value:#018x}" for value in values]
        if missing == "omit":
            assert read[: len(gone)] == [None] * len(gone)
            assert refused == [True] * len(gone) + [False]
        else:
            assert read[: len(gone)] == [f"{0:#018x}"] * len(gone)
            assert not any(refused)


def test_others_refuse_missing_memory(extract: Extractor) -> None:
    fixture = need("k61")
    victim = fixture.victims["memory"]
    gone = mapping(victim, "anon-full")["addr"]
    there = mapping(victim, "thp-zero")["addr"]
    core, _ = extract(fixture.dump("vmcore.d31-zstd"), victim.pid, mask=EVERYTHING, missing="omit")
    prog = drgn.program_from_core_dump(core)
    assert prog.read(there, 16) == bytes(16)
    with pytest.raises(drgn.FaultError):
        prog.read(gone, 8)
    text = lldb(core, program(victim), *(f"memory read -f x -s 8 -c 1 {address:#x}" for address in (there, gone)))
    assert lldb_words(text) == {there: 0}
    assert f"core file does not contain {gone:#x}" in text


# lldb


def lldb(core: Path, program: Path, *commands: str) -> str:
    """What lldb prints. (Debian's lldb 14 complains about its own Python, which we do not use.)"""
    words = (f"target create {program} --core {core}", *commands)
    return run("lldb", "--batch", "--no-lldbinit", *(part for word in words for part in ("-o", word)), status=None)


def lldb_words(text: str) -> dict[int, int]:
    """``memory read -f x -s 8 -c 1``: address -> word."""
    found = re.findall(r"^(0x[0-9a-f]+): (0x[0-9a-f]{16})$", text, re.MULTILINE)
    return {int(address, 16): int(value, 16) for address, value in found}


@pytest.mark.parametrize("name", ENDS)
def test_lldb(name: str, extract: Extractor) -> None:
    """Threads and their backtraces."""
    victim = need(name).victims["dynamic"]
    # lldb knows no sysroot for cores; with the text in the core it needs no library of this machine
    text = lldb(ours(extract, victim, mask=EVERYTHING), program(victim), "thread list", "thread backtrace all")
    listed, traced = text.split("(lldb) thread backtrace all")
    assert [int(tid) for tid in re.findall(r"thread #\d+: tid = (\d+)", listed)] == list(victim.tids)
    traces = re.split(r"^[* ] thread #", traced, flags=re.MULTILINE)[1:]
    assert len(traces) == len(victim.tids)
    for number, trace in enumerate(traces):
        assert in_group(re.findall(r"`(level\d)\(", trace), LEVELS) == LEVELS
        assert f"level5(depth=5, thread={number})" in trace


@pytest.mark.parametrize("name", ENDS)
def test_lldb_values(name: str, extract: Extractor) -> None:
    """Registers in each thread, and a word of the pattern."""
    victim = need(name).victims["threads"]
    threads = victim.said["threads"]
    registers = "register read rbx mxcsr xmm3"
    text = lldb(
        ours(extract, victim),
        program(victim),
        *(command for number in range(len(threads)) for command in (f"thread select {number + 1}", registers)),
    )
    rbx = [int(value, 16) for value in re.findall(r"^ +rbx = (0x\w+)", text, re.MULTILINE)]
    mxcsr = [int(value, 16) for value in re.findall(r"^ +mxcsr = (0x\w+)", text, re.MULTILINE)]
    xmm3 = [bytes(int(byte, 16) for byte in value.split()) for value in re.findall(r"xmm3 = \{(.*?)\}", text)]
    assert rbx == [thread["regs"]["rbx"] for thread in threads]
    assert mxcsr == [thread["regs"]["mxcsr"] for thread in threads]
    assert [value.hex() for value in xmm3] == [thread["regs"]["ymm"][3][:32] for thread in threads]

    victim = need(name).victims["memory"]
    found = mapping(victim, "thp-full")
    offsets = (0, 0x1FFFF8, 0x200000)
    commands = (f"memory read -f x -s 8 -c 1 {found['addr'] + offset:#x}" for offset in offsets)
    words = lldb_words(lldb(ours(extract, victim), program(victim), *commands))
    assert words == {found["addr"] + offset: word(victim, found, offset) for offset in offsets}


# elfutils


def eu_stack(core: Path, binary: Path) -> dict[int, list[str]]:
    """Thread id -> frames, each "address function". Its status is 1 when it cannot go beyond the first one."""
    text = run("eu-stack", f"--core={core}", "-e", binary, status=None)
    blocks = re.split(r"^TID (\d+):$", text, flags=re.MULTILINE)[1:]
    return {
        int(tid): re.findall(r"^#\d+ +(0x\w+.*)$", block, re.MULTILINE)
        for tid, block in zip(blocks[::2], blocks[1::2], strict=True)
    }


@pytest.mark.parametrize("name", ENDS)
def test_eu_stack(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    found = eu_stack(ours(extract, victim, mask=EVERYTHING), program(victim))  # with the libraries' text in it
    assert set(found) == set(victim.tids)
    for frames in found.values():
        assert in_group((frame.split()[-1] for frame in frames), LEVELS) == LEVELS
    assert eu_stack(ours(extract, victim), program(victim)) == eu_stack(kernels(victim), program(victim))


@pytest.mark.parametrize("name", ENDS)
def test_eu_unstrip(name: str, extract: Extractor) -> None:
    """The build-ids of program and libraries, which the first pages of ELF files are in a core for."""
    victim = need(name).victims["dynamic"]
    lines = [
        run("eu-unstrip", "-n", f"--core={core}").splitlines() for core in (ours(extract, victim), kernels(victim))
    ]
    assert sorted(lines[0]) == sorted(lines[1])
    found = {}
    for line in lines[0]:
        span, build_id, *_, module = line.split()
        found[Path(module).name] = (int(span.split("+")[0], 16), build_id.split("@")[0])
    files = {file.split("/")[-1]: file for *_, file in mapped_files(victim)}
    assert set(found) == {*files, "linux-vdso.so.1"}
    starts = {file: min(start for start, *_, other in mapped_files(victim) if other == file) for file in files.values()}
    for module, file in files.items():
        text = run("readelf", "-n", sysroot(victim.fixture) / file.lstrip("/"))
        assert found[module] == (starts[file], text.split("Build ID: ")[1].split()[0])


@pytest.mark.parametrize("name", MAIN)
def test_eu_readelf_notes(name: str, extract: Extractor) -> None:
    """It reads what the victim said of itself, and finds the notes that it finds in the kernel's core, and ours."""
    victim = need(name).victims["identity"]
    text = run("eu-readelf", "-n", ours(extract, victim))
    ids = victim.said["ids"]
    assert f"pid: {victim.pid}, ppid: {ids['ppid']}, pgrp: {ids['pgrp']}, sid: {ids['sid']}" in text
    assert f"uid: {ids['uid']}, gid: {ids['gid']}, pid: {victim.pid}" in text
    assert f"nice: {ids['nice']}" in text
    owners = re.findall(r"^  (\w+) +(\d+)  (\S+)", text, re.MULTILINE)
    assert [owner for owner, _, _ in owners if owner not in ("CORE", "LINUX")] == ["KGCORE"]
    theirs = re.findall(r"^  (\w+) +(\d+)  (\S+)", run("eu-readelf", "-n", kernels(victim)), re.MULTILINE)
    assert owners[:-1] == theirs


# drgn


@pytest.mark.parametrize("name", ENDS)
def test_drgn(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    prog = drgn.program_from_core_dump(ours(extract, victim))
    files = {file for *_, file in mapped_files(victim)}
    prog.load_debug_info([sysroot(victim.fixture) / file.lstrip("/") for file in files])
    threads = {thread.tid: thread for thread in prog.threads()}
    assert set(threads) == set(victim.tids)
    assert prog["dynamic_global"].value_() == victim.said["globals"]["dynamic_global"]
    for number, said in enumerate(victim.said["threads"]):
        trace = threads[said["tid"]].stack_trace()
        frames = {frame.name: frame for frame in trace}
        assert in_group((frame.name for frame in trace), LEVELS) == LEVELS
        assert frames["level5"]["thread"].value_() == number
        assert prog.read_u64(said["tls"]["addr"]) == said["tls"]["value"]


@pytest.mark.parametrize("name", ENDS)
def test_drgn_values(name: str, extract: Extractor) -> None:
    victim = need(name).victims["threads"]
    prog = drgn.program_from_core_dump(ours(extract, victim))
    for said in victim.said["threads"]:
        registers = prog.thread(said["tid"]).stack_trace()[0].registers()
        for register in ("rbx", "rbp", "r12", "r13", "r14", "r15", "rip", "rdi"):
            assert registers[register] == said["regs"][register], register

    victim = need(name).victims["memory"]
    prog = drgn.program_from_core_dump(ours(extract, victim))
    for wanted in ("anon-full", "thp-full", "prot-none", "memfd-not-present", "hugetlb-shared", "tmpfs-shared-deleted"):
        found = mapping(victim, wanted)
        offset, length = found["ranges"][0]
        want = b"".join(struct.pack("<Q", word(victim, found, at)) for at in range(offset, offset + length, 8))
        assert prog.read(found["addr"] + offset, length) == want, wanted


# pystack


def test_pystack(extract: Extractor) -> None:
    """The Python functions in which the threads of an interpreter wait; it finds them in the interpreter's memory."""
    pytest.importorskip("pystack")
    fixture = need("k61")
    victim = fixture.victims["python"]
    interpreter = sysroot(fixture) / "usr/bin/python3.11"

    def stacks(core: Path) -> dict[int, list[str]]:
        text = run(sys.executable, "-m", "pystack", "core", core, interpreter, "--lib-search-root", sysroot(fixture))
        blocks = re.split(r"^Traceback for thread (\d+)", text, flags=re.MULTILINE)[1:]
        return {
            int(tid): re.findall(r'File "/victims/python.py", line (\d+, in \S+)', block)
            for tid, block in zip(blocks[::2], blocks[1::2], strict=True)
        }

    found = stacks(ours(extract, victim))
    assert set(found) == set(victim.tids)
    for thread in victim.said["threads"]:
        names = [frame.split()[-1] for frame in reversed(found[thread["tid"]])]
        assert names[: len(thread["python"])] == thread["python"]
    assert found == stacks(kernels(victim))


# Many


def test_readers_of_extended_numbering(extract: Extractor) -> None:
    """66000 segments (PN_XNUM): the readers find memory and registers behind them."""
    fixture = need("k61-many")
    victim = fixture.victims["manyvmas"]
    dump = next(entry["file"] for entry in fixture.manifest["dumps"] if entry["level"] == 0)
    core, _ = extract(fixture.dump(dump), victim.pid, mask=EVERYTHING)
    last = Core(core).loads[-2]  # before [vsyscall]
    text = run("eu-readelf", "-l", core)
    assert text.count("  LOAD ") == len(Core(core).loads) > 0xFFFF
    prog = drgn.program_from_core_dump(core)
    assert prog.read(last.p_vaddr, 64) == Core(core).read(last.p_vaddr, 64)
    assert [thread.tid for thread in prog.threads()] == list(victim.tids)


def test_tools_are_there() -> None:
    """One line per tool that a machine lacks, instead of only what happens to be asked for first."""
    for name in ("gdb", "lldb", "eu-stack", "eu-unstrip", "eu-readelf", "readelf"):
        tool(name)
