# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep the vdso of another kernel: its code stays where it was, and each of its functions becomes a system call.

The dead kernel's code reads data that the running kernel lays out in its own way. Programs have the addresses of its
functions in many places, so these must stay.
"""

import struct

from kgcore.arch import RESUMING
from kgcore.elf.headers import EHDR, SHDR

__all__ = ("functions_of", "of_calls")

_SHT_DYNSYM = 11
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_STT_FUNC = 2
_MOST_SECTIONS, _MOST_SYMBOLS = 64, 256


def functions_of(image: bytes) -> dict[str, tuple[int, int]]:
    """Return where each function of a vdso begins, and its size, by name.

    :raises ValueError: it is no vdso, or a damaged one.
    """
    try:
        header = EHDR[64].unpack(image)
        if header.e_ident[:5] != b"\x7fELF\x02" or not 0 < header.e_shnum <= _MOST_SECTIONS:
            raise ValueError("the vdso is no ELF image")
        sections = [SHDR[64].unpack(image, header.e_shoff + at * SHDR[64].size) for at in range(header.e_shnum)]
        table = next(one for one in sections if one.sh_type == _SHT_DYNSYM)
        names = sections[table.sh_link]
        found = {}
        for at in range(min(table.sh_size // _SYMBOL.size, _MOST_SYMBOLS)):
            name, info, _, section, value, size = _SYMBOL.unpack_from(image, table.sh_offset + at * _SYMBOL.size)
            if info & 0xF == _STT_FUNC and section and value + size <= len(image):
                start = names.sh_offset + name
                found[image[start : image.index(b"\0", start)].decode("ascii")] = value, size
    except (struct.error, StopIteration, IndexError, UnicodeDecodeError) as error:
        raise ValueError("the vdso is damaged") from error
    return found


def of_calls(view: str, image: bytes) -> bytes:
    """Return a vdso whose functions are system calls.

    :raises ValueError: it is no vdso, or has a function that is too short for that.
    """
    how = RESUMING[view]
    made = bytearray(image)
    starts = sorted({value for value, _ in functions_of(image).values()})
    for name, (value, size) in functions_of(image).items():
        code = how.vdso_function(name.removeprefix("__vdso_"))
        following = next((start for start in starts if start > value), value + size)
        if len(code) > max(size, following - value):
            raise ValueError(f"the vdso's {name} has {size} bytes")
        made[value : value + len(code)] = code
    return bytes(made)
