# SPDX-License-Identifier: LGPL-2.1-or-later
"""Let terabytes of untouched memory share one range of zeros in the file.

A sparse file takes no space for zeros, but file systems limit its length: ext4 to 16 TiB, and a program built with a
sanitizer reserves 20. A segment that has fewer bytes in the file than in memory would save that length, but what
readers make of its rest differs: gdb shows zeros, lldb and drgn refuse. So the segments are complete and share one
range of the file, which all readers show as zeros.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

from kgcore.model.memory import Memory, Provenance
from kgcore.model.process import Vma

__all__ = ("LARGEST", "Shared", "zeros_to_share")

LARGEST = (1 << 44) - (1 << 32)
"""Bytes of memory in a file: ext4 ends at 16 TiB; what is left is for notes and headers."""
_WORTH = 1 << 20  # bytes; what is shorter is no better for it
_PIECES = 1 << 13  # about so many segments come of all: readers go through all of them for each address
_MOST = 1 << 18  # ranges, the largest


class Shared(NamedTuple):
    """A part of a mapping that is zeros, at most as long as the range in the file."""

    vma: int
    start: int
    end: int


def zeros_to_share(vmas: Sequence[Vma], kept: Iterable[tuple[int, int]], memory: Memory) -> list[Shared]:
    """Return ranges of certain zeros, cut to a length that keeps their number small, by address.

    :param kept: for each mapping how many bytes are kept, and how many of these are certainly zeros.
    """
    found = nlargest(_MOST, _ranges(vmas, kept, memory), key=lambda shared: shared.end - shared.start)
    total = sum(shared.end - shared.start for shared in found)
    length = max(_WORTH, 1 << (total // _PIECES).bit_length())
    pieces = (Shared(vma, at, min(at + length, end)) for vma, start, end in found for at in range(start, end, length))
    return sorted(pieces, key=itemgetter(1))


def _ranges(vmas: Sequence[Vma], kept: Iterable[tuple[int, int]], memory: Memory) -> Iterator[Shared]:
    for number, (vma, (size, zeros)) in enumerate(zip(vmas, kept, strict=True)):
        if zeros < _WORTH:
            continue
        for run in memory.runs(vma, vma.start, vma.start + size):
            if run.provenance is Provenance.ZERO and run.length >= _WORTH:
                yield Shared(number, run.address, run.end)
