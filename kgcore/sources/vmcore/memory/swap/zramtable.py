# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of a zram disk, and whether a layout that kgcore declares is that of the disk.

Nothing in a table says how large an entry is. By a wrong size, many entries still look right, but belong to other
pages; and the parts of others read as zeros, as does the entry of a page that was never written. So a declared layout
is believed only if all that the dump has besides agrees with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from drgn import FaultError, Object, Type, sizeof

from kgcore.arch.paging import EntryKind, Leaf, walk
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory

__all__ = ("ENTRIES_AT_ONCE", "Disk", "Entries", "KernelPages", "Proof", "read_entries")

ENTRIES_AT_ONCE = 1 << 12
_SAMPLE = 64  # compressed pages of a disk that are unpacked
_TRIES = 3  # where others change the table meanwhile
_ALIGNMENT = 8  # of a table entry, in bytes


@dataclass(frozen=True, slots=True)
class Entries:
    """``struct zram_table_entry``: offsets and sizes of its members, and the bit numbers of its flags.

    :ivar handle_size: in bytes, as ``flags_size``.
    :ivar sizes: mask of the object's size, in the bits below the flags.
    :ivar priority: lowest of the flag bits that name the compressor; None: there is only one compressor.
    :ivar bits: how many bits of the word can be set; None: unknown.
    """

    size: int
    handle: int
    handle_size: int
    flags: int
    flags_size: int
    sizes: int
    same: int
    written_back: int
    huge: int
    priority: int | None
    bits: int | None

    def unpack(self, raw: bytes) -> Iterator[tuple[int, int]]:
        """Yield handle and flags of each entry."""
        handles, flags = self._numbers(self.handle, self.handle_size), self._numbers(self.flags, self.flags_size)
        for (handle,), (word,) in zip(handles.iter_unpack(raw), flags.iter_unpack(raw), strict=True):
            yield handle, word

    def _numbers(self, at: int, size: int) -> Struct:
        return Struct(f"<{at}x{'Q' if size == 8 else 'I'}{self.size - at - size}x")

    def wrong(self, handle: int, word: int, page_size: int) -> bool:
        """Tell whether an entry is one that zram never makes.

        A page that was never written has neither size nor handle; a same-filled one has no size; one that does not
        compress has the size of a page, and only this is "huge" (zram_write_page(), zram_free_page()).
        """
        size, huge, same = word & self.sizes, word >> self.huge & 1, word >> self.same & 1
        if self.bits is not None and word >> self.bits:
            return True
        if word >> self.written_back & 1:
            return False
        if same or not handle:
            return bool(size or huge)
        return not 0 < size <= page_size or bool(huge) != (size == page_size) or bool(handle % self.handle_size)


def read_entries(types: ModuleTypes, word_size: int) -> Entries:
    """Return the layout of table entries.

    :raises LookupError: the types are unknown.
    """
    entry = types.type("zram", "struct zram_table_entry")
    word = _flags_of(entry)
    numbers = {
        name: types.enumerator("zram", f"ZRAM_{name}") for name in ("LOCK", "SAME", "WB", "HUGE", "COMP_PRIORITY_BIT1")
    }
    same, written_back, huge = (numbers[name] for name in ("SAME", "WB", "HUGE"))
    if same is None or written_back is None or huge is None:
        raise LookupError("the flags of zram's table are unknown")
    # ZRAM_FLAG_SHIFT is the value of the first flag: ZRAM_LOCK in 5.10 and 6.1, ZRAM_SAME in 6.12 and 7.2
    shift = min(number for number in numbers.values() if number is not None)
    return Entries(
        size=sizeof(entry),
        handle=entry.member("handle").offset,
        handle_size=word_size,
        flags=word[0],
        flags_size=word[1],
        sizes=(1 << shift) - 1,
        same=same,
        written_back=written_back,
        huge=huge,
        priority=numbers["COMP_PRIORITY_BIT1"],
        bits=types.enumerator("zram", "__NR_ZRAM_PAGEFLAGS"),
    )


def _flags_of(entry: Type) -> tuple[int, int]:
    """Return offset and size of the word with an entry's flags.

    :raises LookupError: no known member has them.
    """
    if entry.has_member("attr"):  # 7.2, where the lock is part of the entry
        outer, inner = entry.member("attr"), entry.member("attr").type.member("flags")
        return outer.offset + inner.offset, sizeof(inner.type)
    flags = entry.member("flags" if entry.has_member("flags") else "value")  # up to 4.19
    return flags.offset, sizeof(flags.type)


@dataclass(frozen=True, slots=True)
class Disk:
    """A zram disk with a swap space.

    :ivar zram: ``struct zram *``
    :ivar entries: layout of the table's entries.
    :ivar table: address of the entries.
    :ivar pages: how many pages the disk has.
    :ivar start: number of the partition's first page.
    :ivar pool: ``struct zs_pool *``
    :ivar declared: its layout is one that kgcore declares.
    :ivar words: an entry that is "same-filled" is certainly that.
    """

    zram: Object
    entries: Entries
    table: int
    pages: int
    start: int
    pool: Object
    declared: bool = False
    words: bool = True


class KernelPages:
    """The kernel's own page tables, of memory that vmalloc() gave."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        self._kernel = kernel
        self._physical = physical
        self._root = kernel.target.symbol_address("init_top_pgt")

    def stored(self, page: int) -> bool:
        """Tell whether a page is in the dump: an ELF dump reads as zeros where it is not.

        :param page: its address, less the page shift.
        """
        if self._root is None:
            return True
        start = page << self._kernel.page_shift
        for leaf in self.walk(start, start + self._kernel.page_size):
            if leaf.kind is EntryKind.PRESENT:
                return self._physical.stored(leaf.value, self._kernel.page_size) is not None
        return False

    def walk(self, start: int, end: int) -> Iterator[Leaf]:
        """Yield the leaves of a range; none if the kernel's page table is unknown."""
        if self._root is not None:
            machine = self._kernel.machine
            top = machine.kernel_image_to_phys(self._root)
            yield from walk(machine.paging_mode, top, start, end, self._physical.stored, machine.encryption_mask)


@dataclass(slots=True)
class _Count:
    """What a table holds, by its layout.

    :ivar wrong: entries that zram never makes.
    :ivar sample: slot, handle and word of some compressed pages.
    """

    pages_stored: int = 0
    same_pages: int = 0
    huge_pages: int = 0
    compr_data_size: int = 0
    bd_count: int = 0
    wrong: int = 0
    sample: list[tuple[int, int]] = field(default_factory=list)


class Proof:
    """Compares a disk by a declared layout with what else the dump has of it.

    :param unpack: reads and unpacks a compressed page of a disk, by its handle and its word. It raises BrokenDump or
        FaultError.
    """

    def __init__(self, kernel: Kernel, pages: KernelPages, unpack: Callable[[Disk, int, int], object]) -> None:
        self._kernel = kernel
        self._pages = pages
        self._unpack = unpack

    def check(self, disk: Disk) -> bool:
        """Prove the layout of a disk. Tell whether what it calls same-filled is certainly that.

        :raises BrokenDump: it is not the disk's.
        :raises FaultError, LookupError: what could prove it is not in the dump.
        """
        lost = self._check_area(disk)
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                count = self._count(disk)
                exact = self._check_statistics(disk, count, lost)
                break
            except BrokenDump:
                if last:
                    raise
        self._check_sample(disk, count)
        return exact

    def _check_area(self, disk: Disk) -> int:
        """Make sure that the table fills the area that vmalloc() made for it; return how many entries are lost.

        Areas begin at a page and end with one that is not mapped (get_vm_area_node(), mm/vmalloc.c).
        """
        page_size = self._kernel.page_size
        needed = -(-disk.pages * disk.entries.size // page_size)
        if disk.table % page_size or disk.pages * _ALIGNMENT < page_size:
            raise BrokenDump("its table is no area of memory, or too small to tell", address=disk.table)
        found = 0
        for leaf in self._pages.walk(disk.table, disk.table + (needed + 1) * page_size):
            if leaf.kind is EntryKind.BROKEN:
                raise BrokenDump("the page tables of its table are not in the dump", address=disk.table)
            if leaf.kind not in (EntryKind.PRESENT, EntryKind.SCATTERED):
                break
            found += leaf.length // page_size
        if found != needed:
            what = "more" if found > needed else found
            raise BrokenDump(f"its table takes {what} pages of memory and should take {needed}", address=disk.table)
        first = disk.table >> self._kernel.page_shift
        gone = sum(not self._pages.stored(page) for page in range(first, first + needed))
        if 2 * gone > needed:
            raise BrokenDump("most of its table is not in the dump", address=disk.table)
        return gone * (page_size // disk.entries.size + 2)

    def _count(self, disk: Disk) -> _Count:
        """Count what the table holds, as zram's statistics do."""
        count, entries, every = _Count(), disk.entries, 1
        objects = 0
        for first in range(0, disk.pages, ENTRIES_AT_ONCE):
            number = min(ENTRIES_AT_ONCE, disk.pages - first)
            try:
                raw = kernel_bytes(self._kernel.prog, disk.table + first * entries.size, number * entries.size)
            except FaultError:
                continue
            for handle, word in entries.unpack(raw):
                if not handle and not word:
                    continue
                count.wrong += entries.wrong(handle, word, self._kernel.page_size)
                if word >> entries.written_back & 1:
                    count.bd_count += 1
                elif word >> entries.same & 1:
                    count.same_pages += 1
                elif handle:
                    count.huge_pages += word >> entries.huge & 1
                    count.compr_data_size += word & entries.sizes
                    objects += 1
                    if objects % every == 0:
                        count.sample.append((handle, word))
                        if len(count.sample) > 2 * _SAMPLE:
                            count.sample, every = count.sample[1::2], 2 * every
                else:
                    continue
                count.pages_stored += 1
        return count

    def _check_statistics(self, disk: Disk, count: _Count, lost: int) -> bool:
        """Compare with ``struct zram_stats``; each CPU may have been about to bring both in line.

        :param lost: how many entries may be missing in ``count``.
        """
        doing = len(self._kernel.cpus)
        if count.wrong > doing:
            raise BrokenDump(f"{count.wrong} entries of its table are such as zram never makes", address=disk.table)
        statistics = disk.zram.member_("stats")
        exact = True
        for name in ("pages_stored", "same_pages", "huge_pages", "compr_data_size", "bd_count"):
            found = getattr(count, name)
            said = int(statistics.member_(name).member_("counter").value_()) if _has(statistics, name) else 0
            unit = self._kernel.page_size if name == "compr_data_size" else 1
            if not said - (lost + doing) * unit <= found <= said + doing * unit:
                raise BrokenDump(f"its table has {found} as {name}, and its statistics {said}", address=disk.table)
            if name in ("same_pages", "bd_count"):
                exact = exact and found == said
        return exact

    def _check_sample(self, disk: Disk, count: _Count) -> None:
        """Unpack some pages."""
        good = bad = 0
        reason = ""
        for handle, word in count.sample[:: max(1, len(count.sample) // _SAMPLE)]:
            try:
                self._unpack(disk, handle, word)
                good += 1
            except FaultError as error:
                reason = reason or in_words(error)
            except BrokenDump as error:
                bad += 1
                reason = str(error)
        if bad > good:
            raise BrokenDump(f"{bad} of {good + bad} compressed pages cannot be unpacked: {reason}", address=disk.table)
        if count.sample and not good:
            raise BrokenDump(f"none of its compressed pages is in the dump: {reason}", address=disk.table)


def _has(value: Object, member: str) -> bool:
    return bool(value.type_.has_member(member))
