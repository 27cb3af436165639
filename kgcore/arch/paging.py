# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk page tables: find the entry of each page of an address range.

The walk reads whole tables from physical memory and reports runs, not pages. It says what the *entry* is; the caller
finds out what an empty or swapped entry means for the process.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import NamedTuple

__all__ = (
    "EntryBits",
    "EntryKind",
    "Leaf",
    "Level",
    "PagingMode",
    "SwapLayout",
    "walk",
)


class EntryKind(Enum):
    """The kinds of runs of page-table entries."""

    PRESENT = (
        0  # point to memory (also PROT_NONE and NUMA-hinting entries, which the CPU does not follow), in one piece
    )
    SCATTERED = 4  # the same, in several
    EMPTY = 1  # zero at some level
    CHANGING = 5  # the same, in a table that somebody was writing to
    SWAP = 2  # not present and not zero: a swap-type entry
    BROKEN = 3  # the table itself could not be read, or the entry is not one the kernel makes


class Leaf(NamedTuple):
    """Adjacent pages whose entries are of one kind.

    :ivar value: PRESENT: physical address of the first byte, the run is physically contiguous. SWAP: the raw entry
        (then the run is the reach of that one entry). BROKEN: physical address of the table. Else 0.
    :ivar pages: of SCATTERED: the physical address of each page.
    :ivar inside: of SWAP: how far into the reach of the entry the run begins, in bytes.
    """

    address: int
    length: int
    kind: EntryKind
    value: int
    pages: Sequence[int] = ()
    inside: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the tree, from the root down.

    :ivar shift: an entry covers ``1 << shift`` bytes.
    :ivar can_be_leaf: the entry may map a large page.
    """

    shift: int
    can_be_leaf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryBits:
    """What the bits of a table entry say of it, on one architecture.

    :ivar present: the CPU follows the entry.
    :ivar no_access: without ``present``, the entry points to memory all the same: PROT_NONE, and NUMA hinting.
    :ivar large: of a level where that may be: the entry maps a large page if it has one of these ...
    :ivar table: ... and none of these, which say that it leads to a table.
    :ivar inverted: an entry that is not present and has all of these holds its page frame number inverted; 0: no entry
        does.
    """

    present: int
    no_access: int
    large: int
    table: int = 0
    inverted: int = 0


@dataclass(frozen=True, slots=True)
class SwapLayout:
    """How an entry of the lowest level holds a ``swp_entry_t``, which has five bits of type.

    :ivar pfn_bits: of the offset, where that is a page frame number with flags above (SWP_PFN_BITS).
    :ivar inverted: the offset is stored inverted, since the L1TF fixes of 4.18.
    """

    type_shift: int
    offset_shift: int
    offset_bits: int
    pfn_bits: int
    inverted: bool

    def type(self, entry: int) -> int:
        """``__swp_type()``."""
        return entry >> self.type_shift & 0x1F

    def offset(self, entry: int) -> int:
        """``__swp_offset()``."""
        return (~entry if self.inverted else entry) >> self.offset_shift & (1 << self.offset_bits) - 1


@dataclass(frozen=True, slots=True)
class PagingMode:
    """A paging mode of an architecture.

    :ivar levels: root first; the last level's entries are pages.
    :ivar entry: struct code of a table entry.
    :ivar entries: entries in a table.
    :ivar pfn_mask: the bits of an entry that are a physical address.
    :ivar swap: how its entries hold swap entries.
    :ivar bits: what the other bits of its entries say.
    """

    levels: tuple[Level, ...]
    entry: str
    entries: int
    pfn_mask: int
    swap: SwapLayout
    bits: EntryBits

    @property
    def page_shift(self) -> int:
        """A page has ``1 << page_shift`` bytes."""
        return self.levels[-1].shift

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift


def walk(
    mode: PagingMode,
    root: int,
    start: int,
    end: int,
    read: Callable[[int, int], bytes | None],
    encryption_mask: int = 0,
    changing: Callable[[int], bool] | None = None,
) -> Iterator[Leaf]:
    """Walk [start, end) and yield runs that cover exactly it, ascending.

    :param root: physical address of the top table.
    :param start: page-aligned virtual address; only the bits that the mode translates count.
    :param read: ``read(physical address, size)``; None if that memory cannot be read.
    :param encryption_mask: ``sme_me_mask``: the bit of an entry that says "encrypted".
    :param changing: called with the physical address of a table of the two lowest levels: says whether the kernel was
        writing to it; None: do not ask.
    """
    pending: Leaf | None = None
    for leaf in _Walk(mode, read, encryption_mask, changing).range(root, start, end):
        if pending is None:
            pending = leaf
        elif leaf.kind is pending.kind and (
            leaf.kind in _JOINED or (leaf.kind is EntryKind.PRESENT and leaf.value == pending.value + pending.length)
        ):
            pending = pending._replace(length=pending.length + leaf.length)
        else:
            yield pending
            pending = leaf
    if pending is not None:
        yield pending


_JOINED = frozenset((EntryKind.EMPTY, EntryKind.CHANGING))


class _Walk:
    """See :func:`walk`."""

    __slots__ = ("_changing", "_entry_size", "_mask", "_mode", "_read", "_seen")

    def __init__(
        self,
        mode: PagingMode,
        read: Callable[[int, int], bytes | None],
        encryption_mask: int,
        changing: Callable[[int], bool] | None,
    ) -> None:
        self._mode = mode
        self._read = read
        self._mask = encryption_mask
        self._changing = changing
        self._entry_size = struct.calcsize(mode.entry)
        self._seen: set[int] = set()

    def range(self, table: int, start: int, end: int) -> Iterator[Leaf]:
        """Go down to the first table in which the range has more than one entry: most mappings are small."""
        mode, size = self._mode, self._entry_size
        depth = 0
        for level in mode.levels[:-1]:
            index = start >> level.shift
            if index != end - 1 >> level.shift:
                break
            raw = self._read(table + (index & mode.entries - 1) * size, size)
            if raw is None:
                yield Leaf(start, end - start, EntryKind.BROKEN, table)
                return
            self._seen.add(table)
            entry = int.from_bytes(raw, "little")
            found = _look(mode, level, entry, table, start, end, self._mask) if entry else None
            if found is None:
                yield Leaf(start, end - start, self._empty(table, depth), 0)
                return
            if isinstance(found, Leaf):
                yield found
                return
            table = found
            depth += 1
        yield from self._table(depth, table, start, end)

    def _table(self, depth: int, table: int, start: int, end: int) -> Iterator[Leaf]:
        mode, size = self._mode, self._entry_size
        level = mode.levels[depth]
        first = start >> level.shift & mode.entries - 1
        count = min((end - 1 >> level.shift) - (start >> level.shift) + 1, mode.entries - first)
        # A table serves one place of a mapping; in damaged memory it may contain itself, and reach 2 ** 35 pages.
        raw = None if table in self._seen else self._read(table + first * size, count * size)
        self._seen.add(table)
        if raw is None:
            yield Leaf(start, end - start, EntryKind.BROKEN, table)
            return
        if raw.count(0) == len(raw):
            yield Leaf(start, end - start, self._empty(table, depth), 0)
            return
        entries = struct.unpack(f"<{count}{mode.entry}", raw)
        empty = self._empty(table, depth) if 0 in entries else EntryKind.EMPTY
        if depth == len(mode.levels) - 1:
            yield from _pages(mode, entries, start, 1 << level.shift, self._mask, empty)
            return
        address = start
        for entry in entries:
            upto = min((address >> level.shift) + 1 << level.shift, end)
            found = _look(mode, level, entry, table, address, upto, self._mask) if entry else None
            if found is None:
                yield Leaf(address, upto - address, empty, 0)
            elif isinstance(found, Leaf):
                yield found
            else:
                yield from self._table(depth + 1, found, address, upto)
            address = upto

    def _empty(self, table: int, depth: int) -> EntryKind:
        """The kind of a table's empty entries."""
        if self._changing is None or depth < len(self._mode.levels) - 2 or not self._changing(table):
            return EntryKind.EMPTY
        return EntryKind.CHANGING


def _look(
    mode: PagingMode, level: Level, entry: int, table: int, address: int, upto: int, encryption_mask: int
) -> Leaf | int:
    """What an entry of an upper table that is not empty is for a range in its reach: a run, or the table below.

    :param table: that it is in.
    """
    bits = mode.bits
    if level.can_be_leaf and entry & bits.large and not entry & bits.table:
        # Below the page's own size an entry has flags, and zeros that are not inverted with the rest (x86: PAT, bit 12;
        # pfn_pmd() and pmd_modify(): PHYSICAL_PMD_PAGE_MASK).
        inside = (1 << level.shift) - 1
        physical = _physical(mode, entry, encryption_mask) & ~inside
        return Leaf(address, upto - address, EntryKind.PRESENT, physical + (address & inside))
    if entry & bits.present:
        return entry & mode.pfn_mask & ~encryption_mask
    if level.can_be_leaf and not entry & bits.no_access:
        return Leaf(address, upto - address, EntryKind.SWAP, entry, inside=address & (1 << level.shift) - 1)
    return Leaf(address, upto - address, EntryKind.BROKEN, table)


def _pages(
    mode: PagingMode, entries: tuple[int, ...], start: int, page: int, encryption_mask: int, empty: EntryKind
) -> Iterator[Leaf]:
    """Yield the runs of a lowest table. Only comprehensions work page by page, and only runs become objects."""
    mask = mode.pfn_mask & ~encryption_mask
    present = mode.bits.present
    here = present | mode.bits.no_access
    first = 0
    for kind, group in groupby([2 if entry & here else 1 if entry else 0 for entry in entries]):
        count = len(list(group))
        address, run = start + first * page, entries[first : first + count]
        first += count
        if kind == 0:
            yield Leaf(address, count * page, empty, 0)
        elif kind == 1:
            for number, entry in enumerate(run):
                yield Leaf(address + number * page, page, EntryKind.SWAP, entry)
        else:
            pages = [e & mask if e & present else _physical(mode, e, encryption_mask) for e in run]
            contiguous = range(pages[0], pages[0] + count * page, page)
            if pages[-1] == contiguous[-1] and pages == list(contiguous):
                yield Leaf(address, count * page, EntryKind.PRESENT, pages[0])
            else:
                yield Leaf(address, count * page, EntryKind.SCATTERED, 0, pages)


def _physical(mode: PagingMode, entry: int, encryption_mask: int) -> int:
    """The physical address in a leaf entry that may lack the present bit."""
    inverted = mode.bits.inverted
    if inverted and not entry & mode.bits.present and entry & inverted == inverted:
        entry ^= mode.pfn_mask
    return entry & mode.pfn_mask & ~encryption_mask
