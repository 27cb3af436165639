# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables and progress, in a pipe and on a terminal of a given width."""

import io
import json
import re
import sys
import threading
from pathlib import Path

import pytest

from kgcore.cli import render
from kgcore.cli.render import Column
from kgcore.coredump.pipeline import Options, prepare
from kgcore.coredump.plan import make_plan
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import TaskRef
from tests.builders import PAGE, FakeMemory, make_image, make_vma
from tests.fake_source import INCOMPLETE, FakeSource

COLUMNS = (Column("N", number=True), Column("NAME"), Column("REST", wide=True))


class Terminal(io.StringIO):
    """What rich takes for a terminal; its width comes from $COLUMNS."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)


def table(out: io.StringIO, *rows: tuple[str, ...]) -> list[str]:
    render.show_table(COLUMNS, rows, out)
    return out.getvalue().splitlines()


def without_ansi(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_piped_table_is_aligned_and_whole() -> None:
    assert table(io.StringIO(), ("1", "a", "x" * 200), ("200", "longer", "")) == [
        "  N  NAME    REST",
        "  1  a       " + "x" * 200,
        "200  longer",
    ]


def test_an_empty_table_has_its_titles() -> None:
    assert table(io.StringIO()) == ["N  NAME  REST"]
    assert without_ansi(table(Terminal())[0]).split() == ["N", "NAME", "REST"]


def test_a_terminal_table_fits_by_shortening_the_wide_column() -> None:
    lines = table(Terminal(), ("123456", "the name", "y" * 200))
    assert len(lines) == 2
    assert len(lines[1].rstrip()) <= 40
    assert re.fullmatch(r"123456  the name  y+…", lines[1].rstrip())


def test_a_very_narrow_terminal_costs_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    text = "".join(table(Terminal(), ("12345678901234", "the name", "y" * 200)))
    assert "12345678901234" in text
    assert "the name" in text


def test_names_are_neither_markup_nor_control_sequences() -> None:
    for out in (io.StringIO(), Terminal()):
        line = table(out, ("1", "[red]x[/]", "\x1b[2Jy\r\n\u202e"))[1]
        assert "[red]x[/]" in line
        assert r"\x1b[2Jy\r\n\u202e" in line
        assert "\x1b[2J" not in line


def test_wide_characters_keep_their_columns() -> None:
    line = without_ansi(table(Terminal(), ("1", "日本語", "z"))[1])
    assert line.rstrip() == "1  日本語  z"


def summary(**changes: object) -> ProcessSummary:
    values: dict[str, object] = {
        "pid": 1, "ppid": 0, "uid": 0, "threads": 1, "rss": 4096, "state": "S", "comm": b"c",
        "args": b"", "kernel_thread": False, "task": 0xFFFF888000000000,
    }  # fmt: skip
    return ProcessSummary(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"args": b"/bin/a\0-b\0"}, "/bin/a -b"),
        ({"args": b"/bin/a\0\xff\x1b\0"}, r"/bin/a \xff\x1b"),
        ({"args": None}, "?"),
        ({"args": b""}, ""),
        ({"kernel_thread": True, "comm": b"kworker/0:1"}, "[kworker/0:1]"),
    ],
)
def test_commands(changes: dict[str, object], command: str) -> None:
    out = io.StringIO()
    render.show_processes([summary(**changes)], out)
    assert out.getvalue().splitlines()[1].split(maxsplit=9)[9:] == ([command] if command else [])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (None, None),
        (b"", []),
        (b"a\0", ["a"]),
        (b"a\0\0b\0", ["a", "", "b"]),
        (b"a b", ["a b"]),
        (b"\xff\0", [r"\xff"]),
    ],
)
def test_process_json(args: bytes | None, expected: list[str] | None) -> None:
    row = json.loads(json.dumps(summary(args=args, comm=b"\xfe").to_json()))
    assert row["args"] == expected
    assert row["comm"] == r"\xfe"
    assert row["task"] == "0xffff888000000000"
    assert row["rss"] == 4096


def test_the_plan() -> None:
    out = io.StringIO()
    render.show_plan(prepare(FakeSource(), TaskRef("200", pid=INCOMPLETE), Options()).plan, out)
    titles, library, anonymous, *totals = out.getvalue().splitlines()
    assert titles.split() == ["RANGE", "PERMS", "DECISION", "IN", "CORE", "MISSING", "RECOVERED", "ZEROS", "NAME"]
    assert library.split() == [
        "000000001000-000000002000",
        "r--p",
        "mapped-private",
        *"0000",
        r"/lib/\x1b[31m[red]\xff\n",
    ]
    assert anonymous.split() == ["7f0000000000-7f0000003000", "rw-p", "anon-private", "8192", "4096", "0", "0"]
    assert "4.00 KiB missing" in "".join(totals)


def test_the_plan_tells_where_memory_comes_from() -> None:
    memory = FakeMemory({(0x600000, 0x601000): (Provenance.ZRAM, ""), (0x601000, 0x603000): (Provenance.ZERO, "")})
    image = make_image(vmas=(make_vma(0x600000, 4, anon=True), make_vma(0x700000, 2)))
    out = io.StringIO()
    render.show_plan(make_plan(image, CoredumpFilter(page_size=PAGE), memory), out)
    _, heap, untouched, _, totals = out.getvalue().splitlines()
    assert heap.split()[3:] == ["16384", "0", "4096", "8192"]
    assert untouched.split()[2:] == ["untouched", "0", "0", "0", "0"]
    assert totals == (
        "memory: 4.00 KiB from page tables, 4.00 KiB recovered (zram), 8.00 KiB zeros, "
        "8.00 KiB left out by the filter, 0 B missing"
    )


def test_progress_shows_bytes_rate_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(render, "_REFRESH", 0)
    out = Terminal()
    with render.progress("[b]core.1", out, 10 << 20) as update:
        assert threading.active_count() == 1, "nobody may fork beside another thread"
        update(5 << 20, 10 << 20)
        update(10 << 20, 10 << 20)
    text = without_ansi(out.getvalue())
    assert "[b]core.1" in text
    assert "10.5/10.5 MB" in text
    assert re.search(r"[0-9.]+ [kMGT]?B/s", text)
    assert re.search(r"0:00:00", text)


def test_no_colour_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    with render.progress("core.1", out, 10) as update:
        update(10, 10)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", out.getvalue())


def test_only_render_knows_rich() -> None:
    package = Path(sys.modules["kgcore"].__file__ or "").parent
    importers = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) rich\b", path.read_text(), re.MULTILINE)
    ]
    assert importers == ["render.py"]
