# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lay out the picture of an address space: regions, lines, and what is on them.

An address space is mostly holes. Mappings close together form a region, with its own scale and cut into lines; the gaps
between regions are not drawn. The picture has a bounded size: if there are many mappings, neighbours are drawn
together.
"""

from collections.abc import Iterator, Sequence
from heapq import nlargest
from itertools import pairwise
from typing import NamedTuple

from kgcore.coredump.plan import CorePlan
from kgcore.model.account import Account, amounts
from kgcore.model.memory import Memory, Run
from kgcore.views.addressmap import AddressMap, Area, Kind, StackPointer, by_kind, ranges

__all__ = ("Cell", "Item", "Region", "regions")

_ITEMS = 1500
_FEW = 20  # mappings of a region that are drawn one by one in any case
_REGIONS = 64
_PIECES = 20_000
_LINES = 12  # of a region
_NARROW = 250  # of the smallest mapping of a region, there is room for so many in a line, unless that makes too many
_CLOSE = 1 << 20  # bytes: what has less between it is in one region


class Cell(NamedTuple):
    """A range drawn in one colour.

    :ivar words: a description, or "".
    """

    start: int
    end: int
    kind: Kind
    words: str = ""


class Item(NamedTuple):
    """A mapping, or several adjacent ones.

    :ivar areas: its mappings.
    :ivar account: the account of all of them.
    :ivar pieces: what to draw, ascending from ``start``, together as long as its mappings.
    :ivar to_scale: the pieces are real ranges; otherwise each is the sum of a kind.
    """

    number: int
    areas: tuple[Area, ...]
    account: Account
    pieces: tuple[Cell, ...]
    to_scale: bool

    @property
    def start(self) -> int:
        return self.areas[0].vma.start

    @property
    def end(self) -> int:
        return max(self.start + 1, self.areas[-1].vma.end)

    @property
    def stacks(self) -> tuple[StackPointer, ...]:
        return tuple(stack for area in self.areas for stack in area.stacks)


class Region(NamedTuple):
    """Mappings that are close together.

    :ivar line: bytes per line.
    :ivar gap: bytes between it and the previous region.
    """

    start: int
    end: int
    items: tuple[Item, ...]
    line: int
    gap: int

    @property
    def lines(self) -> range:
        """Return the start addresses of its lines."""
        return range(self.start, self.end, self.line)


def regions(found: AddressMap, plan: CorePlan, memory: Memory) -> tuple[Region, ...]:
    """Lay out a map.

    :param plan: the plan of the map.
    :param memory: the memory of the process, for the ranges of mappings with several kinds of memory.
    """
    count = len(found.areas)
    most = max(4, min(_PIECES // max(count, 1), 256))
    # In address order already, but for what a dump may claim.
    rows = sorted(enumerate(found.areas), key=lambda row: row[1].vma.start)
    number, result, end = 0, [], 0
    for part in _split(rows):
        together = 1 if len(part) <= _FEW else -(-count // _ITEMS)
        items = []
        for first in range(0, len(part), together):
            chosen = part[first : first + together]
            runs = ranges(plan, memory, chosen[0][0], most) if len(chosen) == 1 else ()
            items.append(_item(number, [area for _, area in chosen], runs))
            number += 1
        start = items[0].start
        gap, end = max(0, start - end), max(item.end for item in items)
        result.append(Region(start, end, tuple(items), _line(start, end, items), gap))
    return tuple(result)


_Row = tuple[int, Area]  # with its index


def _split(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """The regions: split at large gaps, and only at the largest if there are many."""
    close = max(_CLOSE, sum(area.vma.data for _, area in rows) // 16)
    gaps = ((after[1].vma.start - before[1].vma.end, index) for index, (before, after) in enumerate(pairwise(rows), 1))
    cuts = sorted(index for _, index in nlargest(_REGIONS - 1, (gap for gap in gaps if gap[0] > close)))
    for first, last in pairwise((0, *cuts, len(rows))):
        if first < last:
            yield rows[first:last]


def _line(start: int, end: int, items: Sequence[Item]) -> int:
    size = end - start
    wanted = max(size // _LINES, min(item.end - item.start for item in items) * _NARROW)
    return size if wanted >= size else 1 << wanted.bit_length()


def _item(number: int, areas: Sequence[Area], runs: Sequence[Run]) -> Item:
    account = Account.sum(area.vma.account for area in areas)
    pieces = tuple(_to_scale(areas[0], runs)) if len(areas) == 1 else ()
    if pieces:
        return Item(number, tuple(areas), account, pieces, True)
    return Item(number, tuple(areas), account, tuple(_in_proportion(areas[0].vma.start, account)), False)


def _to_scale(area: Area, runs: Sequence[Run]) -> Iterator[Cell]:
    kept = area.size - area.vma.filtered
    if kept and not runs:
        return  # there are too many
    for run in runs:
        place = run.provenance.value
        words = f"{place} ({run.detail})" if run.detail else place
        yield Cell(run.address, run.end, Kind.of(run.provenance), words)
    if area.vma.filtered:
        yield Cell(area.vma.start + kept, area.vma.end, Kind.FILTERED, area.vma.reason)


def _in_proportion(at: int, account: Account) -> Iterator[Cell]:
    words = {Kind.RECOVERED: amounts(account.recovered), Kind.MISSING: amounts(account.missing)}
    for kind, size in by_kind(account).items():
        yield Cell(at, at + size, kind, words.get(kind, ""))
        at += size
