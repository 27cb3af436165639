# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses of an x86_64 kernel to physical ones, by page tables that are walked here, as those of processes are.

drgn walks them too, but knows no encryption bit (AMD's SME and SEV), and takes what an ELF dump lacks for an empty
table. Two ranges do without tables, which is quicker, and works where they were lost, at the end of RAM or to a bad
sector: the kernel's image, which is in one piece, and the direct map (Documentation/arch/x86/x86_64/mm.rst).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from drgn import FaultError, Program

from kgcore.arch.paging import EntryKind, Leaf, PagingMode, walk
from kgcore.arch.x86.paging import X86_64_4LEVEL, X86_64_5LEVEL
from kgcore.sources.vmcore.dumpfile import Frames, FrameState
from kgcore.sources.vmcore.opening.drgnmemory import PhysicalReader, reader_of
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("KernelMemory", "ReadTable", "Translation", "encryption_bit", "is_encrypted")

ReadTable = Callable[[int, int], bytes | None]
"""Physical memory within a page frame, by address and size; None if the dump does not have it."""

_START_KERNEL_MAP = 0xFFFFFFFF80000000
_IMAGE_SIZE = 1 << 30  # KERNEL_IMAGE_SIZE with KASLR
_KERNEL_HALF = 1 << 63  # no address of the kernel's lies below, with four or five levels
_MAX_MEMORY = 1 << 46  # 64 TiB, all that 4-level tables can map
_BLOCK = 1 << 21  # bytes whose page-table entries are read at once: of one table, or one huge page
_BLOCKS_KEPT = 256
_NOT_MAPPED, _BROKEN = -1, -2
_NO_PLACE = {_NOT_MAPPED: "address is not mapped", _BROKEN: "its page table is not in the dump"}
_KEY = "kgcore_translation"


@dataclass(frozen=True, slots=True)
class Translation:
    """What VMCOREINFO says of a kernel's page tables.

    :ivar root: physical address of the top one.
    :ivar base: ``phys_base``: how far the kernel's image lies from where it was linked to.
    :ivar encryption: ``sme_me_mask``: the bit of an entry that says "encrypted".
    """

    mode: PagingMode
    root: int
    base: int
    encryption: int = 0

    @classmethod
    def of(cls, info: Mapping[str, str]) -> "Translation | None":
        """None: it is not one of an x86_64 kernel, or lacks what is needed."""
        table, base = vmcoreinfo.symbol(info, "swapper_pg_dir"), vmcoreinfo.number(info, "NUMBER(phys_base)")
        if table is None or base is None or not _START_KERNEL_MAP <= table < 1 << 64:
            return None
        five = info.get("NUMBER(pgtable_l5_enabled)", "").strip() == "1"
        root = table - _START_KERNEL_MAP + base
        return cls(X86_64_5LEVEL if five else X86_64_4LEVEL, root, base, encryption_bit(info) or 0)

    def image(self, address: int) -> int | None:
        """Where memory of the kernel's image lies; None if the address is not in it."""
        inside = _START_KERNEL_MAP <= address < _START_KERNEL_MAP + _IMAGE_SIZE
        return address - _START_KERNEL_MAP + self.base if inside else None

    def walk(self, start: int, end: int, read: ReadTable) -> Iterator[Leaf]:
        """The page-table entries of kernel addresses."""
        return walk(self.mode, self.root, start, end, read, self.encryption)

    def look(self, address: int, read: ReadTable) -> Leaf:
        """That of the page with an address."""
        page = self.mode.page_size
        start = address & -page
        return next(self.walk(start, start + page, read))

    def with_encryption(self, read: ReadTable, address: int) -> "Translation":
        """This, or, if the tables lead nowhere by it, with the encryption bit by which they do.

        VMCOREINFO has the bit since 65f750e5457a "x86/kdump: Export the SME mask to vmcoreinfo" (5.1).

        :param address: in the kernel's image.
        """
        physical = self.image(address)
        if physical is None or self.encryption or self._leads(address, physical, read):
            return self
        top = self.mode.levels[0].shift
        entry = read(self.root + (address >> top & self.mode.entries - 1) * 8, 8)
        for bit in range(51, 31, -1) if entry else ():
            if int.from_bytes(entry or b"", "little") >> bit & 1:
                found = replace(self, encryption=1 << bit)
                if found._leads(address, physical, read):
                    return found
        return self

    def _leads(self, address: int, physical: int, read: ReadTable) -> bool:
        leaf = self.look(address, read)
        return leaf.kind is EntryKind.PRESENT and leaf.value == physical & -self.mode.page_size


def encryption_bit(info: Mapping[str, str]) -> int | None:
    """``NUMBER(sme_mask)``; None if there is none, or it is no bit that such a mask can have."""
    text = info.get("NUMBER(sme_mask)", "")
    try:
        mask = int(text, 0)
    except ValueError:
        return None
    return mask if mask == 0 or (mask & mask - 1 == 0 and 1 << 32 <= mask < 1 << 52) else None


class _Range(NamedTuple):
    """Kernel addresses that lie in memory in one piece."""

    start: int
    end: int
    physical: int


class KernelMemory:
    """The kernel's memory in a Program, by a :class:`Translation` instead of drgn's.

    :ivar translation: what is gone by.
    """

    def __init__(self, prog: Program, translation: Translation, table: ReadTable, physical: PhysicalReader) -> None:
        self._prog = prog
        self._table = table
        self._physical = physical
        self._page = physical.page
        self._frame_shift, self._frame_size = physical.page_shift, physical.page_size
        self.translation = translation
        self._page_shift, self._page_size = translation.mode.page_shift, translation.mode.page_size
        self._ranges = [_Range(_START_KERNEL_MAP, _START_KERNEL_MAP + _IMAGE_SIZE, translation.base)]
        self._pages = lru_cache(_BLOCKS_KEPT)(self._look)

    @classmethod
    def give(cls, prog: Program, frames: Frames) -> None:
        """Make it the memory of a Program whose physical memory is read by us; before symbols are known, since their
        table is in the kernel's image.

        :param frames: that the dump holds.
        """
        found, reader = _translation(prog, frames), reader_of(prog)
        if found is None or reader is None:
            return
        memory = cls(prog, found, _tables(prog, frames, found.mode.page_shift), reader)
        prog.add_memory_segment(_KERNEL_HALF, (1 << 64) - _KERNEL_HALF, memory.read, False)
        prog.cache[_KEY] = memory

    @staticmethod
    def of(prog: Program) -> "KernelMemory | None":
        """Of a Program that :meth:`give` did something to; None of all others."""
        found: KernelMemory | None = prog.cache.get(_KEY)
        return found

    def add_direct_map(self) -> None:
        """Let the direct map do without tables; once symbols are known."""
        try:
            start = self._prog.read_u64(self._prog.symbol("page_offset_base").address)
            frames = self._prog.read_u64(self._prog.symbol("max_pfn").address)
        except (LookupError, FaultError):
            return
        size = frames << self._page_shift
        if start >> 56 == 0xFF and 0 < size < _MAX_MEMORY:  # vmalloc's area comes right behind
            self._ranges.append(_Range(start, start + size, 0))

    def read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        """What drgn calls for the kernel's memory."""
        for start, end, physical in self._ranges:
            if start <= address and address + size <= end:
                if (place := address - start + physical) < 0:
                    raise FaultError("no physical address", address)
                frame = self._frame_size
                if (at := place & frame - 1) + size <= frame:  # most do, and there are very many
                    try:
                        return self._page(place >> self._frame_shift)[at : at + size]
                    except FaultError:  # memory may end within the page
                        pass
                return self._physical.answer(place, size, 0, True)
        parts = []
        while size > 0:
            count = min(size, self._page_size - address % self._page_size)
            parts.append(self._physical.answer(self._place(address) + address % self._page_size, count, 0, True))
            address, size = address + count, size - count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _place(self, address: int) -> int:
        """Where the page with an address lies."""
        found = self._pages(address // _BLOCK)[address % _BLOCK >> self._page_shift]
        if found < 0:
            raise FaultError(_NO_PLACE[found], address & -self._page_size)
        return found

    def _look(self, block: int) -> Sequence[int]:
        """All pages of a block, by number: the physical address of each, or a key of _NO_PLACE."""
        places: list[int] = []
        start = block * _BLOCK
        for leaf in self.translation.walk(start, start + _BLOCK, self._table):
            if leaf.kind is EntryKind.SCATTERED:
                places += leaf.pages
            elif leaf.kind is EntryKind.PRESENT:
                places += range(leaf.value, leaf.value + leaf.length, self._page_size)
            else:
                lost = _BROKEN if leaf.kind is EntryKind.BROKEN else _NOT_MAPPED
                places += [lost] * (leaf.length >> self._page_shift)
        return places


def is_encrypted(prog: Program, frames: Frames) -> bool:
    """Whether drgn, which opened a dump, cannot translate the addresses of the kernel in it."""
    found = _translation(prog, frames)
    return found is not None and bool(found.encryption)


def _translation(prog: Program, frames: Frames) -> Translation | None:
    """By the VMCOREINFO of a Program that reads a dump's physical memory."""
    try:
        info = vmcoreinfo.parse(prog["VMCOREINFO"].string_())
    except LookupError:  # it is no Linux kernel
        return None
    found, known = Translation.of(info), vmcoreinfo.symbol(info, "init_uts_ns")
    return found.with_encryption(_tables(prog, frames, found.mode.page_shift), known) if found and known else found


def _tables(prog: Program, frames: Frames, page_shift: int) -> ReadTable:
    """Reads page tables. Of what is not in it an ELF dump gives zeros, which would be an empty table."""

    def read(address: int, size: int) -> bytes | None:
        frame = address >> page_shift
        if any(run.state is not FrameState.STORED for run in frames.runs(frame, frame + 1)):
            return None
        try:
            data: bytes = prog.read(address, size, physical=True)
        except (FaultError, OverflowError, ValueError):
            return None
        return data

    return read
