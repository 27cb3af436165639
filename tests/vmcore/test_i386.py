# SPDX-License-Identifier: LGPL-2.1-or-later
"""32-bit kernels, with PAE and without: against the cores that they themselves wrote, and what their victims said."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import Program

from kgcore.check.core import check_core
from kgcore.errors import TargetError
from kgcore.model.process import RegisterSource, Thread
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile import DumpNote
from kgcore.sources.vmcore.facts import read_facts
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.opening.foreign import from_program
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore import reshape
from tests.vmcore.conftest import Extractor, Victim, main_dump, need
from tests.vmcore.corefile import EM_386, Core
from tests.vmcore.differences import compare
from tests.vmcore.patterns import pattern
from tests.vmcore.test_abi import check_floating_point
from tests.vmcore.test_registers import X87
from tests.vmcore.test_truth import expected

PAE = ("k61-686pae", "k510-686pae")
KERNELS = (*PAE, "k61-686")
SMALL = "k61-686pae-small"
VICTIMS = (
    "memory memory33 memory01 memory10 abi_ia32 dynamic stopped zleader nspid identity zombie_parent spin"
).split()
CASES = [*((kernel, victim) for kernel in KERNELS for victim in VICTIMS),
         *((SMALL, victim) for victim in ("memory", "abi_ia32", "spin"))]  # fmt: skip
PRFPREG, TLS, IOPERM, XSTATE, PRXFPREG = 2, 0x200, 0x201, 0x202, 0x46E62B7F
FOUR_GIB = 1 << 32
STACK = ("ln2", "0", "1", "log2e", "pi")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed BTF and System.map: that kernel has no types, and no symbols of variables."""
    folder = tmp_path_factory.mktemp("i386")
    need(SMALL).packed_symbols(folder)
    return folder


@pytest.fixture
def symbols(request: pytest.FixtureRequest, unpacked: Path) -> tuple[str, ...]:
    """What to give with -s for the fixture that the test is about."""
    name = request.node.callspec.params.get("name", SMALL)
    if name == SMALL:
        return str(unpacked / "btf"), str(unpacked / "System.map")
    modules = sorted((need(name).path / "debug-modules").glob("*.ko"))
    return str(need(name).vmlinux), *map(str, modules)


def core_of(victim: Victim, extract: Extractor, symbols: tuple[str, ...]) -> Core:
    fixture = victim.fixture
    path, _ = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None, symbols=symbols)
    return Core(path)


@pytest.mark.parametrize(("name", "victim_name"), CASES)
def test_equals_the_kernels_core(name: str, victim_name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims[victim_name]
    assert victim.core is not None
    path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None, vendor_note=False, symbols=symbols)
    core, special = Core(path), expected(fixture, victim)
    assert core.view == (32, EM_386)
    assert list(compare(Core(victim.core), core, special)) == []
    assert report.missing_bytes == 0 or special.from_disk
    assert not report.warnings
    assert check_core(path).problems == ()


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_patterns(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """Every word that the victim wrote and that the filter keeps; huge pages (of 4 MiB without PAE) among them."""
    victim = need(name).victims["memory"]
    core = core_of(victim, extract, symbols)
    checked = set()
    for mapping in victim.said["mappings"]:
        for offset, length in mapping["ranges"]:
            try:
                data = core.read(mapping["addr"] + offset, length)
            except ValueError:
                continue
            assert data == pattern(mapping["seed"], offset, length, victim.said["grain"]), mapping["name"]
            checked.add(mapping["name"])
    assert {"protnone", "sysv-shm", "memfd-not-present"} & checked
    assert name == SMALL or {"hugetlb-private", "hugetlb-shared"} <= checked
    assert len(checked) > 15


# Physical memory


def test_memory_above_4_gib(extract: Extractor) -> None:
    """The victims' memory lies where no 32-bit address reaches, and so do page tables (CONFIG_HIGHPTE)."""
    fixture = need("k61-686pae")
    source = extract.source(fixture.dump(), symbols=(str(fixture.vmlinux),))
    found = source.process(fixture.victims["memory"].pid)
    image, memory = found.image, found.memory
    assert isinstance(memory, VmcoreMemory)
    high = tables = 0
    physical = memory._backing.physical
    stored, fill = physical.stored, physical._frames.fill

    def table_read(address: int, size: int) -> bytes | None:
        nonlocal tables
        tables += address >= FOUR_GIB
        return stored(address, size)

    def pages_read(pages: Sequence[int], view: memoryview) -> None:
        nonlocal high
        high += sum(page >= FOUR_GIB for page in pages)
        fill(pages, view)

    physical.stored = table_read  # type: ignore[method-assign]
    physical._frames.fill = pages_read  # type: ignore[method-assign]
    try:
        for vma in image.vmas:
            for _ in memory.read(vma, vma.start, vma.end):
                pass
    finally:
        physical.stored = stored  # type: ignore[method-assign]
        physical._frames.fill = fill  # type: ignore[method-assign]
    assert high > 10
    assert tables > 0


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dump", ["vmcore.qemu-kdump", "vmcore.qemu-flat"])
@pytest.mark.parametrize("victim_name", ["memory", "spin"])
def test_every_format(name: str, dump: str, victim_name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """Of each dump the same core."""
    fixture = need(name)
    pid = fixture.victims[victim_name].pid
    one, _ = extract(fixture.dump(), pid, mask=None, vendor_note=False, symbols=symbols)
    two, report = extract(fixture.dump(dump), pid, mask=None, vendor_note=False, symbols=symbols)
    assert one.read_bytes() == two.read_bytes()
    assert not report.warnings


# Registers


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_registers(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """Known values in sleeping threads, and in one that ran in user mode; x87, SSE, AVX of the sleeping ones."""
    checked = 0
    for victim_name in ("abi_ia32", "spin", "stopped", "zleader"):
        victim = need(name).victims.get(victim_name)
        if victim is None and name == SMALL:
            continue
        assert victim is not None
        core = core_of(victim, extract, symbols)
        for thread in victim.said["threads"]:
            notes = core.threads[thread["tid"]]
            assert notes.regs["sp"] == struct.unpack("<I", core.read(thread["sp_at"], 4))[0]
            for register, value in thread["regs"].items():
                if register == "ip" and thread["role"] == "spin":
                    assert 0 <= notes.regs["ip"] - value < 8
                elif register in notes.regs:
                    assert notes.regs[register] == value, f"{victim.name}: thread {thread['tid']}: {register}"
                    checked += 1
            if "st" in thread["regs"] and thread["role"] != "spin":
                check_floating_point(notes, thread["regs"], ia32=True)
    assert checked > 40


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_threads_own_data(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """GS leads to a thread's own variables, FS to a segment of its own (a thread on a CPU too); signals, I/O ports."""
    for victim_name in ("abi_ia32", "spin"):
        victim = need(name).victims[victim_name]
        core = core_of(victim, extract, symbols)
        distances = set()
        for number, thread in enumerate(victim.said["threads"]):
            notes = core.threads[thread["tid"]]
            rows = {entry: base for entry, base, _, _ in struct.iter_unpack("<4I", notes.note(TLS) or b"")}
            assert list(rows) == [6, 7, 8]
            pointer = rows[notes.regs["gs"] >> 3]
            assert struct.unpack("<I", core.read(pointer, 4))[0] == pointer  # tcbhead_t.tcb
            distances.add(pointer - thread["tls"]["addr"])
            assert core.read(thread["tls"]["addr"], 4) == struct.pack("<I", thread["tls"]["value"])
            assert rows[notes.regs["fs"] >> 3] == thread["fs_segment"]
            assert core.read(thread["fs_segment"], 4) == struct.pack("<I", 0xF5F5F500 + number)
            assert notes.prstatus["sigpend"] == thread["sigpending"] & 0xFFFFFFFF
            assert notes.prstatus["sighold"] == thread["sigblocked"] & 0xFFFFFFFF
            assert (notes.note(IOPERM) is not None) == thread["ioperm"]
        assert len(distances) == 1


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_running_thread(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """Its registers are those of the CPU's note."""
    fixture = need(name)
    victim = fixture.victims["spin"]
    image = extract.source(fixture.dump(main_dump(fixture)), symbols=symbols).process(victim.pid).image
    (tid,) = (thread["tid"] for thread in victim.said["threads"] if thread["role"] == "spin")
    sources = {thread.tid: (thread.regs.source, thread.cpu) for thread in image.threads}
    assert sources.pop(tid) == (RegisterSource.QEMU_NOTE, 1)
    assert set(sources.values()) == {(RegisterSource.ENTRY_FRAME, None)}


@pytest.mark.parametrize("name", KERNELS)
def test_a_running_thread_inside_an_interrupt(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """The CPU has the kernel's registers; the thread's own are where its entry put them."""
    fixture = need(name)
    said = {thread["tid"]: thread for thread in fixture.victims["spin"].said["threads"]}
    source = extract.source(fixture.dump("vmcore-2.elf"), symbols=symbols)
    image = source.process(fixture.victims["spin"].pid).image
    (running,) = (thread for thread in image.threads if said[thread.tid]["role"] == "spin")
    assert running.regs.source is RegisterSource.ENTRY_FRAME
    for register, value in said[running.tid]["regs"].items():
        if register == "ip":
            assert 0 <= running.regs.values["ip"] - value < 8
        elif register in running.regs.values:
            assert running.regs.values[register] == value, register


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_running_thread_whose_cpu_is_not_known(name: str, symbols: tuple[str, ...]) -> None:
    """NT_PRSTATUS of a CPU in user mode has nothing of the kernel's. Order and gaps of the others do not matter."""
    fixture = need(name)
    ref = TaskRef.parse(str(fixture.victims["spin"].pid))
    with open_target(DumpLocation(core=str(fixture.dump(main_dump(fixture))), symbols=symbols)) as target:

        def running(notes: tuple[DumpNote, ...]) -> Thread:
            target.notes = notes
            (thread,) = (thread for thread in VmcoreSource(target).process(ref).image.threads if thread.cpu is not None)
            return thread

        notes = target.notes
        whole = running(notes)
        if whole.regs.source is RegisterSource.QEMU_NOTE:  # it was not in an interrupt at that moment
            bare = running(tuple(note for note in notes if note.name != b"QEMU"))
            assert bare.regs.source is RegisterSource.UNAVAILABLE
        assert running(notes[::-1]).regs == whole.regs
        first, second = (number for number, note in enumerate(notes) if note.name == b"QEMU")
        assert running((*notes[:first], *notes[first + 1 :])).regs == whole.regs
        assert running((*notes[:second], *notes[second + 1 :])).regs.source is RegisterSource.UNAVAILABLE


# Swap


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("victim_name", ["swapped", "swapped_zram", "swapped_huge"])
def test_swapped(name: str, victim_name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    """Pages on a disk, of which there is an image, and on zram, compressed or not."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    assert victim.core is not None
    assert sum(len(mapping["swapped"]) for mapping in victim.said["mappings"]) > 90
    path, report = extract(
        fixture.dump(), victim.pid, mask=None, vendor_note=False, symbols=symbols, swap=fixture.swaps
    )
    assert list(compare(Core(victim.core), Core(path), expected(fixture, victim))) == []
    assert report.missing_bytes == 0
    if victim_name == "swapped":
        _, without = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False, symbols=symbols)
        assert without.missing_bytes >= 60 << 12


# The dump itself


@pytest.mark.parametrize("name", [*KERNELS, SMALL])
def test_info_and_ps(name: str, symbols: tuple[str, ...], extract: Extractor) -> None:
    fixture = need(name)
    with open_target(DumpLocation(core=str(fixture.dump(main_dump(fixture))), symbols=symbols)) as target:
        facts = read_facts(target)
    assert (facts.architecture, facts.levels) == ("i386", 2 if name == "k61-686" else 3)
    assert (facts.release, facts.cpus, facts.user_memory) == (fixture.manifest["release"], 2, "yes")
    if name != SMALL:
        assert facts.stored >> 20 in range(fixture.manifest["ram_mib"] - 4, fixture.manifest["ram_mib"] + 64)
    rows = {row.pid: row for row in extract.source(fixture.dump(main_dump(fixture)), symbols=symbols).processes()}
    for victim in fixture.victims.values():
        row = rows[victim.pid]
        cmdline = (victim.proc / "cmdline").read_bytes()
        if victim.name != "zleader":  # of which /proc knows nothing any more, while the process lives on
            assert (row.args or b"") == cmdline.removesuffix(b"\0")
            assert row.threads == len(victim.tids)


def test_without_types() -> None:
    """Debian's i386 kernels carry none, and no symbols of variables, of which kgcore speaks first."""
    fixture = need("k61-686")
    with pytest.raises(TargetError, match="CONFIG_KALLSYMS_ALL") as raised:
        open_target(DumpLocation(core=str(fixture.dump()), symbols_from="btf"))
    assert "linux-image-6.1.0-50-686-dbg" in raised.value.hint


def test_without_variables(unpacked: Path) -> None:
    """Nor have they symbols of variables, without which BTF is of no use."""
    fixture = need("k61-686pae")
    with pytest.raises(TargetError, match="CONFIG_KALLSYMS_ALL") as raised:
        open_target(DumpLocation(core=str(fixture.dump()), symbols=(str(unpacked / "btf"),)))
    assert "System.map" in raised.value.hint


def test_damaged_system_map(unpacked: Path, tmp_path: Path) -> None:
    fixture = need(SMALL)
    cut = tmp_path / "System.map"
    text = (unpacked / "System.map").read_text()
    cut.write_text("".join(line for line in text.splitlines(keepends=True) if "_stext" not in line))
    options = DumpLocation(core=str(fixture.dump(main_dump(fixture))), symbols=(str(unpacked / "btf"), str(cut)))
    with pytest.raises(TargetError, match="not a complete System"):
        open_target(options)


def test_another_kernels_vmcoreinfo(unpacked: Path, tmp_path: Path) -> None:
    """What it says of memory is not so; that is an error, not a core of something else."""
    fixture = need(SMALL)
    with open_target(
        DumpLocation(
            core=str(fixture.dump(main_dump(fixture))), symbols=(str(unpacked / "btf"), str(unpacked / "System.map"))
        )
    ) as target:
        text = "".join(f"{key}={value}\n" for key, value in target.vmcoreinfo.items())
    other = tmp_path / "vmcoreinfo"
    other.write_text(text.replace("OSRELEASE=6.1", "OSRELEASE=6.2"))
    with pytest.raises(TargetError, match="given with --vmcoreinfo does not match a kernel in the dump's memory"):
        open_target(DumpLocation(core=str(fixture.dump(main_dump(fixture))), vmcoreinfo=str(other)))
    data = fixture.dump(main_dump(fixture)).read_bytes()
    wrong = tmp_path / "vmcore"
    wrong.write_bytes(data.replace(b"OSRELEASE=6.1", b"OSRELEASE=6.2"))
    with pytest.raises(TargetError, match=r"in the header of .* does not match a kernel") as caught:
        open_target(DumpLocation(core=str(wrong)))
    assert "--vmcoreinfo" in caught.value.hint


# Less of the floating-point state


def test_without_xsave(extract: Extractor) -> None:
    """FXSAVE alone: no NT_X86_XSTATE."""
    fixture = need("k61-686-fxsave")
    victim = fixture.victims["abi_ia32"]
    assert victim.core is not None
    path, report = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False, symbols=(str(fixture.vmlinux),))
    assert list(compare(Core(victim.core), Core(path), expected(fixture, victim))) == []
    assert not report.remarks
    for thread in victim.said["threads"]:
        notes = Core(path).threads[thread["tid"]]
        assert notes.note(XSTATE) is None
        fx = notes.note(PRXFPREG)
        assert fx is not None
        assert fx[160:176].hex() == thread["regs"].get("xmm", thread["regs"].get("ymm"))[0][:32]


def test_without_fxsave(extract: Extractor) -> None:
    """FNSAVE: the x87 alone, and no NT_PRXFPREG."""
    fixture = need("k61-686-fsave")
    victim = fixture.victims["x87"]
    assert victim.core is not None
    path, report = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False, symbols=(str(fixture.vmlinux),))
    assert list(compare(Core(victim.core), Core(path), expected(fixture, victim))) == []
    assert not report.remarks
    notes = Core(path).threads[victim.pid]
    fsave = notes.note(PRFPREG)
    assert fsave is not None
    assert len(fsave) == 108
    assert notes.prstatus["fpvalid"] == 1
    assert [fsave[28 + 10 * number :][:10] for number in range(5)] == [X87[name] for name in STACK]
    assert notes.note(PRXFPREG) is None


# Other containers


def cut_off(source: Path, target: Path) -> Path:
    return reshape.truncated(source, target, source.stat().st_size - (1 << 20))  # the kernel may lie not far before


@pytest.mark.parametrize(
    ("form", "make", "options"),
    [
        ("raw memory", reshape.raw, {"architecture": "i386"}),
        ("LiME", reshape.lime, {}),
        ("ELF64", reshape.without_vmcoreinfo, {}),
        ("ELF32", reshape.elf32, {}),
        ("ELF64", cut_off, {}),
    ],
)
def test_other_containers(
    form: str, make: Callable[[Path, Path], Path], options: dict[str, Any], unpacked: Path, tmp_path: Path
) -> None:
    """LiME and raw memory do not say what machine they are of; a dump may lack VMCOREINFO, or its end."""
    fixture = need(SMALL, committed=False)
    dump = make(fixture.dump("vmcore.elf"), tmp_path / "vmcore")
    named: tuple[str, ...] = (str(unpacked / "btf"), str(unpacked / "System.map"))
    if need(SMALL).manifest["release"] != fixture.manifest["release"]:
        named = (str(fixture.vmlinux),)
    with open_target(DumpLocation(core=str(dump), symbols=named, **options)) as target:
        facts = read_facts(target)
        source = VmcoreSource(target)
        image = source.process(fixture.victims["abi_ia32"].pid).image
    assert (facts.format, facts.architecture, facts.levels) == (form, "i386", 3)
    assert sorted(thread.tid for thread in image.threads) == list(fixture.victims["abi_ia32"].tids)
    assert bool(facts.cut_off) == (make is cut_off)


def test_a_program_of_drgns() -> None:
    """``%gcore`` in drgn, which opens such dumps but cannot read the kernel's memory."""
    fixture = need(SMALL, committed=False)
    prog = Program()
    prog.set_core_dump(str(fixture.dump("vmcore.elf")))
    prog.load_debug_info([str(fixture.vmlinux)], default=False, main=True)
    with from_program(prog) as target:
        victim = fixture.victims["memory"]
        assert victim.pid in {row.pid for row in VmcoreSource(target).processes()}
