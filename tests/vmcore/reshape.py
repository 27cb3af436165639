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
