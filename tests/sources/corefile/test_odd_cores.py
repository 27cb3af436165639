# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores as other tools write them: several segments of notes, no NT_FILE, no NT_SIGINFO, parts of mappings, segments in
no order, more than 65534 of them."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kgcore.coredump.pipeline import Options
from kgcore.errors import KgcoreError
from kgcore.filters.rules import Rule
from kgcore.library import open_core
from kgcore.sources.base import TaskRef
from tests.sources.corefile.cores import Trickle, filtered
from tests.vmcore.corefile import Core, Phdr

PAGE = 4096
READ, WRITE, EXECUTE = 4, 2, 1


class Segment(NamedTuple):
    """A PT_LOAD: its pages in memory and in the file, and the name of its file."""

    address: int
    pages: int
    held: int
    flags: int = READ | WRITE
    file: str = ""


def note(kind: int, desc: bytes, owner: bytes = b"CORE") -> bytes:
    name = owner + b"\0"
    return struct.pack("<III", len(name), len(desc), kind) + name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)


def status(pid: int, ip: int = 0) -> bytes:
    desc = bytearray(336)
    struct.pack_into("<i", desc, 32, pid)
    struct.pack_into("<Q", desc, 112 + 8 * 16, ip)
    return note(1, bytes(desc))


def nt_file(segments: Sequence[Segment]) -> bytes:
    named = [segment for segment in segments if segment.file]
    rows = b"".join(struct.pack("<QQQ", one.address, one.address + one.pages * PAGE, 0) for one in named)
    names = b"".join(one.file.encode() + b"\0" for one in named)
    return note(0x46494C45, struct.pack("<QQ", len(named), PAGE) + rows + names)


def content(segment: Segment) -> bytes:
    pages = range(segment.address // PAGE, segment.address // PAGE + segment.held)
    return b"".join(struct.pack("<Q", number) * (PAGE // 8) for number in pages)


def made(segments: Sequence[Segment], notes: Sequence[bytes], *, order: Sequence[int] = (), gap: int = 0) -> bytes:
    """A core: each of ``notes`` is a PT_NOTE, memory is in the file in an order, with a gap behind each segment."""
    headers = len(notes) + len(segments)
    extended = headers >= 0xFFFF
    at = 64 + 56 * headers
    table = []
    for one in notes:
        table.append(struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(one), 0, 4))
        at += len(one)
    start = -(-at // PAGE) * PAGE
    places: dict[int, int] = {}
    data = bytearray()
    for number in order or range(len(segments)):
        places[number] = start + len(data)
        data += content(segments[number]) + bytes(gap)
    for number, load in enumerate(segments):
        size = load.held * PAGE
        table.append(
            struct.pack("<IIQQQQQQ", 1, load.flags, places[number], load.address, 0, size, load.pages * PAGE, PAGE)
        )
    shoff = start + len(data) if extended else 0
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head = ident + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, shoff, 0, 64, 56, min(headers, 0xFFFF), 64 if extended else 0, extended, 0
    )
    section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1, 0, headers, 0, 0) if extended else b""
    return (head + b"".join(table) + b"".join(notes)).ljust(start, b"\0") + data + section


STACK = Segment(0x7F0000000000, 4, 4)
TEXT = Segment(0x400000, 3, 3, READ | EXECUTE, "/bin/program")
DATA = Segment(0x500000, 2, 2, READ | WRITE, "/bin/program")
SHARED = Segment(0x600000, 2, 2, READ | WRITE, "/dev/zero (deleted)")
SEGMENTS = (TEXT, DATA, SHARED, STACK)


def read(tmp_path: Path, found: bytes) -> Core:
    path = tmp_path / "found"
    path.write_bytes(found)
    return Core(path)


def held(core: Core) -> dict[int, int]:
    return {load.p_vaddr: load.p_filesz // PAGE for load in core.loads}


def check_content(core: Core) -> None:
    for load in core.loads:
        if load.p_filesz:
            mine = Segment(load.p_vaddr, load.p_memsz // PAGE, load.p_filesz // PAGE)
            assert core.read(load.p_vaddr, load.p_filesz) == content(mine)


@pytest.mark.parametrize("stream", [False, True])
def test_several_segments_of_notes_and_notes_of_others(tmp_path: Path, stream: bool) -> None:
    parts = [status(7) + note(0x202, b"state", b"LINUX"), note(42, b"odd", b"SOMEBODY") + nt_file(SEGMENTS), status(8)]
    whole = made(SEGMENTS, parts)
    path = tmp_path / "core"
    path.write_bytes(whole)
    core: Any = Trickle(whole) if stream else path
    assert filtered(core)[0] == whole
    core = Trickle(whole) if stream else path
    found = read(tmp_path, filtered(core, Options(mask=None, rules=(Rule("exclude", "addr:500000-502000"),)))[0])
    assert b"".join(parts) in found.path.read_bytes()
    assert [note.owner for note in found.notes] == ["CORE", "LINUX", "SOMEBODY", "CORE", "CORE"]
    with open_core(path) as source, source.process(8) as process:
        assert [thread.tid for thread in process.image.threads] == [8, 7]
        assert process.image.threads[1].regsets[0].desc == b"state"


def test_shared_memory_is_dropped_and_what_may_be_private_is_not(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(made(SEGMENTS, [status(7) + nt_file(SEGMENTS)]))
    found, report = filtered(path, Options(mask=0x01))
    assert held(read(tmp_path, found)) == {TEXT.address: 3, DATA.address: 2, SHARED.address: 0, STACK.address: 4}
    assert report.undecided == 5 * PAGE
    found, report = filtered(path, Options(mask=0x02))
    assert held(read(tmp_path, found)) == {TEXT.address: 0, DATA.address: 0, SHARED.address: 2, STACK.address: 0}
    assert report.undecided == 0
    check_content(read(tmp_path, found))


def test_a_core_without_nt_file_says_nothing_of_files(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(made(SEGMENTS, [status(7)]))
    for mask in (0x01, 0x02, 0x04, 0x08):
        found, report = filtered(path, Options(mask=mask))
        assert set(held(read(tmp_path, found)).values()) == {2, 3, 4}
        assert report.undecided == 11 * PAGE
    assert set(held(read(tmp_path, filtered(path, Options(mask=0))[0])).values()) == {0}


@pytest.mark.parametrize("pages", [1, 2])
def test_parts_of_mappings_stay_parts(tmp_path: Path, pages: int) -> None:
    segments = (TEXT._replace(held=1), DATA._replace(pages=5, held=pages), STACK._replace(pages=9))
    whole = made(segments, [status(7) + nt_file(segments)])
    path = tmp_path / "core"
    path.write_bytes(whole)
    assert filtered(path)[0] == whole
    found = read(tmp_path, filtered(path, Options(mask=None, rules=(Rule("exclude", "file:nothing"),)))[0])
    assert held(found) == {one.address: one.held for one in segments}
    assert [load.p_memsz // PAGE for load in found.loads] == [3, 5, 9]
    with open_core(path) as source, source.process(TaskRef.current()) as process:
        vma = process.image.vma_at(STACK.address)
        assert vma is not None
        assert [run.provenance.value for run in process.memory.runs(vma, vma.start, vma.end)] == ["present", "excluded"]


ORDERS = [(3, 1, 0, 2), (2, 3, 1, 0)]


@pytest.mark.parametrize("gap", [0, PAGE])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stream", [False, True])
def test_segments_in_any_order(tmp_path: Path, order: tuple[int, ...], gap: int, stream: bool) -> None:
    """Kernels with core_sort_vma write them by size; a stream is read as it comes."""
    whole = made(SEGMENTS, [status(7) + nt_file(SEGMENTS)], order=order, gap=gap)
    path = tmp_path / "core"
    path.write_bytes(whole)
    core: Any = Trickle(whole) if stream else path
    found = filtered(core)[0]
    if not gap:
        assert found == whole
    check_content(read(tmp_path, found))
    core = Trickle(whole) if stream else path
    found = filtered(core, Options(mask=None, rules=(Rule("exclude", "addr:501000-502000"),)))[0]
    ours = read(tmp_path, found)
    check_content(ours)
    assert sum(held(ours).values()) == 10


def test_headers_in_no_order(tmp_path: Path) -> None:
    mixed = (STACK, TEXT, SHARED, DATA)
    whole = made(mixed, [status(7) + nt_file(sorted(mixed))])
    path = tmp_path / "core"
    path.write_bytes(whole)
    assert filtered(path)[0] == whole
    stream: Any = Trickle(whole)
    ours = read(tmp_path, filtered(stream, Options(mask=0x02))[0])
    assert held(ours) == {TEXT.address: 0, DATA.address: 0, SHARED.address: 2, STACK.address: 0}
    check_content(ours)


def test_so_many_segments_that_only_the_end_counts_them(tmp_path: Path) -> None:
    """PN_XNUM: a stream does not have its end yet, and the number follows from where the notes are."""
    count = 0xFFFF - 1
    segments = [Segment(0x10000 + 2 * PAGE * number, 1, number % 1000 == 0) for number in range(count)]
    whole = made(segments, [status(7)])
    stream: Any = Trickle(whole, 1 << 20)
    assert filtered(stream)[0] == whole
    path = tmp_path / "core"
    path.write_bytes(whole)
    found = read(tmp_path, filtered(path, Options(mask=None, rules=(Rule("exclude", "addr:0-20000"),)))[0])
    assert len(found.loads) == count
    check_content(found)


def test_notes_behind_memory_take_a_file(tmp_path: Path) -> None:
    """As gdb writes them."""
    notes = status(7) + nt_file(SEGMENTS)
    whole = bytearray(made(SEGMENTS, [bytes(len(notes))]))
    first = Phdr(*struct.unpack_from("<II6Q", whole, 64))
    struct.pack_into("<Q", whole, 64 + 8, len(whole))
    whole += notes
    assert first.p_filesz == len(notes)
    path = tmp_path / "core"
    path.write_bytes(whole)
    assert filtered(path)[0] == bytes(whole)
    ours = read(tmp_path, filtered(path, Options(mask=0x02))[0])
    assert [note.type for note in ours.notes] == [1, 0x46494C45]
    check_content(ours)
    stream: Any = Trickle(bytes(whole))
    with pytest.raises(KgcoreError, match="notes stand behind its memory"):
        filtered(stream)


def test_the_first_page_says_what_the_filter_was(tmp_path: Path) -> None:
    """A kernel's core with a page of a longer mapping has no private files whole, unless they were written to."""
    header = Segment(0x300000, 4, 1, READ, "/lib/other")
    segments = (header, *SEGMENTS)
    path = tmp_path / "core"
    path.write_bytes(made(segments, [status(7) + note(0x53494749, bytes(128)) + nt_file(segments)]))
    ours = read(tmp_path, filtered(path, Options(mask=0x11))[0])
    assert held(ours) == {0x300000: 1, TEXT.address: 3, DATA.address: 2, SHARED.address: 0, STACK.address: 4}
    # Bit 4 alone: what was written to would not be kept
    ours = read(tmp_path, filtered(path, Options(mask=0x03))[0])
    assert held(ours)[0x300000] == 0


def test_a_process_that_is_not_in_the_core(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(made(SEGMENTS, [status(7)]))
    with open_core(path) as source:
        with pytest.raises(KgcoreError, match="no thread has the id 8"):
            source.process(8)
        with pytest.raises(KgcoreError, match="is an address"):
            source.process("ffff888000000000")
        assert [(one.pid, one.threads, one.kernel_thread) for one in source.processes()] == [(7, 1, False)]
