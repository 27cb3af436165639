# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page frames in bulk: any list of them, out of any format, is the frames one by one."""

import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import DumpFile, open_dump
from kgcore.sources.vmcore.dumpfile.frames import Frames, FrameState
from kgcore.sources.vmcore.dumpfile.source import PlainFile, ShortFile
from tests.sources.vmcore.dumpfile.test_dumpfile import PAGE, elf, flattened, kdump

STORED = (*range(3), *range(5, 64), *range(70, 71), *range(100, 256))


def content(frame: int) -> bytes:
    return random.Random(frame).randbytes(PAGE // 2) + bytes([frame]) * (PAGE // 2)


def elf_dump(stored: Sequence[int]) -> bytes:
    """Each run of frames a PT_LOAD; the last one stands first in the file."""
    runs: list[list[int]] = []
    for frame in stored:
        if runs and runs[-1][-1] == frame - 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    runs.reverse()
    sizes = [(run[0] * PAGE, len(run) * PAGE, len(run) * PAGE) for run in runs]
    data = elf(sizes)
    return data[: len(data) - len(stored) * PAGE] + b"".join(content(frame) for run in runs for frame in run)


def lime_dump(stored: Sequence[int]) -> bytes:
    return b"".join(
        struct.pack("<4sIQQ8x", b"EMiL", 1, frame * PAGE, frame * PAGE + PAGE - 1) + content(frame) for frame in stored
    )


def kdump_dump(stored: Sequence[int]) -> bytes:
    return kdump(range(256), stored, content=content)


FORMATS = {
    "elf": elf_dump(STORED),
    "elf-flattened": flattened(elf_dump(STORED)),
    "lime": lime_dump(STORED),
    "kdump": kdump_dump(STORED),
    "kdump-flattened": flattened(kdump_dump(STORED)),
    "kdump-split": b"",
}


@pytest.fixture(scope="module", params=FORMATS)
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DumpFile:
    folder = tmp_path_factory.mktemp("dump")
    if request.param == "kdump-split":
        for number, part in enumerate(((0, 60), (60, 101), (101, 256))):
            (folder / f"{number}").write_bytes(kdump(range(256), STORED, split=part, content=content))
        return open_dump(folder / "0", folder / "1", folder / "2")
    (folder / "vmcore").write_bytes(FORMATS[request.param])
    return open_dump(folder / "vmcore")


def filled(dump: DumpFile, frames: Sequence[int]) -> bytes:
    data = bytearray(b"?" * (len(frames) * PAGE))
    dump.fill([frame * PAGE for frame in frames], memoryview(data))
    return bytes(data)


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.sampled_from(STORED), min_size=1, max_size=40))
def test_any_list(dump: DumpFile, frames: list[int]) -> None:
    assert filled(dump, frames) == b"".join(map(content, frames))


def test_range(dump: DumpFile) -> None:
    data = bytearray(60 * PAGE)
    dump.fill(range(100 * PAGE, 160 * PAGE, PAGE), memoryview(data))
    assert data == b"".join(map(content, range(100, 160)))


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_states_of_any_list(dump: DumpFile, frames: list[int]) -> None:
    check_stretches(dump.frames, frames)
    check_stretches(dump.frames, sorted(set(frames) & set(STORED)) or [0])


def check_stretches(frames: Frames, wanted: list[int]) -> None:
    found = list(frames.stretches(wanted))
    assert [stretch.start for stretch in found] == [0, *(stretch.end for stretch in found[:-1])]
    assert found[-1].end == len(wanted)
    for start, end, state in found:
        for frame in wanted[start:end]:
            (run,) = frames.runs(frame, frame + 1)
            assert run.state is state


@pytest.mark.parametrize("format_", ["elf", "kdump"])
def test_cut_off(tmp_path: Path, format_: str) -> None:
    """What is there is read; of what is not there is an error, and no other bytes."""
    (tmp_path / "vmcore").write_bytes(FORMATS[format_][: -len(FORMATS[format_]) // 3])
    dump = open_dump(tmp_path / "vmcore")
    there = [f for f in range(256) if next(dump.frames.runs(f, f + 1)).state is FrameState.STORED]
    lost = [f for f in STORED if f not in there]
    assert there
    assert lost
    assert filled(dump, there) == b"".join(map(content, there))
    for frame in lost:
        with pytest.raises((ShortFile, BrokenDump)):
            filled(dump, [there[0], frame])
    check_stretches(dump.frames, list(range(256)))


def test_descriptors_that_lie(tmp_path: Path) -> None:
    """A size is checked before it is allocated; a page that unpacks to another size is none."""
    good = kdump(range(4), range(4), content=content)
    table = 4 * PAGE
    lies: list[tuple[int, int, int]] = [
        (table, 0xFFFF_FFF0, 1),  # size
        (table, 1 << 62, 4096),  # an offset beyond all files
        (len(good) + 10, 100, 1),
    ]
    for offset, size, flags in lies:
        data = bytearray(good)
        data[table : table + 24] = struct.pack("<QIIQ", offset, size & 0xFFFFFFFF, flags & 0xFFFFFFFF, 0)
        (tmp_path / "vmcore").write_bytes(data)
        dump = open_dump(tmp_path / "vmcore")
        with pytest.raises((ShortFile, BrokenDump)):
            filled(dump, [0])
    data = bytearray(good + zlib.compress(b"x" * 5000))
    data[table : table + 24] = struct.pack("<QIIQ", len(good), len(data) - len(good), 1, 0)
    (tmp_path / "vmcore").write_bytes(data)
    with pytest.raises(BrokenDump):
        filled(open_dump(tmp_path / "vmcore"), [0])


def test_a_page_that_stands_for_many(tmp_path: Path) -> None:
    """makedumpfile has one page of zeros for all of them."""
    good = kdump(range(8), range(8), content=lambda frame: content(frame if frame & 1 else 0))
    data = bytearray(good)
    first = data[4 * PAGE : 4 * PAGE + 24]
    for frame in (2, 4, 6):
        data[4 * PAGE + 24 * frame : 4 * PAGE + 24 * frame + 24] = first
    (tmp_path / "vmcore").write_bytes(data)
    wanted = [6, 1, 0, 4, 4, 3, 2]
    expected = b"".join(content(frame if frame & 1 else 0) for frame in wanted)
    assert filled(open_dump(tmp_path / "vmcore"), wanted) == expected


def test_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(FORMATS["elf"])
    dump = open_dump(path)
    path.write_bytes(FORMATS["elf"][: len(FORMATS["elf"]) // 2])
    with pytest.raises(ShortFile):
        filled(dump, STORED)


def test_what_is_expected_need_not_be_there(tmp_path: Path) -> None:
    """It is a hint."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with (tmp_path / "file").open("rb") as file:
        source = PlainFile(file.fileno())
        source.expect([])
        source.expect([(0, 10), (50_000, 10), (1 << 40, 10)])
        source.expect([(0, 10), (1 << 62, 10), ((1 << 63) - 1, 10)])
        source.close()
