# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges of addresses, (start, end), in lists that are ascending and disjoint."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

__all__ = ("Spans", "merged", "overlaps")


class Spans:
    """Ranges whose bytes can be counted.

    :ivar spans: disjoint, ascending.
    """

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.spans = spans
        self.before = [0, *accumulate(end - start for start, end in spans)]

    def within(self, start: int, end: int) -> int:
        """Return how many of their bytes are in a range."""
        return self._below(end) - self._below(start)

    def _below(self, address: int) -> int:
        index = bisect_right(self.spans, address, key=lambda span: span[0]) - 1
        if index < 0:
            return 0
        start, end = self.spans[index]
        return self.before[index] + min(address, end) - start


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, disjoint and ascending, adjacent ones joined, without empty ones."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def overlaps(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether any of them has a byte of a range."""
    index = bisect_right(spans, start, key=lambda span: span[1])
    return index < len(spans) and spans[index][0] < end
