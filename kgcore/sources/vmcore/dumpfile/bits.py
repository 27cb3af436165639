# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scan bitmaps, least significant bit first, fast: Python code runs once per run of equal bits, not once per bit."""

import re
from collections.abc import Iterator

__all__ = ("bit_runs", "count_ones", "count_others")

_CHUNK = 1 << 16
_OTHER_BYTE = {False: re.compile(rb"[^\x00]"), True: re.compile(rb"[^\xff]")}  # a byte that is not all 0, all 1


def bit_runs(bits: memoryview, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the runs of equal bits in [start, end): start, end, value. Bits behind the bitmap are 0."""
    while start < end:
        value = _bit(bits, start)
        change = min(_next_other(bits, start, end, value), end)
        yield start, change, value
        start = change


def _bit(bits: memoryview, index: int) -> bool:
    return index >> 3 < len(bits) and bool(bits[index >> 3] >> (index & 7) & 1)


def _next_other(bits: memoryview, start: int, end: int, value: bool) -> int:
    """Return the first bit from ``start`` on that differs from ``value``; ``end`` or beyond: all are equal."""
    byte, bit = start >> 3, start & 7
    if bit:
        rest = (bits[byte] if byte < len(bits) else 0) ^ (0xFF if value else 0)
        rest >>= bit
        if rest:
            return start + _lowest(rest)
        byte += 1
    # Search no further than ``end``: in a full dump the next differing byte is at the end of all memory.
    found = _OTHER_BYTE[value].search(bits, byte, end + 7 >> 3)
    if found is None:
        return max(len(bits) << 3, start + 1) if value else end
    return (found.start() << 3) + _lowest(bits[found.start()] ^ (0xFF if value else 0))


def _lowest(byte: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (byte & -byte).bit_length() - 1


def count_ones(bits: memoryview, start: int, end: int) -> int:
    """Count the bits that are set in [start, end). Bits behind the bitmap are 0."""
    end = min(end, len(bits) << 3)
    if start >= end:
        return 0
    count = 0
    for at in range(start >> 3, end + 7 >> 3, _CHUNK):
        count += int.from_bytes(bits[at : min(at + _CHUNK, end + 7 >> 3)], "little").bit_count()
    before = bits[start >> 3] & (1 << (start & 7)) - 1 if start >> 3 < len(bits) else 0
    behind = bits[end >> 3] >> (end & 7) if end & 7 and end >> 3 < len(bits) else 0
    return count - before.bit_count() - behind.bit_count()


def count_others(bits: memoryview, but: memoryview, start: int, end: int) -> int:
    """Count the bits in [start, end) that are set in ``bits`` but not in ``but``. Bits behind the bitmaps are 0."""
    end = min(end, len(bits) << 3)
    if start >= end:
        return 0
    count, last = 0, end - 1 >> 3
    for at in range(start >> 3, last + 1, _CHUNK):
        stop = min(at + _CHUNK, last + 1)
        found = int.from_bytes(bits[at:stop], "little") & ~int.from_bytes(but[at:stop], "little")
        if stop == last + 1:
            found &= (1 << end - 8 * at) - 1
        count += (found >> max(0, start - 8 * at)).bit_count()
    return count
