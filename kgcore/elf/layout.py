# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pack the ELF structures of a core: file header, program headers, section 0, notes; class 32 and 64, little-endian.

Layouts: include/uapi/linux/elf.h. Behaviour: fill_elf_header, fill_elf_note_phdr, fill_extnum_info, writenote in
fs/binfmt_elf.c (the same from 5.10 to 7.2).
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from construct import Const, Int16ul, Int32ul, Int64ul, Padding
from construct import Struct as Layout

from kgcore.elf.headers import NHDR, PHDR, Nhdr

__all__ = (
    "EM_386",
    "EM_X86_64",
    "NT_AUXV",
    "NT_FILE",
    "NT_PRPSINFO",
    "NT_PRSTATUS",
    "NT_SIGINFO",
    "PF_R",
    "PF_W",
    "PF_X",
    "PN_XNUM",
    "PT_LOAD",
    "PT_NOTE",
    "ElfClass",
    "Note",
    "Phdr",
    "ehdr_size",
    "note_bytes",
    "pack_ehdr",
    "pack_phdrs",
    "pack_shdr0",
    "phdr_size",
    "shdr_size",
)

ElfClass = Literal[32, 64]

EM_386 = 3
EM_X86_64 = 62
MACHINES = {EM_386: "i386", EM_X86_64: "x86_64", 183: "aarch64", 40: "arm", 21: "ppc64", 22: "s390x", 243: "riscv"}
"""What people call some machines, by ``e_machine``."""
PT_LOAD = 1
PT_NOTE = 4
PF_X, PF_W, PF_R = 1, 2, 4
PN_XNUM = 0xFFFF

NT_PRSTATUS = 1
NT_PRPSINFO = 3
NT_AUXV = 6
NT_FILE = 0x46494C45
NT_SIGINFO = 0x53494749


def _ehdr(word: Any, elf_class: int) -> Any:
    return Layout(
        "e_ident" / Const(b"\x7fELF" + bytes((elf_class, 1, 1))),  # ELFCLASS, ELFDATA2LSB, EV_CURRENT
        Padding(9),  # EI_OSABI = ELFOSABI_NONE and the rest
        "e_type" / Const(4, Int16ul),  # ET_CORE
        "e_machine" / Int16ul,
        "e_version" / Const(1, Int32ul),
        "e_entry" / Const(0, word),
        "e_phoff" / word,
        "e_shoff" / word,
        "e_flags" / Const(0, Int32ul),
        "e_ehsize" / Int16ul,
        "e_phentsize" / Int16ul,
        "e_phnum" / Int16ul,
        "e_shentsize" / Int16ul,
        "e_shnum" / Int16ul,
        "e_shstrndx" / Const(0, Int16ul),
    )


def _shdr(word: Any) -> Any:
    return Layout(
        "sh_name" / Const(0, Int32ul),
        "sh_type" / Const(0, Int32ul),  # SHT_NULL
        "sh_flags" / Const(0, word),
        "sh_addr" / Const(0, word),
        "sh_offset" / Const(0, word),
        "sh_size" / word,
        "sh_link" / Int32ul,
        "sh_info" / Int32ul,
        "sh_addralign" / Const(0, word),
        "sh_entsize" / Const(0, word),
    )


_EHDR: dict[ElfClass, Any] = {32: _ehdr(Int32ul, 1), 64: _ehdr(Int64ul, 2)}
_SHDR: dict[ElfClass, Any] = {32: _shdr(Int32ul), 64: _shdr(Int64ul)}
assert (_EHDR[32].sizeof(), _EHDR[64].sizeof()) == (52, 64)
assert (_SHDR[32].sizeof(), _SHDR[64].sizeof()) == (40, 64)


class Phdr(NamedTuple):
    """``Elf32_Phdr`` and ``Elf64_Phdr``, without p_paddr, which is 0 in cores."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


class Note(NamedTuple):
    """A note before it is framed; ``name`` without its NUL."""

    name: bytes
    type: int
    desc: bytes


def ehdr_size(elf_class: ElfClass) -> int:
    return int(_EHDR[elf_class].sizeof())


def phdr_size(elf_class: ElfClass) -> int:
    return PHDR[elf_class].size


def shdr_size(elf_class: ElfClass) -> int:
    return int(_SHDR[elf_class].sizeof())


def pack_ehdr(elf_class: ElfClass, machine: int, segments: int, shoff: int) -> bytes:
    """Pack the file header of a core.

    :param segments: number of program headers; more than PN_XNUM - 1 are counted in section 0.
    :param shoff: offset of section 0 if it is needed.
    """
    extended = segments >= PN_XNUM
    return bytes(
        _EHDR[elf_class].build(
            {
                "e_machine": machine,
                "e_phoff": ehdr_size(elf_class),
                "e_shoff": shoff if extended else 0,
                "e_ehsize": ehdr_size(elf_class),
                "e_phentsize": phdr_size(elf_class),
                "e_phnum": min(segments, PN_XNUM),
                "e_shentsize": shdr_size(elf_class) if extended else 0,
                "e_shnum": 1 if extended else 0,
            }
        )
    )


def pack_phdrs(elf_class: ElfClass, headers: Iterable[Phdr]) -> bytes:
    """Pack program headers in sequence.

    :raises struct.error: a value does not fit the class.
    """
    pack = PHDR[elf_class].code.pack  # by position: there may be 70 000 of them
    if elf_class == 64:
        return b"".join([pack(h.type, h.flags, h.offset, h.vaddr, 0, h.filesz, h.memsz, h.align) for h in headers])
    return b"".join([pack(h.type, h.offset, h.vaddr, 0, h.filesz, h.memsz, h.flags, h.align) for h in headers])


def pack_shdr0(elf_class: ElfClass, segments: int) -> bytes:
    """Pack section 0, which holds the number of program headers in ``sh_info``; empty if e_phnum can hold it.

    Like the kernel, also for exactly PN_XNUM segments, since an e_phnum of 0xffff always means "see section 0".
    """
    if segments < PN_XNUM:
        return b""
    return bytes(_SHDR[elf_class].build({"sh_size": 1, "sh_link": 0, "sh_info": segments}))


def note_bytes(note: Note) -> bytes:
    """Pack a note. Name and description are each padded to 4 bytes, in both classes."""
    name = note.name + b"\0"
    header = NHDR.pack(Nhdr(n_namesz=len(name), n_descsz=len(note.desc), n_type=note.type))
    return b"".join((header, name, bytes(-len(name) % 4), note.desc, bytes(-len(note.desc) % 4)))
