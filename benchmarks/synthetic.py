# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump with processes of many GiB that needs no machine of that size: a real one with page tables of our making.

A guest's process has reserved the memory and touched one page of each GiB, so its own mm_struct, VMAs and upper page
tables are real. All that is below them (tables of 4 KiB entries, and data pages, which are holes in the file) goes to
one more PT_LOAD at a high physical address.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import drgn
from drgn.helpers.linux.mm import virt_to_phys
from drgn.helpers.linux.pid import find_task

PAGE = 4096
ENTRIES = 512
# Where guests/reserve.c has its memory.
AT = 0x100000000000
# Beyond any memory that the guest could have.
HIGH = 1 << 40
ADDRESS_MASK = 0x000FFFFFFFFFF000
PRESENT = 1
TABLE_FLAGS = 0x67
# NX, and what anonymous pages have: written to, and only read since they came.
PAGE_FLAGS = (0x8000000000000867, 0x8000000000000825)
# Pages are scattered within windows of 64 MiB, as memory is that was taken piece by piece from a pool of free pages.
WINDOW = 1 << 14
# What makes up a window: single pages (twice as often), pieces of a few pages, or one piece.
RUNS = (1, 1, 16, WINDOW)
PHDR = struct.Struct("<IIQQQQQQ")
PT_LOAD = 1


@dataclass
class _Dump:
    """An ELF vmcore, open for writing."""

    handle: BinaryIO
    segments: list[tuple[int, int, int]]  # physical address, length, offset in the file

    def at(self, phys: int) -> int:
        """The offset in the file of a physical address."""
        for start, length, offset in self.segments:
            if start <= phys < start + length:
                return offset + phys - start
        raise ValueError(f"physical address {phys:#x} is not in the dump")

    def entry(self, table: int, index: int) -> int:
        """The address in an entry of a page table."""
        value: int = struct.unpack("<Q", os.pread(self.handle.fileno(), 8, self.at(table + 8 * index)))[0]
        if not value & PRESENT:
            raise ValueError(f"entry {index} of the page table at {table:#x} is not present")
        return value & ADDRESS_MASK


def write(elf: Path, vmlinux: Path, target: Path, sizes: Mapping[int, int]) -> None:
    """Copy a dump and give its processes (by pid) as many bytes as they have reserved."""
    tables = {pid: _page_directory(elf, vmlinux, pid) for pid in sizes}
    shutil.copyfile(elf, target)
    chance = random.Random(1)
    with target.open("r+b") as handle:
        header = bytearray(os.pread(handle.fileno(), 64, 0))
        phoff, phnum = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
        headers = os.pread(handle.fileno(), PHDR.size * phnum, phoff)
        segments = [(row[4], row[5], row[2]) for row in PHDR.iter_unpack(headers) if row[0] == PT_LOAD]
        dump = _Dump(handle, segments)
        offset = -(-os.path.getsize(target) // PAGE) * PAGE
        place = HIGH
        for pid, size in sizes.items():
            place = _fill(dump, tables[pid], size, place, offset - HIGH, chance)
        end = offset + place - HIGH
        headers += PHDR.pack(PT_LOAD, 7, offset, 0, HIGH, place - HIGH, place - HIGH, 0)
        # At the end there is room for one more; no section headers.
        struct.pack_into("<QQ", header, 32, end, 0)
        struct.pack_into("<HHHHHH", header, 52, 64, PHDR.size, phnum + 1, 64, 0, 0)
        os.pwrite(handle.fileno(), headers, end)
        os.pwrite(handle.fileno(), header, 0)


def _page_directory(elf: Path, vmlinux: Path, pid: int) -> int:
    """The physical address of a process's uppermost page table."""
    prog = drgn.Program()
    prog.set_core_dump(elf)
    prog.load_debug_info([vmlinux])
    return int(virt_to_phys(find_task(prog, pid).mm.pgd))


def _fill(dump: _Dump, directory: int, size: int, place: int, delta: int, chance: random.Random) -> int:
    """Give a process its memory: tables from a physical address on, then the pages; returns where they end.

    :param delta: from physical addresses of the new segment to offsets in the file.
    """
    count = size // PAGE // ENTRIES
    # Tables come in the order in which memory was touched: neighbours are together in short pieces.
    pieces = [range(start, min(start + 8, count)) for start in range(0, count, 8)]
    chance.shuffle(pieces)
    order = array("Q", bytes(8 * count))
    for number, index in enumerate(index for piece in pieces for index in piece):
        order[index] = place + number * PAGE
    data = place + count * PAGE
    file = dump.handle.fileno()
    windows = list(range(size // PAGE // WINDOW))
    chance.shuffle(windows)
    for number, window in enumerate(windows):
        entries = _window(data + window * WINDOW * PAGE, RUNS[number % len(RUNS)], chance).tobytes()
        for piece in range(WINDOW // ENTRIES):
            table = order[number * (WINDOW // ENTRIES) + piece]
            os.pwrite(file, entries[piece * PAGE : (piece + 1) * PAGE], table + delta)
    for index in range(0, count, ENTRIES):
        address = AT + index * ENTRIES * PAGE
        middle = dump.entry(dump.entry(directory, address >> 39 & 511), address >> 30 & 511)
        values = [table | TABLE_FLAGS for table in order[index : index + ENTRIES]]
        os.pwrite(file, struct.pack(f"<{len(values)}Q", *values), dump.at(middle))
    return data + size


def _window(start: int, run: int, chance: random.Random) -> array[int]:
    """Entries for a window's pages, in pieces of some pages."""
    pieces = list(range(0, WINDOW, run))
    chance.shuffle(pieces)
    entries = array("Q")
    for piece in pieces:
        flags = PAGE_FLAGS[chance.random() < 0.1]
        first = start + piece * PAGE | flags
        entries.extend(range(first, first + run * PAGE, PAGE))
    return entries
