# SPDX-License-Identifier: LGPL-2.1-or-later
"""A source with no more than the line needs: processes with an image and memory, and a word on where they come from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kgcore.binaries.sysroot import Sysroot
from kgcore.check.core import check_core
from kgcore.cli import main as cli
from kgcore.cli.commands import opening
from kgcore.coredump.pipeline import prepare, write
from kgcore.sinks.files import FileSink
from kgcore.sources.base import HasKernelStacks, HasMappedFiles, HasOpenFiles, KnowsCrash, Source
from tests.fake_source import COMPLETE, INCOMPLETE, BareSource

ABILITIES: tuple[type, ...] = (HasKernelStacks, HasMappedFiles, HasOpenFiles, KnowsCrash)
SENTENCE = f"the source of process {COMPLETE} has no"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BareSource]:
    source = BareSource(current=COMPLETE)

    @contextmanager
    def opened(*_: object) -> Iterator[Source]:
        yield source

    monkeypatch.setattr(opening, "opened", opened)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vmcore").touch()
    yield source
    assert source.held == 0


def test_it_is_bare(source: BareSource) -> None:
    with source.process(COMPLETE) as process:
        assert not [ability for ability in ABILITIES for one in (source, process) if isinstance(one, ability)]


def test_a_core(source: BareSource, tmp_path: Path) -> None:
    with prepare(source, COMPLETE) as prepared:
        report = write(prepared, FileSink(tmp_path / "core"))
        sysroot = Sysroot(str(tmp_path / "sysroot")).add(prepared.process)
    assert report.complete
    assert check_core(tmp_path / "core").ok
    assert sysroot.lost == (f"{SENTENCE} programs and libraries",)
    assert not sysroot.complete


@pytest.mark.parametrize("words", ["100", "ps", "map 100", "--dry-run 100", "--all", "-f 127 -o - 100"])
def test_commands_that_need_no_more(source: BareSource, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    status = cli.main(words.split())
    assert status == (3 if words == "--all" else 0), capfd.readouterr().err  # INCOMPLETE is one of them


def test_a_sysroot_that_cannot_be(source: BareSource, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--sysroot", "dir", "--report", "report", str(COMPLETE)]) == 3
    assert f"{SENTENCE} programs and libraries" in capfd.readouterr().err
    (process,) = json.loads(Path("report").read_text())["processes"]
    assert process["sysroot"]["lost"] == [f"{SENTENCE} programs and libraries"]


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ("files", "open files", "a vmcore has them"),
        ("files --extract 2", "open files", "a vmcore has them"),
        ("bt --kernel-stack", "kernel stacks", "leave out --kernel-stack"),
    ],
)
def test_what_it_cannot_do_is_said(
    source: BareSource, words: str, what: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words.split(), str(COMPLETE)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{SENTENCE} {what} ({hint})" in err


def test_stacks_without_files(source: BareSource, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("drgn")
    assert cli.main(["bt", "--all-threads", str(INCOMPLETE)]) == 3
    out, err = capfd.readouterr()
    assert f"Thread {INCOMPLETE}" in out
    assert "has no programs and libraries" in err


def test_files_for_a_debugger(source: BareSource, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["debug", "--print", "--directory", str(tmp_path), str(COMPLETE)]) == 0
    out, err = capfd.readouterr()
    assert "core.100" in out
    assert "has no programs and libraries" in err
