# SPDX-License-Identifier: LGPL-2.1-or-later
"""zram: a disk that keeps its pages compressed in memory (drivers/block/zram/zram_drv.c).

Its table has an entry for each page: a zsmalloc handle, and a word with the object's size and flags. For a page that
repeats one word, the handle is that word; for a page written to the backing device, the handle is its block there.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from drgn import FaultError, Object

from kgcore.errors import BrokenDump
from kgcore.model.lost import Lost
from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.compression import CannotDecompress, Decompress, NoDecompressor, decompressor
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.kernelreads import kernel_bytes, kernel_string
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.blocks import SwapBlocks, partition_start
from kgcore.sources.vmcore.memory.swap.layers import Slots, page_slot, unpacked
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace
from kgcore.sources.vmcore.memory.swap.zramtable import ENTRIES_AT_ONCE, Disk, KernelPages, Proof, read_entries
from kgcore.sources.vmcore.memory.swap.zsmalloc import Zsmalloc
from kgcore.sources.vmcore.task.vmas import Paths
from kgcore.text import first_names, plain

__all__ = ("Zram",)

_MAX_NAME = 128  # CRYPTO_MAX_ALG_NAME
_MAX_DICTIONARY = 64 << 20  # bytes; a zstd dictionary has some 100 KB
_BLOCKS_NAMED = 3  # ranges named for adjacent pages on a backing device
_PRIORITY_MASK = 0x3  # ZRAM_COMP_PRIORITY_MASK


class Zram:
    """The layer of swap spaces on zram."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes) -> None:
        self._kernel = kernel
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._physical = physical
        self._types = types
        self._blocks = SwapBlocks(kernel)
        self._zsmalloc = Zsmalloc(kernel, physical, types)
        self._disks: dict[int, Disk | Lost | None] = {}
        self._codecs: dict[tuple[int, int], Decompress | Lost] = {}
        self._devices: dict[int, str] = {}
        pages = KernelPages(kernel, physical)
        self._proof = Proof(kernel, pages, self._unpack)
        self._stored: Callable[[int], bool] = lru_cache(64)(pages.stored)

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        if space.number not in self._disks:
            self._disks[space.number] = self._disk(space)
        disk = self._disks[space.number]
        if isinstance(disk, Lost):
            yield _lost(first, count, disk.reason)
        elif disk is not None:
            yield from _joined(self._find(disk, space, first, count))

    def _find(self, disk: Disk, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        at = first
        for slot, length, page in self._blocks.find(space, first, count):
            if at < slot:
                yield _lost(at, slot - at, "its place on the disk was not found")
            page += disk.start
            inside = max(0, min(length, disk.pages - page))
            yield from self._pages(disk, slot, inside, page)
            if inside < length:
                yield _lost(slot + inside, length - inside, "beyond the end of the disk")
            at = slot + length
        if at < first + count:
            yield _lost(at, first + count - at, "its place on the disk was not found")

    def _pages(self, disk: Disk, slot: int, count: int, page: int) -> Iterator[Slots]:
        """Yield adjacent slots that are also adjacent on the disk."""
        at = 0
        while at < count:
            length = min(ENTRIES_AT_ONCE, count - at)
            yield from self._table(disk, slot + at, length, disk.table + (page + at) * disk.entries.size)
            at += length

    def _table(self, disk: Disk, slot: int, count: int, address: int) -> Iterator[Slots]:
        """Yield the slots whose entries are at an address; a lost part of the table costs only its own slots."""
        entry, shift = disk.entries.size, self._page_shift
        try:
            raw = kernel_bytes(self._kernel.prog, address, count * entry)
        except FaultError:
            if count == 1:
                yield _lost(slot, 1, "its table is not in the dump")
                return
            half = count // 2
            yield from self._table(disk, slot, half, address)
            yield from self._table(disk, slot + half, count - half, address + half * entry)
            return
        blocks: list[int] = []
        for number, (handle, flags) in enumerate(disk.entries.unpack(raw), slot):
            if flags >> disk.entries.written_back & 1:
                blocks.append(handle)
                continue
            yield from self._written_back(disk, number, blocks)
            blocks.clear()
            at = address + (number - slot) * entry
            if not handle and not (self._stored(at >> shift) and self._stored(at + entry - 1 >> shift)):
                yield _lost(number, 1, "its table is not in the dump")
            else:
                yield self._page(disk, number, handle, flags)
        yield from self._written_back(disk, slot + count, blocks)

    def _written_back(self, disk: Disk, end: int, blocks: list[int]) -> Iterator[Slots]:
        """Yield the slots up to ``end`` whose pages are on the backing device."""
        if not blocks:
            return
        ranges: list[list[int]] = []
        for block in blocks:
            if ranges and block == ranges[-1][1] + 1:
                ranges[-1][1] = block
            elif len(ranges) > _BLOCKS_NAMED:
                break
            else:
                ranges.append([block, block])
        named = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
        words = first_names(named, _BLOCKS_NAMED, number=False)
        noun = "block" if len(blocks) == 1 else "blocks"
        detail = f"written back to {self._backing_device(disk)}, {noun} {words}"
        yield Slots(end - len(blocks), len(blocks), Provenance.SWAPPED, detail)

    def _page(self, disk: Disk, slot: int, handle: int, flags: int) -> Slots:
        """Return a page as zram_read_page() does (__zram_bvec_read() in 5.10 and 6.1)."""
        entries = disk.entries
        same = flags >> entries.same & 1
        if disk.declared and entries.wrong(handle, flags, self._page_size):
            return _lost(slot, 1, "its entry of the table is such as zram never makes")
        if not handle and not same and flags & (entries.sizes | 1 << entries.huge):
            return _lost(slot, 1, "its entry of the table has a size, but no place")
        if not handle or same:
            if handle and not disk.words:
                return _lost(slot, 1, "whether it is filled with one word is uncertain")
            # A page that was never written reads as zeros.
            word = handle.to_bytes(entries.handle_size, "little")
            return page_slot(slot, Provenance.ZRAM, word * (self._page_size // len(word)))
        try:
            data, codec = self._packed(disk, handle, flags)
        except (BrokenDump, FaultError) as error:
            return _lost(slot, 1, str(error))
        if isinstance(codec, Lost):
            return _lost(slot, 1, codec.reason)
        if codec is None:
            return page_slot(slot, Provenance.ZRAM, data)
        return unpacked(slot, Provenance.ZRAM, codec, data, self._page_size)

    def _packed(self, disk: Disk, handle: int, flags: int) -> tuple[bytes, Decompress | Lost | None]:
        """Return the bytes of an object, and what decompresses them; None: they are the page as it is.

        :raises BrokenDump, FaultError: they are missing.
        """
        entries, size = disk.entries, flags & disk.entries.sizes
        # Some releases check the size, others the flag; one implies the other.
        if size == self._page_size or flags >> entries.huge & 1:
            return self._zsmalloc.read(disk.pool, handle, self._page_size), None
        priority = 0 if entries.priority is None else flags >> entries.priority & _PRIORITY_MASK
        codec = self._codec(disk, priority)
        return b"" if isinstance(codec, Lost) else self._zsmalloc.read(disk.pool, handle, size), codec

    def _unpack(self, disk: Disk, handle: int, flags: int) -> None:
        """Decompress an object; without a decompressor, only look whether it is there.

        :raises BrokenDump, FaultError: it does not decompress, or is not where the handle points.
        """
        data, codec = self._packed(disk, handle, flags)
        if isinstance(codec, Lost):
            self._zsmalloc.read(disk.pool, handle, flags & disk.entries.sizes)
        elif codec is not None:
            try:
                codec(data, self._page_size)
            except CannotDecompress as error:
                raise BrokenDump(str(error), address=handle) from error

    # What is looked up once

    def _disk(self, space: SwapSpace) -> Disk | Lost | None:
        """Return the disk of a swap space; None: it is not a zram disk."""
        try:
            device = space.info.member_("bdev")
            disk = device.member_("bd_disk")
            if not disk.member_("disk_name").string_().startswith(b"zram"):
                return None
        except (FaultError, LookupError):
            return None
        found: list[Disk] = []

        def proof() -> None:
            declared = self._describe(device, disk)
            if declared is None:
                raise BrokenDump("the description of a disk does not point back to it", address=disk.value_())
            found.append(replace(declared, declared=True, words=self._proof.check(declared)))

        try:
            self._types.prove("zram", proof)
            known = found[-1] if found else self._describe(device, disk)
        except (BrokenDump, FaultError, LookupError, TypeError) as error:  # drgn on incomplete types: TypeError
            return Lost(str(error))
        return known or Lost("the description of the disk is damaged")

    def _describe(self, device: Object, disk: Object) -> Disk | None:
        """Return a disk by the types that are now the module's; None: it is not that disk.

        :param device: ``struct block_device *``
        :param disk: ``struct gendisk *``
        :raises BrokenDump, FaultError, LookupError, TypeError: the dump lacks something of it.
        """
        kind = self._kernel.prog.pointer_type(self._types.type("zram", "struct zram"))
        zram = Object(self._kernel.prog, kind, disk.member_("private_data").value_())
        if zram.member_("disk").value_() != disk.value_():
            return None
        return Disk(
            zram,
            entries=read_entries(self._types, self._kernel.word_size),
            table=zram.member_("table").value_(),
            pages=int(zram.member_("disksize").value_()) >> self._page_shift,
            start=partition_start(self._kernel, device),
            pool=zram.member_("mem_pool").read_(),
        )

    def _codec(self, disk: Disk, priority: int) -> Decompress | Lost:
        """Return the decompressor for a disk's pages, or why it is missing."""
        key = disk.zram.value_(), priority
        if key not in self._codecs:
            try:
                self._codecs[key] = decompressor(*self._algorithm(disk.zram, priority))
            except (BrokenDump, FaultError, LookupError, NoDecompressor) as error:
                self._codecs[key] = Lost(str(error))
        return self._codecs[key]

    def _algorithm(self, zram: Object, priority: int) -> tuple[str, bytes | None]:
        """Return the name of a compressor, and its dictionary.

        :raises BrokenDump, FaultError, LookupError: the dump does not have them.
        """
        if not zram.type_.type.has_member("comp_algs"):  # one only: 5.10, 6.1
            return plain(zram.member_("compressor").string_()), None
        names = zram.member_("comp_algs")
        if priority >= (names.type_.length or 0) or not names[priority]:
            raise BrokenDump(f"compressed by algorithm {priority}, which the disk does not have")
        name = plain(kernel_string(self._kernel.prog, names[priority].value_(), _MAX_NAME))
        if not zram.type_.type.has_member("params"):
            return name, None
        parameters = zram.member_("params")[priority]  # 6.12, 7.2
        size = parameters.member_("dict_sz").value_()
        if not size:
            return name, None
        if size > _MAX_DICTIONARY:
            raise BrokenDump(f"a dictionary of {size} bytes")
        return name, self._kernel.prog.read(parameters.member_("dict").value_(), size)

    def _backing_device(self, disk: Disk) -> str:
        key = disk.zram.value_()
        if key not in self._devices:
            try:
                self._devices[key] = plain(Paths(self._kernel, None).path(disk.zram.member_("backing_dev").value_()))
            except (FaultError, LookupError, ValueError):
                self._devices[key] = "its backing device"
        return self._devices[key]


def _lost(slot: int, count: int, why: str) -> Slots:
    return Slots(slot, count, Provenance.UNREADABLE, f"zram: {why}")


def _joined(found: Iterator[Slots]) -> Iterator[Slots]:
    """Join neighbours without bytes into one."""
    pending: Slots | None = None
    for slots in found:
        if (
            pending is not None
            and pending.place is slots.place is None
            and pending[2:] == slots[2:]
            and pending.first + pending.length == slots.first
        ):
            pending = pending._replace(length=pending.length + slots.length)
            continue
        if pending is not None:
            yield pending
        pending = slots
    if pending is not None:
        yield pending
