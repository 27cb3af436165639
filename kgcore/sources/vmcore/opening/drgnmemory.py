# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a Program over the memory of a dump file of any format.

drgn gets an ELF core that has only notes, and a function that reads physical memory. Everything else (translation of
kernel addresses, helpers) works as with any vmcore. drgn could read ELF and most kdump files by itself, but drgn maps
ELF files, and its libkdumpfile all files: a bad sector or a truncated file would kill the process with a signal.
"""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

from drgn import FaultError, Program

from kgcore.elf.headers import EHDR, NHDR, PHDR64, Ehdr, Nhdr, Phdr64
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, ElfDump, FrameState, LinearDump
from kgcore.sources.vmcore.dumpfile.source import ShortFile, reason
from kgcore.sources.vmcore.dumpfile.uncompressed import Uncompressed

__all__ = ("MemorySegment", "assemble", "memory_of", "reader_of")

_ET_CORE, _EM_NONE, _PT_NOTE = 4, 0, 4

_CACHED_PAGES = 2048
_CACHED_SPAN = 4  # pages; longer reads are not cached, since they rarely repeat
_END = 1 << 52  # of physical memory
_KEY = "kgcore_assembled"

Answer = Callable[[int, int, int, bool], bytes]
"""The reader that drgn calls: address, size, offset in the segment, whether the address is physical."""

Read = Callable[[int, int], bytes]
"""Reads physical memory by address and size, or raises FaultError."""


class MemorySegment(NamedTuple):
    """Physical memory [start, start + size) and its reader, which is fastest in pages of ``1 << page_shift`` bytes."""

    start: int
    size: int
    read: Read
    page_shift: int


def memory_of(dump: DumpFile) -> MemorySegment:
    """Return the physical memory of a dump file as one segment."""
    if isinstance(dump, ElfDump | LinearDump):
        return MemorySegment(0, _END, partial(_read_bytes, dump.memory), dump.page_shift)
    return MemorySegment(0, _END, partial(_read_frames, dump), dump.page_shift)


def _pages(address: int, count: int, page_size: int) -> Iterator[tuple[int, int]]:
    """Split a range of memory at page boundaries: yield address and size of each part."""
    end = address + count
    while address < end:
        stop = min(end, (address | page_size - 1) + 1)
        yield address, stop - address
        address = stop


def assemble(prog: Program, notes: tuple[DumpNote, ...], memory: tuple[MemorySegment, ...]) -> None:
    """Give a Program a dump's notes and memory."""
    descriptor = os.memfd_create("kgcore", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(_header(notes))
    prog.set_core_dump(descriptor)  # drgn owns the descriptor now, and closes it
    for start, size, read, page_shift in memory:
        prog.cache[_KEY] = reader = PhysicalReader(read, page_shift)
        prog.add_memory_segment(start, size, reader.answer, True)


def reader_of(prog: Program) -> "PhysicalReader | None":
    """Return kgcore's reader of a Program's physical memory; None if drgn reads it."""
    found: PhysicalReader | None = prog.cache.get(_KEY)
    return found


class PhysicalReader:
    """Reads physical memory, with a cache: drgn's helpers read single bytes and words, a hundred thousand times.

    :ivar page: returns the bytes of a page frame by its number, or raises FaultError if one of them cannot be read.
    :ivar page_shift: a page frame has ``1 << page_shift`` bytes; ``page_size`` is that number.
    """

    def __init__(self, read: Read, page_shift: int) -> None:
        self._read = read
        self.page_shift, self.page_size = page_shift, 1 << page_shift
        self._cached_span = _CACHED_SPAN << page_shift
        self.page: Callable[[int], bytes] = lru_cache(_CACHED_PAGES)(self._read_page)

    def _read_page(self, frame: int) -> bytes:
        return self._read(frame << self.page_shift, self.page_size)

    def answer(self, address: int, count: int, _offset: int, _physical: bool) -> bytes:
        """Read memory for drgn.

        :raises FaultError: it cannot be read.
        """
        page_size = self.page_size
        start = address & page_size - 1
        try:
            if start + count <= page_size:
                return self.page(address >> self.page_shift)[start : start + count]
            if start + count <= self._cached_span:  # a task_struct spans three
                first, last = address >> self.page_shift, address + count - 1 >> self.page_shift
                return b"".join(map(self.page, range(first, last + 1)))[start : start + count]
        except FaultError:  # memory may end within the page
            pass
        try:
            return self._read(address, count)
        except FaultError:
            if start + count <= page_size:
                raise
        # Read page by page, so that the error names the page.
        return b"".join(self._read(at, size) for at, size in _pages(address, count, page_size))


def _read_bytes(memory: Uncompressed, address: int, size: int) -> bytes:
    try:
        return memory.read(address, size)
    except (ShortFile, OSError) as error:
        raise FaultError(reason(error), address) from error


def _read_frames(dump: DumpFile, address: int, size: int) -> bytes:
    """Read memory page by page, since each page is compressed separately.

    :raises FaultError: a page is not in the dump, or cannot be read.
    """
    page_shift, page_size = dump.page_shift, 1 << dump.page_shift
    first, last = address >> page_shift, address + size - 1 >> page_shift
    for start, _, state in dump.frames.runs(first, last + 1):
        if state is not FrameState.STORED:
            raise FaultError(f"page frame {state.value}", start << page_shift)
    pages = range(first << page_shift, last + 1 << page_shift, page_size)
    data = bytearray(len(pages) * page_size)
    try:
        dump.fill(pages, memoryview(data))
    except (ShortFile, BrokenDump, OSError) as error:
        raise FaultError(reason(error), address) from error
    return bytes(data[address & page_size - 1 :][:size])


def _header(notes: tuple[DumpNote, ...]) -> bytes:
    """Return an ELF core that has only notes. It states no machine: the Program already has its platform."""
    data = b"".join(map(_pack, notes))
    header = Ehdr(
        e_ident=b"\x7fELF\x02\x01\x01",
        e_type=_ET_CORE,
        e_machine=_EM_NONE,
        e_version=1,
        e_entry=0,
        e_phoff=EHDR[64].size,
        e_shoff=0,
        e_flags=0,
        e_ehsize=EHDR[64].size,
        e_phentsize=PHDR64.size,
        e_phnum=1,
        e_shentsize=0,
        e_shnum=0,
        e_shstrndx=0,
    )
    segment = Phdr64(
        p_type=_PT_NOTE,
        p_flags=0,
        p_offset=EHDR[64].size + PHDR64.size,
        p_vaddr=0,
        p_paddr=0,
        p_filesz=len(data),
        p_memsz=len(data),
        p_align=4,
    )
    return EHDR[64].pack(header) + PHDR64.pack(segment) + data


def _pack(note: DumpNote) -> bytes:
    name = note.name + b"\0"
    padded = (part + bytes(-len(part) % 4) for part in (name, note.desc))
    header = Nhdr(n_namesz=len(name), n_descsz=len(note.desc), n_type=note.type)
    return NHDR.pack(header) + b"".join(padded)
