# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the victims write into their memory (tests/vmcore_fixtures/make/victims/victim.h and paging.h)."""

import struct
from collections.abc import Callable, Sequence
from typing import Any

PAGE = 4096
WORD = (1 << 64) - 1


def splitmix64(value: int) -> int:
    value = value + 0x9E3779B97F4A7C15 & WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31


def pattern(seed: int, offset: int, length: int, grain: int = 8, mix: Sequence[str] = ()) -> bytes:
    """The bytes at an offset of a mapping: each ``grain`` bytes repeat a word of their own.

    With a ``mix`` page i of the mapping is filled by the rule ``mix[i % len(mix)]`` instead.
    """
    at = range(offset, offset + length, 8)
    if mix:
        words = (RULES[name](seed, o, n) for o in at for name, n in (_rule(mix[o // PAGE % len(mix)]),))
    else:
        words = (splitmix64(seed ^ (o & -grain)) for o in at)
    return struct.pack(f"<{length // 8}Q", *words)


def contents(mapping: dict[str, Any], offset: int, length: int, grain: int = 8) -> bytes:
    """The bytes at an offset of a mapping of a victim's JSON, which lie within its ranges."""
    return pattern(mapping["seed"], offset, length, mapping.get("grain", grain), mapping.get("mix", ()))


STOCK_SIZE = 16384
"""The size of the dictionary that some zram devices have."""


def stock_word(offset: int) -> int:
    return splitmix64(0x73746F636B ^ offset)


def stock() -> bytes:
    """The dictionary that some zram devices have."""
    return struct.pack(f"<{STOCK_SIZE // 8}Q", *map(stock_word, range(0, STOCK_SIZE, 8)))


RULES: dict[str, Callable[[int, int, int], int]] = {
    "words": lambda seed, o, n: splitmix64(seed ^ o),
    "zero": lambda seed, o, n: 0,
    "byte": lambda seed, o, n: n * 0x0101010101010101,
    "grain": lambda seed, o, n: splitmix64(seed ^ (o & -n)),
    "head": lambda seed, o, n: splitmix64(seed ^ o) if o % PAGE < n else 0,
    "tail": lambda seed, o, n: splitmix64(seed ^ o) if o % PAGE >= PAGE - n else 0,
    "runs": lambda seed, o, n: 0 if splitmix64(~seed & WORD ^ (o & -n)) & 3 else splitmix64(seed ^ o),
    "nibbles": lambda seed, o, n: (splitmix64(seed ^ o) & 0x0F0F0F0F0F0F0F0F) + 0x6161616161616161,
    "dict": lambda seed, o, n: splitmix64(seed ^ splitmix64(seed ^ o) % n),
    "stock": lambda seed, o, n: stock_word(splitmix64(~seed & WORD ^ (o & -n)) % (STOCK_SIZE // n) * n + o % n),
    "count": lambda seed, o, n: seed + o & WORD,
}
"""The 8-byte little-endian word at offset o of a mapping, by rule; n is the number behind the rule's colon."""


def _rule(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    return name, int(number or 0)
