# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process's memory, and for every byte of it where it is or why it is not to be had."""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, Protocol

from kgcore.model import Vma

__all__ = ("Memory", "Piece", "Provenance", "Run", "peek")


class Provenance(Enum):
    """What is known of a range of memory. The values stand in reports and in the vendor note: do not change them."""

    PRESENT = "present"  # the bytes are in the dump
    ZERO = "zero"  # certainly zeros, or what the kernel's own core has as a hole
    SWAPPED = "swapped"  # in swap space
    FILE = "file"  # a page of a file or of shared memory that no page table points to
    EXCLUDED = "excluded"  # left out when the dump was made (makedumpfile), or beyond the end of a cut-off dump
    UNREADABLE = "unreadable"  # the dump promises it and yet it cannot be read; or its page table is damaged

    @property
    def missing(self) -> bool:
        """Whether the process had bytes here that cannot be given."""
        return self not in (Provenance.PRESENT, Provenance.ZERO)


class Run(NamedTuple):
    """Adjacent pages of one provenance.

    :ivar address: user virtual address, a multiple of the page size.
    :ivar length: bytes, a multiple of the page size, > 0.
    :ivar detail: a few words more on a missing range (``swap 0``), else "".
    """

    address: int
    length: int
    provenance: Provenance
    detail: str = ""

    @property
    def end(self) -> int:
        return self.address + self.length


class Piece(NamedTuple):
    """A run together with its bytes; ``data`` is empty unless the provenance is PRESENT, then ``run.length`` long."""

    run: Run
    data: bytes | memoryview


class Memory(Protocol):
    """The address space of one process. Both methods cover exactly [start, end), ascending and without gaps."""

    page_size: int

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """The provenance of a range, in runs as long as can be: neighbours differ.

        :param start: page-aligned address within ``vma``.
        :param end: page-aligned, at most ``vma.end``.
        """

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """The bytes of a range, in pieces of bounded size (a few MiB of data; longer where there is none).

        Never raises for memory that cannot be read: such a piece says UNREADABLE, even where :meth:`runs` had
        said PRESENT.
        """


def peek(memory: Memory, vma: Vma, address: int, size: int) -> bytes | None:
    """A few bytes of a mapping; None if any of them is missing.

    :param address: any address; address + size is at most ``vma.end``.
    """
    page = memory.page_size
    start = address // page * page
    end = -(-(address + size) // page) * page
    data = bytearray()
    for run, piece in memory.read(vma, start, end):
        if run.provenance.missing:
            return None
        data += piece if run.provenance is Provenance.PRESENT else bytes(run.length)
    return bytes(data[address - start :][:size])
