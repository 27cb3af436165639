# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--sysroot DIR``: programs and libraries out of the page cache of real dumps.

They are the originals, byte for byte, in all that is said to be there; and a debugger that has nothing else finds its
way with them.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.binaries.sysroot import MANIFEST, Sysroot, SysrootReport
from kgcore.check.sysroot import check_sysroot
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.tools import kgcore, run, same_bytes

DISK = [f"{name}-disk" for name in MAIN]
"""Guests whose programs lie on a disk, and are in the page cache in parts."""
# Even sid's makedumpfile takes slab pages of 7.2 for user memory: not all of a process is found there.
LEVEL_31 = ["k510-disk", "k61-disk", "k612-disk"]
PROGRAMS = ["/victims/dynamic", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
LEVELS = ["level5", "level4", "level3", "level2", "level1"]


def write(
    extract: Extractor, victim: Victim, directory: Path, dump: str = "vmcore.elf", **user_files: Any
) -> SysrootReport:
    """The sysroot of a victim."""
    source = extract.source(victim.fixture.dump(dump), symbols=(), **user_files)
    return Sysroot(str(directory)).add(source.process(victim.pid))


def original(fixture: Fixture, path: str) -> Path:
    return fixture.path / "sysroot" / path.lstrip("/")


def check_bytes(directory: Path, fixture: Fixture) -> dict[str, int]:
    """That each file is the original but for what is said to be missing, which is zeros; how much that is of each."""
    lacks = {}
    for entry in json.loads((directory / MANIFEST).read_text())["files"]:
        ours = (directory / entry["path"].lstrip("/")).read_bytes()
        theirs = bytearray(original(fixture, entry["path"]).read_bytes())
        assert len(ours) == len(theirs) == entry["size"]
        for start, end, reason, _ in entry["missing"]:
            assert reason in ("file", "excluded")
            theirs[start:end] = bytes(end - start)
        assert ours == theirs, entry["path"]
        lacks[entry["path"]] = sum(end - start for start, end, _, _ in entry["missing"])
        assert entry["whole"] == (not lacks[entry["path"]])
    return lacks


def gdb(core: Path, sysroot: Path, program: str, *commands: str) -> str:
    """What gdb prints that knows of the sysroot only: no debug files of this machine, no program but that."""
    setup = ("set debug-file-directory /nonexistent", f"set sysroot {sysroot}", "set width 0", "set pagination off")
    words = [*setup, f"file {sysroot / program.lstrip('/')}", f"core-file {core}", *commands]
    return run("gdb", "-batch", "-nx", *(part for word in words for part in ("-ex", word)), status=None)


def libraries(text: str) -> list[str]:
    """The names in ``info sharedlibrary``."""
    return re.findall(r"^0x\w+ +0x\w+ +Yes(?: \(\*\))? +(\S+)$", text, re.MULTILINE)


# Whole


@pytest.mark.parametrize("name", MAIN)
def test_programs_are_whole(name: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    report = write(extract, fixture.victims["dynamic"], tmp_path)
    assert (report.complete, report.remarks, report.lost) == (True, (), ())
    assert check_bytes(tmp_path, fixture) == dict.fromkeys(PROGRAMS, 0)
    verdict = check_sysroot(tmp_path)
    assert (verdict.ok, verdict.complete) == (True, True)
    symbols = {file.path: (file.symbols, file.debug) for file in verdict.files}
    assert symbols["/victims/dynamic"] == ("symtab", True)
    assert {word for word, _ in symbols.values()} <= {"symtab", "dynsym"}


@pytest.mark.parametrize("name", MAIN)
def test_a_debugger_needs_nothing_else(name: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    victim = fixture.victims["dynamic"]
    core, _ = extract(fixture.dump(), victim.pid, mask=None)
    write(extract, victim, tmp_path)
    text = gdb(core, tmp_path, "/victims/dynamic", "info sharedlibrary", "info files", "thread apply all backtrace")
    assert sorted(libraries(text)) == sorted(str(tmp_path / path.lstrip("/")) for path in PROGRAMS[1:])
    # Not one section comes from elsewhere.
    places = set(re.findall(r" is \S+ in (/\S+)", text))
    assert places == {str(tmp_path / path.lstrip("/")) for path in PROGRAMS[1:]}
    for number, thread in enumerate(victim.said["threads"]):
        (trace,) = re.findall(rf"^Thread .*LWP {thread['tid']}\)\):\n((?:#.*\n?)+)", text, re.MULTILINE)
        frames = [re.sub(r"^#\d+ +(0x[0-9a-f]+ in )?", "", line).split(" (")[0] for line in trace.splitlines()]
        assert [frame for frame in frames if frame in LEVELS] == LEVELS
        assert frames[0] in ("pause", "__libc_pause", "ready")  # the library's symbols
        # Beyond the program's own functions the way is in the library's unwinding tables.
        assert frames[frames.index("level1") + 1 :] == (["main"] if number == 0 else ["??", "??"])
        assert f"level5 (depth=5, thread={number}) at ./victims/dynamic.c" in trace  # the program's debug information


def test_the_names_that_the_process_knows(extract: Extractor, tmp_path: Path) -> None:
    """Python's libraries are symbolic links, which only the dynamic linker's list tells."""
    fixture = need("k61")
    victim = fixture.victims["python"]
    core, _ = extract(fixture.dump(), victim.pid, mask=None)
    report = write(extract, victim, tmp_path)
    assert report.complete
    links = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_symlink()}
    assert {"lib/x86_64-linux-gnu/libz.so.1", "lib/x86_64-linux-gnu/libexpat.so.1", "bin/python3.11"} <= links
    text = gdb(core, tmp_path, "/usr/bin/python3.11", "info sharedlibrary", "backtrace")
    found = libraries(text)
    assert len(found) == 5
    assert all(name.startswith(f"{tmp_path}/") for name in found)
    assert "Py_RunMain" in text


def test_static_programs(extract: Extractor, tmp_path: Path) -> None:
    fixture = need("k61")
    report = write(extract, fixture.victims["threads"], tmp_path)
    assert [file.path for file in report.files] == [b"/victims/threads"]
    assert same_bytes(tmp_path / "victims/threads", original(fixture, "/victims/threads"))


def test_only_programs(extract: Extractor, tmp_path: Path) -> None:
    """Not the data files, shared memory and devices that are mapped too."""
    fixture = need("k61")
    report = write(extract, fixture.victims["memory"], tmp_path)
    names = [file.path for file in report.files]
    assert b"/victims/memory" in names
    # Two that have the magic number of ELF files
    assert all(re.search(rb"/victims/|elf", name) for name in names), names


# In parts


@pytest.mark.parametrize("name", DISK)
@pytest.mark.parametrize("dump", ["vmcore.elf", "vmcore.d17-lzo"])
def test_programs_in_parts(name: str, dump: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    report = write(extract, fixture.victims["dynamic"], tmp_path, dump)
    lacks = check_bytes(tmp_path, fixture)
    assert lacks["/victims/dynamic"] == 0  # read whole by somebody
    assert 0 < lacks["/lib/x86_64-linux-gnu/libc.so.6"] < 1 << 20
    assert 0 < lacks["/lib64/ld-linux-x86-64.so.2"] < 1 << 17
    assert not report.complete
    verdict = check_sysroot(tmp_path)
    assert (verdict.ok, verdict.complete) == (True, False)
    assert {file.path: file.whole for file in verdict.files} == {path: not size for path, size in lacks.items()}
    assert {file.path: file.missing_bytes for file in verdict.files} == lacks


@pytest.mark.parametrize("name", DISK)
def test_what_is_missing_comes_from_the_root(name: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    victim = fixture.victims["dynamic"]
    report = write(extract, victim, tmp_path, root=str(fixture.path / "sysroot"))
    assert report.complete
    assert check_bytes(tmp_path, fixture) == dict.fromkeys(PROGRAMS, 0)
    sources = {file.path: file.sources for file in report.files}
    assert "root" not in sources[b"/victims/dynamic"]
    assert sources[b"/lib/x86_64-linux-gnu/libc.so.6"]["root"] > 1 << 18
    assert sources[b"/lib/x86_64-linux-gnu/libc.so.6"]["page-cache"] > 1 << 18


@pytest.mark.parametrize("name", DISK)
def test_a_program_that_was_replaced(name: str, extract: Extractor, tmp_path: Path) -> None:
    """It has no name any more, and is what is wanted most; what it lacks nobody has."""
    fixture = need(name)
    victim = fixture.victims["upgraded"]
    assert (fixture.path / f"truth/proc/{victim.pid}/maps").read_text().count("/victims/dynamic (deleted)") > 3
    report = write(extract, victim, tmp_path, root=str(fixture.path / "sysroot"))
    assert report.remarks == ("/victims/dynamic was deleted; the sysroot has it under its old name",)
    (file,) = [file for file in report.files if file.path == b"/victims/dynamic"]
    assert (file.deleted, file.whole, set(file.sources)) == (True, False, {"page-cache"})
    # It was a copy of the one that is there now.
    assert check_bytes(tmp_path, fixture)["/victims/dynamic"] == file.missing_bytes < file.size


@pytest.mark.parametrize("name", LEVEL_31)
def test_level_31(name: str, extract: Extractor, tmp_path: Path) -> None:
    """Of a dump without page cache nothing is left, and that is what is said."""
    fixture = need(name)
    report = write(extract, fixture.victims["dynamic"], tmp_path, "vmcore.d31-zlib")
    lacks = check_bytes(tmp_path, fixture)
    assert lacks == {path: original(fixture, path).stat().st_size for path in PROGRAMS}
    assert not report.complete
    assert {gap.reason for file in report.files for gap in file.missing} == {"file", "excluded"}


# As its users see it


def test_on_the_command_line(extract: Extractor, tmp_path: Path) -> None:
    """Two processes, one directory; `kgcore check` afterwards."""
    fixture = need("k61-disk")
    one, two = (fixture.victims[victim].pid for victim in ("dynamic", "threads"))
    words = ["-c", fixture.dump(), "--report", "r.json", one, two]
    done = kgcore(*words, "--sysroot", "s", cwd=tmp_path)
    assert (done.status, done.lines) == (3, [f"Saved core.{one}", f"Saved core.{two}"])
    assert any(re.fullmatch(r"kgcore: sysroot s: 3 files, 1 complete, \d+ KiB missing", line) for line in done.remarks)
    assert any(re.match(r"kgcore:   /lib64/ld-linux-x86-64.so.2: .* KiB missing: file$", line) for line in done.remarks)
    processes = json.loads((tmp_path / "r.json").read_text())["processes"]
    assert [len(process["sysroot"]["files"]) for process in processes] == [3, 1]
    checked = kgcore("check", "s", cwd=tmp_path)
    assert checked.status == 3
    assert checked.lines[:2] == ["s: ok, INCOMPLETE", f"4 files, {1 + processes[1]['sysroot']['whole']} complete"]
    again = kgcore(*words, "--force", "--sysroot", "s", "--root", fixture.path / "sysroot", cwd=tmp_path)
    assert again.status == 0, again.remarks
    assert kgcore("check", "s", cwd=tmp_path).status == 0
    assert sorted(check_bytes(tmp_path / "s", fixture)) == sorted([*PROGRAMS, "/victims/threads"])


def test_what_several_processes_have_is_told_once(tmp_path: Path) -> None:
    """Two programs of one machine, with the same libraries."""
    guest = need("k61-disk")
    pids = [guest.victims[name].pid for name in ("dynamic", "upgraded", "threads")]
    done = kgcore("-c", guest.dump(), "-D", tmp_path, "--sysroot", tmp_path / "dir", *pids, cwd=tmp_path)
    assert sum("libc.so.6: " in line for line in done.remarks) == 1
    heads = [line.split(": ")[-1] for line in done.remarks if "sysroot" in line]
    assert heads[0].startswith("3 files, ")
    assert heads[1] == "2 files, all as before"
    assert heads[2].startswith("1 file, ")
    assert "before" not in heads[0] + heads[2]
