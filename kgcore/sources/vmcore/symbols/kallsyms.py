# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find a kernel's own symbol table (kallsyms) in its memory.

Since Linux 6.0 VMCOREINFO has its addresses, and drgn reads it. For older kernels, kgcore finds the table by its format
(scripts/kallsyms.c, kernel/kallsyms.c; the layout of 4.6 to 6.3 with CONFIG_KALLSYMS_BASE_RELATIVE, which every x86-64
distribution has): arrays in .rodata, each aligned to 8 bytes, one behind the other::

    int  kallsyms_offsets[num]             of each symbol, relative to the base
    u64  kallsyms_relative_base
    u32  kallsyms_num_syms
    u8   kallsyms_names[]                  for each symbol: the number of tokens, then the tokens
    u32  kallsyms_markers[(num + 255)/256] offset in names of every 256th symbol
    char kallsyms_token_table[]            256 strings; the tokens "0" to "9" are the digits
    u16  kallsyms_token_index[256]         offset in token_table of each string
"""

import re
from array import array
from collections.abc import Callable, Iterator, Mapping

from kgcore.arch import SMALLEST_PAGE
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("amended", "locate")

Read = Callable[[int, int], bytes]
"""Kernel virtual memory by address and size; what comes before the first byte that cannot be read."""

_NEEDED = ("kallsyms_names", "kallsyms_num_syms", "kallsyms_token_table", "kallsyms_token_index", "kallsyms_offsets")
_DIGITS = re.compile(b"".join(b"%d\0" % digit for digit in range(10)))
_TOKENS = 256
_GROUP = 256  # symbols for each marker
_MAX_TOKEN_TABLE = 1 << 14  # bytes; real ones have about 1000
_MAX_MARKERS = 1 << 14  # 4 million symbols; Debian's kernel has 100 000 to 200 000
_MAX_GROUP = _GROUP * 256  # bytes of names between two markers
_MAX_IMAGE = 1 << 27  # bytes from _stext to where .rodata surely ends
_PIECE = 1 << 20


def amended(info: Mapping[str, str], read: Read) -> Mapping[str, int]:
    """Return the symbols that VMCOREINFO lacks for drgn to read kallsyms.

    :returns: symbol -> address; empty if it lacks nothing.
    :raises BrokenDump: no symbol table was found.
    """
    if all(f"SYMBOL({name})" in info for name in _NEEDED):
        return {}
    start = vmcoreinfo.symbol(info, "_stext")
    if start is None:
        raise BrokenDump("VMCOREINFO does not say where the kernel's text starts")
    return locate(read, start)


def locate(read: Read, start: int) -> Mapping[str, int]:
    """Find the table by its format.

    :param start: kernel address to search from.
    :returns: symbol -> address.
    :raises BrokenDump: no table was found.
    """
    for digits in _search(read, start, _DIGITS):
        table = _token_table(read, digits)
        if table is not None and (found := _before_tokens(read, *table)) is not None:
            return found
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
    """Return all ``size`` bytes before an address, else b"". (Megabytes of the kernel's text lie before the table.)"""
    data = read(end - size, size)
    return data if len(data) == size else b""


def _token_table(read: Read, digits: int) -> tuple[int, int] | None:
    """Return the addresses of the token table and its index, given the address of the digits in the table.

    The table starts 48 strings before the digits (ASCII code 0x30); the index confirms it. None: no table there.
    """
    before = _read_before(read, digits, _MAX_TOKEN_TABLE)
    behind = read(digits, _MAX_TOKEN_TABLE)
    ends = [match.end() for match in re.finditer(b"\0", before)][-ord("0") - 8 :]
    for offset in ends:  # the byte behind a NUL may be the first of the table
        start = digits - len(before) + offset
        if start % 8:
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
        place = start + position + 7 & ~7
        if len(index) == _TOKENS and read(place, 2 * _TOKENS) == index.tobytes():
            return start, place
    return None


def _before_tokens(read: Read, tokens: int, index: int) -> Mapping[str, int] | None:
    """Return the addresses of all parts, going back from the token table; None: they do not fit together."""
    markers = _markers(read, tokens)
    if markers is None:
        return None
    end = tokens - (len(markers) * markers.itemsize + 7 & ~7)
    # The length of every group of names but the last is known; so num_syms lies within this window.
    window = (markers[-1] + 7 & ~7) + _MAX_GROUP
    data = _read_before(read, end, window)
    for at in range(len(data) - markers[-1] & ~7, 15, -8):
        number = int.from_bytes(data[at - 8 : at], "little")
        if (number + _GROUP - 1) // _GROUP == len(markers) and _names_fit(data[at:], number, markers):
            names = end - len(data) + at
            return {
                "kallsyms_names": names,
                "kallsyms_num_syms": names - 8,
                "kallsyms_relative_base": names - 16,
                "kallsyms_offsets": names - 16 - (number * 4 + 7 & ~7),
                "kallsyms_token_table": tokens,
                "kallsyms_token_index": index,
            }
    return None


def _markers(read: Read, end: int) -> "array[int] | None":
    """Return the markers whose padded array ends at an address; None: no markers there.

    Going back, they shrink to 0, each by the length of a group.
    """
    values = array("I", _read_before(read, end, 4 * _MAX_MARKERS))
    last = len(values) - 1
    if last > 0 and values[last] == 0:
        last -= 1
    first = last
    while first > 0 and 0 < values[first] - values[first - 1] <= _MAX_GROUP:
        first -= 1
    return values[first : last + 1] if last > first and values[first] == 0 else None


def _names_fit(names: bytes, number: int, markers: "array[int]") -> bool:
    """Tell whether that number of names is exactly as long as the markers and the end of the array say."""
    offset = 0
    for group, marker in enumerate(markers):
        if offset != marker:
            return False
        for _ in range(min(_GROUP, number - group * _GROUP)):
            if offset >= len(names):
                return False
            offset += 1 + names[offset]
    return 0 <= len(names) - offset < 8
