# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk the kernel's trees so that the walk ends even if they are damaged.

drgn's own helpers trust every node; in a damaged dump a node may be its own child.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import reduce
from operator import gt, or_
from typing import NamedTuple

from drgn import FaultError, Object, PlatformFlags, Program, TypeKind, offsetof, sizeof

from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("XA_INTERNAL", "XA_ZERO", "MapleSlot", "XArrays", "XaEntry", "XaNode", "is_radix", "maple_slots")

# enum maple_type, include/linux/maple_tree.h (6.1)
_MAPLE_LEAF_64 = 1
_MAPLE_RANGE_64 = 2
_MAPLE_ARANGE_64 = 3
_MAPLE_NODE_MASK = 255
_MAPLE_MAX_HEIGHT = 31  # MAPLE_HEIGHT_MAX
# include/linux/xarray.h: an internal entry ends in binary 10; below 4096 it is a sibling, retry or zero entry, not a
# pointer.
XA_INTERNAL = 2
XA_ZERO = 257 << 2 | XA_INTERNAL
_XA_SMALLEST_NODE = 4096


def _word_size(prog: Program) -> int:
    """Return the size of an unsigned long in bytes, the unit of all these trees."""
    return 8 if prog.platform is None or PlatformFlags.IS_64_BIT in prog.platform.flags else 4


class MapleSlot(NamedTuple):
    """A range of a maple tree.

    :ivar last: inclusive.
    :ivar entry: its entry, or XA_ZERO; None: unknown, since this part of the tree is damaged or not in the dump.
    """

    first: int
    last: int
    entry: int | None


def maple_slots(tree: Object) -> Iterator[MapleSlot]:
    """Yield the entries and the lost ranges of a maple tree, ascending, without empty ranges.

    :param tree: ``struct maple_tree``
    :raises FaultError: the tree's head is not in the dump.
    """
    root = tree.ma_root.value_()
    if root & 3 == XA_INTERNAL and root >= _XA_SMALLEST_NODE:
        yield from _Maple(tree.prog_).slots(root)
    elif root:
        yield MapleSlot(0, 0, root)


class _Maple:
    """Reads ``struct maple_node``."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._size = 0
        word = "Q" if _word_size(prog) == 8 else "I"
        self._end = (1 << 8 * _word_size(prog)) - 1
        self._layouts: dict[str, tuple[struct.Struct, int, struct.Struct, int, int]] = {}
        for part in ("mr64", "ma64"):
            node = Object(prog, "struct maple_node", address=0).member_(part)
            pivots, slots = node.pivot, node.slot
            self._layouts[part] = (
                struct.Struct(f"<{len(pivots)}{word}"),
                pivots.address_ or 0,
                struct.Struct(f"<{len(slots)}{word}"),
                slots.address_ or 0,
                node.meta.end.address_ or 0,
            )
            self._size = max(self._size, *((one.address_ or 0) + sizeof(one) for one in (pivots, slots, node.meta)))

    def slots(self, root: int) -> Iterator[MapleSlot]:
        """Yield all entries and lost ranges below a node."""
        seen: set[int] = set()  # each node is in the tree once
        waiting = [(root, 0, self._end, 0)]
        while waiting:
            enode, low, high, depth = waiting.pop()
            address = enode & ~_MAPLE_NODE_MASK
            ranges = None
            if address not in seen and depth < _MAPLE_MAX_HEIGHT:
                with suppress(FaultError):
                    ranges = self._ranges(enode, low, high)
            if ranges is None:
                yield MapleSlot(low, high, None)
                continue
            seen.add(address)
            if enode >> 3 & 0xF != _MAPLE_LEAF_64:
                waiting += [(entry, first, last, depth + 1) for first, last, entry in reversed(ranges)]
                continue
            for first, last, entry in ranges:
                if entry and (entry & 3 != XA_INTERNAL or entry >= _XA_SMALLEST_NODE or entry == XA_ZERO):
                    yield MapleSlot(first, last, entry)

    def _ranges(self, enode: int, low: int, high: int) -> list[tuple[int, int, int]] | None:
        """Return a node's slots as (first, last, entry); None if they do not cover exactly [low, high].

        :raises FaultError: it is not in the dump.
        """
        kind = enode >> 3 & 0xF
        if not _MAPLE_LEAF_64 <= kind <= _MAPLE_ARANGE_64:
            return None
        raw = kernel_bytes(self._prog, enode & ~_MAPLE_NODE_MASK, self._size)
        pivot, pivot_at, slot, slot_at, end_at = self._layouts["ma64" if kind == _MAPLE_ARANGE_64 else "mr64"]
        pivots, slots = pivot.unpack_from(raw, pivot_at), slot.unpack_from(raw, slot_at)
        # ma_data_end(), lib/maple_tree.c
        if kind == _MAPLE_ARANGE_64 or not pivots[-1]:
            end = raw[end_at]
        else:
            end = len(pivots) - (pivots[-1] == high)
        if end > len(pivots):
            return None
        lasts = (*pivots[:end], high)
        firsts = (low, *(last + 1 for last in pivots[:end]))
        if any(map(gt, firsts, lasts)):
            return None
        return list(zip(firsts, lasts, slots, strict=False))


def is_radix(prog: Program, holder: str, member: str) -> bool:
    """Tell whether a member of a structure is a radix tree as before 4.20, not an xarray.

    :raises LookupError: the member is unknown, or neither.
    """
    tree = prog.type(holder).member(member).type
    while tree.kind is TypeKind.TYPEDEF:
        tree = tree.type
    names = {inside.name for inside in tree.members or ()}
    if not names & {"xa_head", "rnode"}:
        raise LookupError(f"{holder}::{member} is no tree that kgcore knows")
    return "xa_head" not in names


class XaNode(NamedTuple):
    """A ``struct xa_node``: each slot covers ``1 << shift`` indices.

    :ivar marks: three bit masks, one per mark, with a bit for each slot.
    """

    address: int
    shift: int
    slots: tuple[int, ...]
    marks: tuple[int, ...] = ()


class XaEntry(NamedTuple):
    """An entry of an xarray.

    :ivar first: its first index.
    :ivar length: number of indices that it covers, from ``first`` on.
    :ivar entry: None: unknown, since this part of the tree is damaged or not in the dump.
    :ivar canonical: the first index of a large entry, which may be before ``first``.
    """

    first: int
    length: int
    entry: int | None
    canonical: int


# include/linux/radix-tree.h before 4.20: an internal entry ends in binary 01 and leads to a node, to a slot of the same
# node (a sibling), or nowhere (a retry); an exceptional entry ends in 10, with its value above.
_RADIX_INTERNAL = 1
_RADIX_EXCEPTIONAL = 2


class XArrays:
    """Reads xarrays, radix trees and IDRs, which all consist of ``struct xa_node``.

    Before f8d5d0cc145c "xarray: Add definition of struct xarray" (4.20) and its series they consist of ``struct
    radix_tree_node``, and other bits mark entries. The methods take and return entries as an xarray has them.
    """

    def __init__(self, prog: Program, *, radix: bool = False) -> None:
        """Set up the trees of a program.

        :param radix: they are as before 4.20.
        :raises LookupError: the type of their nodes is unknown.
        """
        self._prog = prog
        self.radix = radix
        node = prog.type("struct radix_tree_node" if radix else "struct xa_node")
        members = {member.name: member for member in node.members or ()}
        self._offsets = {name: members[name].offset for name in ("shift", "offset", "parent", "slots")}
        self._slots = members["slots"].type.length or 64
        self._size = node.size or 0
        self._chunk_shift = self._slots.bit_length() - 1  # XA_CHUNK_SHIFT
        size = _word_size(prog)
        self._word_bits = 8 * size
        self._words = struct.Struct(f"<{self._slots}{'Q' if size == 8 else 'I'}")
        self._word = struct.Struct("<Q" if size == 8 else "<I")
        # unsigned long marks[XA_MAX_MARKS][XA_MARK_LONGS], in an unnamed union
        self._marks = struct.Struct("<3Q" if max(8 * size, self._slots) > 32 else "<3I")
        self._marks_at: int | None = None
        with suppress(LookupError):  # not every caller needs them
            self._marks_at = int(offsetof(node, "tags" if radix else "marks"))

    @staticmethod
    def of(prog: Program, holder: str, member: str) -> "XArrays":
        """Return a reader of the trees that a member of a structure is, as the member's own type says.

        :raises LookupError: the member, or the type of its nodes, is unknown.
        """
        return XArrays(prog, radix=is_radix(prog, holder, member))

    def head(self, tree: Object) -> int:
        """Return the head of a tree.

        :param tree: ``struct xarray``, or ``struct radix_tree_root``
        :raises FaultError: it is not in the dump.
        """
        return self._plain(int(tree.rnode.value_())) if self.radix else int(tree.xa_head.value_())

    def _plain(self, entry: int, slots_at: int = 0) -> int:
        """Return an entry as an xarray would have it.

        :param slots_at: address of the slots of the node that has the entry.
        """
        if not self.radix or not entry & 3:
            return entry
        if entry & 3 == _RADIX_EXCEPTIONAL:
            return entry >> 2 << 1 | 1
        to = entry & ~_RADIX_INTERNAL
        if slots_at and slots_at <= to < slots_at + self._slots * self._word.size:
            return (to - slots_at) // self._word.size << 2 | XA_INTERNAL
        return to | XA_INTERNAL

    def below(self, entry: int, parent: XaNode | None = None, slot: int = 0) -> XaNode | None:
        """Return the node that an entry points to; None if it is not in the dump, or not the child of this slot.

        :param parent: the node that has the entry; None: the entry is the head.
        """
        address = entry - XA_INTERNAL
        try:
            raw = kernel_bytes(self._prog, address, self._size)
        except FaultError:
            return None
        shift, offset = raw[self._offsets["shift"]], raw[self._offsets["offset"]]
        (above,) = self._word.unpack_from(raw, self._offsets["parent"])
        # xas_create() and radix_tree_extend(): a node fits in one place only, so no walk is endless.
        if parent is None:
            fits = shift % self._chunk_shift == 0 and shift < self._word_bits
        else:
            fits = (shift, offset, above) == (parent.shift - self._chunk_shift, slot, parent.address)
        at = self._offsets["slots"]
        slots = self._words.unpack_from(raw, at)
        if self.radix:
            slots = tuple(self._plain(slot, address + at) for slot in slots)
        marks = () if self._marks_at is None else self._marks.unpack_from(raw, self._marks_at)
        return XaNode(address, shift, slots, marks) if fits else None

    @staticmethod
    def is_node(entry: int) -> bool:
        """Tell whether an entry points to a node."""
        return entry & 3 == XA_INTERNAL and entry >= _XA_SMALLEST_NODE

    def load(self, head: int, index: int) -> int:
        """Return the entry at an index; 0: empty. Works only for arrays without large entries.

        :raises FaultError: the node with the entry is damaged or not in the dump.
        """
        if not self.is_node(head):
            return head if index == 0 else 0
        node, slot, entry = None, 0, head
        while self.is_node(entry):
            node = self.below(entry, node, slot)
            if node is None:
                raise FaultError("a tree's node is damaged or not in the dump", entry - XA_INTERNAL)
            slot = index >> node.shift
            if not 0 <= slot < len(node.slots):
                return 0
            entry = node.slots[slot]
            index &= (1 << node.shift) - 1
        return entry

    def range(self, head: int, first: int, last: int) -> Iterator[XaEntry]:
        """Yield the entries of an xarray at indices first to last (inclusive), ascending, without empty slots.

        :param head: ``xa_head``.
        """
        if not self.is_node(head):
            if head and first == 0 and head & 3 != XA_INTERNAL:
                yield XaEntry(0, 1, head, 0)
            return
        for found in self._range(self.below(head), 0, first, last, self._word_bits):
            low, high = max(found.first, first), min(found.first + found.length, last + 1)
            if low < high:
                yield found._replace(first=low, length=high - low)

    def _range(self, node: XaNode | None, base: int, first: int, last: int, reach: int) -> Iterator[XaEntry]:
        """Yield the entries of a node and of all nodes below it; they may extend beyond first and last.

        :param base: the node's first index.
        :param reach: the node covers ``1 << reach`` indices from ``base`` on.
        """
        if node is None:
            yield XaEntry(base, 1 << reach, None, base)
            return
        shift, slots = node.shift, node.slots
        low = max(0, first - base >> shift)
        high = min(len(slots) - 1, last - base >> shift)
        for slot in range(low, high + 1):
            entry = slots[slot]
            canonical = slot
            if entry & 3 == XA_INTERNAL and entry < len(slots) << 2:  # sibling: the rest of a large entry
                canonical = entry >> 2
                entry = slots[canonical]
            start = base + (slot << shift)
            if self.is_node(entry):
                yield from self._range(self.below(entry, node, slot), start, first, last, shift)
            elif entry and entry & 3 != XA_INTERNAL:
                yield XaEntry(start, 1 << shift, entry, base + (canonical << shift))

    def marked(self, head: int, marks: Sequence[int]) -> Iterator[XaEntry]:
        """Yield the entries that have any of these marks, ascending.

        A single entry in the head is never among them: no node has its marks.

        :param marks: numbers, 0 to 2.
        """
        if self.is_node(head):
            yield from self._marked(self.below(head), 0, marks, self._word_bits)

    def _marked(self, node: XaNode | None, base: int, marks: Sequence[int], reach: int) -> Iterator[XaEntry]:
        if node is None:
            yield XaEntry(base, 1 << reach, None, base)
            return
        bits = reduce(or_, (node.marks[mark] for mark in marks if mark < len(node.marks)), 0)
        slot = 0
        while bits >> slot:
            start, entry = base + (slot << node.shift), node.slots[slot] if slot < len(node.slots) else 0
            slots = 1
            if not bits >> slot & 1:
                pass
            elif self.is_node(entry):
                yield from self._marked(self.below(entry, node, slot), start, marks, node.shift)
            elif entry:  # its siblings, which it covers, have no marks
                while slot + slots < len(node.slots) and node.slots[slot + slots] == (slot << 2 | XA_INTERNAL):
                    slots += 1
                yield XaEntry(start, slots << node.shift, entry, start)
            slot += slots

    def entries(self, head: int) -> Iterator[int | None]:
        """Yield all entries, ascending; None for each part that is damaged or not in the dump."""
        if not self.is_node(head):
            if head:
                yield head
            return
        yield from self._entries(self.below(head))

    def _entries(self, node: XaNode | None) -> Iterator[int | None]:
        if node is None:
            yield None
            return
        for slot, entry in enumerate(node.slots):
            if self.is_node(entry):
                yield from self._entries(self.below(entry, node, slot))
            elif entry and entry & 3 != XA_INTERNAL:
                yield entry
