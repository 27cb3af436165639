# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed kdump files, of makedumpfile and of QEMU.

In blocks of ``block_size`` (a page): the header, the sub-header, two bitmaps (a bit per page frame: it is RAM; it is in
the file), a descriptor for each page in the file, the pages. Layouts: makedumpfile's diskdump_mod.h (struct
disk_dump_header, struct kdump_sub_header, struct page_desc), versions 1 to 6.
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from struct import Struct
from typing import NamedTuple

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.compression import Decompress, NoDecompressor, decompressor
from kgcore.sources.vmcore.dumpfile.bits import bit_runs, count_ones
from kgcore.sources.vmcore.dumpfile.budget import DAMAGED
from kgcore.sources.vmcore.dumpfile.frames import (
    PAGE_SHIFT,
    FrameRun,
    Frames,
    FrameState,
    Stretch,
    merged,
    one_by_one,
)
from kgcore.sources.vmcore.dumpfile.notes import MAX_VMCOREINFO, DumpNote, parse_notes
from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile

__all__ = ("SIGNATURE", "KdumpDump")

SIGNATURE = b"KDUMP   "

_PAGE_DESC = Struct("<QIIQ")  # offset (off_t), size, flags, page_flags
_START = Struct("<8xi65s65s65s65s65s65s")  # signature; header_version, struct new_utsname
_HEAD_SIZE = 444  # bytes of struct disk_dump_header that are looked at
_MAX_NOTES = 1 << 26
_MAX_FRAMES = 1 << 52 - PAGE_SHIFT
_BLOCK_SIZES = tuple(1 << shift for shift in range(12, 17))
_LAST_DESCRIPTORS = 4096  # looked at to find where the last page ends
_DESCRIPTORS_AT_ONCE = 128
_RANK_STEP = 1 << 10  # page frames between two known ranks: 128 bytes of bitmap
_READ_AT_ONCE = 1 << 19


class _Layout(NamedTuple):
    """Where a dump written by a 32-bit or 64-bit program has what."""

    header: Struct  # status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr
    sub_header: Struct  # see _SubHeader


class _SubHeader(NamedTuple):
    """struct kdump_sub_header, but for what version 6 made obsolete."""

    dump_level: int
    split: int
    offset_vmcoreinfo: int
    size_vmcoreinfo: int
    offset_note: int
    size_note: int
    start_pfn: int
    end_pfn: int
    max_mapnr: int


_LAYOUTS = (  # struct timeval and unsigned long are 8-byte aligned in one, 4-byte in the other
    _Layout(Struct("<424xIIIII"), Struct("<8xii16xQQQQ16xQQQ")),
    _Layout(Struct("<412xIIIII"), Struct("<4xii8xQIQI12xQQQ")),
)
_SINCE = {  # header_version that brought a field; before it, those bytes are anything
    "dump_level": 1,
    "split": 2,
    "offset_vmcoreinfo": 3,
    "size_vmcoreinfo": 3,
    "offset_note": 4,
    "size_note": 4,
    "start_pfn": 6,
    "end_pfn": 6,
    "max_mapnr": 6,
}
_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE: the writer ran out of space
_OUT_OF_SPACE = "the dump is incomplete: its writer ran out of space"
_COMPRESSED = 0x27  # of the flags of a page: compressed in any way
_COMPRESSIONS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}


class KdumpDump:
    """A kdump file; itself the :class:`~kgcore.sources.vmcore.dumpfile.frames.Frames` that it holds.

    :ivar release: of the kernel; QEMU leaves it empty, and all of utsname but the machine.
    :ivar split: the frames [first, behind) that this file of a split set is for; None if it is the whole dump.
    :ivar last_frame: behind the last page frame of the machine.
    :ivar cannot_read: why :meth:`fill` does not work: the library for the compression is not there; empty if it does.
    :ivar missing_bytes: how much was cut off; if the page descriptors were, at least this much.
    :raises TargetError: its headers are damaged or cut off.
    """

    format = "kdump"
    flattened = False
    PART = "the dump is one part of a split set: what is in the other files is missing"

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.frames: Frames = self
        try:
            self._read_headers()
        except ShortFile as error:
            raise TargetError(f"it is a kdump file cut off within its headers: {error}") from error
        self._ranks = array("Q", [0])  # bits that are set before frame index * _RANK_STEP
        self._ones_before = count_ones(self._in_file, 0, self._first)  # of other files of a split set
        self.missing_bytes = self._missing_bytes()
        self._intact = not (self.missing_bytes or _OUT_OF_SPACE in self.notices)

    def _read_headers(self) -> None:
        source = self._source
        head = source.read(0, _HEAD_SIZE)
        version, *utsname = _START.unpack_from(head)
        _, _, self.release, _, self.architecture, _ = (
            field.split(b"\0")[0].decode("ascii", "backslashreplace") for field in utsname
        )
        self.needs_platform = not self.release  # then drgn cannot tell what machine it is
        for layout in _LAYOUTS:
            status, block, sub_blocks, bitmap_blocks, max_mapnr = layout.header.unpack_from(head)
            if block in _BLOCK_SIZES:
                break
        else:
            raise TargetError("it is a kdump file with a damaged header: its block size is no page size")
        self._block = block
        self.compression = "+".join(name for bit, name in _COMPRESSIONS.items() if status & bit) or "none"
        self._decompress: Decompress | None = None
        self.cannot_read = ""
        if self.compression != "none":
            try:
                self._decompress = decompressor(self.compression)
            except NoDecompressor as error:
                self.cannot_read = str(error)
        sub = _SubHeader(*layout.sub_header.unpack(source.read(block, layout.sub_header.size)))
        sub = sub._replace(**{field: 0 for field, since in _SINCE.items() if version < since})
        self.notices = ((_OUT_OF_SPACE,) if status & _INCOMPLETE else ()) + ((self.PART,) if sub.split else ())
        self.dump_level: int | None = sub.dump_level if version >= _SINCE["dump_level"] else None
        self.last_frame: int = sub.max_mapnr or max_mapnr
        if self.last_frame > _MAX_FRAMES:
            raise TargetError(f"its header says that it is of {self.last_frame} page frames", hint=DAMAGED)
        self.split = self._own_frames(sub.start_pfn, sub.end_pfn) if sub.split else None
        self._first, end = self.split or (0, self.last_frame)
        bitmap = (1 + sub_blocks) * block
        half = bitmap_blocks * block // 2
        self._descriptors: int = bitmap + 2 * half
        if not source.has(bitmap, 2 * half):
            raise ShortFile(f"its bitmaps end at {self._descriptors}, the file at {source.size}")
        used = min(half, self.last_frame + 7 >> 3)
        stored = source.stored(bitmap, used) + source.stored(bitmap + half, used)
        source.budget.spend(2 * used, "its two bitmaps of page frames", stored)
        self._ram, self._in_file = source.read(bitmap, used), source.read(bitmap + half, used)
        self._end: int = min(end, used * 8)
        area = self._area(sub.offset_note, sub.size_note)
        self.notes: tuple[DumpNote, ...] = tuple(parse_notes(area, source.budget))
        text = self._area(sub.offset_vmcoreinfo, min(sub.size_vmcoreinfo, MAX_VMCOREINFO))
        self.vmcoreinfo: bytes | None = text or None

    def _own_frames(self, start: int, end: int) -> tuple[int, int]:
        """Of a part of a split set."""
        end = min(end, self.last_frame)
        if start > end:
            raise TargetError(
                f"its header says that it is the part of a split set from page frame {start:#x} to {end:#x}",
                hint=DAMAGED,
            )
        return start, end

    def same_dump(self, other: "KdumpDump") -> bool:
        """Whether two files of split sets are of one set: the same kernel, and page by page the same choice."""
        mine, theirs = (
            (dump.release, dump.dump_level, dump.last_frame, dump.vmcoreinfo, dump._ram, dump._in_file)
            for dump in (self, other)
        )
        return mine == theirs

    def _area(self, offset: int, size: int) -> bytes:
        """Bytes that the sub-header points to; none if they are not there."""
        if not 0 < size <= _MAX_NOTES or not self._source.has(offset, size):
            return b""
        self._source.budget.spend(size, "what its sub-header points to")
        return bytes(self._source.read(offset, size))

    def _missing_bytes(self) -> int:
        """By how much the file is too short for its last pages. (Zero pages share one descriptor: look at several.)"""
        pages = count_ones(self._in_file, self._first, self._end)
        last = min(pages, _LAST_DESCRIPTORS)
        end = self._descriptors + pages * _PAGE_DESC.size
        try:
            table = self._source.read(end - last * _PAGE_DESC.size, last * _PAGE_DESC.size)
        except ShortFile:
            return max(end - self._source.size, 1)
        end = max((offset + size for offset, size, _, _ in _PAGE_DESC.iter_unpack(table)), default=end)
        return max(end - self._source.size, 0)

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        return merged(self._runs(start, end))

    def _runs(self, start: int, end: int) -> Iterator[FrameRun]:
        if start < self._first:
            yield from self._absent(start, min(end, self._first))  # in another file of the split set
        for first, last, stored in bit_runs(self._in_file, max(start, self._first), min(end, self._end)):
            if stored and self._intact:
                yield FrameRun(first, last, FrameState.STORED)
            elif stored:
                yield from self._check(first, last)
            else:
                yield from self._absent(first, last)
        if end > self._end:
            yield from self._absent(max(start, self._end), end)

    def _absent(self, start: int, end: int) -> Iterator[FrameRun]:
        for first, last, ram in bit_runs(self._ram, start, end):
            yield FrameRun(first, last, FrameState.EXCLUDED if ram else FrameState.NO_RAM)

    def _check(self, start: int, end: int) -> Iterator[FrameRun]:
        """Page by page, which of the frames that shall be in a cut-off file are."""
        while start < end:
            stop = min(end, start + _DESCRIPTORS_AT_ONCE)
            size = (stop - start) * _PAGE_DESC.size
            try:
                table = self._source.read(self._descriptors + self._rank(start) * _PAGE_DESC.size, size)
            except ShortFile:  # pages lie behind their descriptors
                yield FrameRun(start, stop, FrameState.CUT_OFF)
            else:
                for frame, (offset, length, _, _) in enumerate(_PAGE_DESC.iter_unpack(table), start):
                    there = offset > 0 and self._source.has(offset, length)
                    yield FrameRun(frame, frame + 1, FrameState.STORED if there else FrameState.CUT_OFF)
            start = stop

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        if self._intact and self._first <= min(frames) and max(frames) < self._end:
            bits = self._in_file
            stored = bytes([bits[frame >> 3] >> (frame & 7) & 1 for frame in frames])
            if b"\0" not in stored:
                return iter((Stretch(0, len(frames), FrameState.STORED),))
        return one_by_one(frames, self.runs)

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.dumpfile.DumpFile.fill`."""
        self.place([(page, at) for at, page in enumerate(pages)], view)

    def place(self, wanted: list[tuple[int, int]], view: memoryview) -> None:
        """Unpack page frames that are STORED to where they are wanted.

        In the order of the file, so that what lies together there is read together.

        :param wanted: physical address of each, and where in the view its 4096 bytes go: the how manieth page.
        :raises ShortFile, BrokenDump, OSError: one of them cannot be read.
        """
        wanted.sort()
        found: list[tuple[int, int, int, int]] = []  # offset in the file, size, flags; place
        for first, last, rank in self._ranked(wanted):
            descriptors = _PAGE_DESC.iter_unpack(self._described(rank, last - first))
            for (_, at), (offset, size, flags, _) in zip(wanted[first:last], descriptors, strict=True):
                if size > self._block:
                    raise BrokenDump(f"a page of the dump is said to have {size} bytes")
                found.append((offset, size, flags, at))
        found.sort()
        self._unpack(found, view)

    def _described(self, rank: int, count: int) -> memoryview:
        """Page descriptors. Pages are wanted in any order, so that all of the table is looked at, again and again."""
        start, size = rank * _PAGE_DESC.size, count * _PAGE_DESC.size
        if self._table is None or start + size > len(self._table):
            return self._source.read(self._descriptors + start, size)
        return self._table[start : start + size]

    @cached_property
    def _table(self) -> memoryview | None:
        """All page descriptors, if that costs no memory."""
        size = count_ones(self._in_file, self._first, self._end) * _PAGE_DESC.size
        if not self._source.in_place or not self._source.has(self._descriptors, size):
            return None
        return self._source.read(self._descriptors, size)

    def _ranked(self, wanted: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Frames whose descriptors are neighbours: first, behind the last, rank of the first."""
        start = rank = 0
        previous = -2
        for at, (page, _) in enumerate(wanted):
            frame = page >> PAGE_SHIFT
            if frame == previous + 1:  # both are in the file
                previous = frame
                continue
            if at:
                yield start, at, rank
            start, rank, previous = at, self._rank(frame), frame
        if wanted:
            yield start, len(wanted), rank

    def _unpack(self, found: Sequence[tuple[int, int, int, int]], view: memoryview) -> None:
        """Pages by their offset in the file. What is adjacent there is one read, and one page that stands for several
        (makedumpfile has one of zeros) is unpacked once."""
        groups: list[tuple[int, int]] = []  # the first page, behind the last one
        places: list[tuple[int, int]] = []
        start = end = -1
        for number, (offset, size, _, _) in enumerate(found):
            if places and offset <= end and end - start < _READ_AT_ONCE:
                end = max(end, offset + size)
                groups[-1], places[-1] = (groups[-1][0], number + 1), (start, end - start)
            else:
                start, end = offset, offset + size
                groups.append((number, number + 1))
                places.append((start, size))
        self._source.expect(places)
        for (first, behind), (start, size) in zip(groups, places, strict=True):
            self._unpack_group(found[first:behind], self._source.read(start, size), start, view)

    def _unpack_group(
        self, found: Sequence[tuple[int, int, int, int]], data: memoryview, start: int, view: memoryview
    ) -> None:
        block, decompress = self._block, self._decompress
        before = -1
        page: bytes | memoryview = b""
        for offset, size, flags, at in found:
            if offset != before:
                before, page = offset, data[offset - start : offset - start + size]
                if flags & _COMPRESSED and decompress is not None:
                    page = decompress(page, block)
                elif flags & _COMPRESSED or size != block:
                    raise BrokenDump(
                        self.cannot_read or "a page of the dump is compressed in a way that its header does not name"
                    )
            view[at * block : (at + 1) * block] = page

    def _rank(self, frame: int) -> int:
        """How many pages of the file come before that of a frame."""
        bits, ranks = self._in_file, self._ranks
        step = frame // _RANK_STEP
        while len(ranks) <= step:
            begin = (len(ranks) - 1) * _RANK_STEP // 8
            ranks.append(ranks[-1] + int.from_bytes(bits[begin : begin + _RANK_STEP // 8], "little").bit_count())
        before = int.from_bytes(bits[step * _RANK_STEP // 8 : frame >> 3], "little").bit_count()
        rest = (bits[frame >> 3] & (1 << (frame & 7)) - 1).bit_count()
        return ranks[step] + before + rest - self._ones_before

    def close(self) -> None:
        self._source.close()
