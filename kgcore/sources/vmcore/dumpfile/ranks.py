# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where in the table of a kdump file the descriptor of a page frame stands: behind those of all frames before it."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from kgcore.sources.vmcore.dumpfile.bits import count_ones
from kgcore.sources.vmcore.dumpfile.source import Gap

__all__ = ("Ranks", "restored")

_STEP = 1 << 10  # page frames between two known ranks: 128 bytes of bitmap


class Ranks:
    """Counts the bits of a bitmap that are set before one of them.

    Where part of the bitmap cannot be read, the ranks behind it are known if the number of all is.

    :param bits: what cannot be read of them is 0.
    :param first: bit that has rank 0.
    :param end: behind the last one.
    :param gaps: bytes of the bitmap that cannot be read, ascending.
    :param total: how many bits are set in [first, end); None: it is not known.
    :ivar lost: bits of which it is not known whether they are set, or what rank they have.
    :ivar total: how many bits are set, as far as it is known.
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
        if not unknown or total == known:  # none is set where it cannot be read
            return
        if total is not None and total > known:
            self.total, self._lacking = total, total - known
            self.lost = range(unknown[0].start, unknown[-1].stop)
        else:
            self.lost = range(unknown[0].start, end)

    def rank(self, bit: int) -> int:
        """How many bits are set before one that is not lost."""
        bits, ranks = self._bits, self._ranks
        step = bit // _STEP
        self._know(step)
        before = int.from_bytes(bits[step * _STEP // 8 : bit >> 3], "little").bit_count()
        rest = (bits[bit >> 3] & (1 << (bit & 7)) - 1).bit_count()
        lacking = self._lacking if self.lost and bit >= self.lost.stop else 0
        return ranks[step] + before + rest - self._ones_before + lacking

    def bit(self, rank: int) -> int:
        """The bit that has a rank, if none is lost.

        :param rank: below :attr:`total`.
        """
        self._know(len(self._bits) * 8 // _STEP)
        rank += self._ones_before
        step = bisect_right(self._ranks, rank) - 1
        word = int.from_bytes(self._bits[step * _STEP // 8 : (step + 1) * _STEP // 8], "little")
        wanted = rank - self._ranks[step] + 1
        return step * _STEP + bisect_left(range(_STEP), wanted, key=lambda at: (word & (2 << at) - 1).bit_count())

    def _know(self, step: int) -> None:
        """Count up to a step."""
        bits, ranks = self._bits, self._ranks
        while len(ranks) <= step:
            begin = (len(ranks) - 1) * _STEP // 8
            ranks.append(ranks[-1] + int.from_bytes(bits[begin : begin + _STEP // 8], "little").bit_count())


def restored(
    bits: memoryview, gaps: Sequence[Gap], most: memoryview, first: int, end: int, total: int | None
) -> memoryview | None:
    """A bitmap with what cannot be read of it, if there is only one way that it can have been; else None.

    :param bits: what cannot be read of them is 0.
    :param most: a bitmap in which all of these bits are set, and perhaps others.
    :param total: how many bits are set in [first, end); None: it is not known.
    """
    unknown = sum(count_ones(most, each.start, each.stop) for each in _bits_of(gaps, first, end))
    if total != count_ones(bits, first, end) + unknown:
        return None
    changed = bytearray(bits)
    for low, high in gaps:
        changed[low:high] = most[low:high]
    return memoryview(changed).toreadonly()


def _bits_of(gaps: Sequence[Gap], first: int, end: int) -> list[range]:
    """The bits within [first, end) that gaps, in bytes, hold."""
    found = (range(max(first, gap.start * 8), min(end, gap.end * 8)) for gap in gaps)
    return [each for each in found if each]
