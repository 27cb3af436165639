# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of a sysroot that are completed from the user's: only those that are proven to be the same."""

import os
import struct
from pathlib import Path

import pytest

from kgcore.binaries.contents import FileGap
from kgcore.binaries.localcopies import completed
from kgcore.binaries.sysroot import SysrootFile, SysrootReport

ID, OTHER = b"\x11" * 20, b"\x22" * 20


def program(build_id: bytes, filling: bytes = b"x") -> bytes:
    """An ELF file with nothing but a build id."""
    note = struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 4, 4, 120, 120, 120, len(note), len(note), 4)
    return (header + note).ljust(8192, filling)


def partial(tmp_path: Path, **more: object) -> SysrootReport:
    """A sysroot with a file of which all is missing."""
    sysroot = tmp_path / "sysroot"
    (sysroot / "bin").mkdir(parents=True)
    (sysroot / "bin" / "a").write_bytes(bytes(8192))
    values: dict[str, object] = {"build_id": None, "missing": (FileGap(0, 8192, "file", ""),), "sources": {}}
    file = SysrootFile(b"/bin/a", 8192, **(values | more))  # type: ignore[arg-type]
    return SysrootReport(str(sysroot), (file,), (), (), ())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "bin").mkdir(parents=True)
    (tmp_path / "root" / "bin" / "a").write_bytes(program(ID))
    return tmp_path / "root"


def test_the_same_build_id(tmp_path: Path, root: Path) -> None:
    found = completed(partial(tmp_path), str(root), {b"/bin/a": ID.hex()})
    assert (tmp_path / "sysroot" / "bin" / "a").read_bytes() == program(ID)
    (file,) = found.files
    assert (file.whole, file.build_id, file.sources) == (True, ID.hex(), {"root": 8192})


@pytest.mark.parametrize("known", [{}, {b"/bin/a": OTHER.hex()}, {b"/bin/b": ID.hex()}])
def test_another_or_no_build_id(tmp_path: Path, root: Path, known: dict[bytes, str]) -> None:
    before = partial(tmp_path)
    assert completed(before, str(root), known) == before
    assert (tmp_path / "sysroot" / "bin" / "a").read_bytes() == bytes(8192)


def test_another_size(tmp_path: Path, root: Path) -> None:
    (root / "bin" / "a").write_bytes(program(ID) + b"more")
    before = partial(tmp_path)
    assert completed(before, str(root), {b"/bin/a": ID.hex()}) == before


def test_what_the_dump_itself_says_counts(tmp_path: Path, root: Path) -> None:
    before = partial(tmp_path, build_id=OTHER.hex())
    assert completed(before, str(root), {b"/bin/a": ID.hex()}) == before


def test_a_deleted_file_is_another(tmp_path: Path, root: Path) -> None:
    before = partial(tmp_path, deleted=True)
    assert completed(before, str(root), {b"/bin/a": ID.hex()}) == before


@pytest.mark.parametrize("kind", ["outside", "fifo", "directory", "absent"])
def test_what_is_no_file_beneath_it(tmp_path: Path, root: Path, kind: str) -> None:
    there = root / "bin" / "a"
    there.unlink()
    (tmp_path / "outside").write_bytes(program(ID))
    if kind == "outside":
        there.symlink_to("../../outside")
    elif kind == "fifo":
        os.mkfifo(there)
    elif kind == "directory":
        there.mkdir()
    before = partial(tmp_path)
    assert completed(before, str(root), {b"/bin/a": ID.hex()}) == before


def test_whole_files_are_left_alone(tmp_path: Path, root: Path) -> None:
    before = partial(tmp_path, missing=())
    assert completed(before, str(root), {b"/bin/a": ID.hex()}) == before
    assert completed(before, None, {}) == before
