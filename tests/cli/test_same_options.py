# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options of the command line in drgn: %gcore and gcore() have them, but for those named here, with the reasons."""

import inspect
import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("drgn")

import drgn

from kgcore import plugin, saving
from kgcore.cli.commands import dump
from kgcore.cli.parser import Parser
from kgcore.coredump import pipeline
from kgcore.errors import LimitReached
from kgcore.sources.base import NO_USER_FILES, Source, TaskRef, UserFiles
from tests.fake_source import LARGE, LARGE_SIZE, FakeSource

_DUMP = "drgn has opened the dump"

NOT_IN_DRGN = {
    "--core": _DUMP,
    "--kernel": _DUMP,
    "--qemu": _DUMP,
    "--symbols": _DUMP,
    "--symbols-from": _DUMP,
    "--debug-directory": _DUMP,
    "--kernel-directory": _DUMP,
    "--vmcoreinfo": _DUMP,
    "--architecture": _DUMP,
    "--version": "kgcore.__version__ says it",
}

_ONE = "a call takes one process: a loop over drgn's for_each_task() chooses better than any option"
_REPORT = "gcore() returns the report"

KEYWORDS = {
    "-f": "filter",
    "--missing": "missing",
    "--dontdump": "dontdump",
    "--dax": "dax",
    "--exclude": "rules",
    "--only": "rules",
    "--redact": "rules",
    "--no-kgcore-note": "note",
    "--no-state": "state",
    "--share-zeros": "share_zeros",
    "--swap": "swap",
    "--root": "root",
    "--sysroot": "sysroot",
    "-o": "output",
    "-D": "output",
    "--force": "force",
    "--jobs": "jobs",
    "--compress": "compress",
    "--max-size": "max_size",
    "--max-time": "max_time",
    "--limit": "limit",
    "--profile": "profile",
    "--progress": "progress",
}

NO_KEYWORD = {
    "--help": "help(gcore)",
    "-v": _REPORT,
    "--report": _REPORT,
    "--dry-run": "kgcore.coredump.pipeline.prepare() gives the plan",
    "--all": _ONE,
    "--match": _ONE,
    "--uid": _ONE,
}


def options(parser: Parser) -> set[str]:
    """The longest name of each."""
    return {max(action.option_strings, key=len) for action in parser._actions if action.option_strings}


def test_percent_gcore_has_the_options_of_the_command_line() -> None:
    here, there = options(dump._drgn_parser("%gcore")), options(dump.make_parser())
    assert there - here == set(NOT_IN_DRGN)
    assert here <= there


def test_they_mean_the_same() -> None:
    def described(parser: Parser) -> dict[str, tuple[object, ...]]:
        return {
            max(action.option_strings, key=len): (action.help, action.metavar, action.choices, action.default)
            for action in parser._actions
            if action.option_strings
        }

    here, there = described(dump._drgn_parser("%gcore")), described(dump.make_parser())
    assert here == {name: there[name] for name in here}


def test_gcore_has_a_keyword_for_each() -> None:
    assert set(KEYWORDS) | set(NO_KEYWORD) == options(dump._drgn_parser("%gcore"))
    assert not set(KEYWORDS) & set(NO_KEYWORD)
    keywords = [
        name for name, one in inspect.signature(plugin.gcore).parameters.items() if one.kind is one.KEYWORD_ONLY
    ]
    assert set(KEYWORDS.values()) == set(keywords)
    for name in keywords:
        assert f":param {name}:" in (plugin.gcore.__doc__ or "")


def test_limits_of_gcore(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(prog: drgn.Program, user_files: UserFiles = NO_USER_FILES) -> Iterator[Source]:
        yield FakeSource()

    def prepared(source: Source, ref: TaskRef, options: pipeline.Options) -> pipeline.Prepared:
        asked.append(options)
        return prepare(source, ref, options)

    asked: list[pipeline.Options] = []
    prepare = pipeline.prepare
    monkeypatch.setattr(saving, "prepare", prepared)
    monkeypatch.setattr(plugin, "_source", opened)
    prog = drgn.Program()
    stream = io.BytesIO()
    report = plugin.gcore(prog, LARGE, output=stream, max_size=LARGE_SIZE // 2)
    assert 0 < len(stream.getvalue()) <= LARGE_SIZE // 2
    assert report.account.missing["limit"] > 0
    assert asked[-1].order == "importance", "as the command line does it"
    with pytest.raises(LimitReached):
        plugin.gcore(prog, LARGE, output=io.BytesIO(), max_time=1e-9)
    whole = plugin.gcore(prog, LARGE, output=io.BytesIO(), max_size=1 << 40, max_time=600)
    assert whole.missing_bytes == 0
    for wrong in ({"max_size": 0}, {"max_time": -1.0}):
        with pytest.raises(ValueError, match="more than 0"):
            plugin.gcore(prog, LARGE, **wrong)
    plugin.gcore(prog, LARGE, output=io.BytesIO())
    orders = [options.order for options in asked]
    assert orders[-1] == "address"
