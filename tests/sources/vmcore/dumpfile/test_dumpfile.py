# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump file holds, on made-up files of each format."""

import os
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.dumpfile import (
    DumpFile,
    DumpNote,
    FrameRun,
    FrameState,
    KdumpDump,
    everything,
    open_dump,
    parse_notes,
)
from kgcore.sources.vmcore.dumpfile.bits import bit_runs, count_ones
from kgcore.sources.vmcore.dumpfile.budget import Budget
from kgcore.sources.vmcore.dumpfile.frames import RunList, counted, merged
from kgcore.sources.vmcore.dumpfile.frames import stored as stored_runs

STORED, EXCLUDED, NO_RAM, CUT_OFF = FrameState.STORED, FrameState.EXCLUDED, FrameState.NO_RAM, FrameState.CUT_OFF
PAGE = 4096


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name) + 1, len(desc), kind) + padded(name + b"\0") + padded(desc)


NOTES = note(b"CORE", 1, b"p" * 336) + note(b"QEMU", 0, b"q" * 439) + note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\n")
PARSED = (
    DumpNote(b"CORE", 1, b"p" * 336),
    DumpNote(b"QEMU", 0, b"q" * 439),
    DumpNote(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\n"),
)


# ELF


def elf(
    loads: Iterable[tuple[int, int, int]],
    *,
    bits: int = 64,
    xnum: bool = False,
    qemu: bool = False,
    notes: bytes = NOTES,
    machine: int = 62,
) -> bytes:
    """An ELF vmcore with loads (p_paddr, p_filesz, p_memsz), stored in that order behind the notes.

    :param qemu: as QEMU does it: e_ehsize 8, the section headers before the program headers.
    """
    loads = list(loads)
    ehdr, phdr, shdr = (64, 56, 64) if bits == 64 else (52, 32, 40)
    with_section = xnum or qemu
    phoff = ehdr + (shdr if with_section else 0)
    offset = phoff + phdr * (len(loads) + 1)
    rows = [(4, offset, 0, len(notes), len(notes))]
    offset += len(notes)
    for address, file_size, memory_size in loads:
        rows.append((1, offset, address, file_size, memory_size))
        offset += file_size
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    machine, count = (machine, 0xFFFF if xnum else len(rows)) if bits == 64 else (3, len(rows))
    sizes = (0, 8 if qemu else ehdr, phdr, count, shdr, int(with_section), 0)
    shoff = ehdr if with_section else 0
    if bits == 64:
        data = ident + struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, phoff, shoff, *sizes)
        section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, len(rows), 0, 0)
        headers = [struct.pack("<IIQQQQQQ", kind, 0, at, 0, pa, fsz, msz, 0) for kind, at, pa, fsz, msz in rows]
    else:
        data = ident + struct.pack("<HHIIIIIHHHHHH", 4, machine, 1, 0, phoff, shoff, *sizes)
        section = struct.pack("<IIIIIIIIII", 0, 0, 0, 0, 0, 0, 0, len(rows), 0, 0)
        headers = [struct.pack("<IIIIIIII", kind, at, 0, pa, fsz, msz, 0, 0) for kind, at, pa, fsz, msz in rows]
    return (
        data + (section if with_section else b"") + b"".join(headers) + notes + bytes(offset - rows[0][1] - len(notes))
    )


# kdump


def kdump(
    ram: Iterable[int],
    stored: Iterable[int],
    *,
    frames: int = 256,
    level: int = 17,
    version: int = 6,
    release: bytes = b"6.1.0",
    zero: Iterable[int] = (),
    split: tuple[int, int] | None = None,
    status: int = 1,
    content: Callable[[int], bytes] | None = None,
    page_size: int = PAGE,
    machine: bytes = b"x86_64",
) -> bytes:
    """A kdump file whose pages are 100 bytes each, but for the zero pages, which share one descriptor's data.

    :param content: of a frame; odd ones are stored as they are, even ones compressed.
    """

    def bitmap(numbers: Iterable[int]) -> bytes:
        data = bytearray(page_size)
        for number in numbers:
            data[number >> 3] |= 1 << (number & 7)
        return bytes(data)

    first, end = split or (0, frames)
    described = [frame for frame in sorted(stored) if first <= frame < end]
    names = [b"Linux", b"host", release, b"#1", machine, b""]
    header = b"KDUMP   " + struct.pack("<i", version) + b"".join(name.ljust(65, b"\0") for name in names)
    header = header.ljust(424, b"\0") + struct.pack("<IIIIIIIIIi", status, page_size, 1, 2, frames, 0, 4, 0, 0, 1)
    sub = struct.pack(
        "<QiiQQQQQQQQQQQ", 0, level, int(bool(split)), 0, 0, 0, 0, page_size + 512, len(NOTES), 0, 0, first, end, frames
    )
    sub = sub.ljust(512, b"\0") + NOTES
    table_at = 4 * page_size
    data_at = table_at + 24 * len(described)
    table, pages = b"", b"Z" * 10
    for frame in described:
        if frame in set(zero):
            table += struct.pack("<QIIQ", data_at, 10, 1, 0)
        elif content is not None:
            page = content(frame) if frame & 1 else zlib.compress(content(frame))
            table += struct.pack("<QIIQ", data_at + len(pages), len(page), 1 - (frame & 1), 0)
            pages += page
        else:
            table += struct.pack("<QIIQ", data_at + len(pages), 100, 1, 0)
            pages += bytes([frame & 255]) * 100
    blocks = header.ljust(page_size, b"\0"), sub.ljust(page_size, b"\0"), bitmap(ram), bitmap(stored), table, pages
    return b"".join(blocks)


def flattened(data: bytes, *, piece: int = 1000, end: bool = True, shuffle: bool = True) -> bytes:
    """The file as a writer with a pipe for output sends it: in pieces, not in order, the first one twice."""
    records = [(at, data[at : at + piece]) for at in range(0, len(data), piece)]
    if shuffle:
        random.Random(1).shuffle(records)
        records = [(0, b"\xff" * piece), *(record for record in records if record[0]), (0, data[:piece])]
    head = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(PAGE, b"\0")
    body = b"".join(struct.pack(">qq", at, len(part)) + part for at, part in records)
    return head + body + (struct.pack(">qq", -1, -1) if end else b"")


def opened(tmp_path: Path, data: bytes) -> DumpFile:
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    return open_dump(path)


def states(dump: DumpFile, start: int, end: int) -> list[tuple[int, int, FrameState]]:
    runs = list(dump.frames.runs(start, end))
    assert not runs or (runs[0].start, runs[-1].end) == (start, end)
    for one, two in pairwise(runs):
        assert one.end == two.start
        assert one.state is not two.state
    return [(run.start, run.end, run.state) for run in runs]


def no_library(name: str) -> NoReturn:
    raise ImportError(name)


class TestElf:
    @pytest.mark.parametrize("bits", [32, 64])
    @pytest.mark.parametrize("qemu", [False, True])
    def test_frames_and_notes(self, tmp_path: Path, bits: int, *, qemu: bool) -> None:
        loads = [(0, 16 * PAGE, 16 * PAGE), (32 * PAGE, 2 * PAGE, 8 * PAGE), (64 * PAGE, 0, PAGE)]
        dump = opened(tmp_path, elf(loads, bits=bits, qemu=qemu))
        assert dump.format == f"ELF{bits}"
        assert dump.architecture == ("x86_64" if bits == 64 else "i386")
        assert dump.notes == PARSED
        assert not dump.missing_bytes
        assert states(dump, 0, 70) == [
            (0, 16, STORED),
            (16, 32, NO_RAM),
            (32, 34, STORED),
            (34, 40, EXCLUDED),
            (40, 64, NO_RAM),
            (64, 65, EXCLUDED),
            (65, 70, NO_RAM),
        ]
        assert states(dump, 33, 36) == [(33, 34, STORED), (34, 36, EXCLUDED)]
        assert states(dump, 5, 5) == []

    def test_more_segments_than_the_header_can_count(self, tmp_path: Path) -> None:
        dump = opened(tmp_path, elf(((2 * n * PAGE, 0, PAGE) for n in range(70_000)), xnum=True))
        assert states(dump, 139_998, 140_002) == [(139_998, 139_999, EXCLUDED), (139_999, 140_002, NO_RAM)]

    def test_cut_off(self, tmp_path: Path) -> None:
        data = elf([(0, 4 * PAGE, 4 * PAGE), (8 * PAGE, 4 * PAGE, 6 * PAGE)])
        dump = opened(tmp_path, data[: -3 * PAGE - 100])
        assert dump.missing_bytes == 3 * PAGE + 100
        assert states(dump, 0, 16) == [
            (0, 4, STORED),
            (4, 8, NO_RAM),
            (8, 12, CUT_OFF),
            (12, 14, EXCLUDED),
            (14, 16, NO_RAM),
        ]

    def test_partial_frames_are_not_stored(self, tmp_path: Path) -> None:
        dump = opened(tmp_path, elf([(0x100, 2 * PAGE, 2 * PAGE)]))
        assert states(dump, 0, 3) == [(0, 1, NO_RAM), (1, 2, STORED), (2, 3, NO_RAM)]

    def test_stored_wins_where_segments_overlap(self, tmp_path: Path) -> None:
        dump = opened(tmp_path, elf([(0, 0, 8 * PAGE), (2 * PAGE, 2 * PAGE, 2 * PAGE)]))
        assert states(dump, 0, 8) == [(0, 2, EXCLUDED), (2, 4, STORED), (4, 8, EXCLUDED)]

    def test_flattened(self, tmp_path: Path) -> None:
        dump = opened(tmp_path, flattened(elf([(0, 4 * PAGE, 4 * PAGE)])))
        assert dump.flattened
        assert dump.notes == PARSED
        assert states(dump, 0, 5) == [(0, 4, STORED), (4, 5, NO_RAM)]

    def test_wrong_files(self, tmp_path: Path) -> None:
        good = elf([(0, PAGE, PAGE)])
        for change, message in (
            ((4, b"\x07"), "class"),
            ((5, b"\x02"), "byte order"),
            ((16, b"\x02"), "not a core"),
            ((54, b"\x01"), "program headers"),
            ((32, b"\xff" * 8), "headers"),
        ):
            data = bytearray(good)
            data[change[0] : change[0] + len(change[1])] = change[1]
            with pytest.raises(TargetError, match=message):
                opened(tmp_path, bytes(data))
        with pytest.raises(TargetError, match="cut off within its headers"):
            opened(tmp_path, good[:80])


class TestKdump:
    def test_frames_and_notes(self, tmp_path: Path) -> None:
        dump = opened(tmp_path, kdump(range(10, 200), [*range(20, 40), 50, *range(60, 190)]))
        assert (dump.format, dump.compression, dump.dump_level) == ("kdump", "zlib", 17)
        assert (dump.release, dump.architecture, dump.needs_platform) == ("6.1.0", "x86_64", False)
        assert dump.notes == PARSED
        assert not dump.missing_bytes
        assert states(dump, 0, 1000) == [
            (0, 10, NO_RAM),
            (10, 20, EXCLUDED),
            (20, 40, STORED),
            (40, 50, EXCLUDED),
            (50, 51, STORED),
            (51, 60, EXCLUDED),
            (60, 190, STORED),
            (190, 200, EXCLUDED),
            (200, 1000, NO_RAM),
        ]
        assert states(dump, 300, 400) == [(300, 400, NO_RAM)]

    def test_every_range(self, tmp_path: Path) -> None:
        chance = random.Random(7)
        ram = {frame for frame in range(64) if chance.random() < 0.7}
        stored = {frame for frame in ram if chance.random() < 0.5}
        dump = opened(tmp_path, kdump(ram, stored, frames=64))
        for start in range(70):
            for end in range(start, 70):
                frames = {f: state for a, b, state in states(dump, start, end) for f in range(a, b)}
                for frame in range(start, end):
                    expected = STORED if frame in stored else EXCLUDED if frame in ram else NO_RAM
                    assert frames[frame] is expected

    def test_qemu_leaves_names_empty(self, tmp_path: Path) -> None:
        assert opened(tmp_path, kdump([1], [1], release=b"")).needs_platform

    @pytest.mark.parametrize(
        ("status", "said"),
        [(0, ""), (1, ""), (2, ""), (4, "needs the Python package cramjam"), (3, "'zlib\\+lzo'")],
    )
    def test_compression_without_libraries(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str
    ) -> None:
        for module in ("cramjam", "lzallright"):
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr("kgcore.sources.vmcore.dumpfile.compression.borrowed", no_library)
        dump = opened(tmp_path, kdump([1], [1], status=status))
        assert isinstance(dump, KdumpDump)
        assert re.search(said, dump.cannot_read)
        assert bool(dump.cannot_read) == bool(said)
        with pytest.raises(BrokenDump, match=said or None):
            dump.fill((4096,), memoryview(bytearray(4096)))

    def test_old_versions_have_less(self, tmp_path: Path) -> None:
        assert opened(tmp_path, kdump([1], [1], version=3)).notes == ()
        assert opened(tmp_path, kdump([1], [1], version=0)).dump_level is None
        assert states(opened(tmp_path, kdump([1], [1], version=5)), 1, 2) == [(1, 2, STORED)]

    @pytest.mark.parametrize("flat", [False, True])
    def test_cut_off_within_the_pages(self, tmp_path: Path, *, flat: bool) -> None:
        data = kdump(range(200), range(100, 150), zero=[110, 149])
        if flat:
            data = flattened(data[: -8 * 100 - 50], shuffle=False, end=False)
        else:
            data = data[: -8 * 100 - 50]
        dump = opened(tmp_path, data)
        assert dump.missing_bytes == 8 * 100 + 50
        assert states(dump, 98, 152) == [
            (98, 100, EXCLUDED),
            (100, 140, STORED),
            (140, 149, CUT_OFF),
            (149, 150, STORED),  # a zero page; its bytes are those of the first
            (150, 152, EXCLUDED),
        ]

    def test_cut_off_within_the_descriptors(self, tmp_path: Path) -> None:
        data = kdump(range(200), range(100, 150))[: 4 * PAGE + 100]
        dump = opened(tmp_path, data)
        assert dump.missing_bytes > 0
        assert states(dump, 99, 151) == [(99, 100, EXCLUDED), (100, 150, CUT_OFF), (150, 151, EXCLUDED)]

    def test_pages_that_the_writer_had_no_space_for(self, tmp_path: Path) -> None:
        data = bytearray(kdump(range(8), range(8), status=0x9))
        data[4 * PAGE + 24 * 5 : 4 * PAGE + 24 * 6] = bytes(24)
        dump = opened(tmp_path, bytes(data))
        assert "ran out of space" in dump.notices[0]
        assert dump.incomplete
        assert states(dump, 0, 8) == [(0, 5, STORED), (5, 6, CUT_OFF), (6, 8, STORED)]

    def test_pages_of_no_bytes_were_never_written(self, tmp_path: Path) -> None:
        """The same without the flag: the process that wrote it was killed, or the file was copied without its tail."""
        data = bytearray(kdump(range(8), range(8)))
        assert not opened(tmp_path, bytes(data)).incomplete
        for number, offset in ((6, 0), (7, 5 * PAGE)):
            struct.pack_into("<QII", data, 4 * PAGE + 24 * number, offset, 0, 1)
        dump = opened(tmp_path, bytes(data))
        assert dump.incomplete
        assert not dump.missing_bytes
        assert any("never written" in notice for notice in dump.notices)
        assert states(dump, 0, 9) == [(0, 6, STORED), (6, 8, CUT_OFF), (8, 9, NO_RAM)]

    @pytest.mark.parametrize("bitmap", [2, 3])
    def test_bitmaps_that_end_early(self, tmp_path: Path, bitmap: int) -> None:
        """makedumpfile writes the bitmaps in pieces, each before its pages; into a pipe, the rest may never come."""
        whole = kdump(range(200), range(100, 150))
        lost = bitmap * PAGE + 16  # of the frames from 128 on
        flat = flattened(whole, piece=16, shuffle=False, end=False)
        at = flat.index(struct.pack(">qq", lost, 16))
        behind = flat.index(struct.pack(">qq", (bitmap + 1) * PAGE, 16))
        dump = opened(tmp_path, flat[:at] + flat[behind:])
        assert dump.incomplete
        assert states(dump, 99, 260)[:2] == [(99, 100, EXCLUDED), (100, 128, STORED)]
        assert states(dump, 99, 260)[2:] == [(128, 256, CUT_OFF), (256, 260, NO_RAM)]

    def test_split_set(self, tmp_path: Path) -> None:
        paths = []
        for number, (start, end) in enumerate([(40, 256), (0, 13), (13, 40), (256, 256)]):
            paths.append(tmp_path / f"part{number}")
            data = kdump(range(100), range(50), split=(start, end))
            paths[-1].write_bytes(data[:-150] if start == 13 else data)
        dump = open_dump(*paths)
        assert not dump.notices
        assert dump.missing_bytes == 150
        assert states(dump, 0, 60) == [(0, 38, STORED), (38, 40, CUT_OFF), (40, 50, STORED), (50, 60, EXCLUDED)]
        assert states(dump, 45, 300) == [(45, 50, STORED), (50, 100, EXCLUDED), (100, 300, NO_RAM)]
        assert states(dump, 14, 15) == [(14, 15, STORED)]
        assert states(dump, 300, 400) == [(300, 400, NO_RAM)]
        for lacking, message in (
            (0, "part1, part2, part3 lack .* from 0x28000 to 0x100000"),
            (1, "from 0x0 to 0xd000"),
        ):
            with pytest.raises(TargetError, match=f"incomplete.*{message}"):
                open_dump(*(path for number, path in enumerate(paths) if number != lacking))
        with pytest.raises(TargetError, match=r"incomplete: part2 lacks .* from 0x0 to 0xd000 and 0x28000 to 0x100000"):
            open_dump(paths[2])
        with pytest.raises(TargetError, match="given twice"):
            open_dump(*paths, paths[2])
        other = tmp_path / "other"
        other.write_bytes(kdump(range(100), range(60), split=(0, 13)))
        with pytest.raises(TargetError, match="different dumps"):
            open_dump(paths[0], other, *paths[2:])
        other.write_bytes(elf([(0, PAGE, PAGE)]))
        with pytest.raises(TargetError, match="a complete dump, not part of a split set"):
            open_dump(other, other)

    @pytest.mark.parametrize("piece", [100, 1000, 1 << 16])
    def test_flattened(self, tmp_path: Path, piece: int) -> None:
        dump = opened(tmp_path, flattened(kdump(range(200), range(100, 150)), piece=piece))
        assert dump.flattened
        assert dump.notes == PARSED
        assert not dump.missing_bytes
        assert states(dump, 99, 151) == [(99, 100, EXCLUDED), (100, 150, STORED), (150, 151, EXCLUDED)]

    def test_wrong_files(self, tmp_path: Path) -> None:
        good = kdump(range(8), range(8))
        bad_block = bytearray(good)
        bad_block[428:432] = struct.pack("<I", 1000)
        with pytest.raises(TargetError, match="block size is not a page size of x86_64"):
            opened(tmp_path, bytes(bad_block))
        for size in (8192, 65536):  # a page size, but none of this machine's
            bad_block[428:432] = struct.pack("<I", size)
            with pytest.raises(TargetError, match="block size is not a page size of x86_64"):
                opened(tmp_path, bytes(bad_block))
        bad_bitmap = bytearray(good)
        bad_bitmap[436:440] = struct.pack("<I", 0xFFFFFFFF)
        with pytest.raises(TargetError, match="cut off within its headers"):
            opened(tmp_path, bytes(bad_bitmap))
        wild_notes = bytearray(good)
        wild_notes[PAGE + 48 : PAGE + 64] = struct.pack("<QQ", 1 << 62, 1 << 62)
        assert opened(tmp_path, bytes(wild_notes)).notes == ()


@pytest.mark.parametrize("data", [elf([(0, PAGE, PAGE)]), kdump(range(8), range(8)), flattened(kdump([1], [1]))])
def test_cut_anywhere_no_other_error(tmp_path: Path, data: bytes) -> None:
    for size in [*range(1, 600, 7), *range(600, len(data), 1999)]:
        try:
            dump = opened(tmp_path, data[:size])
        except TargetError:
            continue
        states(dump, 0, 300)


class TestNoDumps:
    @pytest.mark.parametrize(
        ("head", "message"),
        [
            (b"\x1f\x8b\x08", r"gzip.*gzip -dc \S+vmcore > \S+vmcore.unpacked"),
            (b"\xfd7zXZ\0", r"xz.*xz -dc"),
            (b"\x28\xb5\x2f\xfd", r"zstd.*zstd -dc"),
            (b"BZh9", r"bzip2.*bzip2 -dc"),
            (b"\x04\x22\x4d\x18", r"lz4.*lz4 -dc"),
            (b"EMiL\x02\0\0\0" + bytes(24), "damaged or unknown header"),
            (b"AVML\x02\0\0\0", "AVML.*avml-convert"),
            (b"LibvirtQemudSave", "libvirt save image.*virsh dump --memory-only"),
            (b"LibvirtQemudPart", "libvirt save image"),
            (b"QEVM\0\0\0\3", "QEMU migration stream.*dump-guest-memory"),
            (b"QFI\xfb\0\0\0\3", "qcow2"),
            (struct.pack("<I", 0xBED2BED0), "VMware snapshot.*vmss2core"),
            (struct.pack("<I", 0xBAD1BAD1), "VMware snapshot"),
            (struct.pack("<I", 0xBED2BED2), "VMware snapshot"),
            (struct.pack("<I", 0xBED3BED3), "VMware snapshot"),
            (b"\x7fVirtualBox SavedState V2.0\n", "VirtualBox saved state.*dumpvmcore"),
            (struct.pack("<I", 0x01282014), "Hyper-V saved state"),
            (b"sadump\0\0", "sadump.*makedumpfile -c -d 17 -x VMLINUX /"),
            (b"Xen saved domain, xl format\n", "saved Xen domain"),
            (b"LinuxGuestRecord", "saved Xen domain"),
            (struct.pack("<I", 0xF00FEBED), "Xen core"),
            (struct.pack("<Q", 0xA8190173618F23ED), "LKCD"),
            (b"DISKDUMP", "diskdump"),
            (b"PAGEDU64", "Windows crash dump"),
            (bytes(4086) + b"S1SUSPEND\0", "hibernated Linux system"),
            (bytes(4086) + b"SWAPSPACE2", "swap area"),
            (b"hello, world\n", "not an ELF core, a kdump file.*--architecture"),
            (struct.pack(">16sqq", b"makedumpfile", 2, 1).ljust(PAGE, b"\0"), "flattened dump of an unknown kind"),
            (struct.pack(">16sqq", b"makedumpfile", 1, 1)[:20], "flattened dump cut off"),
            (flattened(b"what is this"), "not an ELF core, a kdump file"),
        ],
    )
    def test_other_files(self, tmp_path: Path, head: bytes, message: str) -> None:
        with pytest.raises(TargetError) as caught:
            opened(tmp_path, head)
        assert caught.match(message)
        assert str(tmp_path / "vmcore") in str(caught.value)

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="does not exist"):
            open_dump(tmp_path / "x")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="is a directory"):
            open_dump(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="is empty"):
            opened(tmp_path, b"")

    def test_fifo_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(TargetError, match="not a regular file"):
            open_dump(tmp_path / "fifo")

    def test_unreadable(self, tmp_path: Path) -> None:
        """In a process that may not read every file, as root may."""
        path = tmp_path / "secret"
        path.touch(mode=0)
        program = "import sys; from kgcore.sources.vmcore.dumpfile import open_dump; open_dump(sys.argv[1])"
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        done = subprocess.run([*drop, sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1] == (
            f"kgcore.errors.TargetError: cannot open {path}: Permission denied (often only root can read vmcores)"
        )


def test_bits() -> None:
    def naive(data: bytes, start: int, end: int) -> Iterator[bool]:
        return (i >> 3 < len(data) and bool(data[i >> 3] >> (i & 7) & 1) for i in range(start, end))

    chance = random.Random(3)
    for _ in range(300):
        pieces = (chance.choice([b"\0", b"\xff", chance.randbytes(1)]) * chance.randrange(4) for _ in range(6))
        data = b"".join(pieces)
        start = chance.randrange(8 * len(data) + 10)
        end = start + chance.randrange(8 * len(data) + 10)
        runs = list(bit_runs(memoryview(data), start, end))
        assert [value for a, b, value in runs for _ in range(b - a)] == list(naive(data, start, end))
        assert count_ones(memoryview(data), start, end) == sum(naive(data, start, end))


def check_counts(dump: DumpFile, *, bad: bool = False) -> dict[FrameState, int]:
    """What is counted, and what is found to be stored, is as the runs are.

    :param bad: there are bad sectors. Whether what lies beside one counts as stored or as cut off may differ.
    """
    found = counted(dump.frames)
    runs = list(dump.frames.runs(0, 1 << 20))
    true = {state: sum(run.end - run.start for run in runs if run.state is state) for state in FrameState}
    assert found[NO_RAM] == 0
    assert found[EXCLUDED] == true[EXCLUDED]
    assert found[STORED] + found[CUT_OFF] == true[STORED] + true[CUT_OFF]
    if not bad:
        assert found[STORED] == true[STORED]
        assert found[FrameState.LOST] == true[FrameState.LOST]
    elif isinstance(dump, KdumpDump):
        assert found[FrameState.LOST] == true[FrameState.LOST]
    stored = [run for run in runs if run.state is STORED]
    if bad:  # what leads to some of them cannot be read
        assert all(any(a <= run.start and run.end <= b for a, b, _ in stored) for run in stored_runs(dump.frames))
    else:
        assert list(stored_runs(dump.frames)) == stored
    return found


def test_frames_are_counted_as_their_runs_are(tmp_path: Path) -> None:
    chance = random.Random(5)
    for frames in (64, 77, 128, 200, 256):
        ram = {at for at in range(frames + 20) if chance.random() < 0.7}
        stored = {at for at in range(frames) if at in ram and chance.random() < 0.6}
        check_counts(opened(tmp_path, kdump(ram, stored, frames=frames)))
        bounds = sorted(chance.randrange(frames) for _ in range(2))
        paths = []
        for start, end in pairwise([0, *bounds, frames]):
            data = kdump(ram, stored, frames=frames, split=(start, end))
            paths.append(tmp_path / f"part{start}-{end}")
            paths[-1].write_bytes(data)
        check_counts(open_dump(*paths))
        paths[1].write_bytes(paths[1].read_bytes()[: chance.randrange(4 * PAGE, 5 * PAGE)])
        check_counts(open_dump(*paths))


def test_frames_of_an_incomplete_file_are_counted_as_their_runs_are(tmp_path: Path) -> None:
    """Cut off at any place, or with descriptors that nobody wrote or that lead nowhere; plain and flattened."""
    chance = random.Random(6)
    whole = kdump(range(250), range(1, 250, 2), zero=range(11, 60, 8), status=9)
    table, pages = 4 * PAGE, 4 * PAGE + 24 * 125
    files = [whole[:size] for size in (table + 24, table + 1001, pages, pages + 100, len(whole) - 2000)]
    for share in (0.02, 0.5, 1):
        damaged = bytearray(whole)
        for number in range(125):
            if chance.random() < share:
                row = chance.choice([bytes(12), struct.pack("<QI", 0, 9), struct.pack("<QI", 1 << 62, 1)])
                damaged[table + 24 * number : table + 24 * number + 12] = row
        files.append(bytes(damaged))
    files += [flattened(data) for data in files[1:]]
    written = 0
    for data in files:
        dump = opened(tmp_path, data)
        assert isinstance(dump, KdumpDump)
        assert dump.incomplete
        written += check_counts(dump)[STORED]
    assert written > 500


def test_notes_stop_at_damage() -> None:
    good = note(b"CORE", 1, b"abc")
    assert list(parse_notes(good + struct.pack("<III", 5, 1 << 30, 1) + b"CORE\0", Budget())) == [
        DumpNote(b"CORE", 1, b"abc")
    ]
    assert list(parse_notes(good[:-4], Budget())) == []
    assert list(parse_notes(bytes(24) + good, Budget())) == [DumpNote(b"CORE", 1, b"abc")]


def test_run_list_without_runs() -> None:
    assert list(RunList([]).runs(3, 9)) == [FrameRun(3, 9, NO_RAM)]
    assert list(everything().runs(3, 9)) == [FrameRun(3, 9, STORED)]


def test_merged() -> None:
    runs = [FrameRun(1, 2, STORED), FrameRun(2, 2, NO_RAM), FrameRun(2, 5, STORED), FrameRun(5, 6, NO_RAM)]
    assert list(merged(runs)) == [FrameRun(1, 5, STORED), FrameRun(5, 6, NO_RAM)]


class TestLinear:
    def test_lime(self, tmp_path: Path) -> None:
        def part(first: int, last: int, size: int | None = None) -> bytes:
            header = struct.pack("<4sIQQ8x", b"EMiL", 1, first * PAGE, last * PAGE - 1)
            return header + bytes((last - first) * PAGE if size is None else size)

        dump = opened(tmp_path, part(16, 20) + part(0, 3) + part(20, 24, 2 * PAGE + 100))
        assert (dump.format, dump.needs_platform, dump.missing_bytes) == ("LiME", True, 2 * PAGE - 100)
        assert states(dump, 0, 30) == [
            (0, 3, STORED),
            (3, 16, NO_RAM),
            (16, 22, STORED),
            (22, 24, CUT_OFF),
            (24, 30, NO_RAM),
        ]

    def test_raw_memory(self, tmp_path: Path) -> None:
        (tmp_path / "memory").write_bytes(bytes(3 * PAGE + 5))
        dump = open_dump(tmp_path / "memory", architecture="x86_64")
        assert dump.format == "raw memory"
        assert states(dump, 0, 9) == [(0, 3, STORED), (3, 9, NO_RAM)]

    def test_what_has_a_name_is_not_taken_for_raw_memory(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"QEVM" + bytes(PAGE))
        with pytest.raises(TargetError, match="migration"):
            open_dump(tmp_path / "x", architecture="x86_64")


def test_elf_without_memory(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="without memory segments"):
        opened(tmp_path, elf([]))


def test_xens_dump_of_a_guest(tmp_path: Path) -> None:
    """xl dump-core: sections, and no program headers."""
    names = b"\0.shstrtab\0.note.Xen\0.xen_prstatus\0.xen_pages\0"
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 2, 1)
    table = bytes(64) + struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64 + 128, len(names), 0, 0, 1, 0)
    with pytest.raises(TargetError, match="Xen's dump of a guest"):
        opened(tmp_path, head + table + names)
