# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which options lead to which source, and which location is opened how: a line each for a further kind of source."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kgcore import library
from kgcore.check.core import check_core
from kgcore.cli import arguments
from kgcore.cli import main as cli
from kgcore.cli.parser import Parser
from kgcore.sources.base import Source, UserFiles
from kgcore.sources.location import DumpLocation
from tests.fake_source import COMPLETE, BareSource


@dataclass(frozen=True)
class MadeUp:
    """A location of a kind of its own."""

    address: str


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[MadeUp]:
    opened: list[MadeUp] = []

    @contextmanager
    def open_made_up(location: MadeUp, user_files: UserFiles, tell: Callable[[str], None]) -> Iterator[Source]:
        opened.append(location)
        tell("it is made up")
        yield BareSource()

    place: Any = arguments.Place(("qemu",), lambda parsed, environ: MadeUp(parsed.qemu))  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(arguments, "PLACES", [place, *arguments.PLACES])
    monkeypatch.setitem(library.SOURCES, MadeUp, open_made_up)
    monkeypatch.chdir(tmp_path)
    return opened


def test_a_further_kind_is_a_line_in_two_tables(
    opened: list[MadeUp], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (["ps"], ["map", str(COMPLETE)], [str(COMPLETE)]):
        assert cli.main([*words, "--qemu", "anywhere"]) == 0
        assert "it is made up" in capfd.readouterr().err
    assert opened == [MadeUp("anywhere")] * 3
    assert check_core(tmp_path / f"core.{COMPLETE}").ok


@pytest.mark.parametrize("words", ["-c vmcore", "-k", ""])
def test_other_options_lead_to_a_dump(opened: list[MadeUp], tmp_path: Path, words: str) -> None:
    (tmp_path / "vmcore").touch()
    parser = Parser("x")
    arguments.add_place_options(parser)
    place = arguments.place_of(parser.parse_args(words.split()), {})
    assert place == DumpLocation(core=None if words == "-k" else "vmcore", live=words == "-k")
    assert type(place) in library.SOURCES
