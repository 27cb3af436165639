# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF vmcores: /proc/vmcore, ``makedumpfile -E``, QEMU's ``dump-guest-memory``; both classes, little-endian.

pyelftools does not read QEMU's (``e_ehsize`` is 8, and the section headers stand before the program headers), so here
is the little of the ELF specification that is needed.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from struct import Struct
from typing import NamedTuple

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, Frames, FrameState, RunList
from kgcore.sources.vmcore.dumpfile.notes import DumpNote, parse_notes, unreadable
from kgcore.sources.vmcore.dumpfile.pagesize import told_by_notes, usual_page_shift
from kgcore.sources.vmcore.dumpfile.source import ByteSource, Gap, ShortFile, salvage
from kgcore.sources.vmcore.dumpfile.uncompressed import Uncompressed

__all__ = ("ElfDump",)

_EM = {3: "i386", 62: "x86_64", 183: "aarch64", 40: "arm", 21: "ppc64", 22: "s390x", 243: "riscv"}
_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_SHOFF, _SECTIONS = Struct("<40xQ"), Struct("<58xHHH")  # of Elf64_Ehdr: e_shoff; e_shentsize, e_shnum, e_shstrndx
_SECTION_PLACE = Struct("<24xQQ24x")  # of Elf64_Shdr: sh_offset, sh_size
_MAX_SECTION_NAMES = 1 << 12
_MAX_NOTES = 1 << 26  # bytes; 8192 CPUs have 6 MB
_END = 1 << 52  # of what a physical address can be
_SEGMENT_MEMORY = 256  # bytes that one takes, with what is made of it


class _Class(NamedTuple):
    """What differs between the ELF classes: structures, and where in a program header each field stands."""

    ehdr: Struct  # e_type, e_machine, e_phoff, e_shoff, e_phentsize, e_phnum
    phdr: Struct
    sh_info: Struct  # of section header 0
    p_offset: int
    p_paddr: int
    p_filesz: int
    p_memsz: int


_CLASSES = {
    1: _Class(Struct("<16xHH8xII6xHH6x"), Struct("<IIIIIIII"), Struct("<28xI"), 1, 3, 4, 5),
    2: _Class(Struct("<16xHH12xQQ6xHH6x"), Struct("<IIQQQQQQ"), Struct("<44xI"), 2, 4, 5, 6),
}


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    file_size: int
    memory_size: int


def _segments(layout: _Class, table: memoryview) -> Iterator[_Segment]:
    for p in layout.phdr.iter_unpack(table):
        yield _Segment(p[0], p[layout.p_offset], p[layout.p_paddr], p[layout.p_filesz], p[layout.p_memsz])


def _is_of_xen(source: ByteSource) -> bool:
    """Whether an ELF core without program headers has xl dump-core's sections (Xen's dump-core-format.txt)."""
    (table,), (size, count, names) = _SHOFF.unpack(source.read(0, 48)), _SECTIONS.unpack(source.read(0, 64))
    if size != 64 or names >= count or not source.has(table + 64 * names, 64):
        return False
    offset, length = _SECTION_PLACE.unpack(source.read(table + 64 * names, 64))
    length = min(length, _MAX_SECTION_NAMES)
    return source.has(offset, length) and b".xen_" in bytes(source.read(offset, length))


class ElfDump:
    """An ELF vmcore.

    :ivar memory: where in the file it lies.
    :raises TargetError: it is no ELF core, or its headers are damaged.
    """

    dump_level: int | None = None  # ELF has no place for it
    release = ""  # nor for the kernel's; see VMCOREINFO
    needs_platform = False
    flattened = False
    notices: tuple[str, ...] = ()

    def __init__(self, source: ByteSource) -> None:
        try:
            ident = bytes(source.read(0, 16))
            layout = _CLASSES.get(ident[4])
            if layout is None or ident[5] != 1:
                raise TargetError("it is an ELF file of a class or byte order that no x86 kernel has")
            kind, machine, phoff, shoff, entry, count = layout.ehdr.unpack(source.read(0, layout.ehdr.size))
            if kind != _ET_CORE:
                raise TargetError("it is an ELF file, but no core", hint="give the vmcore with -c and vmlinux with -s")
            if count == _PN_XNUM:
                (count,) = layout.sh_info.unpack(source.read(shoff, layout.sh_info.size))
            if count == 0 and _is_of_xen(source):
                raise TargetError("it is Xen's dump of a guest (xl dump-core)", hint="run kdump in the guest instead")
            if entry != layout.phdr.size:
                raise TargetError(f"its program headers have {entry} bytes each instead of {layout.phdr.size}")
            if not source.has(phoff, entry * count):
                raise ShortFile(
                    f"its {count} program headers end at {phoff + entry * count}, the file at {source.size}"
                )
            source.budget.spend(_SEGMENT_MEMORY * count, f"its {count} segments")
            table, lost_headers = salvage(source, phoff, entry * count)
            table = _without(table, lost_headers, entry)
        except ShortFile as error:
            raise TargetError(f"it is an ELF core cut off within its headers: {error}") from error
        self.format = "ELF64" if ident[4] == 2 else "ELF32"
        self.compression = "none"
        self.architecture = _EM.get(machine, f"ELF machine {machine}")
        self._source = source
        self._segments = partial(_segments, layout, table)  # each time anew: there may be very many
        if not any(segment.kind == _PT_LOAD for segment in self._segments()):
            if lost_headers:
                raise TargetError("its program headers cannot be read", hint="it is on a disk that has errors")
            raise TargetError(
                "it is an ELF core without any memory segment", hint="it lost its headers; look for a copy"
            )
        self._lost_notes = False
        self.notes: tuple[DumpNote, ...] = tuple(self._notes())
        self.page_shift = usual_page_shift(self.architecture, told_by_notes(self.notes))
        # A segment whose header is lost may have been anywhere.
        self.frames: Frames = RunList(self._runs(), FrameState.LOST if lost_headers else FrameState.NO_RAM)
        self.memory = Uncompressed(source, self._stored(), 1 << self.page_shift)
        self.fill = self.memory.fill
        lost = {"program headers": bool(lost_headers), "notes": self._lost_notes}
        self.notices += unreadable([what for what, which in lost.items() if which])
        self.vmcoreinfo: bytes | None = None  # but for the note
        end = max(segment.offset + segment.file_size for segment in self._segments())
        self.missing_bytes = max(0, end - source.size)
        self.incomplete = self.missing_bytes > 0
        del self._segments

    def _notes(self) -> Iterator[DumpNote]:
        budget = self._source.budget
        for segment in self._segments():
            if segment.kind == _PT_NOTE and segment.file_size <= _MAX_NOTES:
                stored = max(0, min(segment.file_size, self._source.size - segment.offset))
                if self._source.has(segment.offset, stored):
                    budget.spend(stored, "its notes")
                    data, gaps = salvage(self._source, segment.offset, stored)
                    self._lost_notes |= bool(gaps)
                    yield from parse_notes(bytes(data), budget, gaps)

    def _loads(self) -> Iterator[_Segment]:
        """The PT_LOADs that have a physical address; /proc/kcore gives -1 to those that have none."""
        for segment in self._segments():
            if segment.kind == _PT_LOAD and segment.address < _END:
                yield segment._replace(memory_size=min(segment.memory_size, _END - segment.address))

    def _stored(self) -> Iterator[tuple[int, int, int]]:
        """Of each PT_LOAD what is in the file: physical address, bytes, offset."""
        for segment in self._loads():
            size = min(segment.file_size, segment.memory_size, self._source.size - segment.offset)
            if size > 0:
                yield segment.address, size, segment.offset

    def _runs(self) -> Iterator[FrameRun]:
        """Each PT_LOAD in up to three parts: in the file, beyond its end, and p_filesz < p_memsz: left out."""
        shift, mask = self.page_shift, (1 << self.page_shift) - 1
        for segment in self._loads():
            promised = min(segment.file_size, segment.memory_size)
            stored = max(0, min(promised, self._source.size - segment.offset))
            first, cut = segment.address, segment.address + stored
            excluded, end = segment.address + promised, segment.address + segment.memory_size
            # A frame is stored if all of its bytes are, so borders are rounded to that side.
            yield FrameRun(first + mask >> shift, cut >> shift, FrameState.STORED)
            if cut < excluded:
                yield FrameRun(cut >> shift, excluded + mask >> shift, FrameState.CUT_OFF)
            if excluded < end:
                yield FrameRun(excluded >> shift, end + mask >> shift, FrameState.EXCLUDED)

    def close(self) -> None:
        self._source.close()


def _without(table: memoryview, gaps: Sequence[Gap], entry: int) -> memoryview:
    """Program headers with PT_NULL in the place of those that cannot be read."""
    if not gaps:
        return table
    changed = bytearray(table)
    for start, end in gaps:
        first, behind = start // entry * entry, min(-(-end // entry) * entry, len(table))
        changed[first:behind] = bytes(behind - first)
    return memoryview(changed)
