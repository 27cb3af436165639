# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many instructions of Python a page costs where there are millions of pages.

Counted, not timed: the number is the same on a busy machine, and differs little between releases of Python. Each bound
is about half as much again as what was measured with 3.11; a call, an object or a loop more per page is beyond it.
"""

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kgcore.arch.paging import walk
from kgcore.arch.x86.paging import X86_64_4LEVEL
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import Vma
from kgcore.sinks.streams import MemorySink
from kgcore.sources.vmcore.dumpfile import open_dump
from kgcore.sources.vmcore.dumpfile.frames import counted
from tests.builders import FakeMemory, make_image, make_vma
from tests.counting import instructions, per_page
from tests.sources.vmcore.dumpfile.test_dumpfile import PAGE, kdump
from tests.sources.vmcore.dumpfile.test_framefill import STORED, elf_dump, kdump_dump

ENTRIES = 512


def tables(entry: Callable[[int], int]) -> Callable[[int, int], bytes | None]:
    """Page tables: one of each upper level, and 8 lowest ones."""
    memory = {0x1000: [0x2067], 0x2000: [0x3067], 0x3000: [0x10067 + (number << 12) for number in range(8)]}
    memory |= {0x10000 + (n << 12): [entry(n * ENTRIES + at) for at in range(ENTRIES)] for n in range(8)}
    raw = {address: struct.pack(f"<{len(words)}Q", *words).ljust(PAGE, b"\0") for address, words in memory.items()}
    return lambda address, size: raw[address & -PAGE][address % PAGE :][:size]


FRAMES = random.Random(1).sample(range(1, 1 << 20), 8 * ENTRIES)


@pytest.mark.parametrize(
    ("name", "entry", "most"),
    [
        ("scattered", lambda number: FRAMES[number] << 12 | 0x67, 35),
        ("contiguous", lambda number: number + 16 << 12 | 0x67, 35),
        ("none", lambda number: 0 if number else 0x10067, 2),
    ],
)
def test_walk(name: str, entry: Callable[[int], int], most: int) -> None:
    read = tables(entry)

    def walked(pages: int) -> None:
        list(walk(X86_64_4LEVEL, 0x1000, 0, pages * PAGE, read))

    assert per_page(walked, ENTRIES, 8 * ENTRIES) < most, name


@pytest.mark.parametrize(("make", "most"), [(elf_dump, 240), (kdump_dump, 650)], ids=["elf", "kdump"])
def test_read_scattered(tmp_path: Path, make: Callable[[tuple[int, ...]], bytes], most: int) -> None:
    """Each page stands alone: two calls that read it, and a few slices."""
    (tmp_path / "vmcore").write_bytes(make(STORED))
    dump = open_dump(tmp_path / "vmcore")
    frames = [frame for frame in STORED if not frame & 1]
    random.Random(1).shuffle(frames)

    def read(pages: int) -> None:
        dump.fill([frame * PAGE for frame in frames[:pages]], memoryview(bytearray(pages * PAGE)))

    assert per_page(read, 16, len(frames)) < most


@pytest.mark.parametrize(("make", "most"), [(elf_dump, 2), (kdump_dump, 270)], ids=["elf", "kdump"])
def test_read_contiguous(tmp_path: Path, make: Callable[[tuple[int, ...]], bytes], most: int) -> None:
    """One call; of a kdump file each page has to be unpacked."""
    (tmp_path / "vmcore").write_bytes(make(STORED))
    dump = open_dump(tmp_path / "vmcore")

    def read(pages: int) -> None:
        dump.fill(range(100 * PAGE, (100 + pages) * PAGE, PAGE), memoryview(bytearray(pages * PAGE)))

    assert per_page(read, 16, 156) < most


@pytest.mark.parametrize("make", [elf_dump, kdump_dump], ids=["elf", "kdump"])
def test_states(tmp_path: Path, make: Callable[[tuple[int, ...]], bytes]) -> None:
    (tmp_path / "vmcore").write_bytes(make(STORED))
    dump = open_dump(tmp_path / "vmcore")
    assert per_page(lambda pages: list(dump.frames.stretches(range(100, 100 + pages))), 16, 156) < 23


def test_counting_the_frames_of_an_incomplete_file(tmp_path: Path) -> None:
    """A bitmap may change from bit to bit: what counts is the descriptors that are there. It was 410."""

    def count(frames: int) -> None:
        (tmp_path / "vmcore").write_bytes(kdump(range(frames), range(0, frames, 2), frames=frames, status=9))
        dump = open_dump(tmp_path / "vmcore")
        work.append(instructions(lambda: counted(dump.frames)))
        dump.close()

    work: list[int] = []
    for frames in (1024, 1024, 9216):
        count(frames)
    assert (work[2] - work[1]) / 8192 < 20


class Whole(FakeMemory):
    """Pieces of 1 MiB, as a vmcore's memory has them, every other page zeros."""

    content_ = bytearray((b"x" * PAGE + bytes(PAGE)) * 128)

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        for at in range(start, end, len(self.content_)):
            size = min(end - at, len(self.content_))
            yield Piece(Run(at, size, Provenance.PRESENT), self.content_[:size])


def test_plan_and_write() -> None:
    """Every other page is a hole: for each of both a call of the sink."""

    def written(pages: int) -> None:
        memory = Whole()
        plan = make_plan(
            make_image(vmas=(make_vma(0x10000, pages, anon=True),)), CoredumpFilter(0x1FF, page_size=PAGE), memory
        )
        write_core(plan, memory, MemorySink())

    assert per_page(written, 256, 4096) < 140
