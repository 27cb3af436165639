# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look up an address in the unwind table ``.eh_frame`` of a program that may be incomplete.

It uses ``.eh_frame_hdr``, as the C library does for exceptions: the section headers are often missing.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from kgcore.elf.headers import EHDR, PHDR64

__all__ = ("Entry", "Read", "unwind_entry")

Read = Callable[[int, int], bytes | None]
"""``read(offset, size)``: bytes of the file; None if some are missing."""

_PT_LOAD = 1
_PT_GNU_EH_FRAME = 0x6474E550
_MAX_HEADERS = 256
# Version and encodings that every linker writes: DW_EH_PE_pcrel | DW_EH_PE_sdata4, udata4, datarel | sdata4
_HEADER = bytes((1, 0x1B, 0x03, 0x3B))


class Entry(Enum):
    """The result of a lookup."""

    YES = "yes"
    NO = "no"
    MISSING = "missing"  # the part of the file that would tell is not there
    UNKNOWN = "unknown"  # it has no such table, or one of another kind


class _Segment(NamedTuple):
    offset: int
    address: int
    size: int


class _Missing(Exception):
    """A part of the file is missing."""


def unwind_entry(read: Read, offset: int, page_size: int) -> Entry:
    """Look for an entry.

    :param offset: of an instruction in the file's image in memory, from the page where its first segment begins.
    :param page_size: bytes of a page.
    """
    try:
        return _look(read, offset, page_size)
    except _Missing:
        return Entry.MISSING
    except struct.error:
        return Entry.UNKNOWN


def _look(read: Read, offset: int, page_size: int) -> Entry:
    loads, index = _segments(read)
    if index is None or not loads:
        return Entry.UNKNOWN
    address = offset + loads[0].address // page_size * page_size
    start = _need(read, index.offset, 12)
    if start[:4] != _HEADER:
        return Entry.UNKNOWN
    low, high = 0, min(int.from_bytes(start[8:12], "little"), index.size // 8)
    found: tuple[int, int] | None = None  # the last function that begins there or before, and its entry
    while low < high:
        middle = (low + high) // 2
        function, entry = struct.unpack("<ii", _need(read, index.offset + 12 + 8 * middle, 8))
        if index.address + function <= address:
            found, low = (index.address + function, index.address + entry), middle + 1
        else:
            high = middle
    if found is None:
        return Entry.NO
    segment = next((load for load in loads if load.address <= found[1] < load.address + load.size), None)
    if segment is None:
        return Entry.UNKNOWN
    # length, distance to the CIE, begin and length of the function
    raw = _need(read, segment.offset + found[1] - segment.address, 16)
    _, _, begin, size = struct.unpack("<IIiI", raw)
    if found[1] + 8 + begin != found[0]:
        return Entry.UNKNOWN  # in another encoding
    return Entry.YES if address < found[0] + size else Entry.NO


def _segments(read: Read) -> tuple[list[_Segment], _Segment | None]:
    """The loaded segments, and the table's index."""
    head = _need(read, 0, EHDR[64].size)
    if head[:6] != b"\x7fELF\2\1":
        return [], None
    header = EHDR[64].unpack(head)
    size, count = header.e_phentsize, header.e_phnum
    if size != PHDR64.size or count > _MAX_HEADERS:
        return [], None
    loads, index = [], None
    for segment in PHDR64.unpack_all(_need(read, header.e_phoff, count * size)):
        found = _Segment(segment.p_offset, segment.p_vaddr, segment.p_filesz)
        if segment.p_type == _PT_LOAD:
            loads.append(found)
        elif segment.p_type == _PT_GNU_EH_FRAME:
            index = found
    return loads, index


def _need(read: Read, offset: int, size: int) -> bytes:
    data = read(offset, size) if offset < 1 << 62 else b""
    if data is None:
        raise _Missing
    if len(data) < size:
        raise struct.error("beyond the end of the file")
    return data
