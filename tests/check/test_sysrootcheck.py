# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore check DIR``: which files of a sysroot are whole, and what the others lack. On a program of this machine."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from kgcore.check.sysroot import CheckedFile, SysrootVerdict, check_sysroot
from kgcore.elf.buildid import build_id
from kgcore.errors import KgcoreError

PROGRAM = Path(sys.executable).resolve()
MANIFEST = "kgcore-sysroot.json"


def sysroot(directory: Path, content: bytes, *missing: tuple[int, int], **values: Any) -> Path:
    """A directory with one file, ``/bin/x``."""
    (directory / "bin").mkdir(exist_ok=True)
    data = bytearray(content)
    for start, end in missing:
        data[start:end] = bytes(end - start)
    (directory / "bin/x").write_bytes(data)
    entry = {
        "path": "/bin/x",
        "size": len(content),
        "build_id": "c0ffee",
        "missing": [[start, end, "file", ""] for start, end in missing],
        **values,
    }
    write_list(directory, files=[entry])
    return directory


def write_list(directory: Path, **values: Any) -> None:
    (directory / MANIFEST).write_text(
        json.dumps({"format": "kgcore-sysroot", "version": 1, "files": [], "lost": [], **values})
    )


def the_file(directory: Path) -> CheckedFile:
    (found,) = check_sysroot(directory).files
    return found


def section(name: str) -> tuple[int, int]:
    """Where a section of our program is in its file."""
    with PROGRAM.open("rb") as file:
        found: Any = ELFFile(file).get_section_by_name(name)
        return found["sh_offset"], found["sh_offset"] + found["sh_size"]


def test_a_whole_program(tmp_path: Path) -> None:
    verdict = check_sysroot(sysroot(tmp_path, PROGRAM.read_bytes()))
    assert (verdict.ok, verdict.complete) == (True, True)
    (found,) = verdict.files
    assert (found.whole, found.sections, found.problems) == (True, (), ())
    assert found.symbols in ("symtab", "dynsym")
    assert verdict.lines()[:2] == [f"{tmp_path}: ok, complete", "1 file, 1 complete"]
    assert verdict.lines()[2].startswith("complete: /bin/x: ")
    assert "symbols" in verdict.lines()[2]
    json.dumps(verdict.to_json())


def test_sections_that_lack_something_are_named(tmp_path: Path) -> None:
    text, dynstr = section(".text"), section(".dynstr")
    found = the_file(sysroot(tmp_path, PROGRAM.read_bytes(), (dynstr[0] + 1, dynstr[0] + 2), (text[0], text[0] + 9)))
    assert found.sections == (".dynstr", ".text")
    assert (found.whole, found.missing_bytes, found.reasons) == (False, 10, ("file",))
    assert found.symbols != "dynsym"  # names without strings are none
    line = found.line()
    assert line.startswith("lacks: /bin/x: 10 B of ")
    assert "missing (file) in .dynstr, .text; " in line
    assert line.endswith("; build id c0ffee")


def test_without_the_section_headers(tmp_path: Path) -> None:
    content = PROGRAM.read_bytes()
    found = the_file(sysroot(tmp_path, content, (len(content) - 10, len(content))))
    assert (found.sections, found.symbols, found.problems) == (None, "none", ())
    assert "including the section headers" in found.line()
    assert check_sysroot(tmp_path).complete is False


def test_without_the_elf_header(tmp_path: Path) -> None:
    found = the_file(sysroot(tmp_path, PROGRAM.read_bytes(), (0, 4096)))
    assert (found.sections, found.problems) == (None, ())


def test_without_the_names_of_the_sections(tmp_path: Path) -> None:
    start, end = section(".shstrtab")
    found = the_file(sysroot(tmp_path, PROGRAM.read_bytes(), (start, end)))
    assert found.sections is not None
    assert len(found.sections) == 1
    assert found.sections[0].startswith("section ")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: os.truncate(path, 10), "has 10 bytes, not"),
        (lambda path: path.write_bytes(b"?" * path.stat().st_size), "is damaged (not readable as an ELF file)"),
        (lambda path: (path.unlink(), path.symlink_to(PROGRAM)), "cannot be read"),
        (lambda path: [path.unlink(), os.mkfifo(path)], "cannot be read: not a regular file"),  # type: ignore[func-returns-value]
    ],
)
def test_files_that_are_not_those_of_the_list(tmp_path: Path, spoil: Any, problem: str) -> None:
    sysroot(tmp_path, PROGRAM.read_bytes())
    spoil(tmp_path / "bin/x")
    verdict = check_sysroot(tmp_path)
    assert (verdict.ok, verdict.complete) == (False, False)
    (line,) = [line for line in verdict.lines() if line.startswith("problem: ")]
    assert line.startswith(f"problem: /bin/x {problem}")


def test_a_program_that_was_cut_off_and_padded(tmp_path: Path) -> None:
    content = PROGRAM.read_bytes()
    half = content[: len(content) // 2]
    (problem,) = the_file(sysroot(tmp_path, half)).problems
    assert "ends before its sections do" in problem


def test_what_is_lost_altogether(tmp_path: Path) -> None:
    write_list(tmp_path, lost=["process 1: a mapped file is not in the dump"])
    verdict = check_sysroot(tmp_path)
    assert (verdict.ok, verdict.complete) == (True, False)
    assert verdict.lines()[-1] == "lacks: process 1: a mapped file is not in the dump"


@pytest.mark.parametrize(
    "values",
    [
        {"format": "other"},
        {"version": 2},
        {"files": 5},
        {"files": [5]},
        {"files": [{"path": "/x"}]},
        {"files": [{"path": "/../x", "size": 1, "build_id": None, "missing": []}]},
        {"files": [{"path": "x", "size": 1, "build_id": None, "missing": []}]},
        {"files": [{"path": "/x", "size": 1, "build_id": None, "missing": [[5, 5, "", ""]]}]},
        {"files": [{"path": "/x", "size": 1, "build_id": None, "missing": [[5, 9, "", ""], [8, 10, "", ""]]}]},
    ],
)
def test_lists_that_make_no_sense(tmp_path: Path, values: dict[str, Any]) -> None:
    write_list(tmp_path, **values)
    with pytest.raises(KgcoreError):
        check_sysroot(tmp_path)


def test_messages_are_harmless(tmp_path: Path) -> None:
    sysroot(tmp_path, b"\x7fELF", path="/bin/\x1b[31m\udcff\n")
    verdict = check_sysroot(tmp_path)
    assert all(line.isprintable() for line in verdict.lines())
    json.dumps(verdict.to_json()).encode("ascii")


def test_no_files() -> None:
    assert SysrootVerdict("d", ()).lines() == ["d: ok, complete", "0 files, 0 complete"]


# Build ids


def read_program(at: int, size: int) -> bytes:
    with PROGRAM.open("rb") as file:
        file.seek(at)
        return file.read(size)


def test_build_id() -> None:
    with PROGRAM.open("rb") as file:
        segments: list[Any] = [part for part in ELFFile(file).iter_segments() if part["p_type"] == "PT_NOTE"]
        notes = [note for part in segments for note in part.iter_notes()]
    wanted = next((note["n_desc"] for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), None)
    found = build_id(read_program)
    assert (None if found is None else found.hex()) == wanted


@pytest.mark.parametrize("lost", [0, 64])
def test_a_build_id_that_is_not_to_be_had(lost: int) -> None:
    assert build_id(lambda at, size: None if at <= lost < at + size else read_program(at, size)) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\2\1" + b"\xff" * 200, b"#!/bin/sh\n" + bytes(100)])
def test_no_build_id(content: bytes) -> None:
    assert build_id(lambda at, size: content[at : at + size]) is None
