# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what the dynamic linker keeps in a process's memory, which differs between architectures only in widths.

AT_PHDR -> PT_DYNAMIC -> DT_DEBUG -> ``struct r_debug`` -> ``struct link_map``, as <link.h> and <elf.h> have them.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from kgcore.arch import ARCHES
from kgcore.elf.headers import PHDR
from kgcore.model.memory import Memory, peek
from kgcore.model.process import ProcessImage

__all__ = ("LinkMap", "Linker", "Segment")

_AT_PHDR, _AT_PHENT, _AT_PHNUM = 3, 4, 5
_PT_DYNAMIC, _PT_INTERP, _PT_PHDR = 2, 3, 6
_DT_DEBUG = 21
_MAX_HEADERS = 256
_MAX_DYNAMIC = 1024
_MAX_LIBRARIES = 1 << 14
_MAX_NAMESPACES = 64  # glibc has 16 (DL_NNS)
_MAX_NAME = 4096
_EXTENDED = 2  # r_version of struct r_debug_extended, which leads to the next namespace


class Segment(NamedTuple):
    """A program header of the executable.

    :ivar kind: ``p_type``.
    :ivar address: where it is in memory.
    :ivar size: ``p_filesz``.
    """

    kind: int
    address: int
    size: int


class LinkMap(NamedTuple):
    """The public part of a ``struct link_map``.

    :ivar at: its own address.
    :ivar name: ``l_name``: the address of a string.
    :ivar dynamic: ``l_ld``: the address of the object's dynamic section.
    """

    at: int
    name: int
    dynamic: int


class Linker:
    """The dynamic linker's structures in a process. Whatever its memory holds, each walk ends: what is missing or
    invalid is left out.

    :ivar word: bytes of an address.
    """

    def __init__(self, image: ProcessImage, memory: Memory) -> None:
        self._image = image
        self._memory = memory
        self._auxv = dict(image.auxv)
        arch = ARCHES.get(image.arch)
        self.word = 4 if arch is not None and arch.elf_class == 32 else 8

    @cached_property
    def headers(self) -> tuple[int, int]:
        """The address and the size in bytes of the executable's program headers; 0 and 0: not known."""
        size, count = self._auxv.get(_AT_PHENT, 0), self._auxv.get(_AT_PHNUM, 0)
        if size != PHDR[8 * self.word].size or count > _MAX_HEADERS:
            return 0, 0
        return self._auxv.get(_AT_PHDR, 0), size * count

    @cached_property
    def segments(self) -> dict[int, Segment]:
        """The program headers of the executable by their kind; without any if it is a static program, which has none
        for the table itself."""
        raw = self.read(*self.headers) or b""
        found = {entry.p_type: entry for entry in PHDR[8 * self.word].unpack_all(raw)}
        if _PT_PHDR not in found:
            return {}
        bias = self.headers[0] - found[_PT_PHDR].p_vaddr
        return {kind: Segment(kind, entry.p_vaddr + bias, entry.p_filesz) for kind, entry in found.items()}

    @property
    def interpreter(self) -> int:
        """The address of its name; 0: it has none."""
        return self.segments[_PT_INTERP].address if _PT_INTERP in self.segments else 0

    @property
    def dynamic(self) -> Segment | None:
        """The executable's dynamic section."""
        return self.segments.get(_PT_DYNAMIC)

    def debugs(self) -> Iterator[int]:
        """Yield the address of each ``struct r_debug``: the program's, and that of each further namespace."""
        dynamic = self.dynamic
        if dynamic is None:
            return
        count = min(dynamic.size // (2 * self.word), _MAX_DYNAMIC)
        words = self.words(dynamic.address, 2 * count)
        at = dict(zip(words[::2], words[1::2], strict=True)).get(_DT_DEBUG, 0)
        seen: set[int] = set()
        while at and at not in seen and len(seen) < _MAX_NAMESPACES:
            seen.add(at)
            yield at
            # int r_version stands alone in its word
            extended = self.words(at, 1)[0] & 0xFFFFFFFF >= _EXTENDED
            at = self.words(at + 5 * self.word, 1)[0] if extended else 0

    def maps(self) -> Iterator[LinkMap]:
        """Yield the ``struct link_map`` of each loaded object."""
        seen: set[int] = set()
        for debug in self.debugs():
            at = self.words(debug + self.word, 1)[0]
            while at and at not in seen and len(seen) < _MAX_LIBRARIES:
                seen.add(at)
                _, name, dynamic, following = self.words(at, 4)
                yield LinkMap(at, name, dynamic)
                at = following

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return words in memory; zeros if they are missing."""
        raw = self.read(address, count * self.word)
        return struct.unpack(f"<{count}{'Q' if self.word == 8 else 'I'}", raw) if raw else (0,) * count

    def string(self, address: int) -> bytes:
        """Return a C string; b"" if it is missing."""
        text, page = b"", self._image.page_size
        while address and len(text) < _MAX_NAME:
            vma = self._image.vma_at(address)
            # A page at a time: the string may end before the memory that is there does.
            part = None if vma is None else peek(self._memory, vma, address, -address % page or page)
            if part is None:
                return b""
            head, end, _ = part.partition(b"\0")
            text += head
            if end:
                return text
            address += len(part)
        return b""

    def read(self, address: int, size: int) -> bytes | None:
        """Return bytes of memory; None if some are missing."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            vma = self._image.vma_at(at)
            part = None if vma is None else peek(self._memory, vma, at, min(size - len(data), vma.end - at))
            if part is None:
                return None
            data += part
        return data
