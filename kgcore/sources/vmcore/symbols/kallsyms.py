# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find a kernel's own symbol table (kallsyms) in its memory.

Since Linux 6.0 VMCOREINFO has its addresses, and drgn reads it. For older kernels, kgcore finds the table by its format
(scripts/kallsyms.c, kernel/kallsyms.c): arrays in .rodata, each aligned to 8 bytes, one behind the other::

    int  kallsyms_offsets[num]             of each symbol, relative to the base
    ulong kallsyms_relative_base
    u32  kallsyms_num_syms
    u8   kallsyms_names[]                  for each symbol: the number of tokens, then the tokens
    u32  kallsyms_markers[(num + 255)/256] offset in names of every 256th symbol
    char kallsyms_token_table[]            256 strings; the tokens "0" to "9" are the digits
    u16  kallsyms_token_index[256]         offset in token_table of each string

These differ, and no release decides which there are:

- ``kallsyms_num_syms`` and ``kallsyms_markers`` are words before 80ffbaa5b1bd "kallsyms: reduce size a little on
  64-bit" (5.0), and in all of RHEL 8.
- The last two arrays before the number are ``ulong kallsyms_addresses[num]`` alone before 2213e9a66bb8 "kallsyms: add
  support for relative offsets in kallsyms address table" (4.6), and later without CONFIG_KALLSYMS_BASE_RELATIVE.
- ``u8 kallsyms_seqs_of_names[num][3]`` stands before the token table in 60443c88f3a8 "kallsyms: Improve the performance
  of kallsyms_lookup_name()" (6.2; also in 6.1 of Debian).
- The addresses stand behind the token index since 404bad70fcf7 "scripts/kallsyms: change the output order" (6.4).
- Offsets are relative to their own place since a081b5789255 "kallsyms: Get rid of kallsyms relative base" (7.0), which
  left nothing that needs more than 4 bytes of alignment. 32-bit kernels always align to 4.

Proof of a table: the names are exactly as long as the markers say, and one of the addresses is that of ``_stext``.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from kgcore.arch import SMALLEST_PAGE
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("amended", "locate")

Read = Callable[[int, int], bytes]
"""Kernel virtual memory by address and size; what comes before the first byte that cannot be read."""

_NEEDED = ("kallsyms_names", "kallsyms_num_syms", "kallsyms_token_table", "kallsyms_token_index")
_ADDRESSES = ("kallsyms_offsets", "kallsyms_addresses")  # one of them
_DIGITS = re.compile(b"".join(b"%d\0" % digit for digit in range(10)))
_TOKENS = 256
_GROUP = 256  # symbols for each marker
_MAX_TOKEN = 128  # bytes, KSYM_NAME_LEN
_MAX_TOKEN_TABLE = 1 << 14  # bytes; real ones have about 1000
_MAX_MARKERS = 1 << 14  # 4 million symbols; Debian's kernel has 100 000 to 200 000
_LONG = (
    0x80  # a second byte follows: 73bbb94466fd "kallsyms: support "big" kernel symbols" (6.1); before, none was so long
)
_SEQUENCE = 3  # bytes of kallsyms_seqs_of_names for each symbol
_MAX_SYMBOLS = 1 << 20
_MAX_GROUP = _GROUP * 256  # bytes of names between two markers
_MAX_IMAGE = 1 << 27  # bytes from _stext to where .rodata surely ends
_PIECE = 1 << 20


class _Layout(NamedTuple):
    """How wide the parts of a table are.

    :ivar word: bytes of an ``unsigned long``.
    :ivar align: bytes that arrays are aligned to.
    :ivar marker: type code of a marker, for ``array``.
    """

    word: int
    align: int
    marker: str

    def up(self, size: int) -> int:
        """Return a size with the padding behind it."""
        return -(-size // self.align) * self.align


_LAYOUTS = {8: (_Layout(8, 4, "I"), _Layout(8, 8, "I"), _Layout(8, 8, "Q")), 4: (_Layout(4, 4, "I"),)}  # newest first


def amended(info: Mapping[str, str], read: Read, word: int = 8) -> Mapping[str, int]:
    """Return the symbols that VMCOREINFO lacks for drgn to read kallsyms.

    :param word: bytes of an ``unsigned long``.
    :returns: symbol -> address; empty if it lacks nothing.
    :raises BrokenDump: no symbol table was found.
    """
    if all(f"SYMBOL({name})" in info for name in _NEEDED) and any(f"SYMBOL({name})" in info for name in _ADDRESSES):
        return {}
    start = vmcoreinfo.symbol(info, "_stext")
    if start is None:
        raise BrokenDump("VMCOREINFO does not say where the kernel's text starts")
    return locate(read, start, word)


def locate(read: Read, start: int, word: int = 8) -> Mapping[str, int]:
    """Find the table by its format.

    :param start: address of ``_stext``; the search goes on from there.
    :param word: bytes of an ``unsigned long``.
    :returns: symbol -> address.
    :raises BrokenDump: no table was found.
    """
    for digits in _search(read, start, _DIGITS):
        tables = [(layout, table) for layout in _LAYOUTS[word] if (table := _token_table(read, digits, layout))]
        for markers in (_markers, _markers_before_sequence):  # the second takes a second of CPU
            for layout, (tokens, index) in tables:
                for end, values in markers(read, tokens, layout):
                    if (names := _names(read, end, values, layout)) is None:
                        continue
                    place, number = names
                    beside = place - layout.align, index + 2 * _TOKENS
                    if (addresses := _addresses(read, start, layout, number, beside)) is not None:
                        return {
                            "kallsyms_names": place,
                            "kallsyms_num_syms": place - layout.align,
                            "kallsyms_token_table": tokens,
                            "kallsyms_token_index": index,
                        } | addresses
    raise BrokenDump("the kernel's symbol table (kallsyms) was not found in its memory")


def _search(read: Read, start: int, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield the addresses where a pattern of a few bytes occurs, some of them twice."""
    address = start
    while address < start + _MAX_IMAGE:
        data = read(address, _PIECE)
        yield from (address + match.start() for match in pattern.finditer(data))
        if len(data) == _PIECE:
            address += _PIECE - len(pattern.pattern)
        else:  # a hole: page table isolation leaves the gap between .text and .rodata unmapped
            address = (address + len(data)) // SMALLEST_PAGE * SMALLEST_PAGE + SMALLEST_PAGE


def _read_before(read: Read, end: int, size: int) -> bytes:
    """Return the ``size`` bytes before an address; fewer if there is a hole before it."""
    data = read(end - size, size)
    if len(data) == size:
        return data
    found: list[bytes] = []
    high = end
    while high > end - size:
        low = max(end - size, (high - 1) // SMALLEST_PAGE * SMALLEST_PAGE)
        page = read(low, high - low)
        if len(page) < high - low:
            break
        found.append(page)
        high = low
    return b"".join(reversed(found))


def _token_table(read: Read, digits: int, layout: _Layout) -> tuple[int, int] | None:
    """Return the addresses of the token table and its index, given the address of the digits in the table.

    The table starts 48 strings before the digits (ASCII code 0x30); the index confirms it. None: no table there.
    """
    before = _read_before(read, digits, _MAX_TOKEN_TABLE)
    behind = read(digits, _MAX_TOKEN_TABLE)
    ends = [0, *(match.end() for match in re.finditer(b"\0", before))]
    if len(ends) <= ord("0"):
        return None
    first = ends[-ord("0")] - 1  # the NUL of the first string
    for offset in range(first, max(ends[-ord("0") - 1], first - _MAX_TOKEN) - 1, -1):
        start = digits - len(before) + offset
        if start % layout.align:
            continue
        strings = (before[offset:] + behind).split(b"\0", _TOKENS)
        if len(strings) <= _TOKENS:
            continue
        index, position = array("H"), 0
        for string in strings[:_TOKENS]:
            index.append(position)
            position += len(string) + 1
            if position > 0xFFFF:
                break
        place = layout.up(start + position)
        if len(index) == _TOKENS and read(place, 2 * _TOKENS) == index.tobytes():
            return start, place
    return None


def _names(read: Read, end: int, markers: "array[int]", layout: _Layout) -> tuple[int, int] | None:
    """Return the address of the names that end at an address, and how many they are; None: no names there."""
    align = layout.align
    # The length of every group of names but the last is known; so num_syms lies within this window.
    data = _read_before(read, end, layout.up(markers[-1]) + _MAX_GROUP)
    for at in range((len(data) - markers[-1]) // align * align, 2 * align - 1, -align):
        number = int.from_bytes(data[at - align : at], "little")
        if (number + _GROUP - 1) // _GROUP == len(markers) and _names_fit(data[at:], number, markers, align):
            return end - len(data) + at, number
    return None


def _addresses(read: Read, start: int, layout: _Layout, number: int, beside: tuple[int, int]) -> dict[str, int] | None:
    """Return where the addresses of the symbols are; None: no array there has the address of ``_stext``.

    :param beside: where the arrays end that stand before the names, and where those start that stand behind.
    """
    word, size = layout.word, layout.up(4 * number)
    before, behind = beside
    for base, offsets in ((behind + size, behind), (before - word, before - word - size)):
        if _is_offset_of(start, int.from_bytes(read(base, word), "little"), read(offsets, 4 * number)):
            return {"kallsyms_relative_base": base, "kallsyms_offsets": offsets}
    addresses = before - word * number
    values = read(addresses, word * number)
    if len(values) == word * number and start in array("Q" if word == 8 else "I", values):
        return {"kallsyms_addresses": addresses}
    own = enumerate(_offsets(read(behind, 4 * number)))
    return {"kallsyms_offsets": behind} if any(behind + 4 * at + offset == start for at, offset in own) else None


def _is_offset_of(address: int, base: int, data: bytes) -> bool:
    """Tell whether one of the offsets is an address's, with and without CONFIG_KALLSYMS_ABSOLUTE_PERCPU (4.6 to 6.14).

    With it, offsets that are not negative are addresses themselves: those of per-CPU variables.
    """
    offsets = _offsets(data)
    plain, beside_per_cpu = address - base, base - 1 - address
    # without it the offsets are unsigned, but the kernel's image has at most 1 GiB
    return (0 <= plain < 1 << 31 and plain in offsets) or (-1 << 31 <= beside_per_cpu < 0 and beside_per_cpu in offsets)


def _offsets(data: bytes) -> "array[int]":
    return array("i", data[: len(data) // 4 * 4])


def _markers(read: Read, tokens: int, layout: _Layout) -> Iterator[tuple[int, "array[int]"]]:
    """Yield what may be the markers right before the token table, and where they start.

    Going back, they shrink to 0, each by the length of a group.
    """
    size = array(layout.marker).itemsize
    data = _read_before(read, tokens, size * _MAX_MARKERS)
    values = array(layout.marker, data[len(data) % size :])
    last = len(values) - 1
    if last > 0 and values[last] == 0:
        last -= 1
    first = last
    while first > 0 and 0 < values[first] - values[first - 1] <= _MAX_GROUP:
        first -= 1
    if last > first and values[first] == 0:
        yield tokens - layout.up((last - first + 1) * size), values[first : last + 1]


def _markers_before_sequence(read: Read, tokens: int, layout: _Layout) -> Iterator[tuple[int, "array[int]"]]:
    """Yield what may be the markers before ``kallsyms_seqs_of_names``, and where they start."""
    size = array(layout.marker).itemsize
    data = _read_before(read, tokens, _SEQUENCE * _MAX_SYMBOLS)
    for behind in range(layout.align, len(data), layout.align):
        for number in range((behind - layout.align) // _SEQUENCE + 1, behind // _SEQUENCE + 1):
            count = (number + _GROUP - 1) // _GROUP
            at = len(data) - behind - layout.up(count * size)
            if at < 0 or count < 2 or data[at : at + size].count(0) != size:
                continue
            values = array(layout.marker, data[at : at + count * size])
            if all(0 < high - low <= _MAX_GROUP for low, high in pairwise(values)):
                yield tokens - len(data) + at, values


def _names_fit(names: bytes, number: int, markers: "array[int]", align: int) -> bool:
    """Tell whether that number of names is exactly as long as the markers and the end of the array say."""
    offset = 0
    try:
        for group, marker in enumerate(markers):
            if offset != marker:
                return False
            for _ in range(min(_GROUP, number - group * _GROUP)):
                length = names[offset]
                if length & _LONG:
                    length = (length & ~_LONG | names[offset + 1] << 7) + 1
                offset += 1 + length
    except IndexError:
        return False
    return 0 <= len(names) - offset < align
