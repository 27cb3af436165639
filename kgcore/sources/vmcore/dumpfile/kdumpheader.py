# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the headers of a kdump file: makedumpfile's diskdump_mod.h, versions 1 to 6.

Size and alignment of struct timeval and unsigned long differ between a 32-bit and a 64-bit makedumpfile.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from kgcore.cstruct import I386, LP64, S32, U32, U64, CStruct, ULong, chars
from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.budget import DAMAGED
from kgcore.sources.vmcore.dumpfile.pagesize import page_shifts
from kgcore.sources.vmcore.dumpfile.source import ByteSource, Gap, salvage

__all__ = ("PAGE_DESC", "KdumpHeader", "PageDesc", "SubHeader", "read_header")


class _DiskDumpHeader(NamedTuple):
    """``struct disk_dump_header``, as far as kgcore reads it. Counts, int in C, are unsigned here."""

    signature: Annotated[bytes, chars(8)]
    header_version: S32
    sysname: Annotated[bytes, chars(65)]  # struct new_utsname utsname
    nodename: Annotated[bytes, chars(65)]
    release: Annotated[bytes, chars(65)]
    version: Annotated[bytes, chars(65)]
    machine: Annotated[bytes, chars(65)]
    domainname: Annotated[bytes, chars(65)]
    tv_sec: ULong  # struct timeval timestamp
    tv_usec: ULong
    status: U32
    block_size: U32
    sub_hdr_size: U32  # in blocks
    bitmap_blocks: U32
    max_mapnr: U32  # all of it before version 6; since then its low 32 bits


class SubHeader(NamedTuple):
    """``struct kdump_sub_header``. Offsets (off_t) are unsigned here."""

    phys_base: ULong
    dump_level: S32
    split: S32
    start_pfn: ULong  # version 6 has all 64 bits, in start_pfn_64
    end_pfn: ULong
    offset_vmcoreinfo: U64
    size_vmcoreinfo: ULong
    offset_note: U64
    size_note: ULong
    offset_eraseinfo: U64
    size_eraseinfo: ULong
    start_pfn_64: U64
    end_pfn_64: U64
    max_mapnr_64: U64


class PageDesc(NamedTuple):
    """``struct page_desc``: where a page lies in the file."""

    offset: U64  # off_t
    size: U32
    flags: U32
    page_flags: U64


class _Layout(NamedTuple):
    header: CStruct[_DiskDumpHeader]
    sub_header: CStruct[SubHeader]


_LAYOUTS = [_Layout(CStruct(_DiskDumpHeader, abi), CStruct(SubHeader, abi)) for abi in (LP64, I386)]
PAGE_DESC = CStruct(PageDesc)
assert [layout.header.size for layout in _LAYOUTS] == [448, 432]
assert [layout.sub_header.size for layout in _LAYOUTS] == [104, 80]
assert PAGE_DESC.size == 24

_SINCE = {  # header_version that added a field; in older versions its bytes are undefined
    "dump_level": 1,
    "split": 2,
    "offset_vmcoreinfo": 3,
    "size_vmcoreinfo": 3,
    "offset_note": 4,
    "size_note": 4,
    "start_pfn_64": 6,
    "end_pfn_64": 6,
    "max_mapnr_64": 6,
}
_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE: the writer ran out of space
_COMPRESSIONS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KdumpHeader:
    """Facts from the headers.

    :ivar release: of the kernel; QEMU leaves all of utsname empty but the machine.
    :ivar machine: utsname's name of the architecture.
    :ivar page_shift: a block has ``1 << page_shift`` bytes, the size of a page.
    :ivar compression: of pages, with ``+`` between several; ``none``.
    :ivar out_of_space: the writer ran out of space.
    :ivar dump_level: makedumpfile's ``-d``; None: unknown.
    :ivar last_frame: the number behind the last page frame of the machine.
    :ivar sub: the sub-header; fields that the version lacks, or that are unreadable, are 0.
    :ivar lost: the unreadable parts of the sub-header.
    :ivar bitmaps: offset of the first of the two bitmaps.
    :ivar bitmap_size: bytes of each bitmap.
    """

    release: str
    machine: str
    page_shift: int
    compression: str
    out_of_space: bool
    dump_level: int | None
    last_frame: int
    sub: SubHeader
    lost: tuple[Gap, ...]
    bitmaps: int
    bitmap_size: int


def read_header(source: ByteSource) -> KdumpHeader:
    """Read the headers of a kdump file.

    :raises TargetError: the block size is no page size of the machine.
    :raises ShortFile, OSError: the headers cannot be read.
    """
    data = source.read(0, max(layout.header.size for layout in _LAYOUTS))
    header = _LAYOUTS[0].header.unpack(data)  # both layouts are the same up to utsname
    release, machine = _text(header.release), _text(header.machine)
    sizes = {1 << shift: shift for shift in page_shifts(machine)}
    for layout in _LAYOUTS:
        header = layout.header.unpack(data)
        if header.block_size in sizes:
            break
    else:
        raise TargetError(
            "it is a kdump file with a damaged header: its block size is not a page size of "
            f"{machine or 'any machine'}",
            hint=DAMAGED,
        )
    raw, lost = salvage(source, header.block_size, layout.sub_header.size)
    sub, version = layout.sub_header.unpack(raw), header.header_version
    sub = sub._replace(**{field: 0 for field, since in _SINCE.items() if lost or version < since})
    return KdumpHeader(
        release=release,
        machine=machine,
        page_shift=sizes[header.block_size],
        compression="+".join(name for bit, name in _COMPRESSIONS.items() if header.status & bit) or "none",
        out_of_space=bool(header.status & _INCOMPLETE),
        dump_level=None if lost or version < _SINCE["dump_level"] else sub.dump_level,
        last_frame=sub.max_mapnr_64 or header.max_mapnr,
        sub=sub,
        lost=lost,
        bitmaps=(1 + header.sub_hdr_size) * header.block_size,
        bitmap_size=header.bitmap_blocks * header.block_size // 2,
    )


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("ascii", "backslashreplace")
