# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import struct

import pytest
from elftools.elf.elffile import ELFFile

from kgcore.elf.layout import (
    EM_386,
    EM_X86_64,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    ElfClass,
    Note,
    Phdr,
    ehdr_size,
    note_bytes,
    pack_ehdr,
    pack_phdrs,
    pack_shdr0,
    phdr_size,
    shdr_size,
)
from tests.counting import per_page


@pytest.mark.parametrize(("elf_class", "machine", "name"), [(64, EM_X86_64, "EM_X86_64"), (32, EM_386, "EM_386")])
def test_headers_as_pyelftools_reads_them(elf_class: ElfClass, machine: int, name: str) -> None:
    headers = [
        Phdr(PT_NOTE, 0, 0x100, 0, 0x20, 0, 4),
        Phdr(PT_LOAD, 5, 0x1000, 0x400000, 0x1000, 0x2000, 0x1000),
    ]
    data = pack_ehdr(elf_class, machine, 2, 0x12345) + pack_phdrs(elf_class, headers)
    elf = ELFFile(io.BytesIO(data))
    assert elf.elfclass == elf_class
    assert elf.little_endian
    assert elf["e_ident"]["EI_OSABI"] == "ELFOSABI_SYSV"
    assert (elf["e_type"], elf["e_machine"], elf["e_version"]) == ("ET_CORE", name, "EV_CURRENT")
    assert (elf["e_phoff"], elf["e_phnum"]) == (ehdr_size(elf_class), 2)
    assert (elf["e_shoff"], elf["e_shnum"], elf["e_shentsize"], elf["e_shstrndx"]) == (0, 0, 0, 0)
    note, load = (segment.header for segment in elf.iter_segments())
    assert (note["p_type"], note["p_offset"], note["p_filesz"], note["p_align"]) == ("PT_NOTE", 0x100, 0x20, 4)
    assert (load["p_type"], load["p_flags"], load["p_vaddr"], load["p_paddr"]) == ("PT_LOAD", 5, 0x400000, 0)
    assert (load["p_filesz"], load["p_memsz"], load["p_align"]) == (0x1000, 0x2000, 0x1000)


@pytest.mark.parametrize("elf_class", [32, 64])
@pytest.mark.parametrize("segments", [PN_XNUM - 1, PN_XNUM, PN_XNUM + 1, 70_000])
def test_extended_numbering(elf_class: ElfClass, segments: int) -> None:
    shoff = ehdr_size(elf_class) + segments * phdr_size(elf_class)
    headers = (Phdr(PT_LOAD, 4, 0, index << 12, 0, 4096, 4096) for index in range(segments))
    data = pack_ehdr(elf_class, EM_X86_64, segments, shoff) + pack_phdrs(elf_class, headers)
    data += pack_shdr0(elf_class, segments)
    elf = ELFFile(io.BytesIO(data))
    assert elf["e_phnum"] == min(segments, 0xFFFF)
    assert elf.num_segments() == segments
    if segments < PN_XNUM:
        assert elf["e_shnum"] == 0
    else:
        assert len(data) == elf["e_shoff"] + shdr_size(elf_class)
        section = elf.get_section(0).header
        assert (section["sh_size"], section["sh_link"], section["sh_info"]) == (1, 0, segments)


def test_program_headers_pack_fast() -> None:
    """There may be 70 000; construct takes hundreds of instructions for each."""
    headers = [Phdr(PT_LOAD, 4, 0, index << 12, 0, 4096, 4096) for index in range(4096)]
    assert per_page(lambda count: pack_phdrs(64, headers[:count]), 16, len(headers)) < 35
    assert len(pack_phdrs(64, headers)) == len(headers) * phdr_size(64)


def test_a_value_too_large_for_the_class_is_an_error() -> None:
    with pytest.raises(struct.error):
        pack_phdrs(32, [Phdr(PT_LOAD, 4, 0, 1 << 32, 0, 0, 0)])


@pytest.mark.parametrize(
    ("note", "framed"),
    [
        (Note(b"CORE", 1, b""), b"\5\0\0\0\0\0\0\0\1\0\0\0CORE\0\0\0\0"),
        (Note(b"LINUX", 0x202, b"abc"), b"\6\0\0\0\3\0\0\0\2\2\0\0LINUX\0\0\0abc\0"),
        (Note(b"ABC", 2, b"wxyz"), b"\4\0\0\0\4\0\0\0\2\0\0\0ABC\0wxyz"),
    ],
)
def test_note_framing(note: Note, framed: bytes) -> None:
    assert note_bytes(note) == framed
