# SPDX-License-Identifier: LGPL-2.1-or-later

"""Print tables and the progress bar. No other module uses rich.

On a terminal, tables fit its width. In a pipe they are plain, full columns for ``grep`` and ``awk``. Text from the dump
passes :func:`kgcore.text.printable` and reaches rich as ``Text``, where ``[red]`` is five letters.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple, TextIO

from kgcore.coredump.plan import CorePlan
from kgcore.coredump.writer import Progress
from kgcore.model.summary import ProcessSummary
from kgcore.system import stopping
from kgcore.text import counted, human_size, printable
from kgcore.views.addressmap import AddressMap, Kind, address_range, by_kind, make_map, shares
from kgcore.views.openfiles import OpenFileRow, flag_words, shown_name

if TYPE_CHECKING:
    from kgcore.sources.vmcore.facts import DumpFacts

__all__ = (
    "Column",
    "Painted",
    "progress",
    "show_facts",
    "show_map",
    "show_open_files",
    "show_plan",
    "show_processes",
    "show_table",
)


class Column(NamedTuple):
    """A column of a table.

    :ivar number: align it to the right.
    :ivar wide: shorten this column on narrow terminals.
    :ivar path: shorten it at the front: the end of a path matters more.
    :ivar yields: on narrow terminals, columns with the highest number go first; 0: never.
    """

    title: str
    number: bool = False
    wide: bool = False
    path: bool = False
    yields: int = 0


class Painted(str):
    """A cell with colours on terminals."""

    __slots__ = ("pieces",)

    pieces: tuple[tuple[str, str], ...]
    """Pieces of text, each with rich's style."""

    def __new__(cls, *pieces: tuple[str, str]) -> "Painted":
        cell = super().__new__(cls, "".join(text for text, _ in pieces))
        cell.pieces = pieces
        return cell


_LEAST = 10  # columns of the terminal for what is shortened


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], out: TextIO) -> None:
    """Print a table. Cells may hold any text; unprintable characters are escaped."""
    cells = [[cell if isinstance(cell, Painted) else printable(cell) for cell in row] for row in rows]
    if out.isatty():
        _show_on_terminal(columns, cells, out)
        return
    titles = [column.title for column in columns]
    widths = [max(map(len, texts)) for texts in zip(titles, *cells, strict=True)]
    for row in [titles, *cells]:
        aligned = (
            text.rjust(width) if column.number else text.ljust(width)
            for column, text, width in zip(columns, row, widths, strict=True)
        )
        print("  ".join(aligned).rstrip(), file=out)


def _show_on_terminal(columns: Sequence[Column], cells: Sequence[Sequence[str]], out: TextIO) -> None:
    from rich.cells import cell_len, chop_cells
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    console = Console(file=out)
    widths = [
        _LEAST if column.wide else max(map(cell_len, (column.title, *texts))) + 2
        for column, *texts in zip(columns, *cells, strict=True)
    ]
    shown = list(range(len(columns)))
    while sum(widths[number] for number in shown) > console.width:
        least = max(shown, key=lambda number: columns[number].yields)
        if not columns[least].yields:
            break
        shown.remove(least)
    columns = [columns[number] for number in shown]
    cells = [[row[number] for number in shown] for row in cells]
    needed = sum(widths[number] for number in shown)
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", no_wrap=not column.wide)
    # Where not even the rest has room the terminal breaks the lines: a PID that lost a digit is worse.
    console.width = max(console.width, needed)
    room = console.width - needed + _LEAST * sum(column.wide for column in columns)

    def text(column: Column, cell: str) -> Text:
        # To rich, only a column that may wrap may become narrower. The text in it does not wrap, though.
        if isinstance(cell, Painted):
            return Text.assemble(*cell.pieces, no_wrap=True)
        if column.path and cell_len(cell) > room:
            more = "\N{HORIZONTAL ELLIPSIS}" if _takes(out, "\N{HORIZONTAL ELLIPSIS}") else "..."
            cell = more + chop_cells(cell[::-1], room - len(more))[0][::-1]
        return Text(cell, no_wrap=True, overflow="ellipsis")

    for row in cells:
        table.add_row(*map(text, columns, row))
    console.print(table)


def _takes(out: TextIO, text: str) -> bool:
    """Say whether a stream can encode these characters."""
    try:
        text.encode(out.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


_ID = re.compile(rb"([0-9a-f]{12})[0-9a-f]{52}")  # of a container, of which 12 digits are enough for its engine


def show_processes(processes: Sequence[ProcessSummary], out: TextIO) -> None:
    """Print the table of ``kgcore ps``, without columns that would be the same for all."""
    inside = any(len(process.pids) > 1 for process in processes)
    grouped = any(process.cgroup not in (None, b"/") for process in processes)
    ending = any(process.dying is not None for process in processes)
    columns = [
        Column("PID", number=True),
        *([Column("NSPID", number=True)] if inside else []),
        Column("PPID", number=True, yields=4),
        Column("UID", number=True, yields=2),
        Column("THREADS", number=True, yields=5),
        Column("RSS/KiB", number=True, yields=3),
        Column("~CORE/KiB", number=True),
        Column("~HELD/KiB", number=True, yields=1),
        Column("S"),
        Column("COMM"),
        *([Column("CGROUP", wide=True)] if grouped else []),
        *([Column("DYING OF")] if ending else []),
        Column("COMMAND", wide=True),
    ]
    show_table(columns, (_process_row(process, inside, grouped, ending) for process in processes), out)


def _process_row(process: ProcessSummary, inside: bool, grouped: bool, ending: bool) -> tuple[str, ...]:
    """A row; as in ps, a kernel thread's command is in brackets. ``?``: the dump lacks the command line."""
    comm = printable(process.comm)
    if process.kernel_thread:
        command = f"[{comm}]"
    elif process.args is None:
        command = "?"
    else:
        command = printable(process.args.rstrip(b"\0").replace(b"\0", b" "))
    return (
        str(process.pid),
        *((str(process.pids[-1]) if len(process.pids) > 1 else "-",) if inside else ()),
        *map(str, (process.ppid, process.uid, process.threads, process.rss // 1024)),
        str(process.core // 1024),
        str(process.held // 1024),
        process.state,
        comm,
        *((_group_name(process.cgroup),) if grouped else ()),
        *(("-" if process.dying is None else f"{process.dying.name} ({process.dying.stage})",) if ending else ()),
        command,
    )


def _group_name(path: bytes | None) -> str:
    """The last part of a path, which names the container or the service."""
    if path is None:
        return "?"
    return printable(_ID.sub(rb"\1", path.rsplit(b"/", 1)[-1])) or "/"


_OPEN_FILE_COLUMNS = (
    Column("FD", number=True),
    Column("TYPE", yields=3),
    Column("FLAGS", yields=5),
    Column("OFFSET", number=True, yields=4),
    Column("SIZE", number=True),
    Column("IN DUMP"),
    Column("DIRTY"),
    Column("NAME", wide=True),
)
_NOT_LOOKED = "--"


def show_open_files(rows: Iterable[OpenFileRow], out: TextIO) -> None:
    """Print the table of ``kgcore files``. It shows contents only of files that exist nowhere else."""
    cells = (
        (
            str(file.fd),
            file.type,
            flag_words(file.flags),
            str(file.offset),
            str(file.size),
            _NOT_LOOKED if content is None else content.words(),
            _NOT_LOOKED if unwritten is None else human_size(unwritten),
            printable(shown_name(file)),
        )
        for file, content, unwritten in rows
    )
    show_table(_OPEN_FILE_COLUMNS, cells, out)


def show_facts(facts: "DumpFacts", out: TextIO) -> None:
    """Print the facts of ``kgcore info``, one per line, without unknown ones."""
    level = "" if facts.level is None else f", level {facts.level}"
    rows = [
        ("format", facts.format + ("" if facts.compression == "none" else f", {facts.compression}") + level),
        ("size", "" if facts.size is None else human_size(facts.size)),
        ("RAM saved", _ram(facts)),
        ("cut off", f"at least {human_size(facts.missing_bytes)} of the file" if facts.missing_bytes else ""),
        ("kernel", f"{facts.release} {facts.build}".strip()),
        ("kernels", _kernels(facts)),
        ("machine", facts.architecture + (f", {facts.levels}-level page tables" if facts.levels else "")),
        ("CPUs", "" if facts.cpus is None else str(facts.cpus)),
        ("crashed", "" if facts.crash_time is None else f"{datetime.fromtimestamp(facts.crash_time, UTC):%F %T} UTC"),
        ("panic", facts.panic or ""),
        ("types", facts.types),
        ("user memory", facts.user_memory),
        ("swap", _swap(facts)),
        ("for cores", facts.meaning),
    ]
    width = _width(out)
    for name, value in rows:
        if value:
            line = f"{name:<12} {printable(value)}"
            # A terminal would go on in the first column.
            print("\n".join(wrap(line, width, subsequent_indent=" " * 13)) if width else line, file=out)


def _width(out: TextIO) -> int:
    """The columns of a terminal; 0: not a terminal."""
    from rich.console import Console

    return max(Console(file=out).width, 40) if out.isatty() else 0


def _kernels(facts: "DumpFacts") -> str:
    """The kernels of a dump that holds several."""
    found = (
        f"{kernel.words} ({'shown here' if kernel.taken else f'--vmcoreinfo {kernel.vmcoreinfo:#x}'})"
        for kernel in facts.kernels
    )
    return "; ".join(found) if len(facts.kernels) > 1 else ""


def _swap(facts: "DumpFacts") -> str:
    if facts.swap is None:
        return ""
    if not facts.swap:
        return "none"
    words = [f"{human_size(used.used)} of {human_size(used.size)} on {used.name}" for used in facts.swap if used.used]
    if facts.zswap:
        words.append(f"{human_size(facts.zswap)} of that in zswap")
    return ", ".join(words) or "nothing swapped out"


def _ram(facts: "DumpFacts") -> str:
    parts = ((facts.stored, ""), (facts.excluded, " left out"), (facts.cut_off, " cut off"))
    return ", ".join(human_size(size) + what for size, what in parts if size)


_REFRESH = 0.1  # seconds
_PLAN_COLUMNS = (
    Column("RANGE"),
    Column("PERMS", yields=4),
    Column("DECISION", yields=1),
    Column("IN CORE", number=True),
    Column("MISSING", number=True),
    Column("RECOVERED", number=True, yields=3),
    Column("ZEROS", number=True, yields=5),
    Column("NAME", wide=True),
)


def show_plan(plan: CorePlan, out: TextIO) -> None:
    """Print what ``--dry-run`` shows: each mapping with the filter's decision, then the totals. Sizes are bytes.

    IN CORE includes RECOVERED and ZEROS. What the filter leaves out is in no column.
    """
    found = make_map(plan)
    rows = (
        (
            address_range(vma.start, vma.end),
            area.permissions,
            vma.reason,
            str(vma.data + vma.zero),
            str(vma.missing),
            str(sum(vma.recovered.values())),
            str(vma.zero),
            printable(vma.name),
        )
        for area, vma in ((area, area.vma) for area in found.areas)
    )
    show_table(_PLAN_COLUMNS, rows, out)
    for line in found.report.lines():
        print(line, file=out)


class _Ink(NamedTuple):
    """How to draw a kind of memory: a character, one in ASCII, rich's style, a word for the legend."""

    block: str
    plain: str
    style: str
    word: str


_INKS = {
    Kind.PRESENT: _Ink("\N{FULL BLOCK}", "#", "blue", "present"),
    Kind.RECOVERED: _Ink("\N{DARK SHADE}", "+", "green", "recovered"),
    Kind.ZERO: _Ink("\N{LIGHT SHADE}", "0", "bright_black", "zeros"),
    Kind.REDACTED: _Ink("\N{IDENTICAL TO}", "-", "yellow", "redacted"),
    Kind.MISSING: _Ink("\N{BOX DRAWINGS LIGHT DIAGONAL CROSS}", "x", "bold red", "missing"),
    Kind.FILTERED: _Ink("\N{MIDDLE DOT}", ".", "bright_black", "left out by the filter"),
}
_KEPT = {"whole": "all", "first-page": "page", "nothing": "no"}
_BAR = 20  # characters in a pipe; on terminals 8 to 32, as there is room
_NAME = 24  # characters that a name should have


def show_map(found: AddressMap, out: TextIO) -> None:
    """Print ``kgcore map``. On narrow terminals the column WHY is left out."""
    blocks = _takes(out, "".join(ink.block for ink in _INKS.values()))
    total = found.report.account
    cells = [
        (
            address_range(area.vma.start, area.vma.end),
            human_size(area.size),
            area.permissions,
            _KEPT[area.kept],
            area.vma.reason,
            area.title(),
        )
        for area in found.areas
    ]
    cells.append(("total", human_size(total.total), "", "", "", counted(len(found.areas), "mapping")))
    columns = [
        Column("RANGE"),
        Column("SIZE", number=True),
        Column("PERM"),
        Column("KEPT"),
        Column("WHY"),
        Column("NAME", wide=True, path=True),
    ]
    accounts = [*(area.vma.account for area in found.areas), total]
    widths = [max(map(len, texts)) + 2 for texts in zip((column.title for column in columns), *cells, strict=True)]
    hidden, width = None, _BAR
    if out.isatty():
        room = _width(out) - _NAME - 2 - sum(widths[:-1])
        if room < 8:
            hidden, room = 4, room + widths[4]
        width = min(max(room, 8), 32)
    shown = [number for number in range(len(columns)) if number != hidden]
    show_table(
        [*(columns[number] for number in shown[:-1]), Column("MEMORY"), columns[-1]],
        (
            (*(row[number] for number in shown[:-1]), _bar(by_kind(account), width, blocks), row[-1])
            for row, account in zip(cells, accounts, strict=True)
        ),
        out,
    )
    inks = [(kind, ink) for kind, ink in _INKS.items() if kind is not Kind.REDACTED or total.redacted]  # few redact
    legend = [(_mark(kind, 2, blocks), (f" {ink.word}   ", "")) for kind, ink in inks]
    _print(Painted(*(piece for pieces in legend for piece in pieces)), out)
    for line in found.lines():
        print(line, file=out)


def _bar(sizes: Mapping[Kind, int], width: int, blocks: bool) -> Painted:
    return Painted(*(_mark(kind, cells, blocks) for kind, cells in shares(sizes, width).items()))


def _mark(kind: Kind, cells: int, blocks: bool) -> tuple[str, str]:
    ink = _INKS[kind]
    return (ink.block if blocks else ink.plain) * cells, ink.style


def _print(line: Painted, out: TextIO) -> None:
    if not out.isatty():
        print(line.rstrip(), file=out)
        return
    from rich.console import Console
    from rich.text import Text

    Console(file=out).print(Text.assemble(*line.pieces), soft_wrap=True)


@contextmanager
def progress(label: str, err: TextIO, total: int) -> Iterator[Progress]:
    """Show a progress bar on a terminal, with bytes, rate and time left, while the block runs.

    :param total: bytes to write.
    """
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(file=err),
        auto_refresh=False,  # it would be done by a thread, and with one about nobody may fork
        transient=True,  # the line "Saved core.1" takes its place
    )
    forget = stopping.last_words(lambda: err.write("\x1b[?25h\n"))  # the cursor, which rich hides
    with bar, ExitStack() as stack:
        stack.callback(forget)
        task = bar.add_task(printable(label), total=total)
        bar.refresh()
        shown = time.monotonic()

        def update(done: int, total: int) -> None:
            # The writer calls for every page that stands alone; the eye is content with less.
            nonlocal shown
            now = time.monotonic()
            if done == total or now - shown > _REFRESH:
                shown = now
                bar.update(task, completed=done, total=total, refresh=True)

        yield update
