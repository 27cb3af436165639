# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process with 20 TiB of addresses and 128 KiB of data: gdb, lldb, elfutils, drgn and pystack read the zeros that
share one range of the file, and what lies between them, as in a core of the kernel's layout."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

drgn = pytest.importorskip("drgn")

from drgn import Object

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import write
from kgcore.sinks.files import FileSink
from tests.vmcore.conftest import Extractor, need
from tests.vmcore.corefile import Core
from tests.vmcore.doctored import Doctored
from tests.vmcore.hostile import PAGE
from tests.vmcore.test_readers import EVERYTHING, eu_stack, lldb, lldb_words, ours, program, sysroot
from tests.vmcore.tools import gdb, run

TIB = 1 << 40


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """The core of ``threads`` with a heap of 20 TiB, its core as it was, and the start of the heap."""
    doctored = Doctored(need("k61-small"))
    victim = doctored.machine.fixture.victims["threads"]
    directory = tmp_path_factory.mktemp("huge")
    before = doctored.prepared(victim.pid, mask=0x33)
    plain = write(before, FileSink(directory / "plain"))
    heap = next(vma for vma in before.image.vmas if vma.start <= before.image.start_brk < vma.end)
    doctored.set(Object(doctored.prog, "struct vm_area_struct *", heap.struct).vm_end, heap.start + 20 * TIB)
    report = write(doctored.prepared(victim.pid, mask=0x33), FileSink(directory / "core"))
    assert (report.warnings, report.account.missing) == (plain.warnings, {})
    assert report.account.zero > 20 * TIB - (1 << 20)
    return directory / "core", directory / "plain", heap.start


def test_the_core(huge: tuple[Path, Path, int]) -> None:
    path, plain, heap = huge
    assert path.stat().st_size < 16 << 30
    assert path.stat().st_blocks * 512 < 4 << 20
    assert check_core(path).problems == ()
    core = Core(path)
    for load in (before := Core(plain)).loads:
        for address, data in before.segment(load):
            assert core.read(address, len(data)) == data
    for at in (1 << 30, 7 * TIB + 5 * PAGE, 20 * TIB - PAGE):
        assert not any(core.read(heap + at, PAGE))


def test_gdb(huge: tuple[Path, Path, int]) -> None:
    path, plain, heap = huge
    fixture = need("k61-small")
    data = Core(plain).read(heap, 16)
    places = heap, heap + TIB, heap + 20 * TIB - 16
    text = gdb(path, sysroot(fixture), "none", *(f"x/2gx {at:#x}" for at in places), f"x/gx {heap + 20 * TIB:#x}")
    words = [int.from_bytes(data[at : at + 8], "little") for at in (0, 8)]
    found = re.findall(r"^(0x\w+):\s+(0x\w+)\s+(0x\w+)$", text, re.MULTILINE)
    assert [[int(word, 16) for word in row] for row in found] == [
        [places[0], *words],
        [places[1], 0, 0],
        [places[2], 0, 0],
    ]
    assert f"Cannot access memory at address {heap + 20 * TIB:#x}" in text


def test_lldb(huge: tuple[Path, Path, int]) -> None:
    path, plain, heap = huge
    first = int.from_bytes(Core(plain).read(heap + 8, 8), "little")
    places = heap + 8, heap + TIB, heap + 20 * TIB - 8
    text = lldb(path, Path("/bin/true"), *(f"memory read -f x -s 8 -c 1 {at:#x}" for at in (*places, heap + 20 * TIB)))
    assert lldb_words(text) == dict(zip(places, (first, 0, 0), strict=True))


def test_drgn(huge: tuple[Path, Path, int]) -> None:
    path, plain, heap = huge
    prog = drgn.program_from_core_dump(path)
    assert prog.read(heap, PAGE) == Core(plain).read(heap, PAGE)
    for at in (TIB - 1, 20 * TIB - PAGE):
        assert not any(prog.read(heap + at, PAGE))
    with pytest.raises(drgn.FaultError):
        prog.read(heap + 20 * TIB, 8)


def test_elfutils(huge: tuple[Path, Path, int]) -> None:
    path, _, heap = huge
    text = run("eu-readelf", "-l", path)
    rows = [[int(word, 16) for word in row.split()[1:6]] for row in re.findall(r"^ +LOAD .*", text, re.MULTILINE)]
    assert max(start + size for _, start, _, _, size in rows if start < heap + 20 * TIB) == heap + 20 * TIB
    assert all(filesz == memsz for _, start, _, filesz, memsz in rows if heap <= start < heap + 20 * TIB)


@pytest.fixture(scope="module")
def shared(extract: Extractor) -> Any:
    """Two cores of a victim of k61: in the kernel's layout, and with shared zeros."""

    def both(name: str, **options: Any) -> tuple[Path, Path]:
        victim = need("k61").victims[name]
        plain, other = (ours(extract, victim, share_zeros=share, **options) for share in (False, True))
        assert other.stat().st_size < plain.stat().st_size
        assert len(Core(other).loads) > len(Core(plain).loads)
        return plain, other

    return both


def test_backtraces(shared: Any) -> None:
    """The stacks are divided: their used ends are apart from the rest."""
    victim = need("k61").victims["dynamic"]
    plain, other = shared("dynamic", mask=EVERYTHING)
    assert eu_stack(other, program(victim)) == eu_stack(plain, program(victim))
    backtrace = "thread apply all bt"
    assert "level5" in (there := gdb(other, sysroot(victim.fixture), "victims/dynamic", backtrace))
    assert there.replace(str(other), "") == gdb(plain, sysroot(victim.fixture), "victims/dynamic", backtrace).replace(
        str(plain), ""
    )


def test_pystack(shared: Any) -> None:
    pytest.importorskip("pystack")
    fixture = need("k61")
    interpreter = sysroot(fixture) / "usr/bin/python3.11"

    def stacks(core: Path) -> list[str]:
        text = run(sys.executable, "-m", "pystack", "core", core, interpreter, "--lib-search-root", sysroot(fixture))
        return re.findall(r"Traceback for thread.*|File .*", text)

    plain, other = shared("python")
    assert len(stacks(other)) > 4
    assert stacks(other) == stacks(plain)
