# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the descriptor of a page frame in a kdump file's table: its index is the number of stored frames before it."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from kgcore.sources.vmcore.dumpfile.bits import count_ones
from kgcore.sources.vmcore.dumpfile.source import Gap

__all__ = ("Ranks", "restored")

_STEP = 1 << 10  # page frames between two known ranks: 128 bytes of bitmap


class Ranks:
    """The ranks of the bits of a bitmap: how many set bits lie before each.

    If part of the bitmap is unreadable, the ranks behind it are known only if ``total`` is.

    :param bits: the bitmap, with 0 for unreadable bytes.
    :param first: the bit with rank 0.
    :param end: the bit behind the last one.
    :param gaps: unreadable bytes of the bitmap, ascending.
    :param total: how many bits are set in [first, end); None: unknown.
    :ivar lost: bits that may be set or not, or have no known rank.
    :ivar total: how many bits are set, as far as known.
    """

    def __init__(
        self, bits: memoryview, first: int, end: int, gaps: Sequence[Gap] = (), total: int | None = None
    ) -> None:
        self._bits = bits
        self._ranks = array("Q", [0])  # bits that are set before bit index * _STEP
        self._ones_before = count_ones(bits, 0, first)
        self.total = known = count_ones(bits, first, end)
        self._lacking = 0
        self.lost = range(0)
        unknown = _bits_of(gaps, first, end)
        if not unknown or total == known:  # no unreadable bit is set
            return
        if total is not None and total > known:
            self.total, self._lacking = total, total - known
            self.lost = range(unknown[0].start, unknown[-1].stop)
        else:
            self.lost = range(unknown[0].start, end)

    def rank(self, bit: int) -> int:
        """Return how many bits are set before a bit that is not lost."""
        bits, ranks = self._bits, self._ranks
        step = bit // _STEP
        self._know(step)
        before = int.from_bytes(bits[step * _STEP // 8 : bit >> 3], "little").bit_count()
        rest = (bits[bit >> 3] & (1 << (bit & 7)) - 1).bit_count()
        lacking = self._lacking if self.lost and bit >= self.lost.stop else 0
        return ranks[step] + before + rest - self._ones_before + lacking

    def bit(self, rank: int) -> int:
        """Return the set bit with a rank. No bit may be lost.

        :param rank: below :attr:`total`.
        """
        self._know(len(self._bits) * 8 // _STEP)
        rank += self._ones_before
        step = bisect_right(self._ranks, rank) - 1
        word = int.from_bytes(self._bits[step * _STEP // 8 : (step + 1) * _STEP // 8], "little")
        wanted = rank - self._ranks[step] + 1
        return step * _STEP + bisect_left(range(_STEP), wanted, key=lambda at: (word & (2 << at) - 1).bit_count())

    def _know(self, step: int) -> None:
        """Count the set bits up to a step, if not done yet."""
        bits, ranks = self._bits, self._ranks
        while len(ranks) <= step:
            begin = (len(ranks) - 1) * _STEP // 8
            ranks.append(ranks[-1] + int.from_bytes(bits[begin : begin + _STEP // 8], "little").bit_count())


def restored(
    bits: memoryview, gaps: Sequence[Gap], most: memoryview, first: int, end: int, total: int | None
) -> memoryview | None:
    """Return a bitmap with its unreadable bits filled in, if only one value is possible; else None.

    :param bits: the bitmap, with 0 for unreadable bytes.
    :param most: a bitmap with all bits set that are set in this one, and perhaps others.
    :param total: how many bits are set in [first, end); None: unknown.
    """
    unknown = sum(count_ones(most, each.start, each.stop) for each in _bits_of(gaps, first, end))
    if total != count_ones(bits, first, end) + unknown:
        return None
    changed = bytearray(bits)
    for low, high in gaps:
        changed[low:high] = most[low:high]
    return memoryview(changed).toreadonly()


def _bits_of(gaps: Sequence[Gap], first: int, end: int) -> list[range]:
    """Return the bits within [first, end) that lie in the gaps, which count bytes."""
    found = (range(max(first, gap.start * 8), min(end, gap.end * 8)) for gap in gaps)
    return [each for each in found if each]
