# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process's memory: its page tables, and the place of the bytes that they point to."""

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.arch.paging import EntryKind, Leaf, walk
from kgcore.errors import BrokenDump
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import VM_IO, VM_PFNMAP, Vma
from kgcore.sources.vmcore.damage import guarding_each
from kgcore.sources.vmcore.kernelreads import in_words
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.doubts import CHANGING, Doubts
from kgcore.sources.vmcore.memory.extents import Extent, Place, missing, zeros
from kgcore.sources.vmcore.memory.faults import Faults
from kgcore.sources.vmcore.memory.swapentry import SwapEntry, SwapKind, leads_to_page
from kgcore.text import first_names

__all__ = ("VmcoreMemory", "joined", "pieces")

_PIECE = 1 << 20  # bytes read from the dump in one call
_SLOTS_NAMED = 3  # ranges of slots named for a missing range that is scattered over swap space


def joined(extents: Iterator[Extent], page_shift: int) -> Iterator[Run]:
    """Join extents into runs that are as long as possible.

    :param page_shift: a page, and so a slot of swap space, has ``1 << page_shift`` bytes.
    """
    pending: Run | None = None
    slots: list[range] = []
    for run, _, slot in extents:
        if pending is not None and run.provenance is pending.provenance and run.detail == pending.detail:
            pending = pending._replace(length=pending.length + run.length)
        else:
            if pending is not None:
                yield _with_slots(pending, slots)
            pending, slots = run, []
        if slot is None or len(slots) > _SLOTS_NAMED:
            continue
        end = slot + (run.length >> page_shift)
        if slots and slots[-1].stop == slot:
            slots[-1] = range(slots[-1].start, end)
        else:
            slots.append(range(slot, end))
    if pending is not None:
        yield _with_slots(pending, slots)


def _with_slots(run: Run, slots: list[range]) -> Run:
    """Return a missing run that names the swap slots of its bytes, or the first few of them."""
    if not slots:
        return run
    named = [str(s.start) if len(s) == 1 else f"{s.start}-{s.stop - 1}" for s in slots]
    noun = "slot" if len(slots) == len(slots[0]) == 1 else "slots"
    return run._replace(detail=f"{run.detail}, {noun} {first_names(named, _SLOTS_NAMED, number=False)}")


class _Buffer:
    """A piece that is being filled."""

    def __init__(self, run: Run, size: int) -> None:
        self.run = run
        self.data = bytearray(size)
        self.filled = 0

    def piece(self) -> Piece:
        data = self.data if self.filled == len(self.data) else self.data[: self.filled]
        return Piece(self.run._replace(length=self.filled), data)


def pieces(extents: Iterator[Extent], size: int, page_size: int) -> Iterator[Piece]:
    """Yield the bytes of extents, in pieces of bounded size.

    :param size: of all extents together.
    :param page_size: where a read fails, each page is tried by itself.
    """
    buffer: _Buffer | None = None
    for run, place, _ in extents:
        if buffer is not None and buffer.run[2:] != run[2:]:
            yield buffer.piece()
            buffer = None
        if place is None or not run.provenance.stored:
            yield Piece(run, b"")
            size -= run.length
            continue
        done = 0
        while done < run.length:
            if buffer is None:
                buffer = _Buffer(run._replace(address=run.address + done), min(size, _PIECE))
            part = min(run.length - done, len(buffer.data) - buffer.filled)
            try:
                place.reader.fill(place.at + done, memoryview(buffer.data)[buffer.filled : buffer.filled + part])
            except (FaultError, BrokenDump):
                if buffer.filled:
                    yield buffer.piece()
                buffer = None
                for at in range(done, done + part, page_size):
                    page = run._replace(address=run.address + at, length=page_size)
                    yield _page(page, Place(place.reader, place.at + at))
            else:
                buffer.filled += part
                if buffer.filled == len(buffer.data):
                    yield buffer.piece()
                    buffer = None
            done += part
            size -= part
    if buffer is not None:
        yield buffer.piece()


def _page(run: Run, place: Place) -> Piece:
    """Return one page of a range that cannot be read as a whole."""
    try:
        return Piece(run, place.reader.read(place.at, run.length))
    except (FaultError, BrokenDump) as error:
        return Piece(run._replace(provenance=Provenance.UNREADABLE, detail=in_words(error)), b"")


class _Swapped(NamedTuple):
    """Adjacent pages whose page-table entries name adjacent slots of a swap space; ``length`` 0: none."""

    number: int
    first: int
    address: int
    length: int

    def following(self, length: int, page_shift: int) -> "_Swapped":
        """Return the slots that directly follow these."""
        pages = self.length >> page_shift
        return _Swapped(self.number, self.first + pages, self.address + self.length, length)


class VmcoreMemory:
    """:class:`kgcore.model.memory.Memory` of one ``struct mm_struct``."""

    def __init__(self, backing: Backing, mm: Object, task: Object | None = None) -> None:
        """Set up the memory of a process.

        :param mm: ``struct mm_struct *``
        :param task: ``struct task_struct *`` of one of its threads, for what depends on its namespaces; None: unknown.
        :raises BrokenDump: its page tables are not found.
        """
        self._backing = backing
        self._kernel = kernel = backing.kernel
        self._page_shift, self.page_size = kernel.page_shift, kernel.page_size
        self.forward = False
        self.parallel = not kernel.target.live  # drgn talks to a guest over one connection
        self._mode = kernel.machine.paging_mode
        self._root = kernel.machine.root_table(mm)
        self._swap_types = backing.swap_types
        self._faults = Faults(backing, mm, task)
        self._doubts = Doubts(kernel, mm)

    @guarding_each("cannot locate the memory")
    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`kgcore.model.memory.Memory.runs`."""
        return joined(self.extents(vma, start, end), self._page_shift)

    @guarding_each("cannot locate the memory")
    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`kgcore.model.memory.Memory.read`."""
        return pieces(self.extents(vma, start, end), end - start, self.page_size)

    def resident(self, start: int, end: int) -> int:
        """Return how many bytes page tables point to, in the dump or not, plus those whose tables are missing."""
        read = self._backing.physical.stored
        leaves = walk(self._mode, self._root, start, end, read, self._kernel.machine.encryption_mask)
        kinds = EntryKind.PRESENT, EntryKind.SCATTERED, EntryKind.BROKEN
        return sum(leaf.length for leaf in leaves if leaf.kind in kinds)

    # From page-table entries to extents

    @guarding_each("cannot locate the memory")
    def extents(self, vma: Vma, start: int, end: int) -> Iterator[Extent]:
        """Cover [start, end) with extents, ascending."""
        found = self._extents(vma, start, end)
        if self._backing.root is None or vma.file is None:
            return found
        file = self._faults.file(vma)
        if file is None:
            return found
        return self._backing.root.fill(vma.file, file, (vma.pgoff << self._page_shift) - vma.start, found)

    def _extents(self, vma: Vma, start: int, end: int) -> Iterator[Extent]:
        if vma.flags & (VM_IO | VM_PFNMAP) or self._faults.secret(vma):
            # check_vma_flags(), mm/gup.c: a core never has this memory
            yield zeros(start, end - start)
            return
        read = self._backing.physical.stored
        shift = self._page_shift
        swapped = _Swapped(0, 0, start, 0)
        changing = self._doubts.changing if self._doubts.concern(vma) else None
        for leaf in walk(self._mode, self._root, start, end, read, self._kernel.machine.encryption_mask, changing):
            entry = self._swap_types.decode(leaf.value) if leaf.kind is EntryKind.SWAP else None
            if entry is not None and entry.kind is SwapKind.SWAP:
                this = _Swapped(entry.type, entry.value + (leaf.inside >> shift), leaf.address, leaf.length)
                if swapped.length and this == swapped.following(leaf.length, shift):
                    swapped = swapped._replace(length=swapped.length + leaf.length)
                    continue
                yield from self._backing.swap.extents(*swapped)
                swapped = this
                continue
            if swapped.length:
                yield from self._backing.swap.extents(*swapped)
                swapped = swapped._replace(length=0)
            yield from self._leaf(vma, leaf) if entry is None else self._special(vma, leaf, entry)
        yield from self._backing.swap.extents(*swapped)

    def _leaf(self, vma: Vma, leaf: Leaf) -> Iterator[Extent]:
        if leaf.kind is EntryKind.PRESENT:
            yield from self._backing.physical.extents(leaf.address, leaf.length, leaf.value)
        elif leaf.kind is EntryKind.SCATTERED:
            places = self._backing.root is not None and vma.file is not None
            yield from self._backing.physical.scattered(leaf.address, leaf.pages, places=places)
        elif leaf.kind is EntryKind.EMPTY:
            for low, high, why in self._doubts.split(vma, leaf.address, leaf.length):
                if why:
                    yield missing(low, high - low, Provenance.UNSTABLE, why)
                else:
                    yield from self._faults.bring(vma, low, high - low)
        elif leaf.kind is EntryKind.CHANGING:
            yield missing(leaf.address, leaf.length, Provenance.UNSTABLE, CHANGING)
        else:
            detail = f"page table at {leaf.value:#x} is unreadable"
            yield missing(leaf.address, leaf.length, Provenance.UNREADABLE, detail)

    def _special(self, vma: Vma, leaf: Leaf, entry: SwapEntry) -> Iterator[Extent]:
        """Yield the memory of an entry that looks like a swap entry and means something else."""
        if entry.kind in (SwapKind.MIGRATION, SwapKind.EXCLUSIVE):
            if not leads_to_page(self._kernel, entry):
                why = f"a {entry.kind.value} entry leads to no such page"
                yield missing(leaf.address, leaf.length, Provenance.UNREADABLE, why)
                return
            physical = (entry.value << self._page_shift) + leaf.inside
            yield from self._backing.physical.extents(leaf.address, leaf.length, physical)
        elif entry.kind is SwapKind.NONE:
            yield from self._faults.bring(vma, leaf.address, leaf.length)
        elif entry.kind is SwapKind.GUARD:
            yield zeros(leaf.address, leaf.length)
        else:
            yield missing(leaf.address, leaf.length, Provenance.UNREADABLE, entry.kind.value)
