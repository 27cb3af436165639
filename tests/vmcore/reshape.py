# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real dumps in other clothes: in formats for which there is no tool here, cut off, or with something taken out.

What these make is synthetic in its container only; memory and notes are those of the real dump.
"""

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
_PIECE = 1 << 20
_PT_LOAD, _PT_NOTE = 1, 4


class Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


def segments(path: Path) -> list[Segment]:
    """PT_NOTE and PT_LOAD of an ELF64 vmcore."""
    with path.open("rb") as file:
        head = file.read(64)
        (table,), (count,) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<H", head, 56)
        file.seek(table)
        rows = struct.iter_unpack("<IIQQQQQQ", file.read(56 * count))
        return [Segment(kind, offset, address, size) for kind, _, offset, _, address, size, _, _ in rows]


def copy(source: Path, target: Path) -> Path:
    """A copy of a large file with holes."""
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", source, target], check=True)
    return target


def truncated(source: Path, target: Path, size: int) -> Path:
    """The first bytes of a file."""
    copy(source, target)
    os.truncate(target, size)
    return target


def _pieces(path: Path, segment: Segment) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(segment.offset)
        left = segment.size
        while left:
            data = file.read(min(_PIECE, left))
            left -= len(data)
            yield data


def lime(source: Path, target: Path, *, reverse: bool = False) -> Path:
    """A LiME image of an ELF vmcore."""
    loads = [segment for segment in segments(source) if segment.kind == _PT_LOAD]
    with target.open("wb") as file:
        for load in reversed(loads) if reverse else loads:
            file.write(struct.pack("<4sIQQ8x", b"EMiL", 1, load.address, load.address + load.size - 1))
            _write_sparse(file, _pieces(source, load))
        file.truncate()
    return target


def raw(source: Path, target: Path) -> Path:
    """Raw memory of an ELF vmcore, but for the firmware below 4 GiB."""
    with target.open("wb") as file:
        for load in segments(source):
            if load.kind == _PT_LOAD and load.address < 1 << 31:
                file.seek(load.address)
                _write_sparse(file, _pieces(source, load))
        file.truncate()
    return target


def _write_sparse(file: "object", pieces: Iterator[bytes]) -> None:
    for data in pieces:
        if data.count(0) == len(data):
            file.seek(len(data), os.SEEK_CUR)  # type: ignore[attr-defined]
        else:
            file.write(data)  # type: ignore[attr-defined]


def elf32(source: Path, target: Path) -> Path:
    """An ELF64 vmcore with ELF32 headers that say i386, as ``kexec --elf32-core-headers`` makes them."""
    rows = segments(source)
    copy(source, target)
    offset = 52 + 32 * len(rows)
    assert offset <= min(row.offset for row in rows)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIIIIIHHHHHH", 4, 3, 1, 0, 52, 0, 0, 52, 32, len(rows), 0, 0, 0)
    for row in rows:
        header += struct.pack("<IIIIIIII", row.kind, row.offset, 0, row.address, row.size, row.size, 0, 0)
    with target.open("r+b") as file:
        file.write(header)
    return target


def recompressed(source: Path, target: Path, status: int, compress: Callable[[bytes], bytes] | None) -> Path:
    """A kdump file with zlib, its pages compressed otherwise; ``status`` is the bit of the header for that."""
    data = source.read_bytes()
    table, count = _descriptors(data)
    end = table + 24 * count
    header = bytearray(data[:table])
    struct.pack_into("<I", header, 424, status)
    rows, pages = bytearray(), bytearray()
    done: dict[int, bytes] = {}
    for offset, size, flags, page_flags in struct.iter_unpack("<QIIQ", data[table:end]):
        if offset not in done:
            page = data[offset : offset + size]
            page = zlib.decompress(page) if flags & 1 else page
            packed = compress(page) if compress else page
            stored, flag = (packed, status) if len(packed) < PAGE else (page, 0)
            done[offset] = struct.pack("<QII", end + len(pages), len(stored), flag)
            pages += stored
        rows += done[offset] + struct.pack("<Q", page_flags)
    target.write_bytes(bytes(header + rows + pages))
    return target


def _descriptors(data: bytes) -> tuple[int, int]:
    """Where a kdump file's page descriptors are, and how many."""
    block, sub_blocks, bitmap_blocks = struct.unpack_from("<III", data, 428)
    bitmap = (1 + sub_blocks) * block
    half = bitmap_blocks * block // 2
    in_file = data[bitmap + half : bitmap + 2 * half]
    return bitmap + 2 * half, int.from_bytes(in_file, "little").bit_count()


def out_of_space(source: Path, target: Path, share: float, *, flag: bool = True) -> Path:
    """A kdump file as makedumpfile leaves it when the disk is full: the descriptors of the last pages are empty.

    :param share: of the pages that were written.
    :param flag: the header says so.
    """
    data = bytearray(source.read_bytes())
    table, count = _descriptors(bytes(data))
    if flag:
        (status,) = struct.unpack_from("<I", data, 424)
        struct.pack_into("<I", data, 424, status | 8)
    first = int(count * share)
    end = max(offset + size for offset, size, _, _ in struct.iter_unpack("<QIIQ", data[table : table + 24 * first]))
    data[table + 24 * first : table + 24 * count] = bytes(24 * (count - first))
    target.write_bytes(data[:end])
    return target


def without_frames(source: Path, target: Path, frames: set[int]) -> Path:
    """A kdump file as if makedumpfile had left out some page frames."""
    data = bytearray(source.read_bytes())
    block, sub_blocks, bitmap_blocks = struct.unpack_from("<III", data, 428)
    bitmap = (1 + sub_blocks) * block
    half = bitmap_blocks * block // 2
    table, count = _descriptors(bytes(data))
    rows = [bytes(data[table + 24 * n : table + 24 * n + 24]) for n in range(count)]
    bits = data[bitmap + half : bitmap + 2 * half]
    stored = [n for n in range(len(bits) * 8) if bits[n >> 3] >> (n & 7) & 1]
    kept = [row for frame, row in zip(stored, rows, strict=True) if frame not in frames]
    for frame in frames:
        data[bitmap + half + (frame >> 3)] &= ~(1 << (frame & 7)) & 0xFF
    data[table : table + 24 * len(kept)] = b"".join(kept)
    target.write_bytes(data)
    return target


def _pages(data: bytes) -> dict[int, bytes]:
    """Page frames that a kdump file with zlib has, by number."""
    block, sub_blocks, bitmap_blocks = struct.unpack_from("<III", data, 428)
    bitmap = (1 + sub_blocks) * block
    half = bitmap_blocks * block // 2
    bits = data[bitmap + half : bitmap + 2 * half]
    table, count = _descriptors(data)
    frames = (n for n in range(len(bits) * 8) if bits[n >> 3] >> (n & 7) & 1)
    found = {}
    for frame, row in zip(frames, struct.iter_unpack("<QIIQ", data[table : table + 24 * count]), strict=True):
        page = data[row[0] : row[0] + row[1]]
        found[frame] = zlib.decompress(page) if row[2] & 1 else page
    return found


def with_pages(source: Path, target: Path, changes: dict[int, bytes]) -> Path:
    """A kdump file with zlib, some of its page frames changed."""
    data = bytearray(source.read_bytes())
    table, _ = _descriptors(bytes(data))
    order = {frame: number for number, frame in enumerate(_pages(bytes(data)))}
    for frame, page in changes.items():
        packed = zlib.compress(page, 1)
        struct.pack_into("<QII", data, table + 24 * order[frame], len(data), len(packed), 1)
        data += packed
    target.write_bytes(data)
    return target


def elf_of_kdump(source: Path, target: Path, *, kernel: tuple[int, int] | None = None) -> Path:
    """A kdump file with zlib as an ELF vmcore of the frames that it has, notes and all.

    :param kernel: virtual and physical address of the kernel's image: with them, headers as those of /proc/vmcore.
    """
    data = source.read_bytes()
    offset, size = struct.unpack_from("<QQ", data, PAGE + 48)
    notes, pages = data[offset : offset + size], _pages(data)
    runs: list[list[int]] = []
    for frame in sorted(pages):
        if runs and runs[-1][1] == frame:
            runs[-1][1] = frame + 1
        else:
            runs.append([frame, frame + 1])
    header = 64 + 56 * (len(runs) + 1)
    at = -(-(header + len(notes)) // PAGE) * PAGE
    rows = struct.pack("<IIQQQQQQ", _PT_NOTE, 0, header, 0, 0, len(notes), len(notes), 0)
    for first, end in runs:
        start, length = first * PAGE, (end - first) * PAGE
        virtual = start - kernel[1] + kernel[0] if kernel and 0 <= start - kernel[1] < 1 << 26 else 0
        rows += struct.pack("<IIQQQQQQ", _PT_LOAD, 7, at, virtual, start, length, length, 0)
        at += length
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(runs) + 1, 0, 0, 0)
    front = (head + rows + notes).ljust(-(-(header + len(notes)) // PAGE) * PAGE, b"\0")
    target.write_bytes(front + b"".join(pages[frame] for frame in sorted(pages)))
    return target


def with_encryption_bit(
    roots: set[int], bit: int, levels: int, read: Callable[[int], bytes | None]
) -> dict[int, bytes]:
    """Page tables as AMD's SME has them: the encryption bit in each entry that is present.

    :param roots: physical addresses of top tables.
    :param read: a page frame by number.
    :returns: the frames of all tables.
    """
    tables: dict[int, bytes] = {}

    def visit(table: int, level: int) -> None:
        frame = table >> 12
        if frame in tables or (raw := read(frame)) is None:
            return
        entries = list(struct.unpack("<512Q", raw))
        tables[frame] = struct.pack("<512Q", *(e | 1 << bit if e & 1 else e for e in entries))
        for entry in entries:
            if level > 1 and entry & 1 and not entry & 0x80:
                visit(entry & ((1 << 51) - 1) & ~0xFFF, level - 1)

    for root in roots:
        visit(root, levels)
    return tables


def without_vmcoreinfo(source: Path, target: Path) -> Path:
    """A dump as if the guest had had no vmcoreinfo device: note and header field are erased."""
    copy(source, target)
    with target.open("r+b") as file:
        head = file.read(1 << 20)
        file.seek(head.index(b"VMCOREINFO\0"))
        file.write(b"XMCOREINFX")
        if head.startswith(b"KDUMP"):
            file.seek(PAGE + 32)  # offset_vmcoreinfo, size_vmcoreinfo
            file.write(bytes(16))
    return target


def with_notes(source: Path, target: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    """A dump whose notes are others, or in another order: ``change`` gets and gives them whole, headers and all.

    What remains of their place is filled with a note of nobody's. VMCOREINFO, which is the last, stays where it is.
    """
    copy(source, target)
    with target.open("r+b") as file:
        head = file.read(2 * PAGE)
        if head.startswith(b"KDUMP"):
            offset, size = struct.unpack_from("<QQ", head, PAGE + 48)  # offset_note, size_note
        else:
            _, offset, _, size = next(row for row in segments(source) if row.kind == _PT_NOTE)
        file.seek(offset)
        old = file.read(size)
        notes, at = [], 0
        while at < size:
            name, desc, _ = struct.unpack_from("<III", old, at)
            end = at + 12 + (name + 3 & ~3) + (desc + 3 & ~3)
            notes.append(old[at:end])
            at = end
        *others, last = notes
        new = b"".join(change(others))
        rest = size - len(new) - len(last)
        assert rest == 0 or rest >= 20
        if rest:
            new += struct.pack("<III8s", 7, rest - 20, 0, b"NOBODY") + bytes(rest - 20)
        file.seek(offset)
        file.write(new + last)
    return target


def patched(source: Path, target: Path, offset: int, data: bytes) -> Path:
    """A copy with some bytes changed."""
    shutil.copyfile(source, target) if source.stat().st_size < 1 << 27 else copy(source, target)
    with target.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return target
