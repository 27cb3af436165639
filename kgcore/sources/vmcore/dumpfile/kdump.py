# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read compressed kdump files, of makedumpfile and of QEMU.

The file has, in blocks of ``block_size`` (a page): the header, the sub-header, two bitmaps (a bit per page frame: it is
RAM; it is in the file), a descriptor for each page in the file, the pages. Layouts: dumpfile/kdumpheader.py.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.dumpfile.bits import bit_runs, count_ones, count_others
from kgcore.sources.vmcore.dumpfile.budget import DAMAGED
from kgcore.sources.vmcore.dumpfile.compression import Decompress, NoDecompressor, decompressor
from kgcore.sources.vmcore.dumpfile.descriptors import count_written, written
from kgcore.sources.vmcore.dumpfile.frames import (
    MAX_FRAMES,
    FrameRun,
    Frames,
    FrameState,
    Stretch,
    merged,
    one_by_one,
)
from kgcore.sources.vmcore.dumpfile.kdumpheader import PAGE_DESC, KdumpHeader, SubHeader, read_header
from kgcore.sources.vmcore.dumpfile.notes import MAX_VMCOREINFO, DumpNote, parse_notes, unreadable
from kgcore.sources.vmcore.dumpfile.ranks import Ranks, restored
from kgcore.sources.vmcore.dumpfile.source import ByteSource, Gap, ShortFile, salvage

__all__ = ("SIGNATURE", "KdumpDump")

SIGNATURE = b"KDUMP   "

_MAX_NOTES = 1 << 26
_LAST_DESCRIPTORS = 4096  # to check for the end of the last page
_DESCRIPTORS_AT_ONCE = 128
_TABLE_BLOCK = 1 << 14  # bytes of page descriptors read at once
_TABLE_BLOCKS_KEPT = 64
_READ_AT_ONCE = 1 << 19


_OUT_OF_SPACE = "the dump is incomplete: its writer ran out of space"
_NEVER_WRITTEN = "the dump is incomplete: pages were never written"
_COMPRESSED = 0x27  # flags of a page: compressed in any way


class KdumpDump:
    """A kdump file; also the :class:`~kgcore.sources.vmcore.dumpfile.frames.Frames` of its memory.

    :ivar release: of the kernel; QEMU leaves all of utsname empty but the machine.
    :ivar split: the frames [first, behind) of this file if it is part of a split set; None if it is the whole dump.
    :ivar last_frame: the number behind the last page frame of the machine.
    :ivar cannot_read: why :meth:`fill` does not work (the library for the compression is missing); "" if it works.
    :ivar missing_bytes: how many bytes were cut off; a lower bound if page descriptors were cut off.
    :ivar incomplete: the file lacks pages that it should have, so kgcore checks each page before it counts.
    :raises TargetError: the headers are damaged or cut off.
    """

    format = "kdump"
    flattened = False
    PART = "the dump is one file of a split set: the memory in the other files is missing"

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.frames: Frames = self
        try:
            header = read_header(source)
            self._take(header)
            lost_bitmaps = self._read_bitmaps(header)
            lost_notes = self._read_notes(header.sub)
        except ShortFile as error:
            raise TargetError(f"it is a kdump file cut off within its headers: {error}") from error
        lost = {"sub-header": header.lost, "bitmaps": lost_bitmaps, "notes": lost_notes}
        self.notices += unreadable([what for what, gaps in lost.items() if gaps])
        self.missing_bytes, empty = self._look_at_the_end()
        told = _OUT_OF_SPACE in self.notices
        if (empty or self._lost) and not told:
            self.notices += (_NEVER_WRITTEN,)
        self.incomplete = bool(self.missing_bytes or empty or self._lost or told or self._ranks.lost)

    def _take(self, header: KdumpHeader) -> None:
        """Set the attributes that need the headers only."""
        self.release, self.architecture = header.release, header.machine
        self.needs_platform = not self.release  # without a release drgn cannot tell the architecture
        self.page_shift, self._block = header.page_shift, 1 << header.page_shift
        self.compression, self.dump_level = header.compression, header.dump_level
        self._decompress: Decompress | None = None
        self.cannot_read = ""
        if self.compression != "none":
            try:
                self._decompress = decompressor(self.compression)
            except NoDecompressor as error:
                self.cannot_read = str(error)
        self.notices: tuple[str, ...] = (_OUT_OF_SPACE,) if header.out_of_space else ()
        self.notices += (self.PART,) if header.sub.split else ()
        self.last_frame = header.last_frame
        if self.last_frame > MAX_FRAMES >> self.page_shift:
            raise TargetError(f"its header claims {self.last_frame} page frames", hint=DAMAGED)
        self.split = self._own_frames(header.sub.start_pfn_64, header.sub.end_pfn_64) if header.sub.split else None

    def _read_bitmaps(self, header: KdumpHeader) -> tuple[Gap, ...]:
        """Read the bitmaps, and from them the ranks of the page descriptors. Return the gaps that are unreadable."""
        source, bitmap, half = self._source, header.bitmaps, header.bitmap_size
        self._descriptors = bitmap + 2 * half
        if not source.has(bitmap, 2 * half) and not source.has(self._descriptors, PAGE_DESC.size):
            raise ShortFile(f"its bitmaps end at {self._descriptors}, the file at {source.size}")
        used = min(half, self.last_frame + 7 >> 3)
        stored = source.stored(bitmap, used) + source.stored(bitmap + half, used)
        source.budget.spend(2 * used, "its two bitmaps of page frames", stored)
        self._ram, lost_ram = self._bitmap(bitmap, used)
        self._in_file, lost_bits = self._bitmap(bitmap + half, used)
        known = min(len(self._ram), len(self._in_file))
        self._lost = known < used  # the bitmaps do not cover the frames from _end on
        if lost_ram:
            self._ram = _with_ones(self._ram, lost_ram)  # "left out" is safer than "no RAM"
        self._whole_bitmaps = not (lost_ram or lost_bits)
        self._first, end = self.split or (0, self.last_frame)
        self._end = min(end, known * 8)
        self._table_block = lru_cache(_TABLE_BLOCKS_KEPT)(self._read_table_block)
        gaps, total = lost_bits, None
        if gaps:
            total = self._count_descriptors(8 * len(self._in_file))
            # If nothing was left out, all RAM is in the file.
            whole = restored(self._in_file, gaps, self._ram, self._first, self._end, total)
            if whole is not None:
                self._in_file, gaps = whole, ()
        self._ranks = Ranks(self._in_file, self._first, self._end, gaps, total)
        return lost_ram + lost_bits

    def _read_notes(self, sub: SubHeader) -> tuple[Gap, ...]:
        """Read the notes and VMCOREINFO. Return the gaps that are unreadable."""
        notes, lost_notes = self._area(sub.offset_note, sub.size_note)
        self.notes: tuple[DumpNote, ...] = tuple(parse_notes(notes, self._source.budget, lost_notes))
        text, lost_text = self._area(sub.offset_vmcoreinfo, min(sub.size_vmcoreinfo, MAX_VMCOREINFO))
        self.vmcoreinfo: bytes | None = None if lost_text else text or None
        return lost_notes + lost_text

    def _own_frames(self, start: int, end: int) -> tuple[int, int]:
        """Return the frames [start, end) of this part of a split set, up to the machine's last frame."""
        end = min(end, self.last_frame)
        if start > end:
            raise TargetError(
                f"its header claims page frames {start:#x} to {end:#x} of a split set",
                hint=DAMAGED,
            )
        return start, end

    def same_dump(self, other: "KdumpDump") -> bool:
        """Tell whether two files of split sets belong to one set: same kernel, and the same pages left out."""
        mine, theirs = ((dump.release, dump.dump_level, dump.last_frame, dump.vmcoreinfo) for dump in (self, other))
        if not (self._whole_bitmaps and other._whole_bitmaps):
            return mine == theirs
        return mine == theirs and (self._ram, self._in_file) == (other._ram, other._in_file)

    def _area(self, offset: int, size: int) -> tuple[bytes, tuple[Gap, ...]]:
        """Return the bytes that the sub-header points to (b"" if missing), and the gaps in them."""
        if not 0 < size <= _MAX_NOTES or not self._source.has(offset, size):
            return b"", ()
        self._source.budget.spend(size, "what its sub-header points to")
        data, gaps = salvage(self._source, offset, size)
        return bytes(data), gaps

    def _bitmap(self, offset: int, size: int) -> tuple[memoryview, tuple[Gap, ...]]:
        """Return a bitmap, or as much of it as was written, and the gaps in it.

        makedumpfile writes a piece of the bitmap, then the pages of this piece, then the next piece.
        """
        if not self._source.has(offset, size):
            size = bisect_left(range(size), True, key=lambda count: not self._source.has(offset, count + 1))
        return salvage(self._source, offset, size)

    def _count_descriptors(self, most: int) -> int | None:
        """Count the page descriptors. They end where the first page begins.

        :returns: None if the file does not tell.
        """
        first_page, at = most * PAGE_DESC.size, 0
        step = _DESCRIPTORS_AT_ONCE * PAGE_DESC.size
        while at < first_page:
            size = min(step, self._source.size - self._descriptors - at) // PAGE_DESC.size * PAGE_DESC.size
            try:
                for offset, _, _, _ in PAGE_DESC.code.iter_unpack(
                    self._source.read(self._descriptors + at, max(0, size))
                ):
                    if offset >= self._descriptors:  # otherwise the descriptor was never written
                        first_page = min(first_page, offset - self._descriptors)
            except OSError:
                pass
            except ShortFile:
                return None
            at += step
        return None if first_page % PAGE_DESC.size else first_page // PAGE_DESC.size

    def _look_at_the_end(self) -> tuple[int, bool]:
        """Return how many bytes the file is too short for its last pages, and whether some were never written.

        Zero pages share one place in the file, so this checks several descriptors.
        """
        pages = self._ranks.total
        last = min(pages, _LAST_DESCRIPTORS)
        end = self._descriptors + pages * PAGE_DESC.size
        try:
            table, lost = salvage(self._source, end - last * PAGE_DESC.size, last * PAGE_DESC.size)
        except ShortFile:
            return max(end - self._source.size, 1), False
        ends = [offset + size for offset, size, _, _ in PAGE_DESC.code.iter_unpack(table) if size]
        return max(max(ends, default=end) - self._source.size, 0), len(ends) < last and not lost

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        return merged(self._runs(start, end))

    def counts(self, start: int = 0, end: int = MAX_FRAMES) -> dict[FrameState, int]:
        """Count the frames of [start, end) in each state except NO_RAM, which is the rest.

        This counts bits in the bitmaps: there may be as many runs as frames.

        :param start: at most the first frame of this file.
        :param end: at least the number behind its last frame.
        """
        behind = min(max(self._end, self.last_frame), end) if self._lost else self._end
        lost = self._ranks.lost or range(self._end, self._end)
        found = dict.fromkeys(FrameState, 0)
        found[FrameState.LOST] = len(lost)
        found[FrameState.CUT_OFF] = behind - self._end
        found[FrameState.EXCLUDED] = count_ones(self._ram, start, self._first) + count_ones(self._ram, behind, end)
        for first, last in ((self._first, lost.start), (lost.stop, self._end)):
            if first >= last:
                continue
            found[FrameState.EXCLUDED] += count_others(self._ram, self._in_file, first, last)
            total = there = count_ones(self._in_file, first, last)
            if self.incomplete:
                table = self._descriptors + self._ranks.rank(first) * PAGE_DESC.size
                there = count_written(self._source, table, total)
            found[FrameState.STORED] += there
            found[FrameState.CUT_OFF] += total - there
        return found

    def stored(self) -> Iterator[FrameRun]:
        """Yield all runs that are STORED, ascending, without a step for each of the other runs.

        Skip runs whose descriptors lie in a hole of the file: they lead to no page.
        """
        return merged(self._stored())

    def _stored(self) -> Iterator[FrameRun]:
        lost = self._ranks.lost
        told: Iterable[tuple[int, int]] = ((self._first, lost.start), (lost.stop, self._end))
        if not lost:
            ranks = written(self._source, self._descriptors, self._ranks.total)
            told = ((self._ranks.bit(first), self._ranks.bit(last - 1) + 1) for first, last in ranks)
        for start, end in told:
            for first, last, is_set in bit_runs(self._in_file, start, end):
                if is_set and self.incomplete:
                    yield from (run for run in self._check(first, last) if run.state is FrameState.STORED)
                elif is_set:
                    yield FrameRun(first, last, FrameState.STORED)

    def _runs(self, start: int, end: int) -> Iterator[FrameRun]:
        if start < self._first:
            yield from self._absent(start, min(end, self._first))  # in another file of the split set
        at, stop, lost = max(start, self._first), min(end, self._end), self._ranks.lost
        if lost and at < lost.stop and lost.start < stop:
            yield from self._told(at, lost.start)
            yield FrameRun(max(at, lost.start), min(stop, lost.stop), FrameState.LOST)
            at = lost.stop
        yield from self._told(at, stop)
        start = max(start, self._end)
        if self._lost and start < min(end, self.last_frame):
            yield FrameRun(start, min(end, self.last_frame), FrameState.CUT_OFF)
            start = min(end, self.last_frame)
        if start < end:
            yield from self._absent(start, end)

    def _told(self, start: int, end: int) -> Iterator[FrameRun]:
        """Yield the runs in [start, end) as the bitmaps tell them."""
        for first, last, stored in bit_runs(self._in_file, start, end):
            if stored and not self.incomplete:
                yield FrameRun(first, last, FrameState.STORED)
            elif stored:
                yield from self._check(first, last)
            else:
                yield from self._absent(first, last)

    def _absent(self, start: int, end: int) -> Iterator[FrameRun]:
        for first, last, ram in bit_runs(self._ram, start, end):
            yield FrameRun(first, last, FrameState.EXCLUDED if ram else FrameState.NO_RAM)

    def _check(self, start: int, end: int) -> Iterator[FrameRun]:
        """Yield the state of each frame that an incomplete file should have: STORED or CUT_OFF."""
        while start < end:
            stop = min(end, start + _DESCRIPTORS_AT_ONCE)
            size = (stop - start) * PAGE_DESC.size
            try:
                table = self._source.read(self._descriptors + self._ranks.rank(start) * PAGE_DESC.size, size)
            except ShortFile:  # then the pages, which lie behind the descriptors, are missing too
                yield FrameRun(start, stop, FrameState.CUT_OFF)
            except OSError:  # reading a page will raise the error
                yield FrameRun(start, stop, FrameState.STORED)
            else:
                for frame, (offset, length, _, _) in enumerate(PAGE_DESC.code.iter_unpack(table), start):
                    there = offset > 0 and length > 0 and self._source.has(offset, length)
                    yield FrameRun(frame, frame + 1, FrameState.STORED if there else FrameState.CUT_OFF)
            start = stop

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        if not self.incomplete and self._first <= min(frames) and max(frames) < self._end:
            bits = self._in_file
            stored = bytes([bits[frame >> 3] >> (frame & 7) & 1 for frame in frames])
            if b"\0" not in stored:
                return iter((Stretch(0, len(frames), FrameState.STORED),))
        return one_by_one(frames, self.runs)

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.dumpfile.DumpFile.fill`."""
        self.place([(page, at) for at, page in enumerate(pages)], view)

    def place(self, wanted: list[tuple[int, int]], view: memoryview) -> None:
        """Unpack page frames that are STORED to their places in the view.

        Reads go in file order, so that neighbours in the file take one read.

        :param wanted: for each frame its physical address, and the number of the page in the view for its bytes.
        :raises ShortFile, BrokenDump, OSError: a page cannot be read.
        """
        wanted.sort()
        found: list[tuple[int, int, int, int]] = []  # offset in the file, size, flags; place
        for first, last, rank in self._ranked(wanted):
            descriptors = PAGE_DESC.code.iter_unpack(self._described(rank, last - first))
            for (_, at), (offset, size, flags, _) in zip(wanted[first:last], descriptors, strict=True):
                if size > self._block:
                    raise BrokenDump(f"a page of the dump has an invalid size: {size} bytes")
                found.append((offset, size, flags, at))
        found.sort()
        self._unpack(found, view)

    def _described(self, rank: int, count: int) -> memoryview:
        """Return page descriptors, from cached blocks of the table: the next ones wanted are mostly near."""
        start, size = rank * PAGE_DESC.size, count * PAGE_DESC.size
        number, at = divmod(start, _TABLE_BLOCK)
        if at + size <= _TABLE_BLOCK:
            try:
                found = self._table_block(number)[at : at + size]
            except (ShortFile, OSError):  # perhaps of other bytes in the block
                pass
            else:
                if len(found) == size:
                    return found
        return self._source.read(self._descriptors + start, size)

    def _read_table_block(self, number: int) -> memoryview:
        offset = self._descriptors + number * _TABLE_BLOCK
        return self._source.read(offset, max(0, min(_TABLE_BLOCK, self._source.size - offset)))

    def _ranked(self, wanted: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Yield groups of frames with adjacent descriptors: first, behind the last, rank of the first."""
        start = rank = 0
        previous, shift = -2, self.page_shift
        for at, (page, _) in enumerate(wanted):
            frame = page >> shift
            if frame == previous + 1:  # both are in the file
                previous = frame
                continue
            if at:
                yield start, at, rank
            start, rank, previous = at, self._ranks.rank(frame), frame
        if wanted:
            yield start, len(wanted), rank

    def _unpack(self, found: Sequence[tuple[int, int, int, int]], view: memoryview) -> None:
        """Unpack pages, sorted by their offset in the file.

        One read takes all adjacent pages. A page that stands for several frames (makedumpfile's page of zeros) is
        unpacked once.
        """
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
                        self.cannot_read or "a page of the dump uses a compression that its header does not name"
                    )
            view[at * block : (at + 1) * block] = page

    def close(self) -> None:
        self._source.close()


def _with_ones(bits: memoryview, gaps: Sequence[Gap]) -> memoryview:
    changed = bytearray(bits)
    for start, end in gaps:
        changed[start:end] = b"\xff" * (end - start)
    return memoryview(changed).toreadonly()
