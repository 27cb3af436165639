# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF's headers as they lie in a file, class 32 and 64: include/uapi/linux/elf.h."""

from typing import Annotated, NamedTuple

from kgcore.cstruct import COMPAT, LP64, U16, U32, U64, CStruct, ULong, chars

__all__ = ("EHDR", "NHDR", "PHDR", "PHDR64", "SHDR", "Ehdr", "Nhdr", "Phdr32", "Phdr64", "Shdr")


class Ehdr(NamedTuple):
    """``Elf32_Ehdr``, ``Elf64_Ehdr``."""

    e_ident: Annotated[bytes, chars(16)]
    e_type: U16
    e_machine: U16
    e_version: U32
    e_entry: ULong
    e_phoff: ULong
    e_shoff: ULong
    e_flags: U32
    e_ehsize: U16
    e_phentsize: U16
    e_phnum: U16
    e_shentsize: U16
    e_shnum: U16
    e_shstrndx: U16


class Phdr32(NamedTuple):
    """``Elf32_Phdr``."""

    p_type: U32
    p_offset: U32
    p_vaddr: U32
    p_paddr: U32
    p_filesz: U32
    p_memsz: U32
    p_flags: U32
    p_align: U32


class Phdr64(NamedTuple):
    """``Elf64_Phdr``: the same in another order."""

    p_type: U32
    p_flags: U32
    p_offset: U64
    p_vaddr: U64
    p_paddr: U64
    p_filesz: U64
    p_memsz: U64
    p_align: U64


class Shdr(NamedTuple):
    """``Elf32_Shdr``, ``Elf64_Shdr``."""

    sh_name: U32
    sh_type: U32
    sh_flags: ULong
    sh_addr: ULong
    sh_offset: ULong
    sh_size: ULong
    sh_link: U32
    sh_info: U32
    sh_addralign: ULong
    sh_entsize: ULong


class Nhdr(NamedTuple):
    """``Elf32_Nhdr``, ``Elf64_Nhdr``, which are the same."""

    n_namesz: U32
    n_descsz: U32
    n_type: U32


EHDR = {32: CStruct(Ehdr, COMPAT), 64: CStruct(Ehdr, LP64)}
PHDR32, PHDR64 = CStruct(Phdr32), CStruct(Phdr64)
PHDR: dict[int, CStruct[Phdr32] | CStruct[Phdr64]] = {32: PHDR32, 64: PHDR64}
SHDR = {32: CStruct(Shdr, COMPAT), 64: CStruct(Shdr, LP64)}
NHDR = CStruct(Nhdr)
assert (EHDR[32].size, EHDR[64].size) == (52, 64)
assert (PHDR32.size, PHDR64.size) == (32, 56)
assert (SHDR[32].size, SHDR[64].size) == (40, 64)
assert NHDR.size == 12
