# SPDX-License-Identifier: LGPL-2.1-or-later
"""One bad page of a dump file, wherever it lies, costs what was there: in every format, at every offset."""

import os
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.dumpfile import DumpFile, FrameState, open_dump
from kgcore.sources.vmcore.dumpfile.ranks import Ranks, restored
from kgcore.sources.vmcore.dumpfile.source import Gap, PlainFile, ShortFile, salvage
from tests.bad_sectors import bad
from tests.sources.vmcore.dumpfile.test_dumpfile import PAGE, PARSED, check_counts, elf, flattened, kdump
from tests.sources.vmcore.dumpfile.test_framefill import FORMATS, STORED, content

FRAMES = range(256)
ZERO = 103
"""makedumpfile has a page of zeros before all others, if any is; that of the test is none that can be unpacked."""
RAW = b"".join(content(frame) if frame in STORED else bytes(PAGE) for frame in FRAMES)
KDUMP = kdump(FRAMES, STORED, content=content, zero=(ZERO,))
FILES = {**{name: data for name, data in FORMATS.items() if data}, "kdump": KDUMP, "raw": RAW}
FILES["kdump-flattened"] = flattened(KDUMP)
PIECE = 1000
"""Of flattened files; see :func:`tests.sources.vmcore.dumpfile.test_dumpfile.flattened`."""


def pages_of(dump: DumpFile) -> Iterator[tuple[int, bytes | None, FrameState]]:
    """Each frame: its bytes, None if they cannot be read."""
    for frame in FRAMES:
        (run,) = dump.frames.runs(frame, frame + 1)
        page = bytearray(b"?" * PAGE)
        if run.state is not FrameState.STORED:
            yield frame, None, run.state
            continue
        try:
            dump.fill([frame * PAGE], memoryview(page))
        except (ShortFile, BrokenDump, OSError):
            yield frame, None, run.state
        else:
            yield frame, bytes(page), run.state


def expected(name: str) -> dict[int, bytes]:
    if name == "raw":
        return {frame: content(frame) if frame in STORED else bytes(PAGE) for frame in FRAMES}
    return {frame: content(frame) for frame in STORED if frame != ZERO or "kdump" not in name}


def first_pages(name: str) -> set[int]:
    """Those with headers that nothing stands in for: without them nobody knows what file it is."""
    if name == "raw":
        return set()
    found = {0}
    if "flattened" in name:  # its own header, and the record with that of the dump
        at = FILES[name].rindex(struct.pack(">qq", 0, PIECE))
        found |= {at // PAGE, (at + 16 + PIECE) // PAGE}
    return found


def check(dump: DumpFile, wanted: dict[int, bytes]) -> list[int]:
    """No wrong byte, and no frame that nobody had; those that are lost."""
    lost = []
    for frame, page, state in pages_of(dump):
        if page is not None:
            assert page == wanted.get(frame), frame
        elif frame in wanted:
            assert state not in (FrameState.EXCLUDED, FrameState.NO_RAM), "it is not left out, but cannot be read"
            lost.append(frame)
    check_counts(dump, bad=True)
    return lost


@pytest.mark.parametrize("name", FILES)
def test_every_page(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(FILES[name])
    wanted = expected(name)
    most = {"kdump": 171, "kdump-flattened": 4 * 42}.get(name, 10)  # a page of descriptors, or records with some
    tables = 0
    for number in range(-(-len(FILES[name]) // PAGE)):
        with bad(path, (number * PAGE, (number + 1) * PAGE)):
            try:
                dump = open_dump(path, architecture="x86_64" if name == "raw" else None)
            except TargetError:
                if number not in first_pages(name):
                    raise
                continue
            lost = check(dump, wanted)
            dump.close()
        if len(lost) > most:
            tables += 1
            assert any("are unreadable (a disk error?)" in notice for notice in dump.notices)
        assert set(dump.notes) <= set(PARSED)
    # The bitmap of what is in the file, a page here, and the records that it lies in.
    assert tables <= {"kdump": 1, "kdump-flattened": 3}.get(name, 0)


@pytest.mark.parametrize("name", FILES)
def test_random_ranges(tmp_path: Path, name: str) -> None:
    """Several at a time, not aligned to anything: never a wrong byte, never anything but the errors of opening."""
    path = tmp_path / "vmcore"
    path.write_bytes(FILES[name])
    chance = random.Random(7)
    opened = 0
    for _ in range(60):
        ranges = []
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(FILES[name]))
            ranges.append((start, start + chance.choice((1, 512, PAGE, 3 * PAGE))))
        with bad(path, *ranges):
            try:
                dump = open_dump(path, architecture="x86_64" if name == "raw" else None)
            except TargetError:
                continue
            check(dump, expected(name))
            dump.close()
            opened += 1
    assert opened > 30


def test_a_bitmap_is_restored_where_nothing_was_left_out(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(kdump(STORED, STORED, content=content, zero=(ZERO,)))
    for number in (2, 3):
        with bad(path, (number * PAGE, (number + 1) * PAGE)):
            assert check(open_dump(path), expected("kdump")) == []


class TestRanks:
    BITS = bytes(random.Random(3).randbytes(64))

    def ranks(self, gaps: Sequence[Gap], total: int | None, first: int = 0) -> Ranks:
        damaged = bytearray(self.BITS)
        for start, end in gaps:
            damaged[start:end] = bytes(end - start)
        return Ranks(memoryview(damaged), first, 500, gaps, total)

    def true(self, bit: int, first: int = 0) -> int:
        return sum(self.BITS[at >> 3] >> (at & 7) & 1 for at in range(first, bit))

    @pytest.mark.parametrize("first", [0, 70])
    def test_the_bit_that_has_a_rank(self, first: int) -> None:
        chance = random.Random(4)
        for _ in range(20):
            bits = b"".join(chance.choice((bytes(200), chance.randbytes(9), b"\xff" * 150)) for _ in range(9))
            end = chance.randrange(first + 1, len(bits) * 8 + 1)
            ranks = Ranks(memoryview(bits), first, end)
            expected = [at for at in range(first, end) if bits[at >> 3] >> (at & 7) & 1]
            assert [ranks.bit(rank) for rank in range(ranks.total)] == expected

    @pytest.mark.parametrize("first", [0, 70])
    @pytest.mark.parametrize("gaps", [(), (Gap(10, 12),), (Gap(0, 9),), (Gap(20, 30), Gap(40, 41)), (Gap(60, 64),)])
    @pytest.mark.parametrize("known", [True, False])
    def test_against_counting(self, gaps: Sequence[Gap], first: int, *, known: bool) -> None:
        ranks = self.ranks(gaps, self.true(500, first) if known else None, first)
        assert len(ranks.lost) <= (gaps[-1].end * 8 if known else 500) - gaps[0].start * 8 if gaps else not ranks.lost
        for bit in range(first, 500):
            if bit not in ranks.lost:
                assert ranks.rank(bit) == self.true(bit, first)
        assert ranks.total == self.true(500, first) or not known

    def test_nothing_is_set_there(self) -> None:
        ranks = Ranks(memoryview(bytes(4) + b"\xff"), 0, 40, (Gap(1, 3),), 8)
        assert not ranks.lost
        assert ranks.rank(39) == 7

    def test_restored(self) -> None:
        bits, most = memoryview(b"\x0f\0\1"), memoryview(b"\xff\x3c\1")
        assert restored(bits, (Gap(1, 2),), most, 0, 24, 9) == memoryview(b"\x0f\x3c\1")
        for total in (8, 10, None):
            assert restored(bits, (Gap(1, 2),), most, 0, 24, total) is None


def test_salvage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = random.Random(1).randbytes(10 * PAGE)
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    source = PlainFile(descriptor)
    os.close(descriptor)
    with bad(path, (PAGE + 5, PAGE + 6), (4 * PAGE, 6 * PAGE)):
        assert salvage(source, 0, PAGE) == (memoryview(data)[:PAGE], ())
        found, gaps = salvage(source, 100, 9 * PAGE)
        assert gaps == (Gap(PAGE - 100, 2 * PAGE - 100), Gap(4 * PAGE - 100, 6 * PAGE - 100))
        whole = bytearray(data[100:][: 9 * PAGE])
        for start, end in gaps:
            whole[start:end] = bytes(end - start)
        assert found == whole
        with pytest.raises(OSError, match="Input/output error"):
            source.read(0, 9 * PAGE)
    with pytest.raises(ShortFile):
        salvage(source, PAGE, 10 * PAGE)
    os.truncate(path, 3 * PAGE)
    with pytest.raises(ShortFile):
        salvage(source, 0, 4 * PAGE)
    source.close()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    for name, data in FILES.items():
        path = tmp_path / "vmcore"
        path.write_bytes(data)
        dump = open_dump(path, architecture="x86_64" if name == "raw" else None)
        os.truncate(path, len(data) * 7 // 8)
        lost = check(dump, expected(name))
        assert 20 < len(lost) < len(expected(name)) - 2, name
        dump.close()


def test_lost_lime_header_is_no_license_to_invent(tmp_path: Path) -> None:
    """Bytes of memory that look like a header are none unless ranges follow one another up to the end of the file."""
    forged = struct.pack("<4sIQQ8x", b"EMiL", 1, 0x7000, 0x7FFF)
    page = forged + b"x" * (PAGE - len(forged))
    ranges = [(0, bytes(PAGE) * 3), (0x10000, page * 3), (0x20000, b"y" * PAGE)]
    data = b"".join(struct.pack("<4sIQQ8x", b"EMiL", 1, at, at + len(memory) - 1) + memory for at, memory in ranges)
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    with bad(path, (3 * PAGE, 4 * PAGE)):
        dump = open_dump(path)
    assert list(dump.frames.runs(0, 0x30))[-1].state is FrameState.LOST
    assert next(dump.frames.runs(7, 8)).state is FrameState.LOST
    assert next(dump.frames.runs(0x20, 0x21)).state is FrameState.STORED
    assert any("headers are unreadable" in notice for notice in dump.notices)


def test_flattened_twice_damaged(tmp_path: Path) -> None:
    """What no record holds may have been in one that is lost, even where the writer would have skipped zeros."""
    path = tmp_path / "vmcore"
    path.write_bytes(flattened(elf([(0, 16 * PAGE, 16 * PAGE)]), piece=PIECE, shuffle=False))
    with bad(path, (5 * PAGE, 6 * PAGE)):
        dump = open_dump(path)
        pages = {frame: page for frame, page, _ in pages_of(dump) if frame < 16}
    assert 0 < sum(page is None for page in pages.values()) < 5
    assert {page for page in pages.values() if page} == {bytes(PAGE)}
