# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core file as values, read apart from kgcore: with the standard library and the layouts of <linux/elfcore.h>."""

import lzma
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple
from weakref import finalize

EHDR = ("e_type", "e_machine", "e_version", "e_entry", "e_phoff", "e_shoff", "e_flags", "e_ehsize", "e_phentsize",
        "e_phnum", "e_shentsize", "e_shnum", "e_shstrndx")  # fmt: skip
PT_LOAD = 1
PT_NOTE = 4
USER_REGS = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
             "ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs")  # fmt: skip
USER_REGS32 = ("bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs", "orig_ax", "ip", "cs", "flags", "sp",
               "ss")  # fmt: skip
# EI_CLASS and e_machine: sizes of NT_PRSTATUS and of its part in front of the registers, offset of pr_fpvalid
EM_386, EM_X86_64 = 3, 62
PRSTATUS = {
    (64, EM_X86_64): (336, 112, 328),
    (32, EM_386): (144, 72, 140),
    (32, EM_X86_64): (296, 72, 288),  # x32
    (64, EM_386): (336, 112, 328),  # a 64-bit program whose dumping thread is in 32-bit code
}


class Phdr(NamedTuple):
    p_type: int
    p_flags: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    p_align: int


class Note(NamedTuple):
    owner: str
    type: int
    desc: bytes


@dataclass(frozen=True)
class ThreadNotes:
    """NT_PRSTATUS of a thread and the register notes behind it."""

    prstatus: dict[str, int]
    regs: dict[str, int]
    regsets: tuple[Note, ...]

    def note(self, type_: int) -> bytes | None:
        return next((note.desc for note in self.regsets if note.type == type_), None)


class Core:
    """A core of either class.

    :ivar bits: its class.
    :ivar view: class and machine.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        packed = self.path.suffix == ".xz"  # those of the committed fixtures
        self.file: BinaryIO = BytesIO(lzma.decompress(self.path.read_bytes())) if packed else self.path.open("rb")
        finalize(self, self.file.close)
        self.size = self.file.seek(0, SEEK_END)
        self.e_ident = self._at(0, 16)
        self.bits = 32 * self.e_ident[4]
        self.word = "Q" if self.bits == 64 else "I"
        ehdr, shdr, phdr = (
            f"<HHI3{self.word}IHHHHHH",
            f"<II4{self.word}II2{self.word}",
            f"<{'II6Q' if self.bits == 64 else '8I'}",
        )
        raw = self._at(16, struct.calcsize(ehdr))
        self.header = dict(zip(EHDR, struct.unpack(ehdr, raw), strict=True))
        self.view = (self.bits, self.header["e_machine"])
        count = self.header["e_phnum"]
        self.section: tuple[int, ...] | None = None
        if count == 0xFFFF:
            self.section = struct.unpack(shdr, self._at(self.header["e_shoff"], struct.calcsize(shdr)))
            count = self.section[7]
        raw = self._at(self.header["e_phoff"], struct.calcsize(phdr) * count)
        self.phdrs = [self._phdr(fields) for fields in struct.iter_unpack(phdr, raw)]
        self.loads = [phdr for phdr in self.phdrs if phdr.p_type == PT_LOAD]
        self.note_phdrs = [phdr for phdr in self.phdrs if phdr.p_type == PT_NOTE]

    def _phdr(self, fields: tuple[int, ...]) -> Phdr:
        if self.bits == 32:  # p_flags stands elsewhere there
            fields = (fields[0], fields[6], *fields[1:6], fields[7])
        return Phdr(*fields)

    def _at(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.path}: {size} bytes at {offset} are not there")
        return data

    @cached_property
    def _sorted(self) -> list[Phdr]:
        return sorted((load for load in self.loads if load.p_filesz), key=lambda load: load.p_vaddr)

    @cached_property
    def _starts(self) -> list[int]:
        return [load.p_vaddr for load in self._sorted]

    @cached_property
    def notes(self) -> list[Note]:
        """The notes of the first PT_NOTE: the kernel's."""
        return list(self._notes(self.note_phdrs[0]))

    @cached_property
    def vendor_notes(self) -> list[Note]:
        return [note for phdr in self.note_phdrs[1:] for note in self._notes(phdr)]

    def _notes(self, phdr: Phdr) -> Iterator[Note]:
        raw = self._at(phdr.p_offset, phdr.p_filesz)
        at = 0
        while at < len(raw):
            namesz, descsz, type_ = struct.unpack_from("<III", raw, at)
            at += 12
            owner = raw[at : at + namesz].rstrip(b"\0").decode()
            at += (namesz + 3) & ~3
            yield Note(owner, type_, raw[at : at + descsz])
            at += (descsz + 3) & ~3

    def process_note(self, type_: int) -> bytes | None:
        return next((note.desc for note in self.notes if note.type == type_ and note.owner == "CORE"), None)

    @cached_property
    def threads(self) -> dict[int, ThreadNotes]:
        """By pr_pid, in the file's order."""
        threads: dict[int, ThreadNotes] = {}
        process_wide = {3, 0x53494749, 6, 0x46494C45, 0x205}
        notes = [note for note in self.notes if note.type not in process_wide]
        starts = [number for number, note in enumerate(notes) if (note.owner, note.type) == ("CORE", 1)]
        for start, end in zip(starts, [*starts[1:], len(notes)], strict=True):
            prstatus, regs = parse_prstatus(notes[start].desc, self.view)
            threads[prstatus["pid"]] = ThreadNotes(prstatus, regs, tuple(notes[start + 1 : end]))
        return threads

    @cached_property
    def psinfo(self) -> dict[str, int | bytes]:
        desc = self.process_note(3) or b""
        names = "state sname zomb nice flag uid gid pid ppid pgrp sid fname psargs".split()
        layout = "<bcbb4xQIIiiii16s80s" if self.bits == 64 else "<bcbbIHHiiii16s80s"
        return dict(zip(names, struct.unpack(layout, desc), strict=True))

    @cached_property
    def auxv(self) -> list[tuple[int, int]]:
        return list(struct.iter_unpack(f"<2{self.word}", self.process_note(6) or b""))

    @cached_property
    def files(self) -> list[tuple[int, int, int, bytes]]:
        """NT_FILE: (start, end, offset in pages, name)."""
        desc = self.process_note(0x46494C45)
        if desc is None:
            return []
        size = self.bits // 8
        count, page_size = struct.unpack_from(f"<2{self.word}", desc)
        assert page_size == 4096
        names = desc[(2 + 3 * count) * size :].split(b"\0")
        rows = struct.iter_unpack(f"<3{self.word}", desc[2 * size : (2 + 3 * count) * size])
        return [(*row, name) for row, name in zip(rows, names, strict=False)]

    def read(self, address: int, size: int) -> bytes:
        """Memory, over adjacent segments. Raises ValueError where no segment has bytes."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            number = bisect_right(self._starts, at) - 1
            load = self._sorted[number] if number >= 0 else None  # all of them may be lost
            inside = at - load.p_vaddr if load is not None else 0
            if load is None or inside >= load.p_filesz:
                raise ValueError(f"{at:#x} is not in {self.path}")
            data += self._at(load.p_offset + inside, min(size - len(data), load.p_filesz - inside))
        return data

    def segment(self, load: Phdr) -> Iterator[tuple[int, bytes]]:
        """A segment's bytes in pieces of at most 1 MiB."""
        for done in range(0, load.p_filesz, 1 << 20):
            yield load.p_vaddr + done, self._at(load.p_offset + done, min(1 << 20, load.p_filesz - done))


def parse_prstatus(desc: bytes, view: tuple[int, int] = (64, EM_X86_64)) -> tuple[dict[str, int], dict[str, int]]:
    size, registers_at, fpvalid_at = PRSTATUS[view]
    assert len(desc) == size
    names = (
        "si_signo si_code si_errno cursig sigpend sighold pid ppid pgrp sid "
        "utime_s utime_us stime_s stime_us cutime_s cutime_us cstime_s cstime_us"
    ).split()
    word = "Q" if view[0] == 64 else "I"
    fields = dict(zip(names, struct.unpack_from(f"<iiihxx2{word}iiii8{word}", desc), strict=True))
    order, registers = (USER_REGS, "<27Q") if view[1] == EM_X86_64 else (USER_REGS32, "<17I")
    regs = dict(zip(order, struct.unpack_from(registers, desc, registers_at), strict=True))
    (fields["fpvalid"],) = struct.unpack_from("<i", desc, fpvalid_at)
    unused = (*range(registers_at + struct.calcsize(registers), fpvalid_at), *range(fpvalid_at + 4, size))
    assert not any(desc[at] for at in unused)
    return fields, regs
