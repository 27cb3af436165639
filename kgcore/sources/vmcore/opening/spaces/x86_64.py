# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open x86_64 kernels, and translate their addresses to physical ones with kgcore's own page-table walk.

drgn walks page tables too, but does not know the encryption bit (AMD's SME and SEV), and reads a table that an ELF
dump lacks as an empty one. Two ranges need no tables: the kernel's image, which is contiguous, and the direct map
(Documentation/arch/x86/x86_64/mm.rst). That is faster, and works even if the dump lost the tables.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from drgn import Architecture, FaultError, Platform, Program

from kgcore.arch.paging import EntryKind, Leaf, PagingMode, walk
from kgcore.arch.x86.kernels import X86_64_KERNEL
from kgcore.arch.x86.memorymap import (
    FIVE_LEVEL,
    FOUR_LEVEL,
    IMAGE_SIZES,
    KERNEL_HALF,
    MAX_PHYSICAL,
    START_KERNEL_MAP,
)
from kgcore.arch.x86.paging import X86_64_4LEVEL, X86_64_5LEVEL
from kgcore.model.process import RegisterSource
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, Frames, FrameState
from kgcore.sources.vmcore.opening.connect import open_program, without_user_pages
from kgcore.sources.vmcore.opening.drgnmemory import PhysicalReader, assemble, memory_of, reader_of
from kgcore.sources.vmcore.opening.dumpmemory import DumpMemory
from kgcore.sources.vmcore.opening.spaces.base import (
    SPACE_KEY,
    Checked,
    KernelOpening,
    KernelSpace,
    KernelVerdict,
    look_at_names,
)
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("KernelMemory", "Translation", "X86Opening", "X86Space", "encryption_bit")

ReadTable = Callable[[int, int], bytes | None]
"""Reads physical memory within a page frame, by address and size; None if it is not in the dump."""

_MAX_MEMORY = 1 << 46  # 64 TiB, all that 4-level tables can map
_BLOCK = 1 << 21  # bytes whose page-table entries are read at once: one table, or one huge page
_BLOCKS_KEPT = 256
_PROBE = 256  # bytes
_NOT_MAPPED, _BROKEN = -1, -2
_NO_PLACE = {_NOT_MAPPED: "address is not mapped", _BROKEN: "its page table is not in the dump"}
_TOP_ENTRY = 511 * 8  # of the kernel's image in a top page table
_TABLE = MAX_PHYSICAL - 1 & ~0x1FFF  # CR3 without the PCID, and without bit 12 (PTI): the kernel's table


@dataclass(frozen=True, slots=True)
class Translation:
    """What VMCOREINFO says about a kernel's page tables.

    :ivar root: physical address of the top table.
    :ivar base: ``phys_base``: offset of the kernel's image from the physical address it was linked for.
    :ivar encryption: ``sme_me_mask``: the bit of an entry that says "encrypted"; 0: no encryption.
    :ivar image_size: KERNEL_IMAGE_SIZE: bytes from ``__START_KERNEL_map`` on that are contiguous.
    """

    mode: PagingMode
    root: int
    base: int
    encryption: int = 0
    image_size: int = IMAGE_SIZES[0]

    @classmethod
    def of(cls, info: Mapping[str, str]) -> "Translation | None":
        """Read it from a VMCOREINFO; None: not of an x86_64 kernel, or the needed values are missing."""
        table, base = vmcoreinfo.symbol(info, "swapper_pg_dir"), vmcoreinfo.number(info, "NUMBER(phys_base)")
        if table is None or base is None or not START_KERNEL_MAP <= table < 1 << 64:
            return None
        five = info.get("NUMBER(pgtable_l5_enabled)", "").strip() == "1"
        root = table - START_KERNEL_MAP + base
        mode = X86_64_5LEVEL if five else X86_64_4LEVEL
        return cls(mode, root, base, encryption_bit(info) or 0, _image_size(info, table))

    def image(self, address: int) -> int | None:
        """Return the physical address of an address in the kernel's image; None if it is not in the image."""
        inside = START_KERNEL_MAP <= address < START_KERNEL_MAP + self.image_size
        return address - START_KERNEL_MAP + self.base if inside else None

    def walk(self, start: int, end: int, read: ReadTable) -> Iterator[Leaf]:
        """Yield the page-table entries of a range of kernel addresses."""
        return walk(self.mode, self.root, start, end, read, self.encryption)

    def look(self, address: int, read: ReadTable) -> Leaf:
        """Return the page-table entry of the page with an address."""
        page = self.mode.page_size
        start = address & -page
        return next(self.walk(start, start + page, read))

    def with_encryption(self, read: ReadTable, address: int) -> "Translation":
        """Return this translation, with the encryption bit found if the tables need one that VMCOREINFO does not state.

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

    def leads(self, address: int, read: ReadTable) -> bool:
        """Tell whether the tables map an address in the kernel's image to its place, with any encryption bit."""
        found, physical = self.with_encryption(read, address), self.image(address)
        return physical is not None and found._leads(address, physical, read)

    def _leads(self, address: int, physical: int, read: ReadTable) -> bool:
        leaf = self.look(address, read)
        return leaf.kind is EntryKind.PRESENT and leaf.value == physical & -self.mode.page_size


def _image_size(info: Mapping[str, str], inside: int) -> int:
    """Return ``NUMBER(KERNEL_IMAGE_SIZE)``; without it the smallest size that has an address of the image.

    Where the image is larger than that, page tables lead to the rest of it.
    """
    told = vmcoreinfo.number(info, "NUMBER(KERNEL_IMAGE_SIZE)")
    large, small = IMAGE_SIZES
    return told if told in IMAGE_SIZES else small if inside < START_KERNEL_MAP + small else large


def encryption_bit(info: Mapping[str, str]) -> int | None:
    """Return ``NUMBER(sme_mask)``; None: missing, or not a possible mask."""
    text = info.get("NUMBER(sme_mask)", "")
    try:
        mask = int(text, 0)
    except ValueError:
        return None
    return mask if mask == 0 or (mask & mask - 1 == 0 and 1 << 32 <= mask < 1 << 52) else None


class _Range(NamedTuple):
    """Kernel addresses whose memory is contiguous."""

    start: int
    end: int
    physical: int


class X86Space(KernelSpace):
    """The kernel's memory as drgn reads it.

    :ivar encryption: ``sme_me_mask``: the bit of a page-table entry that says "encrypted"; None: unknown.
    """

    architecture = X86_64_KERNEL
    encryption: int | None = None

    def __init__(self, prog: Program) -> None:
        self._prog = prog

    def physical(self, address: int, size: int) -> bytes:
        data: bytes = self._prog.read(address, size, physical=True)
        return data

    def symbols_known(self) -> None:
        """Do nothing: drgn needs no symbols to read memory."""

    @cached_property
    def direct_map(self) -> int:
        """Where the direct map starts in a kernel without ``page_offset_base`` (no CONFIG_DYNAMIC_MEMORY_LAYOUT).

        The kernel's names (``init_uts_ns``) are there, too, beside their place in the image.

        :raises FaultError: none of the places that kernels have used is it.
        """
        info = vmcoreinfo.parse(self._prog["VMCOREINFO"].string_())
        found, names = Translation.of(info), vmcoreinfo.symbol(info, "init_uts_ns")
        physical = None if found is None or names is None else found.image(names)
        if found is not None and physical is not None:
            for start in (FIVE_LEVEL if found.mode is X86_64_5LEVEL else FOUR_LEVEL).direct_maps:
                if self._is_direct_map(start, physical):
                    return start
        raise FaultError("the kernel's direct map was not found", 0)

    def _is_direct_map(self, start: int, physical: int) -> bool:
        """Tell whether the direct map starts at an address, by a physical address that it has."""
        try:
            seen = self._prog.read(start + physical, _PROBE)
            return bool(seen == self._prog.read(physical, _PROBE, physical=True) and any(seen))
        except FaultError:
            return False


class KernelMemory(X86Space):
    """The kernel's memory as kgcore reads it, with a :class:`Translation` instead of drgn's.

    :ivar translation: where the page tables are.
    """

    def __init__(self, prog: Program, translation: Translation, table: ReadTable, physical: PhysicalReader) -> None:
        super().__init__(prog)
        self._table = table
        self._physical = physical
        self._page = physical.page
        self._frame_shift, self._frame_size = physical.page_shift, physical.page_size
        self.translation = translation
        self._page_shift, self._page_size = translation.mode.page_shift, translation.mode.page_size
        self.encryption = translation.encryption
        end = START_KERNEL_MAP + translation.image_size
        self._ranges = [_Range(START_KERNEL_MAP, end, translation.base)]
        self._pages = lru_cache(_BLOCKS_KEPT)(self._look)

    @classmethod
    def give(cls, prog: Program, frames: Frames) -> None:
        """Make kgcore read the kernel's memory in a Program whose physical memory it reads already.

        Call it before symbols are known: their table is in the kernel's image.

        :param frames: the page frames that the dump holds.
        """
        found, reader = _translation(prog, frames), reader_of(prog)
        if found is None or reader is None:
            return
        memory = cls(prog, found, _tables(prog, frames, found.mode.page_shift), reader)
        prog.add_memory_segment(KERNEL_HALF, (1 << 64) - KERNEL_HALF, memory.read, False)
        prog.cache[SPACE_KEY] = memory

    def symbols_known(self) -> None:
        """Translate the direct map without page tables from now on."""
        try:
            try:
                start = self._prog.read_u64(self._prog.symbol("page_offset_base").address)
            except LookupError:
                start = self.direct_map
            frames = self._prog.read_u64(self._prog.symbol("max_pfn").address)
        except (LookupError, FaultError):
            return
        size = frames << self._page_shift
        if start >> 56 == 0xFF and 0 < size < _MAX_MEMORY:  # vmalloc's area begins right behind it
            self._ranges.append(_Range(start, start + size, 0))

    def _is_direct_map(self, start: int, physical: int) -> bool:
        leaf = self.translation.look(start + physical, self._table)
        return leaf.kind is EntryKind.PRESENT and leaf.value == physical & -self._page_size

    def read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        """Read the kernel's memory; drgn calls this.

        :raises FaultError: the address is not mapped, or its memory or page table is not in the dump.
        """
        for start, end, physical in self._ranges:
            if start <= address and address + size <= end:
                if (place := address - start + physical) < 0:
                    raise FaultError("no physical address", address)
                frame = self._frame_size
                if (at := place & frame - 1) + size <= frame:  # the fast path: most reads are within a frame
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
        """Return the physical address of the page with an address.

        :raises FaultError: it is not mapped, or its page table is not in the dump.
        """
        found = self._pages(address // _BLOCK)[address % _BLOCK >> self._page_shift]
        if found < 0:
            raise FaultError(_NO_PLACE[found], address & -self._page_size)
        return found

    def _look(self, block: int) -> Sequence[int]:
        """Return the physical address of each page of a block, or a key of _NO_PLACE."""
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


def _translation(prog: Program, frames: Frames) -> Translation | None:
    """Return the translation by a Program's VMCOREINFO; None: it lacks the needed values.

    :param prog: reads the dump's physical memory.
    """
    try:
        info = vmcoreinfo.parse(prog["VMCOREINFO"].string_())
    except LookupError:  # not a Linux kernel
        return None
    found, known = Translation.of(info), vmcoreinfo.symbol(info, "init_uts_ns")
    return found.with_encryption(_tables(prog, frames, found.mode.page_shift), known) if found and known else found


def _tables(prog: Program, frames: Frames, page_shift: int) -> ReadTable:
    """Return a reader of page tables that returns None for memory that is not in the dump.

    Without this check, memory missing from an ELF dump would read as zeros: an empty table.
    """

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


class X86Opening(KernelOpening):
    """Opens kernels of x86_64."""

    architecture = X86_64_KERNEL
    drgn_architecture = Architecture.X86_64
    platform = Platform(Architecture.X86_64)
    drgn_reads = True

    def open(self, name: str, dump: DumpFile, text: bytes) -> Program:
        def connect(prog: Program) -> None:
            assemble(prog, dump.notes, (memory_of(dump),))
            KernelMemory.give(prog, dump.frames)

        return without_user_pages(open_program(name, connect, self.platform, text), self.architecture)

    def space(self, prog: Program) -> X86Space:
        return X86Space(prog)

    def translates(self, prog: Program, frames: Frames) -> bool:
        """Tell whether drgn can translate kernel addresses: not if memory is encrypted (AMD)."""
        found = _translation(prog, frames)
        return found is None or not found.encryption

    def check(self, memory: DumpMemory, info: Mapping[str, str], names: int) -> Checked:
        found = Translation.of(info)
        image = found.image(names) if found else None
        if found is None or image is None:  # kernels before 4.10 do not say where they are
            return Checked(KernelVerdict.UNKNOWN, "does not say where in memory the kernel is")
        found = found.with_encryption(memory.read, names)
        leaf = found.look(names, memory.read)
        if leaf.kind is EntryKind.BROKEN:  # the tables may not be in the dump
            return look_at_names(memory, image, info)
        if leaf.kind is not EntryKind.PRESENT or leaf.value != image & -found.mode.page_size:
            return Checked(KernelVerdict.REFUTED, "has no kernel page tables at the stated address")
        looked = look_at_names(memory, image, info)
        return Checked(KernelVerdict.CONFIRMED) if looked.verdict is KernelVerdict.UNKNOWN else looked

    def image(self, info: Mapping[str, str], address: int) -> int | None:
        found = Translation.of(info)
        return found.image(address) if found else None

    def lies_lower(self, memory: DumpMemory, info: Mapping[str, str], names: int, by: int) -> bool:
        found = Translation.of(info)
        return found is not None and found.leads(names, lambda address, size: memory.read(address - by, size))

    def runs(self, memory: DumpMemory, info: Mapping[str, str], names: int, notes: Sequence[DumpNote]) -> bool | None:
        """Tell whether a CPU was using the kernel's page tables; None: unknown.

        All page tables of a kernel share the entry that maps its image.
        """
        found = Translation.of(info)
        if found is None:
            return None
        found = found.with_encryption(memory.read, names)
        own, mask = memory.read(found.root + _TOP_ENTRY, 8), _TABLE & ~found.encryption
        cpus = self.architecture.notes
        seen = [cpus.own(each.desc, RegisterSource.QEMU_NOTE) for each in notes if cpus.is_own(each)]
        entries = [memory.read(((note.root or 0) & mask) + _TOP_ENTRY, 8) for note in seen]
        return own in entries if own is not None and any(entries) else None
