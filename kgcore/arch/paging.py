# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables as data: which entry stands for each page of an address range.

The walk reads whole tables from physical memory and reports runs, not pages. It says what the *entry* is; what an
empty or a swapped entry means for the process is for the caller to find out.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import NamedTuple

__all__ = (
    "I386_2LEVEL",
    "I386_PAE",
    "X86_64_4LEVEL",
    "X86_64_5LEVEL",
    "EntryKind",
    "Leaf",
    "Level",
    "PagingMode",
    "SwapLayout",
    "walk",
)


class EntryKind(Enum):
    """What a run of page-table entries is."""

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
    :ivar can_be_leaf: the entry may map a large page (bit 7, PSE).
    """

    shift: int
    can_be_leaf: bool = False


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
    """

    levels: tuple[Level, ...]
    entry: str
    entries: int
    pfn_mask: int
    swap: SwapLayout

    @property
    def page_shift(self) -> int:
        """A page has ``1 << page_shift`` bytes."""
        return self.levels[-1].shift

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift


_PRESENT = 1 << 0
_PSE = 1 << 7
# _PAGE_BIT_PROTNONE is _PAGE_BIT_GLOBAL, which has no meaning in an entry that is not present
# (arch/x86/include/asm/pgtable_types.h, all releases).
_PROTNONE = 1 << 8
_X86_64_PFN = ((1 << 52) - 1) & ~0xFFF
_X86_64_LOWER = (Level(39), Level(30, can_be_leaf=True), Level(21, can_be_leaf=True), Level(12))

# arch/x86/include/asm/pgtable_64.h, pgtable-3level.h (52 physical bits since L1TF, page_32_types.h), pgtable-2level.h;
# SWP_PFN_BITS: MAX_PHYSMEM_BITS of sparsemem.h
_X86_64_SWAP = SwapLayout(59, 9, 50, 34, inverted=True)
_5LEVEL_SWAP = SwapLayout(59, 9, 50, 40, inverted=True)
_PAE_SWAP = SwapLayout(59, 9, 50, 24, inverted=True)
_2LEVEL_SWAP = SwapLayout(1, 9, 23, 20, inverted=False)

X86_64_4LEVEL = PagingMode(_X86_64_LOWER, "Q", 512, _X86_64_PFN, _X86_64_SWAP)
X86_64_5LEVEL = PagingMode((Level(48), *_X86_64_LOWER), "Q", 512, _X86_64_PFN, _5LEVEL_SWAP)
# The top table has four entries, of which nothing but P and the address counts. The tables below are x86_64's.
I386_PAE = PagingMode((Level(30), Level(21, can_be_leaf=True), Level(12)), "Q", 512, _X86_64_PFN, _PAE_SWAP)
# Bits 13 to 20 of a 4 MiB page are address bits 32 to 39, which Linux does not use in this mode.
I386_2LEVEL = PagingMode((Level(22, can_be_leaf=True), Level(12)), "I", 1024, 0xFFFFF000, _2LEVEL_SWAP)


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
    :param changing: whether somebody was writing to a table of one of the two lowest levels, by its physical address;
        None: nobody wants to know.
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
        """What empty entries of a table are."""
        if self._changing is None or depth < len(self._mode.levels) - 2 or not self._changing(table):
            return EntryKind.EMPTY
        return EntryKind.CHANGING


def _look(
    mode: PagingMode, level: Level, entry: int, table: int, address: int, upto: int, encryption_mask: int
) -> Leaf | int:
    """What an entry of an upper table that is not empty is for a range in its reach: a run, or the table below.

    :param table: that it is in.
    """
    if level.can_be_leaf and entry & _PSE:
        # A huge page that is being split or hinted has neither P nor PROTNONE, but PSE all the same
        # (pmd_present(), arch/x86/include/asm/pgtable.h).
        # Below the page's own size an entry has flags (PAT, bit 12), and zeros that are not inverted with the rest
        # (pfn_pmd() and pmd_modify(): PHYSICAL_PMD_PAGE_MASK).
        inside = (1 << level.shift) - 1
        physical = _physical(mode, entry, encryption_mask) & ~inside
        return Leaf(address, upto - address, EntryKind.PRESENT, physical + (address & inside))
    if entry & _PRESENT:
        return entry & mode.pfn_mask & ~encryption_mask
    if level.can_be_leaf and not entry & _PROTNONE:
        return Leaf(address, upto - address, EntryKind.SWAP, entry, inside=address & (1 << level.shift) - 1)
    return Leaf(address, upto - address, EntryKind.BROKEN, table)


def _pages(
    mode: PagingMode, entries: tuple[int, ...], start: int, page: int, encryption_mask: int, empty: EntryKind
) -> Iterator[Leaf]:
    """The lowest table: nothing here is done page by page but in comprehensions, and no object made but per run."""
    mask = mode.pfn_mask & ~encryption_mask
    here = _PRESENT | _PROTNONE
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
            pages = [e & mask if e & _PRESENT else _physical(mode, e, encryption_mask) for e in run]
            contiguous = range(pages[0], pages[0] + count * page, page)
            if pages[-1] == contiguous[-1] and pages == list(contiguous):
                yield Leaf(address, count * page, EntryKind.PRESENT, pages[0])
            else:
                yield Leaf(address, count * page, EntryKind.SCATTERED, 0, pages)


def _physical(mode: PagingMode, entry: int, encryption_mask: int) -> int:
    """The physical address in a leaf entry that may lack the present bit.

    Since 6b28baca9b1f "x86/speculation/l1tf: Protect PROT_NONE PTEs against speculation" (4.18, and stable kernels)
    such an entry holds its page frame number inverted. No machine has RAM at the very top of the 52-bit space, so the
    topmost bits tell whether this kernel does so.
    """
    if not entry & _PRESENT and entry >> 47 & 0x1F == 0x1F:
        entry ^= mode.pfn_mask
    return entry & mode.pfn_mask & ~encryption_mask
