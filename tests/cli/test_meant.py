# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people type first, and what they are told."""

from pathlib import Path

import pytest

from kgcore.cli.meant import meant
from tests.cli.test_cli import Kgcore, Opener, kgcore, opener
from tests.fake_source import COMPLETE

__all__ = ("kgcore", "opener")  # fixtures


@pytest.mark.parametrize(
    ("line", "better"),
    [
        ("info vmcore", "info -c vmcore"),
        ("info --json vmcore", "info --json -c vmcore"),
        ("vmcore 123", "-c vmcore 123"),
        ("vmcore", "-c vmcore"),
        ("-f 1 vmcore 123", "-f 1 -c vmcore 123"),
        ("vmcore ps", "-c vmcore ps"),
        ("map vmcore 123", "map -c vmcore 123"),
        ("bt vmcore", "bt -c vmcore"),
        ("files vmcore 123 --extract 7", "files -c vmcore 123 --extract 7"),
        ("debug vmcore 123", "debug -c vmcore 123"),
        ("ps python", "ps --match 'python*'"),
        ("ps 'py*n'", "ps --match 'py*n'"),
        ("ps 123", "map 123"),
        ("ps vmcore python", "ps -c vmcore --match 'python*'"),
        ("python", "--match 'python*'"),
        ("dump 123", "123"),
        ("gcore 123", "123"),
        ("core.123", "check core.123"),
        ("chek core.123", "check core.123"),
        ("inof", "info"),
        ("--sys dir 123", "--sysroot dir 123"),
        ("--max-siez=1G 123", "--max-size=1G 123"),
        ("ps --sotr rss", "ps --sort rss"),
        ("-p 123", None),
        ("check a b", None),
        ("chekc nowhere", None),
        ("-D nowhere 123", None),
        ("--jobs 0 123", None),
        ("-o x 1 2", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_the_line_that_was_meant(
    line: str, better: str | None, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no ./vmcore is: that is another question."""
    import shlex

    monkeypatch.chdir(tmp_path)
    (tmp_path / "core.123").touch()
    (tmp_path / "vmcore").touch()
    if not there and "vmcore" not in line:
        (tmp_path / "vmcore").unlink()
    if line:
        assert meant(shlex.split(line), {}) == (None if better is None else f"kgcore {better}")
    # A line that makes sense is never asked about.


@pytest.mark.parametrize("words", [["help"], ["help", "ps"], ["ps", "--help"], ["help", "check"]])
def test_help_is_understood(kgcore: Kgcore, opener: Opener, words: list[str]) -> None:
    status, out, err = kgcore(*words)
    assert (status, err) == (0, "")
    other = [word for word in words if word not in ("help", "--help")]
    assert out == kgcore(*other, "--help").out
    assert opener.places == []


def test_root_is_the_same_everywhere(kgcore: Kgcore) -> None:
    assert kgcore("ps", "--uid", "root", "--json").out == kgcore("ps", "--uid", "0", "--json").out


def test_it_is_told_and_not_done(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    status, out, err = kgcore("vmcore", COMPLETE)
    assert (status, out, opener.places) == (2, "", [])
    assert err.endswith(f"(did you mean: kgcore -c vmcore {COMPLETE})\n")
    assert err.count("\n") == 1
