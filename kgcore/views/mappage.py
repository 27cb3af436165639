# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render a map as one self-contained HTML page: no script, no request, and a policy that forbids both.

All text from the dump goes through :func:`_text`. The page is ASCII, so no encoding can be mistaken.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from kgcore._version import __version__
from kgcore.coredump.pipeline import Options, prepare
from kgcore.coredump.plan import CorePlan
from kgcore.model.account import Account
from kgcore.model.memory import Memory
from kgcore.sources.base import Source, TaskRef
from kgcore.text import counted, first_names, human_size, printable
from kgcore.views.addressmap import AddressMap, Kind, address_range, by_kind, make_map
from kgcore.views.maplayout import Cell, Item, Region, regions

__all__ = ("map_html", "map_page")

_WORDS = {
    Kind.PRESENT: "present",
    Kind.RECOVERED: "recovered",
    Kind.ZERO: "zeros",
    Kind.REDACTED: "redacted",
    Kind.MISSING: "missing",
    Kind.FILTERED: "left out",
}
_MEANINGS = {
    Kind.PRESENT: "mapped by the page tables of the process",
    Kind.RECOVERED: "found elsewhere: page cache, compressed swap, swap image, file",
    Kind.ZERO: "never touched, or a hole in the kernel's own cores",
    Kind.REDACTED: "zeros in the place of memory (--redact)",
    Kind.MISSING: "found nowhere",
    Kind.FILTERED: "by the filter (-f)",
}
_KEPT = {"whole": "all", "first-page": "first page", "nothing": "nothing"}
_NUMBER = ' class="number"'
_MARKS = 64  # stack pointers that are drawn in a region
_NAMED = 6  # percent of a line that a mapping needs to have its name in it
_TOLD = 8  # mappings that stand for those that are drawn together
_TITLE = 160  # characters of a name in a picture; the table has all of it

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5b6675; --edge: #d9dee5;
  --present: #2f6fde; --recovered: #0aa8a0; --zero: #c3cad4; --redacted: #e0a92f;
  --missing: #e03a2f; --filtered: #eceff3; --hatch: #b6bfca;
  --hole: #ffffff; --mark: #b3009e; --target: #fff3c9; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2029; --ink: #e4e9f0; --soft: #97a3b3;
  --edge: #313a47; --present: #5b93f5; --recovered: #35cdc3; --zero: #4c5766; --redacted: #c9952b;
  --missing: #ff6a5c; --filtered: #222a35;
  --hatch: #414c5b; --hole: #12161c; --mark: #ff7ae8; --target: #4a4118; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 92rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .84em; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: .9rem 1.1rem;
  margin: .7rem 0; }
.card h3 { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .95rem; font-weight: 600; margin: 0 0 .5rem; }
.card h3 .soft { font-weight: 400; }
section > svg, div > svg, td > svg { display: block; width: 100%; overflow: hidden; }
body > svg { position: absolute; }
.line svg { overflow: visible; }
.present { fill: var(--present); background: var(--present); }
.recovered { fill: var(--recovered); background: var(--recovered); }
.zero { fill: var(--zero); background: var(--zero); }
.redacted { fill: var(--redacted); background: var(--redacted); }
.missing { fill: var(--missing); background: var(--missing); }
.filtered { fill: url(#hatch);
  background: repeating-linear-gradient(135deg, var(--filtered) 0 4px, var(--hatch) 4px 5px); }
#hatch rect { fill: var(--filtered); } #hatch path { stroke: var(--hatch); }
.hole { fill: var(--hole); stroke: var(--edge); }
.edge { fill: var(--card); }
.mark { fill: var(--mark); }
.name { fill: var(--ink); stroke: var(--card); stroke-width: 4px; stroke-opacity: .8; paint-order: stroke;
  stroke-linejoin: round; font-size: 11.5px; pointer-events: none; }
a:hover rect { opacity: .75; }
.legend { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.2rem, 1fr)); gap: .6rem 1rem;
  margin: .9rem 0 0; padding: 0; list-style: none; }
.legend li { display: grid; grid-template-columns: 1rem 1fr; gap: 0 .6rem; align-content: start; }
.legend i { width: 1rem; height: 1rem; margin-top: .25rem; border-radius: 3px; border: 1px solid var(--edge);
  grid-row: span 2; }
.legend i.mark { width: 0; height: 0; border: .5rem solid transparent; border-top: .8rem solid var(--mark);
  border-radius: 0; background: none; }
.legend small { color: var(--soft); line-height: 1.35; }
.line { display: grid; grid-template-columns: 9.2rem 1fr; align-items: end; gap: .6rem; }
.line code { color: var(--soft); text-align: right; line-height: 22px; white-space: nowrap; }
.gap { text-align: center; color: var(--soft); font-size: .85em; margin: .2rem 0; }
.gap::before, .gap::after { content: ""; display: inline-block; width: 18%; border-top: 2px dotted var(--edge);
  vertical-align: middle; margin: 0 1rem; }
.notes { padding-left: 1.2rem; margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; }
th, td { text-align: left; padding: .28rem .45rem; border-bottom: 1px solid var(--edge); vertical-align: top;
  white-space: nowrap; }
td.many { white-space: normal; }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.what { white-space: normal; min-width: 11rem; overflow-wrap: anywhere; }
td.strip { width: 12%; min-width: 6rem; vertical-align: middle; }
tr:target { background: var(--target); }
.stack { color: var(--mark); }
tfoot td { font-weight: 600; border-bottom: 0; }
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; }
@media (max-width: 40rem) { body { padding: 1rem .6rem; } .line { grid-template-columns: 1fr; gap: 0; }
  .line code { text-align: left; } }
@page { size: landscape; margin: 10mm; }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } body { padding: 0; max-width: none;
  background: none; } .card, tr { break-inside: avoid; } .scroll { overflow: visible; break-inside: auto; }
  th { position: static; } table { font-size: 7pt; } th, td { padding: .1rem .25rem; } td.what { min-width: 7rem; } }
"""


def map_html(source: Source, ref: TaskRef | int | str, options: Options | None = None) -> str:
    """Draw the address space of a process, as a page for a browser that needs no other file.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process, as in :func:`kgcore.address_map`.
    :param options: what a core would have; None: what ``kgcore`` writes without options.
    :return: what ``kgcore map --html`` writes: HTML, in ASCII.
    :raises KgcoreError: there is no such process, or it has no memory.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    with prepare(source, ref, options) as prepared:
        return map_page(make_map(prepared.plan, source.describe()), prepared.plan, prepared.memory)


def map_page(found: AddressMap, plan: CorePlan, memory: Memory) -> str:
    """Return the HTML page, in ASCII.

    :param plan, memory: those of the map, for the ranges.
    """
    return "".join(_page(found, regions(found, plan, memory))).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _page(found: AddressMap, parts: Sequence[Region]) -> Iterator[str]:
    report = found.report
    name = f"{report.tgid} ({_text(report.comm)})"
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>Memory of process {name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<svg width="0" height="0" aria-hidden="true"><defs>'
        '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6"/><path d="M0 0V6" stroke-width="2"/></pattern></defs></svg>\n'
    )
    yield f"<header><h1>Process {report.tgid} <bdi>{_text(report.comm)}</bdi></h1>\n"
    yield f'<p class="soft">{", ".join(_origin(found))}</p></header>\n'
    yield from _sums(found)
    yield '<main>\n<section><h2>Address space</h2>\n<p class="soft">Each region has its own scale; the gaps between '
    yield "them are not drawn. Click a mapping to see its row in the table.</p>\n"
    for region in parts:
        yield from _region(region)
    yield "</section>\n"
    yield from _table(found, [item for region in parts for item in region.items])
    yield f"</main>\n<footer>kgcore {_text(__version__)}: kgcore map --html</footer>\n</body>\n</html>\n"


def _text(value: bytes | str) -> str:
    """Any text, escaped for HTML."""
    return escape(printable(value))


def _origin(found: AddressMap) -> Iterator[str]:
    report = found.report
    yield counted(report.threads, "thread")
    yield counted(len(found.areas), "mapping")
    yield f"{human_size(report.account.total)} of address space"
    yield f"a core of {human_size(report.size)}"
    mask = found.filter.get("mask")
    if isinstance(mask, int):
        yield f"filter {mask}"
    for key in ("kernel", "format"):
        if found.source.get(key):
            yield f"<bdi>{_text(found.source[key])}</bdi>"


def _sums(found: AddressMap) -> Iterator[str]:
    """The bar of all memory, the legend with its numbers, and the remarks."""
    account = found.report.account
    sizes = by_kind(account)
    yield '<section class="card" aria-label="all memory">\n'
    yield f'<svg height="26" role="img" aria-label="{_text(account.words())}">'
    yield from _bar(sizes.items(), account.total, 26)
    yield '</svg>\n<ul class="legend">\n'
    for kind in Kind:
        size = sizes.get(kind, 0)
        share = f"{size * 100 / account.total:.1f}%: " if account.total else ""
        where = {Kind.RECOVERED: account.recovered, Kind.MISSING: account.missing}.get(kind)
        more = ", ".join(f"{human_size(part)} {_text(place)}" for place, part in where.items()) if where else ""
        yield f'<li><i class="{kind.value}"></i><span>{_WORDS[kind]}: <b>{human_size(size)}</b></span>'
        yield f"<small>{share}{more or _MEANINGS[kind]}</small></li>\n"
    yield '<li><i class="mark"></i><span>stack of a thread</span><small>and its stack pointer</small></li>\n</ul>\n'
    notes = found.report.doubts()
    if notes:
        yield '<ul class="notes">' + "".join(f"<li>{_text(note)}</li>" for note in notes) + "</ul>\n"
    yield "</section>\n"


def _bar(sizes: Iterable[tuple[Kind, int]], total: int, height: int) -> Iterator[str]:
    at = 0
    for kind, size in sizes:
        yield _rect(kind.value, at, size, total, 0, height)
        at += size


def _rect(name: str, start: int, size: int, whole: int, y: int, height: int, words: str = "") -> str:
    """:param start, size, whole: bytes."""
    title = f"><title>{words}</title></rect>" if words else "/>"
    return (
        f'<rect class="{name}" x="{_percent(start, whole)}" y="{y}" width="{_percent(size, whole)}" '
        f'height="{height}"{title}'
    )


def _percent(size: int, whole: int) -> str:
    return f"{size * 100 / whole:.4f}".rstrip("0").rstrip(".") + "%"


# The picture


def _region(region: Region) -> Iterator[str]:
    if region.gap and region.start > region.gap:  # not before the first one
        yield f'<p class="gap">{human_size(region.gap)} not mapped</p>\n'
    size = sum(item.account.total for item in region.items)
    count = sum(len(item.areas) for item in region.items)
    yield f'<div class="card region"><h3><span class="mono">{address_range(region.start, region.end)}</span>'
    stacks = [stack for item in region.items for stack in item.stacks]
    yield f'<span class="soft">{counted(count, "mapping")}, {human_size(size)}'
    if stacks:
        yield f", {counted(len(stacks), 'stack')}"
    if len(region.lines) > 1:
        yield f", {human_size(region.line)} a line"
    yield "</span></h3>\n"
    drawn: list[list[str]] = [[] for _ in region.lines]
    for item in region.items:
        for number, shapes in _shapes(region, item):
            title = _title(item)
            drawn[number].append(f'<a href="#m{item.number}" tabindex="-1"><title>{title}</title>{shapes}</a>')
    if len(stacks) <= _MARKS:
        for number, mark in (_stack_mark(region, *stack) for stack in stacks):
            drawn[number].append(mark)
    for start, shapes_ in zip(region.lines, drawn, strict=True):
        there = min(region.line, region.end - start)
        yield f'<div class="line"><code>{start:012x}</code><svg height="32" aria-hidden="true">'
        yield _rect("hole", 0, there, region.line, 9, 22)
        yield "".join(shapes_)
        yield "</svg></div>\n"
    yield "</div>\n"


def _shapes(region: Region, item: Item) -> Iterator[tuple[int, str]]:
    """The shapes of an item, by number of the line."""
    lines: dict[int, list[str]] = {}
    for piece in item.pieces:
        for number, start, end in _in_lines(region, piece.start, piece.end):
            words = _told(piece) if piece.words else ""
            shape = _rect(piece.kind.value, start, end - start, region.line, 10, 20, words)
            lines.setdefault(number, []).append(shape)
    named = False
    for number, start, end in _in_lines(region, item.start, item.end):
        share = (end - start) * 100 / region.line
        shapes = lines.get(number, [])
        if item.stacks:
            shapes.append(_rect("mark", start, end - start, region.line, 30, 2))
        if share > 0.5 and start:
            shapes.append(f'<rect class="edge" x="{_percent(start, region.line)}" y="10" width="1" height="20"/>')
        if share > _NAMED and not named:
            named = True
            shapes.append(
                f'<svg x="{_percent(start, region.line)}" width="{share:.4f}%" y="9" height="22">'
                f'<text class="name" x="5" y="15">{_short(item)}</text></svg>'
            )
        if shapes:
            yield number, "".join(shapes)


def _in_lines(region: Region, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The line numbers of a range, and its offsets in each line."""
    first, last = start - region.start, min(end, region.end) - region.start
    for number in range(first // region.line, -(-last // region.line)):
        low = number * region.line
        yield number, max(first, low) - low, min(last, low + region.line) - low


def _stack_mark(region: Region, tid: int, sp: int) -> tuple[int, str]:
    """The mark of a stack pointer, with the number of its line."""
    number, offset = divmod(sp - region.start, region.line)
    return (
        number,
        f'<svg class="mark" x="{_percent(offset, region.line)}" overflow="visible" width="1" height="32">'
        f'<path d="M-5 0H5L0.8 9V31H-0.8V9Z"><title>thread {tid}: stack pointer {sp:#x}</title></path></svg>',
    )


def _told(piece: Cell) -> str:
    return (
        f"{_WORDS[piece.kind]}: {human_size(piece.end - piece.start)}, {_text(piece.words)}\n"
        f"{address_range(piece.start, piece.end)}"
    )


def _title(item: Item) -> str:
    lines = [address_range(item.start, item.end), _shortened(_name(item)), human_size(item.account.total)]
    if len(item.areas) == 1:
        area = item.areas[0]
        lines[2] += f", {area.permissions}, kept: {_KEPT[area.kept]} ({printable(area.vma.reason)})"
    lines.append(item.account.words())
    if not item.to_scale and len(item.pieces) > 1:
        lines.append("too many ranges: shown as sums")
    return escape("\n".join(lines))


def _name(item: Item) -> str:
    """The name of one mapping, or of several drawn together."""
    if len(item.areas) == 1:
        return item.areas[0].title()
    different = {(area.name, area.stacks): area for area in item.areas}.values()
    names = first_names(different, _TOLD, lambda area: _shortened(area.title()))
    return f"{len(item.areas)} mappings: {names}"


def _shortened(name: str) -> str:
    return name if len(name) <= _TITLE else name[: _TITLE // 2] + "..." + name[-_TITLE // 2 :]


def _short(item: Item) -> str:
    """The part after the last slash, for the picture."""
    return escape(_shortened(_name(item).rpartition("/")[2] or "/"))


# The table


def _table(found: AddressMap, items: Sequence[Item]) -> Iterator[str]:
    yield "<section><h2>Mappings</h2>\n"
    if len(items) < len(found.areas):
        yield f'<p class="soft">{len(found.areas)} mappings; neighbours share a row. kgcore map lists each.</p>\n'
    titles = ["Range", "Size", "Perm", "Kept", "Why", "Memory", "Name", *(_WORDS[kind].capitalize() for kind in Kind)]
    numbers = {"Size", *titles[-len(Kind) :]}
    yield '<div class="card scroll"><table>\n<thead><tr>'
    for title in titles:
        yield f'<th scope="col"{_NUMBER if title in numbers else ""}>{title}</th>'
    yield "</tr></thead>\n<tbody>\n"
    for item in items:
        yield _row(item)
    account = found.report.account
    size = human_size(account.total)
    yield f'</tbody>\n<tfoot><tr><td>total</td><td class="number">{size}</td><td></td><td></td><td></td>'
    yield '<td class="strip"><svg height="14" aria-hidden="true">'
    yield from _bar(by_kind(account).items(), account.total, 14)
    yield f"</svg></td><td>{counted(len(found.areas), 'mapping')}</td>{_amounts(account)}</tr></tfoot>\n"
    yield "</table></div></section>\n"


def _row(item: Item) -> str:
    areas = item.areas
    many = ' class="many"' if len(areas) > 1 else ""
    strip = "".join(
        _rect(piece.kind.value, piece.start - item.start, piece.end - piece.start, item.account.total, 0, 14)
        for piece in item.pieces
    )
    return (
        f'<tr id="m{item.number}"><td class="mono">{address_range(item.start, item.end)}</td>'
        f'<td class="number">{human_size(item.account.total)}</td>'
        f'<td class="mono">{_all(area.permissions for area in areas)}</td>'
        f"<td{many}>{_all(_KEPT[area.kept] for area in areas)}</td>"
        f"<td{many}>{_all(area.vma.reason for area in areas)}</td>"
        f'<td class="strip"><svg height="14" aria-hidden="true">{strip}</svg></td>'
        f'<td class="what">{_what(item)}</td>{_amounts(item.account)}</tr>\n'
    )


def _what(item: Item) -> str:
    """The name, with a mark if it is a thread's stack. In ``bdi``, so that a right-to-left name does not affect the
    text around it."""
    name = f"<bdi>{escape(_name(item))}</bdi>"
    return f'<span class="stack">{name}</span>' if item.stacks else name


def _all(words: Iterable[str]) -> str:
    return escape(printable(", ".join(dict.fromkeys(words))))


def _amounts(account: Account) -> str:
    sizes = by_kind(account)
    return "".join(f'<td class="number">{human_size(sizes[kind]) if kind in sizes else ""}</td>' for kind in Kind)
