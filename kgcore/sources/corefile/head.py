# SPDX-License-Identifier: LGPL-2.1-or-later
"""The head of a core: its ELF header, its program headers and its notes. It reads files and streams alike.

A core may be hostile: everything is bounded, and what contradicts itself is refused by name.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kgcore.arch import ARCHES, SMALLEST_PAGE, Arch, arch_of_core
from kgcore.elf.headers import EHDR, NHDR, PHDR, SHDR, Ehdr
from kgcore.elf.layout import MACHINES, PN_XNUM, PT_LOAD, PT_NOTE, ElfClass
from kgcore.errors import TargetError
from kgcore.sources.corefile.inputs import Input
from kgcore.text import human_size

__all__ = ("Head", "Load", "RawNote", "read_head")

_MOST_HEADERS = 1 << 20  # vm.max_map_count is 65530 to 1048576
_AT_ONCE = 1 << 13  # program headers
_MOST_NOTES = 1 << 18  # 32 000 threads have about six each
_MOST_BYTES = 1 << 27  # of notes: 32 000 threads take 107 MiB
_ET_CORE = 4
_LITTLE = 1
_GUESS = "is it a core, and whole?"


class Load(NamedTuple):
    """A PT_LOAD: ``p_vaddr``, ``p_vaddr`` + ``p_memsz``, ``p_offset``, ``p_filesz``, ``p_flags`` and ``p_align``."""

    start: int
    end: int
    offset: int
    filesz: int
    flags: int
    align: int


class RawNote(NamedTuple):
    """A note.

    :ivar owner: its name, without NULs.
    :ivar raw: all of it as it stands in the core, padded to words.
    """

    owner: bytes
    type: int
    desc: bytes
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a core.

    :ivar arch: the view of its threads.
    :ivar loads: its PT_LOADs, in the order of their headers, but for those without addresses.
    :ivar notes: in the order of the core.
    :ivar note_align: ``p_align`` of the first PT_NOTE.
    :ivar size: bytes of the headers and of the notes, as far as they stand together at the beginning.
    :ivar notes_end: where the last of the notes ends.
    :ivar headers: how many program headers there are.
    :ivar shoff: ``e_shoff``.
    """

    arch: Arch
    loads: tuple[Load, ...]
    notes: tuple[RawNote, ...]
    note_align: int
    size: int
    notes_end: int
    headers: int
    shoff: int


def read_head(core: Input, name: str) -> Head:
    """Read the head of a core.

    :param name: of the core, for messages.
    :raises TargetError: it is no core, none of a process of an architecture that kgcore knows, or damaged.
    """
    try:
        return _Reader(core, name).head()
    except struct.error as error:
        raise TargetError(f"{name} ends within its headers", hint=_GUESS) from error


class _Reader:
    def __init__(self, core: Input, name: str) -> None:
        self._core = core
        self._name = name

    def _bad(self, what: str, hint: str = _GUESS) -> TargetError:
        return TargetError(f"{self._name}: {what}", hint=hint)

    def head(self) -> Head:
        ident = self._core.read(0, 16)
        if not ident.startswith(b"\x7fELF") or len(ident) < 16 or ident[4] not in (1, 2):
            raise TargetError(f"{self._name} is no ELF file" if ident else f"{self._name} is empty", hint=_GUESS)
        elf_class: ElfClass = 64 if ident[4] == 2 else 32
        ehdr = EHDR[elf_class].unpack(self._core.read(0, EHDR[elf_class].size))
        if ident[5] != _LITTLE or ehdr.e_type != _ET_CORE:
            raise TargetError(f"{self._name} is no core of a little-endian machine", hint=_GUESS)
        arch = arch_of_core(elf_class, ehdr.e_machine)
        if arch is None:
            machine = MACHINES.get(ehdr.e_machine, f"machine {ehdr.e_machine}")
            raise self._bad(f"cores of {machine} are not supported", f"supported: {', '.join(sorted(ARCHES))}")
        if ehdr.e_phentsize != PHDR[elf_class].size:
            raise self._bad(f"its program headers have {ehdr.e_phentsize} bytes each, not {PHDR[elf_class].size}")
        count = self._count(ehdr, elf_class)
        loads: list[Load] = []
        places: list[tuple[int, int]] = []
        align = 0
        for header in self._program_headers(ehdr.e_phoff, count, elf_class):
            kind, flags, offset, address, filesz, memsz, step = header
            if kind == PT_LOAD and (memsz or filesz):
                loads.append(Load(address, address + memsz, offset, filesz, flags, step))
            elif kind == PT_NOTE and filesz:
                align = align if places else step
                places.append((offset, filesz))
        self._check(loads, elf_class)
        end = ehdr.e_phoff + count * PHDR[elf_class].size
        for offset, size in sorted(places):
            end = max(end, offset + size) if offset <= end else end
        return Head(
            arch=arch,
            loads=tuple(loads),
            notes=tuple(self._notes(places, loads)),
            note_align=align,
            size=end,
            notes_end=max((offset + size for offset, size in places), default=0),
            headers=count,
            shoff=ehdr.e_shoff,
        )

    def _count(self, ehdr: Ehdr, elf_class: ElfClass) -> int:
        """How many program headers there are."""
        count = ehdr.e_phnum
        if count == PN_XNUM:
            count = self._extended(ehdr, elf_class)
        if count > _MOST_HEADERS:
            raise self._bad(f"it says that it has {count} program headers, more than a process can have mappings")
        return count

    def _extended(self, ehdr: Ehdr, elf_class: ElfClass) -> int:
        """Their number where a section has it: at the end of the kernel's cores."""
        size = SHDR[elf_class].size
        if not self._core.forward or ehdr.e_shoff + size <= ehdr.e_phoff:
            section = self._core.read(ehdr.e_shoff, size) if 0 < ehdr.e_shoff < 1 << 62 else b""
            if len(section) < size:
                raise self._bad("the section that has the number of its program headers is not there: it is cut off")
            return SHDR[elf_class].unpack(section).sh_info
        # The end of a stream is not there yet; but the notes are right behind the headers.
        first = next(self._program_headers(ehdr.e_phoff, 1, elf_class))
        length = first[2] - ehdr.e_phoff
        if first[0] != PT_NOTE or length <= 0 or length % PHDR[elf_class].size:
            raise self._bad(
                "only its end says how many program headers it has", "give it as a file, and not compressed"
            )
        return length // PHDR[elf_class].size

    def _program_headers(
        self, at: int, count: int, elf_class: ElfClass
    ) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """p_type, p_flags, p_offset, p_vaddr, p_filesz, p_memsz, p_align."""
        if at >= 1 << 62 or (self._core.size is not None and at + count * PHDR[elf_class].size > self._core.size):
            raise self._bad(f"it ends within its {count} program headers")
        structure = PHDR[elf_class]
        for first in range(0, count, _AT_ONCE):
            number = min(_AT_ONCE, count - first)
            table = self._core.read(at + first * structure.size, number * structure.size)
            if len(table) < number * structure.size:
                raise self._bad(f"it ends within its {count} program headers")
            for fields in structure.code.iter_unpack(table):
                if elf_class == 64:
                    kind, flags, offset, vaddr, _, filesz, memsz, align = fields
                else:
                    kind, offset, vaddr, _, filesz, memsz, flags, align = fields
                yield kind, flags, offset, vaddr, filesz, memsz, align

    def _check(self, loads: Sequence[Load], elf_class: ElfClass) -> None:
        end = 0
        for load in sorted(loads):
            where = f"its segment at {load.start:#x}"
            if load.filesz > load.end - load.start:
                raise self._bad(f"{where} has more bytes in the file than in memory")
            if load.end > 1 << elf_class or load.offset + load.filesz >= 1 << 63:
                raise self._bad(f"{where} goes beyond the end of all addresses")
            if load.start < end:
                raise self._bad(f"{where} overlaps another one")
            if (load.start | load.end | load.filesz) % SMALLEST_PAGE:
                raise self._bad(f"{where} begins or ends within a page", "kgcore takes whole pages")
            end = load.end

    def _notes(self, places: Sequence[tuple[int, int]], loads: Sequence[Load]) -> Iterator[RawNote]:
        total = sum(size for _, size in places)
        if total > _MOST_BYTES:
            raise self._bad(f"it says that it has {human_size(total)} of notes, too much to be true")
        data = min((load.offset for load in loads if load.filesz), default=1 << 63)
        count = 0
        for offset, size in places:
            if self._core.forward and offset + size > data:
                raise self._bad("its notes stand behind its memory", "give it as a file, and not compressed")
            if offset >= 1 << 62 or (self._core.size is not None and offset + size > self._core.size):
                raise self._bad("it ends within its notes")
            at, stop = offset, offset + size
            while at + NHDR.size <= stop:
                count += 1
                if count > _MOST_NOTES:
                    raise self._bad(f"it has more than {_MOST_NOTES} notes")
                note = self._note(at, stop)
                yield note
                at += len(note.raw)

    def _note(self, at: int, stop: int) -> RawNote:
        """
        :param stop: where the segment ends that it stands in.
        """
        header = NHDR.unpack(self._core.read(at, NHDR.size))
        name, desc = NHDR.size, NHDR.size + (header.n_namesz + 3 & ~3)
        end = desc + header.n_descsz
        if at + end > stop:
            raise self._bad(f"its note at {at:#x} is longer than what it stands in")
        raw = self._core.read(at, min(end + 3 & ~3, stop - at))
        if len(raw) < end:
            raise self._bad("it ends within its notes")
        owner = raw[name : name + header.n_namesz].rstrip(b"\0")
        return RawNote(owner, header.n_type, raw[desc:end], raw.ljust(end + 3 & ~3, b"\0"))
