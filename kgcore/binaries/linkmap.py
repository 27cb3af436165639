# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the names that a process itself uses for its program, its interpreter and its libraries.

Debuggers look for these names. They may be symbolic links to the names that the kernel knows: ``/lib`` often is a link
to ``/usr/lib``.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kgcore.arch import ARCHES
from kgcore.elf.headers import PHDR
from kgcore.model.memory import Memory, peek
from kgcore.model.process import ProcessImage

__all__ = ("LinkName", "link_names")

_AT_PHDR, _AT_PHENT, _AT_PHNUM, _AT_BASE, _AT_ENTRY, _AT_EXECFN = 3, 4, 5, 7, 9, 31
_PT_DYNAMIC, _PT_INTERP, _PT_PHDR = 2, 3, 6
_DT_DEBUG = 21
_MAX_HEADERS = 256
_MAX_DYNAMIC = 1024
_MAX_LIBRARIES = 1 << 14
_MAX_NAME = 4096


class LinkName(NamedTuple):
    """A name of a mapped file.

    :ivar name: as the process has it, raw.
    :ivar address: an address in a mapping of the file.
    """

    name: bytes
    address: int


def link_names(image: ProcessImage, memory: Memory) -> Iterator[LinkName]:
    """Return the names that the dump holds. Missing and invalid ones are left out."""
    yield from _Process(image, memory).names()


class _Segment(NamedTuple):
    kind: int
    address: int
    size: int


class _Process:
    def __init__(self, image: ProcessImage, memory: Memory) -> None:
        self._image = image
        self._memory = memory
        self._auxv = dict(image.auxv)
        arch = ARCHES.get(image.arch)
        self._word = 4 if arch is not None and arch.elf_class == 32 else 8

    def names(self) -> Iterator[LinkName]:
        program = self._name(self._auxv.get(_AT_EXECFN, 0))
        if program:
            yield LinkName(program, self._auxv.get(_AT_ENTRY, 0))
        segments = {segment.kind: segment for segment in self._segments()}
        if _PT_PHDR not in segments:
            return  # a static program
        bias = self._auxv.get(_AT_PHDR, 0) - segments[_PT_PHDR].address
        if _PT_INTERP in segments:
            interpreter = self._name(segments[_PT_INTERP].address + bias)
            if interpreter:
                yield LinkName(interpreter, self._auxv.get(_AT_BASE, 0))
        if _PT_DYNAMIC in segments:
            yield from self._libraries(segments[_PT_DYNAMIC], bias)

    def _segments(self) -> Iterator[_Segment]:
        """The program headers of the executable, from its memory."""
        size, count = self._auxv.get(_AT_PHENT, 0), self._auxv.get(_AT_PHNUM, 0)
        header = PHDR[8 * self._word]
        if size != header.size or count > _MAX_HEADERS:
            return
        raw = self._read(self._auxv.get(_AT_PHDR, 0), size * count)
        for segment in header.unpack_all(raw or b""):
            yield _Segment(segment.p_type, segment.p_vaddr, segment.p_filesz)

    def _libraries(self, dynamic: _Segment, bias: int) -> Iterator[LinkName]:
        """``struct r_debug`` and its list of ``struct link_map``: <link.h>."""
        debug = self._dynamic(dynamic, bias).get(_DT_DEBUG, 0)
        at = self._words(debug + self._word, 1)[0] if debug else 0
        seen: set[int] = set()
        while at and at not in seen and len(seen) < _MAX_LIBRARIES:
            seen.add(at)
            _, name, where, following = self._words(at, 4)
            library = self._name(name)
            if library:
                yield LinkName(library, where)
            at = following

    def _dynamic(self, dynamic: _Segment, bias: int) -> Mapping[int, int]:
        count = min(dynamic.size // (2 * self._word), _MAX_DYNAMIC)
        words = self._words(dynamic.address + bias, 2 * count)
        return dict(zip(words[::2], words[1::2], strict=True))

    # Memory

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        """Words in memory; zeros if they are missing."""
        raw = self._read(address, count * self._word)
        return struct.unpack(f"<{count}{'Q' if self._word == 8 else 'I'}", raw) if raw else (0,) * count

    def _name(self, address: int) -> bytes:
        """A C string; b"" if it is missing."""
        name, page = b"", self._image.page_size
        while address and len(name) < _MAX_NAME:
            vma = self._image.vma_at(address)
            # A page at a time: the string may end before the memory that is there does.
            part = None if vma is None else peek(self._memory, vma, address, -address % page or page)
            if part is None:
                return b""
            head, end, _ = part.partition(b"\0")
            name += head
            if end:
                return name
            address += len(part)
        return b""

    def _read(self, address: int, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            vma = self._image.vma_at(address + len(data))
            if vma is None:
                return None
            at = address + len(data)
            part = peek(self._memory, vma, at, min(size - len(data), vma.end - at))
            if part is None:
                return None
            data += part
        return data
