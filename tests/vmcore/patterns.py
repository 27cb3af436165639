# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the victims write into their memory (tests/vmcore_fixtures/make/victims/victim.h)."""

import struct


def splitmix64(value: int) -> int:
    mask = (1 << 64) - 1
    value = value + 0x9E3779B97F4A7C15 & mask
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31


def pattern(seed: int, offset: int, length: int, grain: int = 8) -> bytes:
    """The bytes at an offset of a mapping: each ``grain`` bytes repeat a word of their own."""
    words = (splitmix64(seed ^ (at & -grain)) for at in range(offset, offset + length, 8))
    return struct.pack(f"<{length // 8}Q", *words)
