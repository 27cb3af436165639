# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read ELF vmcores: /proc/vmcore, ``makedumpfile -E``, QEMU's ``dump-guest-memory``; both classes, little-endian.

pyelftools does not read QEMU's (``e_ehsize`` is 8, and the section headers stand before the program headers), so this
module has the part of ELF that it needs.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from kgcore.elf.headers import EHDR, PHDR, SHDR, Phdr32, Phdr64
from kgcore.elf.layout import MACHINES
from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, Frames, FrameState, RunList
from kgcore.sources.vmcore.dumpfile.notes import DumpNote, parse_notes, unreadable
from kgcore.sources.vmcore.dumpfile.pagesize import told_by_notes, usual_page_shift
from kgcore.sources.vmcore.dumpfile.source import ByteSource, Gap, ShortFile, salvage
from kgcore.sources.vmcore.dumpfile.uncompressed import Uncompressed

__all__ = ("ElfDump",)

_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_MAX_SECTION_NAMES = 1 << 12
_MAX_NOTES = 1 << 26  # bytes; 8192 CPUs have 6 MB
_END = 1 << 52  # behind the highest physical address
_SEGMENT_MEMORY = 256  # bytes of memory for each segment, with the objects made from it


_CLASSES = {1: 32, 2: 64}  # EI_CLASS
_Phdr = Phdr32 | Phdr64


def _is_of_xen(source: ByteSource) -> bool:
    """Tell whether an ELF core without program headers has xl dump-core's sections (Xen's dump-core-format.txt)."""
    header, section = EHDR[64].unpack(source.read(0, EHDR[64].size)), SHDR[64]
    names = header.e_shoff + section.size * header.e_shstrndx
    if header.e_shentsize != section.size or header.e_shstrndx >= header.e_shnum or not source.has(names, section.size):
        return False
    strings = section.unpack(source.read(names, section.size))
    length = min(strings.sh_size, _MAX_SECTION_NAMES)
    return source.has(strings.sh_offset, length) and b".xen_" in bytes(source.read(strings.sh_offset, length))


class ElfDump:
    """An ELF vmcore.

    :ivar memory: where in the file physical memory lies.
    :raises TargetError: the file is no ELF core, or its headers are damaged.
    """

    dump_level: int | None = None  # ELF has no place for it
    release = ""  # nor for the kernel's release; VMCOREINFO has it
    needs_platform = False
    flattened = False
    notices: tuple[str, ...] = ()

    def __init__(self, source: ByteSource) -> None:
        try:
            ident = bytes(source.read(0, 16))
            elf_class = _CLASSES.get(ident[4])
            if elf_class is None or ident[5] != 1:
                raise TargetError("it is an ELF file of a class or byte order that kgcore does not read")
            ehdr, phdr, shdr = EHDR[elf_class], PHDR[elf_class], SHDR[elf_class]
            header = ehdr.unpack(source.read(0, ehdr.size))
            phoff, entry, count = header.e_phoff, header.e_phentsize, header.e_phnum
            if header.e_type != _ET_CORE:
                raise TargetError(
                    "it is an ELF file, but not a core", hint="give the vmcore with -c and vmlinux with -s"
                )
            if count == _PN_XNUM:
                count = shdr.unpack(source.read(header.e_shoff, shdr.size)).sh_info
            if count == 0 and _is_of_xen(source):
                raise TargetError("it is Xen's dump of a guest (xl dump-core)", hint="run kdump in the guest instead")
            if entry != phdr.size:
                raise TargetError(f"its program headers have {entry} bytes each, not {phdr.size}")
            if not source.has(phoff, entry * count):
                raise ShortFile(
                    f"its {count} program headers end at {phoff + entry * count}, the file at {source.size}"
                )
            source.budget.spend(_SEGMENT_MEMORY * count, f"its {count} segments")
            table, lost_headers = salvage(source, phoff, entry * count)
            table = _without(table, lost_headers, entry)
        except ShortFile as error:
            raise TargetError(f"it is an ELF core cut off within its headers: {error}") from error
        self.format = f"ELF{elf_class}"
        self.compression = "none"
        self.architecture = MACHINES.get(header.e_machine, f"ELF machine {header.e_machine}")
        self._source = source
        self._segments = partial(phdr.unpack_all, table)  # unpacked anew each time: there may be very many
        if not any(segment.p_type == _PT_LOAD for segment in self._segments()):
            if lost_headers:
                raise TargetError("its program headers are unreadable", hint="the disk has errors")
            raise TargetError("it is an ELF core without memory segments", hint="its headers are lost; look for a copy")
        self._lost_notes = False
        self.notes: tuple[DumpNote, ...] = tuple(self._notes())
        self.page_shift = usual_page_shift(self.architecture, told_by_notes(self.notes))
        # A segment whose header is lost may have been anywhere.
        self.frames: Frames = RunList(self._runs(), FrameState.LOST if lost_headers else FrameState.NO_RAM)
        self.memory = Uncompressed(source, self._stored(), 1 << self.page_shift)
        self.fill = self.memory.fill
        lost = {"program headers": bool(lost_headers), "notes": self._lost_notes}
        self.notices += unreadable([what for what, which in lost.items() if which])
        self.vmcoreinfo: bytes | None = None  # only a note may have it
        end = max(segment.p_offset + segment.p_filesz for segment in self._segments())
        self.missing_bytes = max(0, end - source.size)
        self.incomplete = self.missing_bytes > 0
        del self._segments

    def _notes(self) -> Iterator[DumpNote]:
        budget = self._source.budget
        for segment in self._segments():
            if segment.p_type == _PT_NOTE and segment.p_filesz <= _MAX_NOTES:
                stored = max(0, min(segment.p_filesz, self._source.size - segment.p_offset))
                if self._source.has(segment.p_offset, stored):
                    budget.spend(stored, "its notes")
                    data, gaps = salvage(self._source, segment.p_offset, stored)
                    self._lost_notes |= bool(gaps)
                    yield from parse_notes(bytes(data), budget, gaps)

    def _loads(self) -> Iterator[_Phdr]:
        """Yield the PT_LOADs with a physical address; /proc/kcore gives -1 to those without."""
        for segment in self._segments():
            if segment.p_type == _PT_LOAD and segment.p_paddr < _END:
                yield segment._replace(p_memsz=min(segment.p_memsz, _END - segment.p_paddr))

    def _stored(self) -> Iterator[tuple[int, int, int]]:
        """Yield the part of each PT_LOAD that is in the file: physical address, bytes, offset."""
        for segment in self._loads():
            size = min(segment.p_filesz, segment.p_memsz, self._source.size - segment.p_offset)
            if size > 0:
                yield segment.p_paddr, size, segment.p_offset

    def _runs(self) -> Iterator[FrameRun]:
        """Yield each PT_LOAD in up to three parts: in the file; beyond its end; left out (p_filesz < p_memsz)."""
        shift, mask = self.page_shift, (1 << self.page_shift) - 1
        for segment in self._loads():
            promised = min(segment.p_filesz, segment.p_memsz)
            stored = max(0, min(promised, self._source.size - segment.p_offset))
            first, cut = segment.p_paddr, segment.p_paddr + stored
            excluded, end = segment.p_paddr + promised, segment.p_paddr + segment.p_memsz
            # A frame is stored only if all of its bytes are: round borders accordingly.
            yield FrameRun(first + mask >> shift, cut >> shift, FrameState.STORED)
            if cut < excluded:
                yield FrameRun(cut >> shift, excluded + mask >> shift, FrameState.CUT_OFF)
            if excluded < end:
                yield FrameRun(excluded >> shift, end + mask >> shift, FrameState.EXCLUDED)

    def close(self) -> None:
        self._source.close()


def _without(table: memoryview, gaps: Sequence[Gap], entry: int) -> memoryview:
    """Return the program headers, with PT_NULL in place of unreadable ones."""
    if not gaps:
        return table
    changed = bytearray(table)
    for start, end in gaps:
        first, behind = start // entry * entry, min(-(-end // entry) * entry, len(table))
        changed[first:behind] = bytes(behind - first)
    return memoryview(changed)
