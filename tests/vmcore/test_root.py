# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--root DIR``: pages of programs and libraries that real dumps lack, out of the files themselves; and no others."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.model.process import VM_WRITE, Vma
from kgcore.sources.vmcore.memory import rootfiles
from kgcore.sources.vmcore.memory.rootfiles import Identity
from tests.vmcore.conftest import MAIN, Extractor, Fixture, need
from tests.vmcore.corefile import Core
from tests.vmcore.tools import kgcore

PAGE = 4096
DISK = [f"{name}-disk" for name in MAIN]
LIBC = "lib/x86_64-linux-gnu/libc.so.6"
LOADER = "lib64/ld-linux-x86-64.so.2"
EVERYTHING = 0x7F
# Even sid's makedumpfile takes slab pages of 7.2 for user memory: not all of a process is found there.
LEVEL_31 = ["k510-disk", "k61-disk", "k612-disk"]


def read_only(source: Any, fixture: Fixture) -> Iterator[tuple[Vma, bytes]]:
    """The mappings of the victim's programs that nobody can have written to, and what the files have there."""
    image = source.process(fixture.victims["dynamic"].pid).image
    for vma in image.vmas:
        if vma.file is not None and vma.file.path and not vma.flags & VM_WRITE and not vma.anon:
            content = (fixture.path / "sysroot" / os.fsdecode(vma.file.path).lstrip("/")).read_bytes()
            yield vma, content[vma.pgoff * PAGE :][: vma.end - vma.start].ljust(vma.end - vma.start, b"\0")


@pytest.mark.parametrize("name", DISK)
@pytest.mark.parametrize("dump", ["vmcore.elf", "vmcore.d17-lzo"])
def test_pages_that_were_not_in_memory(name: str, dump: str, extract: Extractor) -> None:
    fixture = need(name)
    pid = fixture.victims["dynamic"].pid
    _, bare = extract(fixture.dump(dump), pid, mask=EVERYTHING)
    core, report = extract(fixture.dump(dump), pid, root=str(fixture.path / "sysroot"), mask=EVERYTHING)
    assert {gap.reason for gap in bare.missing} == {"file"}
    assert bare.missing_bytes > 1 << 18
    assert (report.missing, report.warnings) == ((), ())
    assert report.recovered["root"] == bare.missing_bytes
    source = extract.source(fixture.dump(dump), root=str(fixture.path / "sysroot"), symbols=())
    compared = 0
    for vma, content in read_only(source, fixture):
        assert Core(core).read(vma.start, vma.end - vma.start) == content, vma
        compared += len(content)
    assert compared > 1 << 20


@pytest.mark.parametrize("name", DISK)
def test_what_is_in_the_dump_stays(name: str, extract: Extractor) -> None:
    """A byte that the process changed in a private copy, or that the dump has: not from the file."""
    fixture = need(name)
    pid = fixture.victims["dynamic"].pid
    one, bare = extract(fixture.dump(), pid, mask=EVERYTHING, missing="zero", vendor_note=False)
    two, _ = extract(
        fixture.dump(), pid, root=str(fixture.path / "sysroot"), mask=EVERYTHING, missing="zero", vendor_note=False
    )
    filled = {page for gap in bare.missing for page in range(gap.start, gap.end, PAGE)}
    ours, theirs = Core(one), Core(two)
    assert ours.loads == theirs.loads
    for load in ours.loads:
        for page in range(load.p_vaddr, load.p_vaddr + load.p_filesz, PAGE):
            if page not in filled:
                assert ours.read(page, PAGE) == theirs.read(page, PAGE), hex(page)


# Level 31: the page cache was left out altogether


@pytest.mark.parametrize("name", LEVEL_31)
@pytest.mark.parametrize("dump", ["vmcore.d23-zlib", "vmcore.d31-zlib"])
def test_without_any_page_there_is_no_proof(name: str, dump: str, extract: Extractor) -> None:
    fixture = need(name)
    root = str(fixture.path / "sysroot")
    _, bare = extract(fixture.dump(dump), fixture.victims["dynamic"].pid, mask=EVERYTHING)
    _, report = extract(fixture.dump(dump), fixture.victims["dynamic"].pid, root=root, mask=EVERYTHING)
    assert "root" not in report.recovered
    assert report.missing == bare.missing
    (warning,) = set(report.warnings) - set(bare.warnings)
    assert warning.startswith(f"in {root}, each of /victims/dynamic, /{LIBC}, /{LOADER} is not proven to be")
    assert not report.complete


@pytest.mark.parametrize("name", LEVEL_31)
def test_the_machines_own_file_system_is_proof(name: str, extract: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the fixture are copies, so their inodes have to be made the ones of the dump."""
    fixture = need(name)
    root = str(fixture.path / "sysroot")
    numbers = {os.stat(fixture.path / "sysroot" / path).st_size: n for n, path in enumerate((LIBC, LOADER))}
    known: dict[int, Identity] = {}
    real = rootfiles._Mapped.identity

    def of_the_dump(self: Any) -> Identity | None:
        found = real(self)
        assert found is not None
        assert found.number > 0
        assert 1_700_000_000 < found.mtime // 1_000_000_000 < found.ctime // 1_000_000_000 + 1
        known[found.size] = found
        return found

    def ours(descriptor: int) -> Identity:
        size = os.fstat(descriptor).st_size
        return known.get(size, Identity(numbers.get(size, 99), size, 0, 0))

    monkeypatch.setattr(rootfiles._Mapped, "identity", of_the_dump)
    monkeypatch.setattr(rootfiles, "identity", ours)
    dump = fixture.dump("vmcore.d31-zlib")
    source = extract.source(dump, root=root, symbols=(), architecture="x86_64")  # one of its own
    whole = extract.source(fixture.dump(), symbols=())
    found = source.process(fixture.victims["dynamic"].pid)
    process, memory = found.image, found.memory
    for vma, _ in read_only(source, fixture):
        list(memory.runs(vma, vma.start, vma.end))  # learns the inodes
    source._machine.backing.root._known.clear()
    given = 0
    other = whole.process(fixture.victims["dynamic"].pid).memory
    for vma, content in read_only(source, fixture):
        data = b""
        for run, part in memory.read(vma, vma.start, vma.end):
            assert run.provenance is Provenance.ROOT or (run.provenance is Provenance.ZERO and not content.strip(b"\0"))
            given += len(part)
            data += part
        assert data == content
        # What the full dump has of it is the same.
        for run, part in other.read(vma, vma.start, vma.end):
            if run.provenance.stored:
                at = run.address - vma.start
                assert part == content[at : at + run.length]
    assert given > 1 << 20
    for vma in process.vmas:
        if vma.anon:
            provenances = {run.provenance for run in memory.runs(vma, vma.start, vma.end)}
            # Copies that the process made of pages are not in the file.
            assert vma.file is not None or Provenance.ROOT not in provenances
            if vma.flags & VM_WRITE:
                assert Provenance.ROOT not in provenances


# Other files


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A root to be changed, of a fixture whose dump holds parts of its files."""
    return Path(shutil.copytree(need("k61-disk").path / "sysroot", tmp_path / "root", symlinks=True))


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def warnings(extract: Extractor, root: Path) -> tuple[str, ...]:
    """Of the dump with this root; what the root does not give is missing, as without it."""
    fixture = need("k61-disk")
    pid = fixture.victims["dynamic"].pid
    _, report = extract(fixture.dump(), pid, root=str(root), mask=EVERYTHING)
    libc = [gap for gap in report.missing if gap.name == f"/{LIBC}".encode()]
    _, bare = extract(fixture.dump(), pid, mask=EVERYTHING)
    if report.warnings:
        assert not report.complete
        assert libc == [gap for gap in bare.missing if gap.name == f"/{LIBC}".encode()]
        assert all(gap.detail == "" for gap in libc)
    return tuple(report.warnings)


def test_a_changed_build_id(copied: Path, extract: Extractor) -> None:
    content = (copied / LIBC).read_bytes()
    at = content.index(b"GNU\0", content.index(b"\x14\0\0\0\x03\0\0\0GNU\0")) + 4
    patch(copied / LIBC, at, b"\0\0")
    (warning,) = warnings(extract, copied)
    assert warning.startswith(f"{copied}/{LIBC} is not the file that was mapped: its build id is 0000")


def test_another_page(copied: Path, extract: Extractor) -> None:
    patch(copied / LIBC, 100 * PAGE + 5, b"?")  # which is in the page cache
    (warning,) = warnings(extract, copied)
    assert warning == f"{copied}/{LIBC} is not the file that was mapped: its page at offset 0x64000 differs"


def test_another_size(copied: Path, extract: Extractor) -> None:
    with (copied / LIBC).open("ab") as file:
        file.write(b"?")
    (warning,) = warnings(extract, copied)
    assert "it has 1926233 bytes, not 1926232" in warning


def test_another_file(copied: Path, extract: Extractor) -> None:
    shutil.copyfile(copied / LOADER, copied / LIBC)
    (warning,) = warnings(extract, copied)
    assert f"{copied}/{LIBC} is not the file that was mapped: it has " in warning


def test_links_lead_beneath_the_root(copied: Path, extract: Extractor, tmp_path: Path) -> None:
    (copied / "lib").rename(copied / "usr-lib")
    (copied / "lib").symlink_to("/usr-lib")
    assert warnings(extract, copied) == ()
    (copied / "lib").unlink()
    shutil.copytree(copied / "usr-lib", tmp_path / "outside")
    shutil.rmtree(copied / "usr-lib")
    (copied / "lib").symlink_to(tmp_path / "outside")
    fixture = need("k61-disk")
    root = f"{copied}/."  # under another name: nothing is remembered
    _, report = extract(fixture.dump(), fixture.victims["dynamic"].pid, root=root, mask=EVERYTHING)
    assert f"/{LIBC}".encode() in {gap.name for gap in report.missing}


def test_a_deleted_program_is_in_no_root(extract: Extractor) -> None:
    fixture = need("k61-disk")
    root = str(fixture.path / "sysroot")
    victim = fixture.victims["upgraded"]
    source = extract.source(fixture.dump(), root=root, symbols=())
    found = source.process(victim.pid)
    image, memory = found.image, found.memory
    for vma in image.vmas:
        if vma.file is not None and vma.file.path == b"/victims/dynamic (deleted)":
            assert Provenance.ROOT not in {run.provenance for run in memory.runs(vma, vma.start, vma.end)}


def test_programs_of_the_initial_ramdisk_are_on_no_disk(extract: Extractor) -> None:
    """What a level 31 dump lacks of them is not for DIR to say: there, such files are data as any other."""
    fixture = need("k61")
    root = str(fixture.path / "sysroot")
    dump = fixture.dump("vmcore.d31-zstd")
    _, report = extract(dump, fixture.victims["dynamic"].pid, root=root, mask=EVERYTHING)
    _, bare = extract(dump, fixture.victims["dynamic"].pid, mask=EVERYTHING)
    assert (report.missing, report.warnings) == (bare.missing, bare.warnings)


# As its users see it


def test_on_the_command_line(tmp_path: Path, copied: Path) -> None:
    fixture = need("k61-disk")
    pid = fixture.victims["dynamic"].pid
    words = ["-c", fixture.dump(), "-f", EVERYTHING, "--force", "--report", "r.json", pid]
    done = kgcore(*words, "--root", fixture.path / "sysroot", cwd=tmp_path)
    assert (done.status, done.remarks) == (0, [])
    assert '"root": ' in (tmp_path / "r.json").read_text()
    patch(copied / LIBC, 100 * PAGE + 5, b"?")
    done = kgcore(*words, "--root", copied, cwd=tmp_path)
    assert done.status == 3
    sentence = f"{copied}/{LIBC} is not the file that was mapped: its page at offset 0x64000 differs"
    assert f"kgcore: warning: {sentence}" in done.remarks
    (process,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    assert sentence in process["warnings"]
    assert sentence in kgcore("check", f"core.{pid}", cwd=tmp_path).raw.decode()
