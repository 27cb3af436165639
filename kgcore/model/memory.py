# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe the memory of a process: where each byte is, or why it is missing."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from kgcore.model.process import Vma

__all__ = ("Memory", "Piece", "Provenance", "Run", "Without", "joined", "merged", "peek")


class Provenance(Enum):
    """Where the bytes of a range come from, or why they are missing. Reports and the vendor note contain the values: do
    not change them.

    :ivar stored: it has bytes to write.
    :ivar recovered: they come from elsewhere than the process's page tables.
    :ivar missing: the process had bytes here that were not found.
    """

    stored: bool
    recovered: bool
    missing: bool

    PRESENT = "present"  # the process's page table points to it
    # Recovered: the process would have had to fault it in
    PAGE_CACHE = "page-cache"  # a page of a file, of shared memory or of the vdso
    SWAP_CACHE = "swap-cache"  # swapped out, and still or again in memory
    ZSWAP = "zswap"  # compressed by zswap
    ZRAM = "zram"  # compressed by a zram device that is swapped to
    SWAP_IMAGE = "swap-image"  # from the copy of a swap space that the user gave
    ROOT = "root"  # from a file of the user's that is proven to be the one that was mapped
    # Nothing to be written
    ZERO = "zero"  # certainly zeros, or what the kernel's own core has as a hole
    REDACTED = "redacted"  # zeros stand in the place of what the user does not want in the core (--redact)
    # Missing
    SWAPPED = "swapped"  # in a swap space that is not in memory
    FILE = "file"  # a page of a file that was not in memory
    EXCLUDED = "excluded"  # left out when the dump was made (makedumpfile), or beyond the end of a cut-off dump
    UNREADABLE = "unreadable"  # the dump promises it and yet it cannot be read; or its page table is damaged
    UNSTABLE = "unstable"  # its page-table entry is empty, but the process's memory was being taken away or moved
    LIMIT = "limit"  # it was not read, since a limit was reached (--max-size, --max-time)

    def __init__(self, value: str) -> None:
        # Attributes, not properties that look into a set: they are asked for every run.
        self.missing = value in ("swapped", "file", "excluded", "unreadable", "unstable", "limit")
        self.stored = not self.missing and value not in ("zero", "redacted")
        self.recovered = self.stored and value != "present"

    __hash__ = object.__hash__  # Enum's own is written in Python


class Run(NamedTuple):
    """Adjacent pages of one provenance.

    :ivar address: user virtual address, a multiple of the page size.
    :ivar length: bytes, a multiple of the page size, > 0.
    :ivar provenance: where the bytes are, or why they are missing.
    :ivar detail: further words on a missing range (``on /dev/sda2, slots 12-19``), else "".
    """

    address: int
    length: int
    provenance: Provenance
    detail: str = ""

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.length


class Piece(NamedTuple):
    """A run together with its bytes.

    :ivar run: its addresses and provenance.
    :ivar data: ``run.length`` bytes if the provenance is ``stored``, else none.
    """

    run: Run
    data: bytes | bytearray | memoryview


class Memory(Protocol):
    """The address space of one process. Both methods cover exactly [start, end), ascending and without gaps.

    :ivar parallel: processes forked from this one may read it at the same time.
    :ivar forward: it comes as a stream: it can be read once, in the order of :attr:`kgcore.model.process.Vma.place`,
        and by address within a mapping. Until it is read, :meth:`runs` takes it for present.
    """

    page_size: int
    parallel: bool
    forward: bool = False

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """Yield the runs of a range, each as long as possible: neighbours differ.

        :param start: page-aligned address within ``vma``.
        :param end: page-aligned, at most ``vma.end``.
        """

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """Yield the bytes of a range, in pieces of bounded size (a few MiB of data; longer without data).

        Unreadable memory raises nothing: its piece says UNREADABLE, even if :meth:`runs` promised bytes.

        :param start: page-aligned address within ``vma``.
        :param end: page-aligned, at most ``vma.end``.
        """


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges of addresses (first, and first behind) by address, those that overlap or touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Join adjacent runs that are alike, as :meth:`Memory.runs` has to."""
    last: Run | None = None
    for run in runs:
        if last is not None and (last.provenance, last.detail) == (run.provenance, run.detail):
            last = last._replace(length=last.length + run.length)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def peek(memory: Memory, vma: Vma, address: int, size: int) -> bytes | None:
    """Return a few bytes of a mapping; None if any of them is missing, or if they can be read but once.

    :param address: any address; address + size is at most ``vma.end``.
    """
    if memory.forward:
        return None
    page = memory.page_size
    start = address // page * page
    end = -(-(address + size) // page) * page
    data = bytearray()
    for run, piece in memory.read(vma, start, end):
        if run.provenance.missing:
            return None
        data += piece if run.provenance.stored else bytes(run.length)
    return bytes(data[address - start :][:size])


class Without:
    """A :class:`Memory` without some ranges: missing ones, which were found while reading, or redacted ones.

    :param lost: these ranges, none of them ``stored``; ascending, whole pages, none of them touching two mappings.
    """

    def __init__(self, memory: Memory, lost: Sequence[Run]) -> None:
        self._memory = memory
        self._lost = lost
        self.page_size = memory.page_size
        self.parallel = memory.parallel
        self.forward = memory.forward

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`Memory.runs`."""
        for low, high, run in self._parts(start, end):
            if run is None:
                yield from self._memory.runs(vma, low, high)
            else:
                yield run

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`Memory.read`."""
        for low, high, run in self._parts(start, end):
            if run is None:
                yield from self._memory.read(vma, low, high)
            else:
                yield Piece(run, b"")

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int, Run | None]]:
        """The range, split into lost parts and others."""
        at = start
        for number in range(bisect_right(self._lost, start, key=lambda run: run.end), len(self._lost)):
            run = self._lost[number]
            low, high = max(run.address, at), min(run.end, end)
            if low >= high:
                break
            if at < low:
                yield at, low, None
            yield low, high, run._replace(address=low, length=high - low)
            at = high
        if at < end:
            yield at, end, None
