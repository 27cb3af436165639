# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core of which nothing is left out is given back byte for byte; what is left out is nothing else than was asked."""

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kgcore.coredump import pipeline
from kgcore.coredump.pipeline import Options
from kgcore.errors import KgcoreError
from kgcore.filters.rules import Rule
from kgcore.library import open_core
from tests.sources.corefile.cores import FEW, KERNELS, Trickle, content, filtered
from tests.vmcore.corefile import Core


def kernels_core(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(content(name))
    return path


@pytest.mark.parametrize("name", KERNELS)
def test_cores_of_kernels_are_given_back(tmp_path: Path, name: str) -> None:
    path = kernels_core(tmp_path, name)
    found, report = filtered(path)
    assert report.complete
    assert found == path.read_bytes()


@pytest.mark.parametrize("name", KERNELS)
def test_also_where_all_of_it_is_made_anew(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is passed on whole: what the plan makes of the values is what the kernel made."""
    monkeypatch.setattr(pipeline, "given_back", lambda *args, **kwargs: None)
    path = kernels_core(tmp_path, name)
    found, _ = filtered(path, Options(mask=None, vendor_note=False))
    assert found == path.read_bytes()


@pytest.mark.parametrize("name", FEW)
def test_streams_are_given_back(name: str) -> None:
    whole = content(name)
    stream: Any = Trickle(whole)
    found, report = filtered(stream)
    assert report.complete
    assert found == whole


@pytest.mark.parametrize("name", FEW)
def test_the_image_is_what_the_notes_say(tmp_path: Path, name: str) -> None:
    path = kernels_core(tmp_path, name)
    theirs = Core(path)
    with open_core(path) as source, source.process(int(theirs.psinfo["pid"])) as process:
        image = process.image
    assert image.tgid == theirs.psinfo["pid"]
    assert image.psinfo.comm == bytes(theirs.psinfo["fname"]).rstrip(b"\0")
    assert list(image.auxv) == theirs.auxv
    assert {thread.tid: dict(thread.regs.values) for thread in image.threads} == {
        tid: notes.regs for tid, notes in theirs.threads.items()
    }
    for thread in image.threads:
        theirs_ = theirs.threads[thread.tid]
        assert [(note.owner.decode(), note.type, note.desc) for note in thread.regsets] == list(theirs_.regsets)
        assert thread.sighold == theirs_.prstatus["sighold"]
    assert [(vma.start, vma.end) for vma in image.vmas] == [
        (load.p_vaddr, load.p_vaddr + load.p_memsz) for load in theirs.loads
    ]
    named = {vma.start: (vma.end, vma.pgoff, vma.file.path) for vma in image.vmas if vma.file is not None}
    assert named == {start: (end, pgoff, path) for start, end, pgoff, path in theirs.files}
    assert image.dying is not None
    assert image.dying.signal == 6  # the guests abort their victims


def kgcore(*words: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    argv = [sys.executable, "-m", "kgcore", *map(str, words)]
    return subprocess.run(argv, capture_output=True, check=False, **options)


NAME = "k61-small-core.128"


@pytest.mark.parametrize("way", ["file", "pipe", "gzip", "zstd"])
def test_the_command_gives_it_back(tmp_path: Path, way: str) -> None:
    core, new = kernels_core(tmp_path, NAME), tmp_path / "new"
    whole = core.read_bytes()
    options: dict[str, Any] = {}
    operand: object = "-"
    if way == "pipe":
        options["input"] = whole
    elif way == "file":
        operand = core
    else:
        operand = core.with_suffix(".packed")
        zstandard = pytest.importorskip("zstandard")
        operand.write_bytes(gzip.compress(whole, 1) if way == "gzip" else zstandard.compress(whole))
    done = kgcore("filter", operand, "-o", new, cwd=tmp_path, **options)
    assert (done.returncode, done.stdout.decode()) == (0, f"Saved core.{int(Core(core).psinfo['pid'])}\n"), done.stderr
    subprocess.run(["cmp", core, new], check=True)
    assert core.read_bytes() == whole


def test_standard_input_may_be_a_file(tmp_path: Path) -> None:
    core = kernels_core(tmp_path, NAME)
    with core.open("rb") as stdin:  # so it can be read in any order
        done = kgcore("filter", "-", "-o", tmp_path / "new", "--profile", "mini", stdin=stdin)
    assert done.returncode == 0, done.stderr


def test_it_takes_its_own_name_only_with_force(tmp_path: Path) -> None:
    core = kernels_core(tmp_path, NAME)
    assert kgcore("filter", core, "-o", core).returncode == 1
    before = core.stat()
    done = kgcore("filter", core, "-o", core, "--force", "--exclude", "name:[stack]")
    assert done.returncode == 0, done.stderr
    assert core.stat().st_ino != before.st_ino
    assert Core(core).vendor_notes


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_excluded_is_gone_and_nothing_else(tmp_path: Path, packed: bool) -> None:
    core = kernels_core(tmp_path, NAME)
    theirs = Core(core)
    options = Options(mask=None, rules=(Rule("exclude", "name:[stack]"),))
    stream: Any = io.BytesIO(core.read_bytes())
    found, report = filtered(stream if packed else core, options)
    new = tmp_path / "new"
    new.write_bytes(found)
    ours = Core(new)
    assert ours.notes == theirs.notes
    sp = next(iter(theirs.threads.values())).regs["sp"]
    (stack,) = (load for load in theirs.loads if load.p_vaddr <= sp < load.p_vaddr + load.p_memsz)
    assert stack.p_filesz
    for load in theirs.loads:
        mine = next(one for one in ours.loads if one.p_vaddr == load.p_vaddr)
        assert (mine.p_memsz, mine.p_flags) == (load.p_memsz, load.p_flags)
        if load is stack:
            assert mine.p_filesz == 0
        else:
            assert list(ours.segment(mine)) == list(theirs.segment(load))
    assert report.filtered >= stack.p_filesz
    again, _ = filtered(new, options)
    assert again == found
    assert filtered(new)[0] == found


def test_redacted_memory_is_zeros(tmp_path: Path) -> None:
    core = kernels_core(tmp_path, NAME)
    found, report = filtered(core, Options(mask=None, rules=(Rule("redact", "name:[stack]"),)))
    new = tmp_path / "new"
    new.write_bytes(found)
    theirs, ours = Core(core), Core(new)
    sp = next(iter(theirs.threads.values())).regs["sp"]
    (stack,) = (load for load in theirs.loads if load.p_vaddr <= sp < load.p_vaddr + load.p_memsz)
    assert theirs.read(stack.p_vaddr, stack.p_filesz).strip(b"\0")
    assert not ours.read(stack.p_vaddr, stack.p_filesz).strip(b"\0")
    assert report.account.redacted == stack.p_filesz


@pytest.mark.parametrize("rule", ["name:[heap]", "name:[anon:secret]", "name:*secret*", "name:[h*"])
def test_rules_on_names_that_a_core_does_not_have(tmp_path: Path, rule: str) -> None:
    core = kernels_core(tmp_path, NAME)
    done = kgcore("filter", core, "-o", tmp_path / "new", "--redact", rule)
    assert done.returncode == 1
    assert b"does not say what the process calls its memory" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_stream_that_ends_early_is_missing_from_there(tmp_path: Path) -> None:
    whole = content(NAME)
    stream: Any = Trickle(whole[: len(whole) // 2])
    found, report = filtered(stream)
    assert not report.complete
    assert len(found) == len(whole)
    at = len(whole) // 2 // 4096 * 4096
    assert found[:at] == whole[:at]
    assert report.missing_bytes == len(whole) - at
    assert {gap.reason for gap in report.missing} == {"unreadable"}


def test_a_file_that_is_cut_off_lacks_the_rest(tmp_path: Path) -> None:
    whole = content(NAME)
    path = tmp_path / "core"
    path.write_bytes(whole[: len(whole) // 2])
    found, report = filtered(path)
    assert {gap.reason for gap in report.missing} == {"excluded"}
    assert report.missing_bytes == len(whole) - len(whole) // 2 // 4096 * 4096
    new = tmp_path / "new"
    new.write_bytes(found)
    theirs, ours = Core(tmp_path / "core"), Core(new)
    for load in ours.loads:  # what is there is right
        if load.p_filesz:
            old = next(one for one in theirs.loads if one.p_vaddr <= load.p_vaddr < one.p_vaddr + one.p_memsz)
            offset = old.p_offset + load.p_vaddr - old.p_vaddr
            assert ours.read(load.p_vaddr, load.p_filesz) == whole[offset : offset + load.p_filesz]
    assert filtered(new)[0] == found


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_of_size_holds_and_says_so(tmp_path: Path, stream: bool) -> None:
    core = kernels_core(tmp_path, NAME)
    new = tmp_path / "new"
    options: dict[str, Any] = {"input": core.read_bytes()} if stream else {}
    done = kgcore("filter", "-" if stream else core, "-o", new, "--max-size", "200K", **options)
    assert done.returncode == 3
    assert b"reached the size limit of 200 KiB" in done.stderr
    assert new.stat().st_blocks * 512 <= 200 << 10
    checked = kgcore("check", new)
    assert checked.returncode == 3
    theirs, ours = Core(core), Core(new)
    assert ours.notes == theirs.notes
    for load in ours.loads:
        if load.p_filesz:
            assert ours.read(load.p_vaddr, load.p_filesz) == theirs.read(load.p_vaddr, load.p_filesz)


def test_profile_mini_takes_a_file(tmp_path: Path) -> None:
    core = kernels_core(tmp_path, NAME)
    done = kgcore("filter", core, "-o", tmp_path / "new", "--profile", "mini")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new").stat().st_size < core.stat().st_size
    done = kgcore("filter", "-", "-o", tmp_path / "other", "--profile", "mini", input=core.read_bytes())
    assert done.returncode == 1
    assert b"can be read but once" in done.stderr


def test_what_has_nothing_is_empty() -> None:
    with open(os.devnull, "rb") as nothing, pytest.raises(KgcoreError, match="is empty"):
        filtered(nothing)
