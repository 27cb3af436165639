# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read BTF from a file: raw, or the section ``.BTF`` of an ELF file without DWARF.

Raw BTF is what ``pahole --btf_encode_detached`` writes, and ``/sys/kernel/btf/vmlinux`` of a machine that runs the
kernel. The section is in the vmlinux that a vmlinuz packs, and in what ``objcopy --only-section=.BTF`` makes.
"""

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.symbols.btf import MAGIC
from kgcore.system.regular import reading

__all__ = ("HOW_TO_MAKE", "is_btf", "read_btf")

HOW_TO_MAKE = "pahole --btf_encode_detached FILE.btf vmlinux"
_MAX = 64 << 20  # bytes; a Debian kernel has 5 MB
_TEXT = b"[1] "  # bpftool btf dump
_OTHER_ORDER = b"\xeb\x9f"
_ELF = b"\x7fELF"


def is_btf(file: str) -> bool:
    """Tell whether a file has BTF and no DWARF, or is BTF as text, which :func:`read_btf` refuses.

    False if it cannot be read.
    """
    try:
        with reading(file) as opened:
            start = opened.read(len(_TEXT))
            if start.startswith(_ELF):
                opened.seek(0)
                elf = ELFFile(opened)
                return bool(elf.get_section_by_name(".BTF")) and not elf.get_section_by_name(".debug_info")
            return start == _TEXT or start.startswith((MAGIC, _OTHER_ORDER))
    except (OSError, ELFError, ValueError, KeyError, AttributeError, TypeError, IndexError):  # a damaged ELF file
        return False


def read_btf(file: str, build_id: str) -> bytes:
    """Return the BTF in a file.

    :param build_id: the kernel's, in hexadecimal; "": unknown.
    :raises TargetError: the file cannot be read, is BTF in another form, or is of a kernel with another build id.
    :raises BrokenDump: it is a damaged ELF file.
    """
    try:
        with reading(file) as opened:
            data = opened.read(_MAX)
            if data.startswith(_ELF):
                opened.seek(0)
                data = _section(file, ELFFile(opened), build_id)
    except OSError as error:
        raise TargetError(f"cannot read symbol file {file}: {error.strerror}") from error
    except (ELFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise BrokenDump(f"{file} is a damaged ELF file") from error
    if data.startswith(_TEXT):
        raise TargetError(f"{file} is BTF as text, not BTF", hint=f"make BTF of the vmlinux: {HOW_TO_MAKE}")
    if data.startswith(_OTHER_ORDER):
        raise TargetError(f"{file} is BTF of a big-endian kernel")
    return data


def _section(file: str, elf: ELFFile, build_id: str) -> bytes:
    found = _build_id(elf)
    if found and build_id and found != build_id:
        raise TargetError(
            f"{file} belongs to a kernel with build id {found}, the dump to one with build id {build_id}",
        )
    section = elf.get_section_by_name(".BTF")
    if section is None or section.data_size > _MAX:
        raise BrokenDump(f"{file} has no BTF of a possible size")
    data: bytes = section.data()
    return data


def _build_id(elf: ELFFile) -> str:
    """Return the build id in hexadecimal; "": the file has no build id."""
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            for note in section.iter_notes():
                if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"]).lower()
    return ""
