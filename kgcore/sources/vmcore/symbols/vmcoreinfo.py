# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse VMCOREINFO: the few hundred facts that a kernel records for readers of its dump.

It is ``KEY=VALUE`` lines (kernel/vmcore_info.c, before 6.9 kernel/crash_core.c), in a note of the dump or, if the dump
has no such note, only in a page of the dumped memory.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from kgcore.arch import SMALLEST_PAGE

__all__ = ("ascii_only", "at", "candidates", "number", "parse", "symbol")

_MAX_TEXT = 1 << 16  # VMCOREINFO_BYTES is one page so far
_FIRST = b"OSRELEASE="
_START = re.compile(rb"OSRELEASE=[^\n\0]{1,64}\n")
_IN_NOTE = 24  # bytes of note header and name before the text, in the kernel's copy that is an ELF note


def parse(text: bytes) -> Mapping[str, str]:
    """Return the lines as a read-only mapping; skip lines without ``=``; the first of equal keys counts."""
    found: dict[str, str] = {}
    for line in text.split(b"\0")[0].decode("utf-8", "backslashreplace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, value)
    return MappingProxyType(found)


def ascii_only(text: bytes) -> bytes:
    """Return the text as ASCII for drgn. Damaged bytes become question marks."""
    return text.decode("ascii", "replace").replace("\ufffd", "?").encode()


def symbol(info: Mapping[str, str], name: str) -> int | None:
    """Return the address ``SYMBOL(name)``; None: missing or damaged."""
    return _integer(info.get(f"SYMBOL({name})"), 16)


def number(info: Mapping[str, str], key: str) -> int | None:
    """Return a decimal value, for example ``OFFSET(uts_namespace.name)``; None: missing or damaged."""
    return _integer(info.get(key), 10)


def _integer(text: str | None, base: int) -> int | None:
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None


def at(address: int, read: Callable[[int, int], bytes]) -> bytes | None:
    """Return the text at a physical address; None: no VMCOREINFO.

    :param read: reads physical memory by address and size, within a page; returns b"" for missing memory.
    """
    if address < 0:
        return None
    text = read(address, SMALLEST_PAGE - address % SMALLEST_PAGE)
    if not _START.match(text):
        return None
    return _whole(address, text, read)


def _whole(address: int, text: bytes, read: Callable[[int, int], bytes]) -> bytes | None:
    """Return the text up to its NUL, given its beginning; None: it lacks symbols that every VMCOREINFO has."""
    end = address + len(text)
    while b"\0" not in text and len(text) < _MAX_TEXT and (more := read(end, SMALLEST_PAGE)):
        text += more
        end += SMALLEST_PAGE
    text = text.split(b"\0")[0]
    return text if b"\nSYMBOL(swapper_pg_dir)=" in text and b"\nSYMBOL(init_uts_ns)=" in text else None


def candidates(
    chunks: Iterable[tuple[int, bytes]], read: Callable[[int, int], bytes], *, anywhere: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield address and text of all that looks like VMCOREINFO in physical memory.

    A text may be stale, or belong to a nested guest.

    The kernel keeps the text at the start of a page, and again in a page as an ELF note.

    :param chunks: physical address (page-aligned) and bytes of all memory, in any order.
    :param read: reads physical memory by address and size; returns b"" for missing memory.
    :param anywhere: also look at other places of pages.
    """
    for address, data in chunks:
        place = data.find(_FIRST)
        while place >= 0:
            start = address + place
            if (anywhere or start % SMALLEST_PAGE in (0, _IN_NOTE)) and _START.match(data, place):
                text = _whole(start, bytes(data[place : place + _MAX_TEXT]), read)
                if text is not None:
                    yield start, text
            place = data.find(_FIRST, place + 1)
