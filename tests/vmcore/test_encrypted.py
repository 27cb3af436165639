# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines with AMD's memory encryption: each page-table entry, and CR3, has one bit more.

No guest can be made to have it here (TCG has no SME), so the bit is set in the page tables of real dumps: what a
capture kernel, which reads memory decrypted, would have saved. The cores must be those of the dump without it.
"""

import re
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import FaultError, Program

from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.opening.foreign import from_program
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.task.tasks import Tasks
from tests.vmcore import reshape
from tests.vmcore.conftest import need
from tests.vmcore.tools import kgcore

BITS = (47, 51)  # Zen 1, and later ones
PAGE = 4096
START_KERNEL_MAP = 0xFFFFFFFF80000000


@cache
def roots(dump: Path) -> tuple[set[int], int]:
    """The top page tables of the kernel and of all processes, and the physical address of the kernel's image."""
    with open_target(DumpLocation(core=str(dump))) as target:
        kernel = Kernel(target)
        base = int(target.vmcoreinfo["NUMBER(phys_base)"])
        found = {int(target.vmcoreinfo["SYMBOL(swapper_pg_dir)"], 16) - START_KERNEL_MAP + base}
        for task in Tasks(kernel).leaders()[0]:
            with suppress(FaultError):  # the dump may be a reduced one
                if task.mm:
                    found.add(kernel.machine.root_table(task.mm))
    return found, base


def changed_note(data: bytes, bit: int, *, told: bool) -> bytes:
    """Headers of a dump: CR3 in QEMU's notes with the bit, and VMCOREINFO with the mask, or without a word of it."""
    line = b"NUMBER(sme_mask)=0\n"
    assert line in data
    mask = b"NUMBER(sme_mask)=%d\n" % (1 << bit)
    data = re.sub(rb"KERNELOFFSET=(\w+)\nNUMBER\(KERNEL_IMAGE_SIZE\)=1073741824\n" + re.escape(line),
                  lambda match: (b"KERNELOFFSET=%s\n" % match[1] + (mask if told else b"")).ljust(len(match[0]), b"\n"),
                  data)  # fmt: skip
    changed = bytearray(data)
    for match in re.finditer(rb"QEMU\0\0\0\0\x01\0\0\0\xb8\x01\0\0", data):
        at = match.start() + 8 + 392 + 3 * 8
        (cr3,) = struct.unpack_from("<Q", changed, at)
        struct.pack_into("<Q", changed, at, cr3 | 1 << bit)
    return bytes(changed)


def encrypted(source: Path, target: Path, bit: int, *, told: bool) -> Path:
    """A small kdump file with the bit in all its page tables."""
    data = source.read_bytes()
    pages = reshape._pages(data)
    tables, _ = roots(source)
    changes = reshape.with_encryption_bit(tables, bit, 4, pages.get)
    assert len(changes) > 50
    reshape.with_pages(source, target, changes)
    target.write_bytes(changed_note(target.read_bytes(), bit, told=told))
    return target


def cores(tmp_path: Path, name: str, *words: object) -> dict[str, bytes]:
    folder = tmp_path / name
    folder.mkdir()
    done = kgcore(*words, "--all", "--no-kgcore-note", "-D", folder, cwd=tmp_path)
    assert done.status in (0, 3), done.remarks
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return cores(tmp_path_factory.mktemp("expected"), "whole", "-c", need("k61-small").dump("vmcore"))


def as_kdump(path: Path, _: int) -> Path:
    return path


def as_qemu_elf(path: Path, _: int) -> Path:
    return reshape.elf_of_kdump(path, path.with_suffix(".elf"))


def as_proc_vmcore(path: Path, base: int) -> Path:
    text = re.search(rb"SYMBOL\(_stext\)=(\w+)", path.read_bytes())
    assert text
    start = int(text[1], 16)
    return reshape.elf_of_kdump(path, path.with_suffix(".vmcore"), kernel=(start, start - START_KERNEL_MAP + base))


@pytest.mark.parametrize("bit", BITS)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@pytest.mark.parametrize("form", [as_kdump, as_qemu_elf, as_proc_vmcore])
def test_same_cores(
    form: Callable[[Path, int], Path], bit: int, expected: dict[str, bytes], tmp_path: Path, *, told: bool
) -> None:
    source = need("k61-small").dump("vmcore")
    path = form(encrypted(source, tmp_path / "vmcore", bit, told=told), roots(source)[1])
    assert cores(tmp_path, "found", "-c", path) == expected


def test_in_drgn(tmp_path: Path) -> None:
    """drgn's Program cannot read the kernel there; the dump is opened anew, and the user's Program is left alone."""
    path = as_qemu_elf(encrypted(need("k61-small").dump("vmcore"), tmp_path / "vmcore", 51, told=True), 0)
    prog = Program()
    prog.set_core_dump(str(path))
    with from_program(prog) as target:
        assert target.prog is not prog
        assert target.prog["init_task"].comm.string_().startswith(b"swapper")


@pytest.mark.parametrize("bit", BITS)
def test_memory_above_4_gib(bit: int, tmp_path: Path) -> None:
    fixture = need("k61-epyc")
    victims = [fixture.victims[name].pid for name in ("memory", "threads", "spin")]
    source, path = fixture.dump(), tmp_path / "vmcore"
    loads = [segment for segment in reshape.segments(source) if segment.kind == 1]
    assert max(load.address for load in loads) >= 1 << 32
    with source.open("rb") as file:

        def read(frame: int) -> bytes | None:
            for load in loads:
                if load.address <= frame * PAGE < load.address + load.size:
                    file.seek(load.offset + frame * PAGE - load.address)
                    return file.read(PAGE)
            return None

        tables, _ = roots(source)
        changes = reshape.with_encryption_bit(tables, bit, 4, read)
        assert any(frame * PAGE >= 1 << 32 for frame in changes)
    reshape.copy(source, path)
    _patch(path, loads, changes, bit)
    wanted, found = (_cores_of(tmp_path, name, dump, victims) for name, dump in (("a", source), ("b", path)))
    assert found == wanted
    assert set(wanted) == {f"core.{pid}" for pid in victims}
    path.unlink()  # large


def _patch(path: Path, loads: Iterable[reshape.Segment], changes: dict[int, bytes], bit: int) -> None:
    note = next(segment for segment in reshape.segments(path) if segment.kind == 4)
    with path.open("r+b") as file:
        file.seek(note.offset)
        notes = file.read(note.size)
        file.seek(note.offset)
        file.write(changed_note(notes, bit, told=True))
        for frame, page in changes.items():
            for load in loads:
                if load.address <= frame * PAGE < load.address + load.size:
                    file.seek(load.offset + frame * PAGE - load.address)
                    file.write(page)


def _cores_of(tmp_path: Path, name: str, dump: Path, pids: list[int]) -> dict[str, bytes]:
    folder = tmp_path / name
    folder.mkdir()
    done = kgcore("-c", dump, "--no-kgcore-note", "-f", "process", "-D", folder, *pids, cwd=tmp_path)
    assert done.status in (0, 3), done.remarks
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
