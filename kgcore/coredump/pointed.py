# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what stacks point to, and what that points to: the arguments that debuggers show, and what interpreters keep of
their own frames."""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from kgcore.arch import ARCHES
from kgcore.model.memory import Memory, peek
from kgcore.model.process import VM_READ, ProcessImage, Vma

__all__ = ("pointed_at",)

_MOST = 4 << 20  # bytes found
_WORDS = 1 << 20  # looked at
_OF_ALL_STACKS = 2 << 20  # bytes, of which each has its share,
_OF_A_STACK = 64 << 10  # at most, and
_LEAST = 4 << 10  # at least
_OBJECT = 256  # bytes of what is pointed to that may point further
_STEPS = 8  # from a stack


def pointed_at(image: ProcessImage, memory: Memory, stacks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the pages that lead on from stacks, the nearest first, up to a few MiB.

    :param stacks: the addresses of each, from its stack pointer on.
    """
    return _Search(image, memory).pages(stacks)


class _Search:
    def __init__(self, image: ProcessImage, memory: Memory) -> None:
        self._image = image
        self._memory = memory
        self._starts = [vma.start for vma in image.vmas]
        self._word = ARCHES[image.arch].word_size
        self._read: dict[int, bytes] = {}  # by the address of a page
        self._left = _WORDS

    def pages(self, stacks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        page = self._image.page_size
        share = max(_LEAST, min(_OF_A_STACK, _OF_ALL_STACKS // max(len(stacks), 1)))
        found: dict[int, None] = {}
        frontier: dict[int, None] = {}
        for low, high in stacks:
            frontier |= dict.fromkeys(self._pointers(low, min(high, low + share)))
        seen: set[int] = set()
        for step in range(_STEPS):
            following: dict[int, None] = {}
            for address in frontier:
                for at in range(address & -page, address + _OBJECT, page):
                    if at not in found and self._page(at):
                        if (len(found) + 1) * page > _MOST:
                            return
                        found[at] = None
                        yield at, at + page
                # What a stack points to is looked at with its neighbours: frames of interpreters lie side by side.
                whole = step == 0
                at = address & -page if whole else address
                if at not in seen:
                    seen.add(at)
                    end = at + page if whole else address + _OBJECT
                    following |= dict.fromkeys(self._pointers(at, end))
            frontier = {address: None for address in following if address not in seen}

    def _pointers(self, start: int, end: int) -> Iterable[int]:
        """The words of a range that are addresses of memory that may be in a core."""
        page, word = self._image.page_size, self._word
        start = -(-start // word) * word
        count = min((end - start) // word, self._left)
        if count <= 0:
            return
        self._left -= count
        end = start + count * word
        for at in range(start & -page, end, page):
            data = self._page(at)[max(start - at, 0) : end - at]
            words = struct.unpack(f"<{len(data) // word}{'Q' if word == 8 else 'I'}", data[: len(data) // word * word])
            for value in words:
                if value and self._vma(value) is not None:
                    yield value

    def _vma(self, address: int) -> Vma | None:
        """The mapping of an address, if it may have pages that only the process has."""
        number = bisect_right(self._starts, address) - 1
        vma = self._image.vmas[number] if number >= 0 else None
        if vma is None or address >= vma.end or vma.name or not vma.flags & VM_READ:
            return None
        return vma if vma.file is None or vma.anon else None

    def _page(self, at: int) -> bytes:
        """The content of a page; b"" if it is missing."""
        if at not in self._read:
            vma = self._vma(at)
            data = None if vma is None else peek(self._memory, vma, at, self._image.page_size)
            self._read[at] = data or b""
        return self._read[at]
