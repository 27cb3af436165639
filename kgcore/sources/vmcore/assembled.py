# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Program over memory that drgn cannot read as a file: LiME images, raw memory, split sets, kdump files cut off.

drgn is given an ELF core of notes only, and then each range of physical memory with a function that reads it.
Everything else (translation of kernel addresses, helpers) works as over any vmcore.
"""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from struct import Struct
from typing import NamedTuple

from drgn import FaultError, Program

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, FrameState, KdumpDump, LinearDump, SplitSet
from kgcore.sources.vmcore.dumpfile.frames import PAGE_SHIFT
from kgcore.sources.vmcore.dumpfile.linear import Extent
from kgcore.sources.vmcore.dumpfile.source import ShortFile

__all__ = ("Segment", "assemble", "segments")

_EHDR = Struct("<16sHHIQQQIHHHHHH")
_PHDR = Struct("<IIQQQQQQ")
_NOTE = Struct("<III")
_ET_CORE, _EM_X86_64, _PT_NOTE = 4, 62, 4


_PAGE = 1 << PAGE_SHIFT
_CACHED_PAGES = 2048

Read = Callable[[int, int], bytes]
"""Physical memory by address and size, or FaultError."""


class Segment(NamedTuple):
    """Physical memory [start, start + size) and what reads it."""

    start: int
    size: int
    read: Read


def segments(dump: DumpFile, *, small: bool = False) -> tuple[Segment, ...] | None:
    """The memory of a dump that drgn does not read by itself, or not well; None for all others.

    :param small: it is of a 32-bit machine, whose memory above 4 GiB libkdumpfile does not find.
    """
    if isinstance(dump, LinearDump):
        return tuple(Segment(part.address, part.size, partial(_read_linear, dump, part)) for part in dump.extents)
    if isinstance(dump, SplitSet):
        return tuple(_split_segments(dump))
    if isinstance(dump, KdumpDump) and (dump.missing_bytes or dump.flattened or small) and not dump.cannot_read:
        return (Segment(0, dump.last_frame << PAGE_SHIFT, partial(_read_kdump, dump)),)
    return None


def assemble(prog: Program, notes: tuple[DumpNote, ...], memory: tuple[Segment, ...]) -> None:
    """Make a Program of memory and the notes of a dump."""
    descriptor = os.memfd_create("kgcore", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(_header(notes))
    prog.set_core_dump(descriptor)  # and it is drgn's from now on, which closes it
    for start, size, read in memory:
        prog.add_memory_segment(start, size, _cached(read), True)


def _cached(read: Read) -> Callable[[int, int, int, bool], bytes]:
    """The function that drgn calls. Its helpers read a byte here and a word there, a hundred thousand times."""

    @lru_cache(_CACHED_PAGES)
    def page(frame: int) -> bytes:
        return read(frame << PAGE_SHIFT, _PAGE)

    def answer(address: int, count: int, _offset: int, _physical: bool) -> bytes:
        start = address & _PAGE - 1
        if start + count > _PAGE:
            return read(address, count)
        try:
            return page(address >> PAGE_SHIFT)[start : start + count]
        except FaultError:  # memory may end within the page
            return read(address, count)

    return answer


def _read_linear(dump: LinearDump, extent: Extent, address: int, size: int) -> bytes:
    data = dump.read(extent, address - extent.address, size) if address >= extent.address else b""
    if len(data) < size:
        raise FaultError("memory is not in the dump", address + len(data))
    return data


def _read_kdump(dump: KdumpDump, address: int, size: int) -> bytes:
    """Page by page, since each is compressed by itself.

    libkdumpfile, which drgn has for this, reads nothing at all of many files that are cut off (it wants the page tables
    first), and keeps an index of flattened ones in memory that is larger than the file.
    """
    first, last = address >> PAGE_SHIFT, address + size - 1 >> PAGE_SHIFT
    for start, _, state in dump.frames.runs(first, last + 1):
        if state is not FrameState.STORED:
            raise FaultError(f"page frame {state.value}", start << PAGE_SHIFT)
    pages = range(first << PAGE_SHIFT, last + 1 << PAGE_SHIFT, _PAGE)
    data = bytearray(len(pages) * _PAGE)
    try:
        dump.fill(pages, memoryview(data))
    except (ShortFile, BrokenDump, OSError) as error:
        raise FaultError(str(error), address) from error
    return bytes(data[address & _PAGE - 1 :][:size])


def _split_segments(dump: SplitSet) -> Iterator[Segment]:
    for part in dump.parts:
        if part.start < part.end:
            prog = Program()
            prog.set_core_dump(part.path)
            size = part.end - part.start << PAGE_SHIFT
            yield Segment(part.start << PAGE_SHIFT, size, partial(prog.read, physical=True))


def _header(notes: tuple[DumpNote, ...]) -> bytes:
    """An ELF core of notes only."""
    data = b"".join(map(_pack, notes))
    offset = _EHDR.size + _PHDR.size
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    ehdr = _EHDR.pack(ident, _ET_CORE, _EM_X86_64, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, 1, 0, 0, 0)
    return ehdr + _PHDR.pack(_PT_NOTE, 0, offset, 0, 0, len(data), len(data), 4) + data


def _pack(note: DumpNote) -> bytes:
    name = note.name + b"\0"
    padded = (part + bytes(-len(part) % 4) for part in (name, note.desc))
    return _NOTE.pack(len(name), len(note.desc), note.type) + b"".join(padded)
