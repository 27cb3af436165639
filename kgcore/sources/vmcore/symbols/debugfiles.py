# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copy files with debug information, so that nobody else can change them.

drgn maps the files that it gets: a bad sector, or a process that truncates the file, would kill kgcore with a signal.
So drgn gets a copy in memory, made by reading. Copying the 560 MB of Debian's vmlinux for 6.1 takes 0.2 s of CPU time;
opening a dump with it takes 0.9 s. Half of that file is relocations, which the copy leaves out.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from struct import error as TooShort

from drgn import Program

from kgcore.elf.headers import EHDR, SHDR
from kgcore.errors import TargetError
from kgcore.system.regular import open_regular, read_at

__all__ = ("given_name", "private_copies", "private_copy")

_KEY = "kgcore_debug_files"
_NUMBERS = count(1)  # the paths of two copies differ
_AT_ONCE = 1 << 20
_MOST = 2 << 30  # bytes of a copy
_SHARE = 4  # a copy takes at most 1/_SHARE of the available memory

_ELF64 = b"\x7fELF\x02\x01"
_ET_EXEC, _SHT_RELA, _SHT_NOBITS, _SHF_ALLOC = 2, 4, 8, 2


@contextmanager
def private_copies(prog: Program, files: Sequence[str]) -> Iterator[list[str]]:
    """Copy files, and yield the paths of the copies, which exist until the ``with`` block ends.

    A file that the block has opened stays usable after it.

    :param prog: keeps the names that the user gave; :func:`given_name` turns the paths of the copies back into them.
    :raises TargetError: a file, or part of one, cannot be read.
    """
    names: dict[str, str] = prog.cache.setdefault(_KEY, {})
    with ExitStack() as stack:
        paths = []
        for file in files:
            descriptor = private_copy(file)
            path = f"/proc/self/fd/{descriptor}"
            if descriptor >= 0:
                stack.callback(os.close, descriptor)
            try:
                names |= {path: file, os.readlink(path): file}  # drgn uses both
            except OSError:  # there is no copy, or no /proc
                path = file
            paths.append(path)
        yield paths


def given_name(prog: Program, text: str) -> str:
    """Replace the paths of copies, in a path or message from drgn, by the names that the user gave."""
    names: dict[str, str] = prog.cache.get(_KEY, {})
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


def private_copy(file: str) -> int:
    """Copy a file into memory.

    If memory is short, read the file all the same, to find a bad sector.

    :returns: a descriptor of the copy; -1: no copy.
    :raises TargetError: the file, or part of it, cannot be read.
    """
    try:
        source = open_regular(file)
    except OSError as error:
        raise TargetError(f"cannot read symbol file {file}: {error.strerror}") from error
    try:
        size = os.fstat(source).st_size
        gaps = _relocations(source, size)
        wanted = size - sum(end - start for start, end in gaps)
        copy = os.memfd_create(f"kgcore-symbols-{next(_NUMBERS)}", os.MFD_CLOEXEC) if wanted <= _room() else -1
        try:
            copy = _copy(file, source, copy, size, gaps)
        except BaseException:
            if copy >= 0:
                os.close(copy)
            raise
    finally:
        os.close(source)
    return copy


def _copy(file: str, source: int, copy: int, size: int, gaps: Sequence[tuple[int, int]]) -> int:
    """Read a file, and write its bytes to the copy.

    :param copy: descriptor to write to; -1: the bytes are not kept.
    :returns: ``copy``; -1 if memory ran out.
    """
    at = 0
    for start, end in (*gaps, (size, size)):
        while at < start:
            try:
                data = read_at(source, min(_AT_ONCE, start - at), at)
            except OSError as error:
                raise TargetError(
                    f"symbol file {file} cannot be read near offset {at}: {error.strerror}",
                    hint="give another copy of it, or leave -s out to use the dump's own types",
                ) from error
            if not data:
                raise TargetError(f"symbol file {file} has become shorter while it is read", hint="try again")
            try:
                done = 0
                while copy >= 0 and done < len(data):
                    done += os.pwrite(copy, data[done:], at + done)
            except OSError:
                os.close(copy)
                copy = -1
            at += len(data)
        at = max(at, end)
    if copy >= 0:
        os.ftruncate(copy, size)
    return copy


def _room() -> int:
    """Return how many bytes a copy may take."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return min(_MOST, int(line.split()[1]) * 1024 // _SHARE)
    except OSError:
        pass
    return 0


def _relocations(source: int, size: int) -> list[tuple[int, int]]:
    """Find the relocations in a vmlinux (``ld --emit-relocs``). It is linked, so nobody needs them.

    :returns: ranges [start, end), ascending.
    """
    try:
        ehdr, shdr = EHDR[64].unpack(read_at(source, EHDR[64].size, 0)), SHDR[64]
        if not ehdr.e_ident.startswith(_ELF64) or ehdr.e_type != _ET_EXEC or ehdr.e_shentsize != shdr.size:
            return []
        data = read_at(source, shdr.size * ehdr.e_shnum, ehdr.e_shoff)
        sections = [shdr.unpack(data, shdr.size * number) for number in range(ehdr.e_shnum)]
    except (OSError, TooShort):  # the reader of the file reports it
        return []
    found, reached = [], 0
    for section in sorted(sections, key=lambda section: section.sh_offset):
        start, end = section.sh_offset, section.sh_offset + section.sh_size
        if section.sh_type == _SHT_RELA and not section.sh_flags & _SHF_ALLOC and reached <= start <= end <= size:
            found.append((start, end))
            reached = end
    used = (section for section in sections if section.sh_type not in (_SHT_RELA, _SHT_NOBITS))
    taken = [(section.sh_offset, section.sh_offset + section.sh_size) for section in used]
    return [gap for gap in found if not any(low < gap[1] and gap[0] < high for low, high in taken)]
