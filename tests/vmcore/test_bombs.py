# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files that ask for all memory, or for hours: no command may give it."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile import FrameState, open_dump
from kgcore.sources.vmcore.dumpfile.budget import Budget
from tests.campaign.measured import run
from tests.sources.vmcore.dumpfile.test_dumpfile import elf, note
from tests.vmcore.conftest import need

PAGE = 4096
MEMORY = 300 << 20
CPU = 10  # seconds of the processor's, whatever else runs
GIB = 1 << 30


def put(path: Path, *pieces: tuple[int, bytes], size: int | None = None) -> None:
    """A sparse file of bytes at offsets."""
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        if size is not None:
            file.truncate(size)


def program_headers(*rows: bytes, count: int | None = None) -> bytes:
    """An ELF core's headers. More than 65534 are counted in section 0."""
    count = len(rows) if count is None else count
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 128, 64, 0, 64, 56, min(count, 0xFFFF), 64, 1, 0)
    return head + struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1, 0, count, 0, 0) + b"".join(rows)


def row(kind: int, offset: int, size: int, address: int = 0) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 7, offset, 0xFFFF888000000000 + address, address, size, size, PAGE)


def record(offset: int, data: bytes) -> bytes:
    return struct.pack(">qq", offset, len(data)) + data


FLAT = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(PAGE, b"\0")
END = struct.pack(">qq", -1, -1)


def kdump_header(*, blocks: int = 2, frames: int = 64, sub: bytes = b"") -> bytes:
    """The header and the sub-header of a kdump file.

    :param blocks: of its bitmaps.
    """
    utsname = b"".join(
        text.ljust(65, b"\0") for text in (b"Linux", b"host", b"6.1.0-50-cloud-amd64", b"#1 SMP", b"x86_64", b"")
    )
    head = b"KDUMP   " + struct.pack("<i", 6) + utsname
    head = head.ljust(424, b"\0") + struct.pack("<IIIII", 1, PAGE, 1, blocks, frames)
    return head.ljust(PAGE, b"\0") + sub.ljust(PAGE, b"\0")


def sub_header(*, split: tuple[int, int] | None = None, notes: tuple[int, int] = (0, 0), frames: int = 64) -> bytes:
    start, end = split or (0, 0)
    return struct.pack("<8xii16xQQQQ16xQQQ", 0, int(split is not None), 0, 0, *notes, start, end, frames)


def far_record(path: Path) -> None:
    head = kdump_header(blocks=2 * 5 * GIB // PAGE, sub=sub_header(frames=40 * GIB))
    put(path, (0, FLAT + record(0, head) + record(60 * GIB, b"x" * PAGE) + END))


def same_notes_again(path: Path) -> None:
    at = 64 + 64 + 56 * 1001
    put(path, (0, program_headers(*[row(4, 1 << 20, 64 << 20)] * 1000, row(1, at, PAGE))), size=66 << 20)


def small_notes(path: Path) -> None:
    notes = note(b"A", 1, b"") * ((64 << 20) // 16)
    put(path, (0, program_headers(row(4, PAGE, len(notes)), row(1, 0, PAGE))), (PAGE, notes))


def split_far_away(path: Path) -> None:
    put(path, (0, kdump_header(sub=sub_header(split=(1 << 60, (1 << 60) + 64)))), size=8 * PAGE)


def split_without_end(path: Path) -> None:
    put(path, (0, kdump_header(sub=sub_header(split=(0, (1 << 64) - 1)))), size=8 * PAGE)


def wide_bitmap(path: Path) -> None:
    blocks = 200 * GIB // PAGE
    sub = sub_header(frames=800 * GIB)
    put(path, (0, kdump_header(blocks=blocks, frames=0xFFFFFFFF, sub=sub)), size=200 * GIB + (1 << 20))


def no_end_mark(path: Path) -> None:
    """One record that reaches over all others, which each look has to go back over."""
    data = need("k61-small").dump("vmcore").read_bytes()
    with path.open("wb") as file:
        file.write(FLAT + struct.pack(">qq", 0, 1 << 40))
        for at in range(0, len(data), 64):
            file.write(record(at, data[at : at + 64]))


def empty_records(path: Path) -> None:
    put(path, (0, FLAT + record(1 << 30, b"") * 4_000_000))


def many_loads(path: Path) -> None:
    count = 2_000_000
    table = b"".join(row(1, 0, PAGE, 2 * PAGE * at) for at in range(1000))
    put(path, (0, program_headers(count=count) + table * (count // 1000)), size=128 + 56 * count + PAGE)


def as_many_loads_as_may_be(path: Path) -> None:
    count = 500_000
    table = b"".join(row(1, 0, PAGE, 2 * PAGE * at) for at in range(count))
    put(path, (0, program_headers(count=count) + table))


def headers_in_a_hole(path: Path) -> None:
    put(path, (0, program_headers(row(4, PAGE, 64), row(1, 0, PAGE), count=0xFFFFFFFF)), size=300 * GIB)


def notes_in_a_hole(path: Path) -> None:
    put(path, (0, program_headers(row(4, PAGE, 100 * GIB), row(1, 0, PAGE))), size=101 * GIB)


def kgcore_note_of_brackets(path: Path) -> None:
    desc = b"[" + b"[]," * (20 << 20) + b"0]"
    head = struct.pack("<III", 7, len(desc), 0x4B474352) + b"KGCORE\0\0" + desc
    put(path, (0, program_headers(row(4, PAGE, len(head)), row(1, 0, PAGE))), (PAGE, head))


def mapped_files_without_end(path: Path) -> None:
    desc = struct.pack("<QQ", (1 << 61) - 1, 1) + bytes(1 << 20)
    data = note(b"CORE", 0x46494C45, desc)
    put(path, (0, program_headers(row(4, PAGE, len(data)), row(1, 0, PAGE))), (PAGE, data))


def lime_ranges(path: Path) -> None:
    put(path, (0, b"".join(struct.pack("<4sIQQ8x", b"EMiL", 1, at, at) + b"x" for at in range(70_000))))


def memory_in_a_hole(path: Path) -> None:
    """No VMCOREINFO in it, so that all memory is searched."""
    put(path, (0, program_headers(row(1, PAGE, 15 << 40))), size=(15 << 40) + PAGE)


def memory_a_page_here_and_there(path: Path) -> None:
    pages = ((at * (16 << 20), b"x" * PAGE) for at in range(1, 40_000))
    put(path, (0, program_headers(row(1, PAGE, 1 << 40))), *pages, size=(1 << 40) + PAGE)


def the_same_memory_again(path: Path) -> None:
    rows = [row(1, 1 << 20, 16 << 20, at * (16 << 20)) for at in range(60_000)]
    put(path, (0, program_headers(*rows)), (1 << 20, b"x" * (16 << 20)), size=17 << 20)


FRAMES = 1 << 26


def bitmaps(path: Path, ram: bytes, in_file: bytes, rows: int, behind: bytes = b"") -> None:
    """67 million page frames, and no VMCOREINFO, so that all memory is searched.

    :param ram: a byte of the one bitmap, which is all like this; then of the other.
    :param rows: page descriptors, of which all but the last ones lie in a hole.
    :param behind: those last ones.
    """
    half = FRAMES // 8
    head = kdump_header(blocks=2 * half // PAGE, frames=0, sub=sub_header(frames=FRAMES))
    table = 2 * PAGE + 2 * half
    maps = (2 * PAGE, ram * half), (2 * PAGE + half, in_file * half)
    end = table + 24 * rows
    put(path, (0, head), *maps, (end - len(behind), behind), size=end + PAGE)


def frames_without_descriptors(path: Path) -> None:
    bitmaps(path, b"\xff", b"\xff", 0)


def descriptors_in_a_hole(path: Path) -> None:
    bitmaps(path, b"\xff", b"\xff", FRAMES)


def every_other_descriptor_in_a_hole(path: Path) -> None:
    bitmaps(path, b"\x55", b"\x55", FRAMES // 2)


def descriptors_in_a_hole_but_for_the_last(path: Path) -> None:
    """The file looks complete."""
    bitmaps(path, b"\x55", b"\x55", FRAMES // 2, struct.pack("<QIIQ", 2 * PAGE, PAGE, 0, 0) * 4096)


def every_other_frame_left_out(path: Path) -> None:
    bitmaps(path, b"\xff", b"\x55", FRAMES // 2)


def every_other_frame_of_ram(path: Path) -> None:
    bitmaps(path, b"\x55", b"\0", 0)


def pages_that_cannot_be_unpacked(path: Path) -> None:
    bitmaps(path, b"\x55", b"\x55", 200_000, struct.pack("<QIIQ", 2 * PAGE, 100, 1, 0) * 200_000)


BOMBS: tuple[Callable[[Path], None], ...] = (
    far_record,
    same_notes_again,
    small_notes,
    split_far_away,
    split_without_end,
    wide_bitmap,
    no_end_mark,
    empty_records,
    many_loads,
    as_many_loads_as_may_be,
    headers_in_a_hole,
    notes_in_a_hole,
    kgcore_note_of_brackets,
    mapped_files_without_end,
    lime_ranges,
    memory_in_a_hole,
    memory_a_page_here_and_there,
    the_same_memory_again,
    frames_without_descriptors,
    descriptors_in_a_hole,
    every_other_descriptor_in_a_hole,
    descriptors_in_a_hole_but_for_the_last,
    every_other_frame_left_out,
    every_other_frame_of_ram,
    pages_that_cannot_be_unpacked,
)


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bomb(bomb: Callable[[Path], None], command: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    bomb(path)
    allowed = MEMORY + os.stat(path).st_blocks * 512
    done = run(command, path) if command == "check" else run(command, "-c", path)
    assert done.status in (0, 1), done
    assert "unexpected" not in done.said
    assert "Traceback" not in done.said
    assert done.cpu < CPU, done
    assert done.peak < allowed, done.err


def test_one_sum_for_all(tmp_path: Path) -> None:
    """Ten note segments of which each alone would do."""
    notes = note(b"CORE", 1, bytes(1 << 20)) * 16
    put(tmp_path / "x", (0, program_headers(*[row(4, PAGE, len(notes))] * 10, row(1, 0, PAGE))), (PAGE, notes))
    with pytest.raises(TargetError, match="last for its notes"):
        open_dump(tmp_path / "x")
    put(tmp_path / "y", (0, program_headers(*[row(4, PAGE, len(notes))] * 2, row(1, 0, PAGE))), (PAGE, notes))
    assert len(open_dump(tmp_path / "y").notes) == 32


def test_what_the_file_holds_is_free() -> None:
    budget = Budget(100)
    budget.spend(1000, "bitmaps", stored=950)
    budget.spend(40, "notes")
    with pytest.raises(TargetError, match=r"need 101 B of memory and more .*last for notes"):
        budget.spend(11, "notes")


def test_a_bitmap_in_a_hole_is_small(tmp_path: Path) -> None:
    """Memory far up, and a file system that keeps no zeros: 4 TiB of addresses are 2 x 128 MiB, half of it in holes."""
    path = tmp_path / "x"
    half = 128 << 20
    frames = half * 8
    blocks = 2 * half // PAGE
    data = b"\xff" * (half // 4 * 3)
    head = kdump_header(blocks=blocks, frames=0, sub=sub_header(frames=frames))
    put(path, (0, head), (2 * PAGE, data), (2 * PAGE + half, data), size=2 * PAGE + 2 * half)
    dump = open_dump(path)
    assert next(dump.frames.runs(frames - 8, frames)).state is FrameState.NO_RAM


def test_later_records_win(tmp_path: Path) -> None:
    """Records that overlap in every way give what writing them one after the other does."""
    whole = bytearray(elf([(0, 4 * PAGE, 4 * PAGE)]))
    path = tmp_path / "x"
    pieces = [(0, bytes(len(whole))), (0, bytes(whole[:3000])), (1000, bytes(whole[1000:])), (2000, bytes(500))]
    pieces += [(2000, bytes(whole[2000:2500])), (len(whole) - 10, bytes(whole[-10:]))]
    path.write_bytes(FLAT + b"".join(record(*piece) for piece in pieces) + END)
    plain = tmp_path / "y"
    plain.write_bytes(whole)
    one, two = open_dump(path), open_dump(plain)
    assert one.notes == two.notes
    views = bytearray(4 * PAGE), bytearray(4 * PAGE)
    one.fill(range(0, 4 * PAGE, PAGE), memoryview(views[0]))
    two.fill(range(0, 4 * PAGE, PAGE), memoryview(views[1]))
    assert views[0] == views[1]


@pytest.mark.parametrize("mib", [24, 60, 120, 200, 220, 230, 240, 260])
def test_little_memory(mib: int, tmp_path: Path) -> None:
    """Libraries that cannot be loaded, drgn that cannot allocate, workers that cannot be forked."""
    dump = need("k61-small").dump("vmcore")
    done = run("-c", dump, "-D", tmp_path, "--jobs", "2", "128", memory=mib << 20)
    assert done.status in (0, 1, 3), done
    assert "unexpected" not in done.said
    assert "Traceback" not in done.said
    assert done.status != 1 or "memory" in done.err
    assert [path.name for path in tmp_path.iterdir()] == (["core.128"] if done.status != 1 else [])
