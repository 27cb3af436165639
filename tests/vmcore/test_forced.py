# SPDX-License-Identifier: LGPL-2.1-or-later
"""What no type shows, forced to what it is in other kernels, on real dumps: no byte and no register may be wrong then.

It is missing, with the reason; or it is noticed, and right; or it is a word about the core itself, and nothing else.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.coredump.pipeline import write
from kgcore.errors import NoUserMemory
from kgcore.model.process import ProcessImage, RegisterSource, Thread
from kgcore.sinks.streams import MemorySink
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.machine.x86 import X86
from kgcore.sources.vmcore.kernel.machine.x86_64 import X86_64
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import MAIN, need
from tests.vmcore.corefile import Core
from tests.vmcore.doctored import Doctored
from tests.vmcore.hostile import PAGE

OLD, NEW = b"\x01\xbf", b"\x02\xf7"  # offset and mask of andb: bits 14 and 19
VICTIM = "dynamic"
Written = Callable[[], Core]


@pytest.fixture(scope="module", params=MAIN)
def doctored(request: pytest.FixtureRequest) -> Doctored:
    return Doctored(need(request.param))


@pytest.fixture(autouse=True)
def healed(doctored: Doctored) -> None:
    doctored.heal()


@pytest.fixture
def written(doctored: Doctored, tmp_path: Path) -> Written:
    def write_core() -> Core:
        sink = MemorySink()
        with doctored.prepared(doctored.machine.fixture.victims[VICTIM].pid, mask=0x33) as prepared:
            write(prepared, sink)
        path = tmp_path / "core"
        path.unlink(missing_ok=True)
        path.write_bytes(sink.data)
        return Core(path)

    return write_core


def images(doctored: Doctored) -> dict[str, ProcessImage]:
    source: VmcoreSource = doctored.source()
    found = {}
    for name, victim in doctored.machine.fixture.victims.items():
        with suppress(NoUserMemory), source.process(victim.pid) as process:
            found[name] = process.image
    return found


def threads(doctored: Doctored) -> dict[int, Thread]:
    return {thread.tid: thread for image in images(doctored).values() for thread in image.threads}


def replace_code(doctored: Doctored, function: str, old: bytes, new: bytes) -> None:
    """Write other bytes into the kernel's code, where the old ones stand for the first time."""
    symbol = doctored.prog.symbol(function)
    code = doctored.prog.read(symbol.address, symbol.size)
    (found, *_) = re.finditer(old, code, re.DOTALL)
    for number, byte in enumerate(new):
        write_code(doctored, symbol.address + found.start() + number, byte)


def write_code(doctored: Doctored, address: int, byte: int) -> None:
    offset = address % PAGE
    doctored.write(doctored.physical(address - offset) + offset, bytes([byte]))


def test_thread_flag(doctored: Doctored) -> None:
    """TIF_NEED_FPU_LOAD: 14 and 19. Who was on a CPU then has older values, and the core says so."""
    before = threads(doctored)
    machine = doctored.source()._machine.kernel.machine
    assert isinstance(machine, X86)
    true = machine._fpu_load_bit
    assert true in (14, 19)
    old, new = (OLD, NEW) if true == 14 else (NEW, OLD)
    replace_code(doctored, "switch_fpu_return", b"(?<=\x80[\x60-\x67])" + re.escape(old), new)
    after = threads(doctored)
    assert {tid for tid, thread in after.items() if thread.cpu is not None} >= {
        tid for tid, thread in before.items() if thread.fpu and thread.fpu.stale
    }
    for tid, thread in after.items():
        assert thread.regs == before[tid].regs
        assert thread.fpu is not None
        assert thread.fpu.stale is (thread.cpu is not None)
        assert thread.fpu.image == before[tid].fpu.image  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [0, 4])
def test_alignment_of_notes(doctored: Doctored, written: Written, value: int) -> None:
    """``p_align`` of PT_NOTE: 0 and 4. Nothing else in the core is another."""
    before = written()
    raw = before.path.read_bytes()
    stores = rb"[\x48\x49]\xc7(?:[\x40-\x43\x45-\x47]|\x44\x24)\x30(?=[\x00\x04]\x00{3})"
    symbol = doctored.prog.symbol("elf_core_dump")
    code = doctored.prog.read(symbol.address, symbol.size)
    for found in re.finditer(stores, code, re.DOTALL):
        write_code(doctored, symbol.address + found.end(), value)
    after = written()
    assert [phdr.p_align for phdr in after.note_phdrs] == [value] * len(after.note_phdrs)
    # p_align is the last word of a program header; those of the notes are the first
    places = {64 + 56 * number + 48 for number, phdr in enumerate(after.phdrs) if phdr in after.note_phdrs}
    other = after.path.read_bytes()
    assert len(other) == len(raw)
    assert {at for at in range(64, 64 + 56 * len(after.phdrs)) if raw[at] != other[at]} <= places
    assert raw[64 + 56 * len(after.phdrs) :] == other[64 + 56 * len(after.phdrs) :]


@pytest.mark.parametrize("rule", [(False, True), (True, False)])
def test_files_with_elf_headers(
    doctored: Doctored, written: Written, monkeypatch: pytest.MonkeyPatch, rule: tuple[bool, bool]
) -> None:
    """Pages may be left out, as that kernel would have done; those that are there are the same."""
    before = written()
    monkeypatch.setattr(X86, "_elf_headers", rule)
    after = written()
    sizes = {load.p_vaddr: load.p_filesz for load in before.loads}
    assert [load.p_vaddr for load in after.loads] == list(sizes)
    for load in after.loads:
        assert load.p_filesz in (0, sizes[load.p_vaddr])
        if load.p_filesz:
            assert after.read(load.p_vaddr, load.p_filesz) == before.read(load.p_vaddr, load.p_filesz)


@pytest.mark.parametrize("size", [8192, 32768])
def test_size_of_kernel_stacks(doctored: Doctored, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    missing_without_its_frames(doctored, monkeypatch, lambda: monkeypatch.setattr(Kernel, "thread_size", size))


@pytest.mark.parametrize("padding", [0, 8, 16])
def test_padding_of_kernel_stacks(doctored: Doctored, monkeypatch: pytest.MonkeyPatch, padding: int) -> None:
    """TOP_OF_KERNEL_STACK_PADDING: 0, and 16 with CONFIG_X86_FRED; 8 in 32-bit kernels."""
    if doctored.source()._machine.kernel.machine.pt_regs_padding == padding:
        return
    missing_without_its_frames(doctored, monkeypatch, lambda: monkeypatch.setattr(X86_64, "pt_regs_padding", padding))


def missing_without_its_frames(doctored: Doctored, monkeypatch: pytest.MonkeyPatch, force: Callable[[], None]) -> None:
    """Whose registers are on the kernel stack has none, with the reason; those of CPUs' notes are the same."""
    before = images(doctored)
    force()
    after = images(doctored)
    monkeypatch.undo()
    sources = set()
    for name, image in after.items():
        for old, new in zip(before[name].threads, image.threads, strict=True):
            sources.add(old.regs.source)
            if old.regs.source is RegisterSource.ENTRY_FRAME:
                assert new.regs.source is RegisterSource.UNAVAILABLE
                # With stacks that are too large in the end the place is in nobody's memory.
                reasons = [f"thread {new.tid}: {why}" for why in ("its registers are missing", "registers are not in")]
                assert any(why in line for line in image.warnings for why in reasons)
            else:
                assert new.regs == old.regs
    assert RegisterSource.ENTRY_FRAME in sources
