# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of each ABI on 64-bit kernels: 64-bit, ia32, x32, and threads in code of another kind than their program.

That the cores equal the kernel's own is tested here too; what gdb and others make of them as well.
"""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.binaries.linkmap import link_names
from kgcore.check.core import check_core
from kgcore.sources.base import TaskRef
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, main_dump, need
from tests.vmcore.corefile import EM_386, EM_X86_64, Core, ThreadNotes
from tests.vmcore.differences import compare
from tests.vmcore.patterns import pattern
from tests.vmcore.test_readers import EVERYTHING, LEVELS, answers, ask, backtraces, eu_stack, function, in_group
from tests.vmcore.test_registers import X87, XFEATURE_PKRU, XFEATURE_YMM
from tests.vmcore.test_truth import expected
from tests.vmcore.tools import gdb, lwps

ABIS = tuple(f"{name}-abi" for name in MAIN)
SMALL = "k61-abi-small"
KINDS = {"64": (64, EM_X86_64), "ia32": (32, EM_386), "x32": (32, EM_X86_64)}
# The leader's code decides about the notes; the program, about the class.
VIEWS = {
    **{f"{victim}_{abi}": view for victim in ("abi", "dynamic", "spin") for abi, view in KINDS.items()},
    "mixed": (64, EM_X86_64),
    "mixed_int80": (64, EM_X86_64),
    "mixed_code32": (64, EM_386),
    "mixed_ia32": (32, EM_386),
    "mixed_ia32_code64": (32, EM_X86_64),
    "mixed_x32_code32": (32, EM_386),
}
CHECKED_AS = {(64, EM_X86_64): "x86_64", (32, EM_386): "i386", (32, EM_X86_64): "x32", (64, EM_386): "i386"}
PRFPREG, TLS, IOPERM, XSTATE, PRXFPREG = 2, 0x200, 0x201, 0x202, 0x46E62B7F
X87_SPECIAL = {"infinity": bytes.fromhex("0000000000000080ff7f"), "denormal": b"\1".ljust(10, b"\0")}


def victims(fixture: Fixture) -> list[Victim]:
    found = list(fixture.victims.values())
    assert found
    return found


def core_of(victim: Victim, extract: Extractor, **options: Any) -> Core:
    fixture = victim.fixture
    path, _ = extract(fixture.dump(main_dump(fixture)), victim.pid, **({"mask": None} | options))
    return Core(path)


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_equals_the_kernels_core(name: str, extract: Extractor) -> None:
    for victim in victims(need(name)):
        assert victim.core is not None
        kernel = Core(victim.core)
        core = core_of(victim, extract, vendor_note=False)
        assert core.view == kernel.view == VIEWS[victim.name], victim.name
        assert list(compare(kernel, core, expected(victim.fixture, victim))) == [], victim.name


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_nothing_is_missing(name: str, extract: Extractor) -> None:
    """And ``kgcore check`` finds both cores well-formed, ours and the kernel's."""
    for victim in victims(need(name)):
        fixture = victim.fixture
        path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None)
        assert report.missing_bytes == 0
        assert not report.warnings
        assert victim.core is not None
        if victim.core.suffix == ".xz":
            continue
        for core in (path, victim.core):
            verdict = check_core(core)
            assert verdict.problems == (), victim.name
            view = VIEWS[victim.name]
            assert (verdict.facts["class"], verdict.facts["machine"]) == (view[0], CHECKED_AS[view])
            assert sorted(verdict.facts["threads"]) == list(victim.tids)


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_patterns(name: str, extract: Extractor) -> None:
    for victim in victims(need(name)):
        if victim.name.startswith("abi"):
            core = core_of(victim, extract)
            for found in victim.said["mappings"]:
                if found["kind"] != "file-shared" or victim.filter == EVERYTHING:
                    assert core.read(found["addr"], found["length"]) == pattern(found["seed"], 0, found["length"])


# Registers


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_registers(name: str, extract: Extractor) -> None:
    """Those in which the threads had put known values, the one in user mode included, in whichever view."""
    checked = 0
    for victim in victims(need(name)):
        core = core_of(victim, extract)
        for thread in victim.said["threads"]:
            notes = core.threads[thread["tid"]]
            if "sp_at" in thread:
                assert (
                    notes.regs["sp"]
                    == struct.unpack("<I", core.read(thread["sp_at"], 4))[0] | notes.regs["sp"] >> 32 << 32
                )
            for register, value in thread.get("regs", {}).items():
                if register == "ip" and thread["role"] == "spin":
                    assert 0 <= notes.regs["ip"] - value < 8
                elif register in notes.regs and not (register == "r10" and thread["role"] == "futex"):
                    assert notes.regs[register] == value, f"{victim.name}: thread {thread['tid']}: {register}"
                    checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_floating_point(name: str, extract: Extractor) -> None:
    """x87, SSE, AVX, their control words, PKRU; on ia32 in both formats of the legacy state."""
    checked = set()
    for victim in victims(need(name)):
        if "abi" not in victim.said:
            continue
        core = core_of(victim, extract)
        for thread in victim.said["threads"]:
            if thread["role"] != "spin":
                check_floating_point(core.threads[thread["tid"]], thread["regs"], core.view[1] == EM_386)
                checked.add(victim.said["abi"])
    assert {"ia32", "x32"} <= checked


def check_floating_point(notes: ThreadNotes, said: dict[str, Any], ia32: bool) -> None:
    stack = [(X87 | X87_SPECIAL)[constant] for constant in said["st"]]
    fx, xstate = notes.note(PRXFPREG if ia32 else PRFPREG), notes.note(XSTATE)
    assert fx is not None
    assert xstate is not None
    for image in (fx, xstate):
        assert struct.unpack_from("<H", image, 0)[0] == said["fcw"]
        assert struct.unpack_from("<I", image, 24)[0] == said["mxcsr"]
        for number, value in enumerate(stack):
            assert image[32 + 16 * number :][:10] == value
        for number, value in enumerate(said["ymm"]):
            assert image[160 + 16 * number :][:16].hex() == value[:32]
    (xfeatures,) = struct.unpack_from("<Q", xstate, 512)
    assert xfeatures >> XFEATURE_YMM & 1
    for number, value in enumerate(said["ymm"]):
        assert xstate[576 + 16 * number :][:16].hex() == value[32:]
    if "pkru" in said:
        assert xfeatures >> XFEATURE_PKRU & 1
        assert struct.unpack_from("<I", xstate, len(xstate) - 8)[0] == said["pkru"]
    if ia32:
        fsave = notes.note(PRFPREG)
        assert fsave is not None
        assert len(fsave) == 108
        cwd, swd, twd = struct.unpack_from("<III", fsave)
        assert (cwd, swd) == (said["fcw"] | 0xFFFF0000, (8 - len(stack)) << 11 | 0xFFFF0000)
        # Physical register 7 was the first; valid 0, zero 1, special 2, empty 3
        tags = [{"0": 1, "infinity": 2, "denormal": 2}.get(constant, 0) for constant in said["st"]]
        first = 8 - len(stack)
        assert twd == 0xFFFF0000 | sum(3 << 2 * n for n in range(first)) | sum(
            tag << 2 * n for n, tag in enumerate(tags, first)
        )
        assert [fsave[28 + 10 * number :][:10] for number in range(len(stack))] == stack


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_threads_own_data(name: str, extract: Extractor) -> None:
    """Signals (of which a 32-bit core shows the first 32), I/O permissions."""
    for victim in victims(need(name)):
        if "abi" not in victim.said:
            continue
        core = core_of(victim, extract)
        mask = (1 << core.bits) - 1
        for thread in victim.said["threads"]:
            notes = core.threads[thread["tid"]]
            assert notes.prstatus["sigpend"] == thread["sigpending"] & mask
            assert notes.prstatus["sighold"] == thread["sigblocked"] & mask
            ioperm = notes.note(IOPERM)
            assert (ioperm is not None) == thread["ioperm"]
            if ioperm is not None:
                assert [port for port in range(65536) if not ioperm[port // 8] >> port % 8 & 1] == [0x80]


# Thread-local variables


def thread_pointer(notes: ThreadNotes) -> int:
    """Where the C library's data of a thread are: FS base, or of ia32 the segment in GS."""
    if "fs_base" in notes.regs:
        return notes.regs["fs_base"]
    return segment(notes, notes.regs["gs"])


def segment(notes: ThreadNotes, selector: int) -> int:
    rows: dict[int, int] = {entry: base for entry, base, _, _ in struct.iter_unpack("<4I", notes.note(TLS) or b"")}
    assert list(rows) == [12, 13, 14]
    return rows[selector >> 3]


@pytest.mark.parametrize("name", [*ABIS, SMALL])
def test_thread_local_memory(name: str, extract: Extractor) -> None:
    """The registers lead to a thread's own variable; a second segment of ia32 threads, to their own words."""
    abis = set()
    for victim in victims(need(name)):
        if "abi" not in victim.said:
            continue
        core = core_of(victim, extract)
        distances = set()
        for number, thread in enumerate(victim.said["threads"]):
            notes = core.threads[thread["tid"]]
            pointer = thread_pointer(notes)
            word = "<Q" if victim.said["abi"] == "64" else "<I"
            assert struct.unpack(word, core.read(pointer, struct.calcsize(word)))[0] == pointer  # tcbhead_t.tcb
            distances.add(pointer - thread["tls"]["addr"])
            value = struct.pack("<II", number, thread["tls"]["value"])
            assert core.read(thread["tls"]["addr"] - 4, 8) == value
            if "fs_segment" in thread:
                assert segment(notes, notes.regs["fs"]) == thread["fs_segment"]
                assert core.read(thread["fs_segment"], 4) == struct.pack("<I", 0xF5F5F500 + number)
        assert len(distances) == 1, "the variable has one place in all threads' data"
        abis.add(victim.said["abi"])
    assert {"ia32", "x32"} <= abis


# Readers


@pytest.mark.parametrize("name", ABIS)
@pytest.mark.parametrize("abi", KINDS)
def test_gdb(name: str, abi: str, extract: Extractor) -> None:
    """Backtraces down to the last frame as in the kernel's core, arguments, a global and a thread-local variable."""
    fixture = need(name)
    victim = fixture.victims[f"dynamic_{abi}"]
    assert victim.core is not None
    binary = "dynamic" if abi == "64" else f"dynamic-{abi}"
    commands = (
        "info threads",
        "thread apply all bt",
        "print dynamic_global",
        ask("%lu %lu", "dynamic_tls", "&dynamic_tls"),
    )
    ours = core_of(victim, extract).path
    text = gdb(ours, fixture.path / "sysroot", f"victims/{binary}", *commands)
    assert sorted(lwps(text).values()) == sorted(victim.tids)
    found = backtraces(text)
    for number, thread in enumerate(victim.said["threads"]):
        assert in_group(map(function, found[thread["tid"]]), LEVELS) == LEVELS
        assert f"level5 (depth=5, thread={number})" in "\n".join(found[thread["tid"]])
    assert found == backtraces(gdb(victim.core, fixture.path / "sysroot", f"victims/{binary}", *commands))
    assert f"$1 = {victim.said['globals']['dynamic_global']}" in text
    want = {thread["tid"]: thread["tls"] for thread in victim.said["threads"]}
    assert answers(text) == {tid: [str(tls["value"]), str(tls["addr"])] for tid, tls in want.items()}


@pytest.mark.parametrize("name", ABIS)
@pytest.mark.parametrize("abi", ["ia32", "x32"])
def test_gdb_registers(name: str, abi: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims[f"abi_{abi}"]
    registers = ("$ebx", "$ebp", "$edi") if abi == "ia32" else ("$rbx", "$rbp", "$r15")
    ymm3 = [f"$ymm3.v8_int32[{number}]" for number in range(8)]
    text = gdb(
        core_of(victim, extract).path,
        fixture.path / "sysroot",
        f"victims/abi-{abi}",
        "info threads",
        # printf's %lu takes a long of the program
        ask("%llu %llu %llu", *(f"(unsigned long long){register}" for register in registers)),
        ask("%u %d", "(unsigned)$mxcsr", "$fctrl"),
        ask("%08x" * 8, *ymm3),
        ask("%.17g", "(double)$st6" if abi == "ia32" else "(double)$st4"),
    )
    found = answers(text)
    names = ("bx", "bp", "di") if abi == "ia32" else ("bx", "bp", "r15")
    mask = 0xFFFFFFFF if abi == "ia32" else (1 << 64) - 1
    for thread in victim.said["threads"]:
        regs = thread["regs"]
        got = found[thread["tid"]]
        assert [int(value) & mask for value in got[:3]] == [regs[name] for name in names]
        assert [int(value) for value in got[3:5]] == [regs["mxcsr"], regs["fcw"]]
        words = (got[5][at : at + 8] for at in range(0, 64, 8))
        assert b"".join(int(word, 16).to_bytes(4, "little") for word in words).hex() == regs["ymm"][3]
        assert float(got[6]) == pytest.approx(3.141592653589793)


@pytest.mark.parametrize("name", ABIS)
@pytest.mark.parametrize("abi", ["ia32", "x32"])
def test_eu_stack(name: str, abi: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims[f"dynamic_{abi}"]
    assert victim.core is not None
    binary = fixture.path / "sysroot" / "victims" / f"dynamic-{abi}"
    found = eu_stack(core_of(victim, extract, mask=EVERYTHING).path, binary)  # with the libraries' text in it
    assert set(found) == set(victim.tids)
    for frames in found.values():
        assert in_group((frame.split()[-1] for frame in frames), LEVELS) == LEVELS
    assert eu_stack(core_of(victim, extract).path, binary) == eu_stack(victim.core, binary)


@pytest.mark.parametrize("abi", KINDS)
def test_link_names(abi: str, extract: Extractor) -> None:
    """The names that the process's own loader has, out of structures with words of its size."""
    fixture = need("k61-abi")
    source = extract.source(fixture.dump(main_dump(fixture)))
    process = source.process(fixture.victims[f"dynamic_{abi}"].pid)
    names = [name for name, _ in link_names(process.image, process.memory)]
    loader, libc = {
        "64": (b"/lib64/ld-linux-x86-64.so.2", b"/lib/x86_64-linux-gnu/libc.so.6"),
        "ia32": (b"/lib/ld-linux.so.2", b"/lib32/libc.so.6"),
        "x32": (b"/libx32/ld-linux-x32.so.2", b"/libx32/libc.so.6"),
    }[abi]
    assert names[:2] == [b"/bin/dynamic" if abi == "64" else b"/bin/dynamic-" + abi.encode(), loader]
    assert names[3:] == [libc, loader]


# Threads of another kind than their program


@pytest.mark.parametrize(("victim_name", "arch"), [("abi_ia32", "ia32"), ("mixed_code32", "x86_64")])
def test_without_registers(victim_name: str, arch: str, extract: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program usually runs is assumed."""
    from kgcore.sources.vmcore.task import registers

    fixture = need(SMALL)
    source = extract.source(fixture.dump(main_dump(fixture)))
    ref = TaskRef.parse(str(fixture.victims[victim_name].pid))
    assert source.process(ref).image.arch == {"abi_ia32": "ia32", "mixed_code32": "ia32-in-64"}[victim_name]

    def lost(kernel: Any, task: Any) -> Any:
        raise FaultError("no stack", 0)

    monkeypatch.setattr(registers, "_entry_frame", lost)
    image = source.process(ref).image
    assert image.arch == arch
    assert image.threads[0].regs.unknown


@pytest.mark.parametrize("name", ABIS)
def test_the_requested_thread_decides(name: str, extract: Extractor) -> None:
    """As the kernel's core of a signal to just that thread would be: the notes are those of the first thread's code."""
    fixture = need(name)
    dump = fixture.dump(main_dump(fixture))
    for victim, wanted in (
        (fixture.victims["mixed"], {"same": (64, EM_X86_64), "code32": (64, EM_386), "int80": (64, EM_X86_64)}),
        (
            fixture.victims["mixed_ia32_code64"],
            {"same": (32, EM_386), "code64": (32, EM_X86_64), "code32": (32, EM_386)},
        ),
    ):
        for thread in victim.said["threads"]:
            path, _ = extract(dump, thread["tid"], mask=None)
            core = Core(path)
            assert core.view == wanted[thread["role"]]
            assert next(iter(core.threads)) == thread["tid"]
            assert sorted(core.threads) == list(victim.tids)
            assert core.auxv == core_of(victim, extract).auxv
