# SPDX-License-Identifier: LGPL-2.1-or-later
"""zsmalloc: the allocator where zram, and usually zswap too, keep compressed pages (mm/zsmalloc.c).

A handle points to a word that says where the object is: a page frame, and the object's number within a *zspage*. A
zspage is a chain of up to 16 page frames filled with objects of one size, which may cross from one frame to the next.
An object begins with its own handle, so in a damaged dump kgcore finds the right object or nothing.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

from drgn import FaultError, Object, Type, sizeof

from kgcore.arch import Architecture
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory

__all__ = ("Zsmalloc",)

_MAGIC = 0x58  # ZSPAGE_MAGIC
_ALLOCATED = 1  # OBJ_ALLOCATED_TAG, in the header
_MAX_FRAMES = 16  # of a zspage: the maximum of CONFIG_ZSMALLOC_CHAIN_SIZE; before that option it was 4
_MAX_CLASSES = 1 << 9  # CLASS_BITS + 1
_CACHED = 1 << 14  # zspages and frames

_LOST = "the compressed page is not where its handle points"


class _Certain(BrokenDump):
    """An object whose place is certain cannot be read."""


class _Class(NamedTuple):
    """``struct size_class``.

    :ivar size: of each object, with its header.
    :ivar objects: how many a zspage has.
    :ivar frames: how many page frames a zspage has.
    :ivar handle: bytes of an object's header, ZS_HANDLE_SIZE.
    """

    size: int
    objects: int
    frames: int
    handle: int = 8

    @property
    def header(self) -> int:
        """Bytes of an object's header; a "huge" object has a frame to itself and no header (create_page_chain())."""
        return 0 if self.objects == self.frames == 1 else self.handle


class _Zspage(NamedTuple):
    """``struct zspage``.

    :ivar frames: page frame numbers; too few if some are lost.
    """

    kind: _Class
    frames: tuple[int, ...]


class _Frame(NamedTuple):
    """The content of the ``struct page`` of a zspage's frame.

    :ivar zspage: address of the ``struct zspage``.
    :ivar word: the ``struct page`` of the next frame; for a huge object, its header.
    """

    zspage: int
    word: int


class _Code(NamedTuple):
    """The encoding of the word that a handle points to: ``frame | number | tag``, from the highest bit.

    :ivar frame_shift: the bits of a word minus the bits of a page frame number.
    :ivar tag_bits: how many tag bits are below the object's number.
    """

    frame_shift: int
    tag_bits: int

    def frame(self, word: int) -> int:
        return word >> self.frame_shift

    def number(self, word: int) -> int:
        return (word & (1 << self.frame_shift) - 1) >> self.tag_bits


def _codes(architecture: Architecture) -> Iterator[_Code]:
    """Yield the possible encodings.

    _PFN_BITS is MAX_POSSIBLE_PHYSMEM_BITS less the page shift. OBJ_TAG_BITS is 1 in 5.10 and 6.1, 0 in 6.12 and 7.2
    (where the word no longer has a tag), and was 2 for a while in 2023. No type or symbol says which; the encoding that
    leads to the object's header is the right one.
    """
    for bits in architecture.physical_bits:
        for tag_bits in (0, 1, 2):
            yield _Code(8 * architecture.word_size - bits + architecture.page_shift, tag_bits)


class _Field(NamedTuple):
    """A number in a structure's bytes."""

    bit: int
    mask: int

    @classmethod
    def of(cls, kind: Type, name: str) -> "_Field":
        """Return a member of a type.

        :raises LookupError: the member does not exist.
        """
        member = kind.member(name)
        return cls(member.bit_offset, (1 << (member.bit_field_size or 8 * sizeof(member.type))) - 1)

    def __call__(self, raw: int) -> int:
        return raw >> self.bit & self.mask


class _Layout:
    """The offsets of all members that kgcore uses.

    :raises LookupError: the types are unknown.
    """

    def __init__(self, types: ModuleTypes) -> None:
        def of(name: str) -> Type:
            return types.type("zsmalloc", name)

        zspage, size_class, pool = (of(f"struct {name}") for name in ("zspage", "size_class", "zs_pool"))
        self.zspage_size, self.class_size = sizeof(zspage), sizeof(size_class)
        self.magic, self.class_index = _Field.of(zspage, "magic"), _Field.of(zspage, "class")
        self.first = _Field.of(zspage, "first_zpdesc" if zspage.has_member("first_zpdesc") else "first_page")
        self.class_fields = [_Field.of(size_class, name) for name in ("size", "objs_per_zspage", "pages_per_zspage")]
        self.classes = pool.member("size_class").offset
        self.class_count = min(pool.member("size_class").type.length or 0, _MAX_CLASSES)
        # The struct page of a frame; it has a different name in 7.2. In 5.10 the next frame is in freelist, at the same
        # offset as index.
        try:
            page, owner, word = of("struct zpdesc"), "zspage", "next"
        except LookupError:
            page, owner, word = of("struct page"), "private", "index"
        self.owner, self.word = _Field.of(page, owner), _Field.of(page, word)


class Zsmalloc:
    """Reads objects of any zsmalloc pool."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes) -> None:
        self._kernel = kernel
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._physical = physical
        self._types = types
        self._codes = list(_codes(kernel.architecture))
        # Neighbours in swap space mostly share zspages. The caches belong to this object and are freed with it.
        self._class: Callable[[int, int], _Class] = lru_cache(_MAX_CLASSES)(self._read_class)
        self._zspage: Callable[[int, int], _Zspage] = lru_cache(_CACHED)(self._read_zspage)
        self._frame: Callable[[int], _Frame] = lru_cache(_CACHED)(self._read_frame)

    def read(self, pool: Object, handle: int, size: int) -> bytes:
        """Return an object's bytes.

        :param pool: ``struct zs_pool *``; its type may be incomplete.
        :param size: bytes from the object's start; at most a page.
        :raises BrokenDump, FaultError: they are missing; the message says why.
        """
        if not 0 < size <= self._page_size:
            raise BrokenDump(f"a compressed page of {size} bytes", address=handle)
        where, word = pool.value_(), self._word(handle)
        doubt: BrokenDump | FaultError | None = None
        for code in self._codes:
            try:
                data = self._object(where, handle, size, code.frame(word), code.number(word))
            except _Certain:
                raise
            except (BrokenDump, FaultError) as error:
                doubt = doubt or error
                continue
            if code is not self._codes[0]:
                self._codes.sort(key=lambda other: other is not code)
            return data
        raise doubt or BrokenDump(_LOST, address=handle)

    def _object(self, pool: int, handle: int, size: int, frame: int, number: int) -> bytes:
        """Return the bytes of an object of a zspage.

        :param frame: the page frame where it begins.
        """
        page = self._frame(frame)
        zspage = self._zspage(pool, page.zspage)
        kind = zspage.kind
        if size > kind.size - kind.header:
            raise BrokenDump(f"a compressed page of {size} bytes where there is no room for it", address=handle)
        at = number * kind.size
        offset = at & self._page_size - 1
        here = min(size + kind.header, self._page_size - offset)
        data = self._stored(frame, offset, here)
        # obj_malloc()
        if kind.header:
            known = int.from_bytes(data[: kind.header], "little") == handle | _ALLOCATED
        else:
            known = page.word == handle | _ALLOCATED
        if not known or number >= kind.objects:
            raise BrokenDump(_LOST, address=handle)
        if here < size + kind.header:
            place = at >> self._page_shift
            if zspage.frames[place : place + 1] != (frame,) or place + 1 >= len(zspage.frames):
                raise _Certain("the second part of the compressed page was not found", address=handle)
            data += self._stored(zspage.frames[place + 1], 0, size + kind.header - here)
        return data[kind.header :]

    def _stored(self, frame: int, offset: int, size: int) -> bytes:
        data = self._physical.stored((frame << self._page_shift) + offset, size)
        if data is None:
            raise _Certain("the compressed page was excluded from the dump")
        return data

    # Structures, each read once

    def _read_class(self, pool: int, index: int) -> _Class:
        if index >= self._layout.class_count:
            raise BrokenDump(_LOST)
        pointer = pool + self._layout.classes + self._kernel.word_size * index
        raw = self._structure(self._word(pointer), self._layout.class_size)
        size, objects, frames = (field(raw) for field in self._layout.class_fields)
        kind = _Class(size, objects, frames, self._kernel.word_size)
        if (
            not kind.handle < kind.size <= self._page_size
            or not 0 < kind.frames <= _MAX_FRAMES
            or kind.objects != kind.frames * self._page_size // kind.size
        ):
            raise BrokenDump(f"zsmalloc keeps {kind.objects} objects of {kind.size} bytes in {kind.frames} pages")
        return kind

    def _read_zspage(self, pool: int, address: int) -> _Zspage:
        layout = self._layout
        raw = self._structure(address, layout.zspage_size)
        if layout.magic(raw) != _MAGIC:
            raise BrokenDump(_LOST)
        kind = self._class(pool, layout.class_index(raw))
        return _Zspage(kind, self._chain(address, layout.first(raw), kind.frames))

    def _chain(self, zspage: int, page: int, count: int) -> tuple[int, ...]:
        """Return the frames of a zspage up to the first lost one; no frames if they contradict each other.

        :param page: address of the first frame's ``struct page``.
        """
        kernel = self._kernel
        found: list[int] = []
        while len(found) < count:
            if not kernel.machine.is_page(page):
                return ()
            number = kernel.machine.page_to_phys(page) >> self._page_shift
            if kernel.machine.frame_to_page(number) != page or number in found:
                return ()
            try:
                frame = self._frame(number)
            except (BrokenDump, FaultError):
                return tuple(found)
            if not frame.zspage:  # in an ELF dump, memory that was left out reads as zeros
                return tuple(found)
            if frame.zspage != zspage:
                return ()
            found.append(number)
            page = frame.word
        return tuple(found) if count == 1 or not page else ()

    def _read_frame(self, frame: int) -> _Frame:
        raw = self._structure(self._kernel.machine.frame_to_page(frame), self._kernel.page_struct_size)
        return _Frame(self._layout.owner(raw), self._layout.word(raw))

    @cached_property
    def _layout(self) -> _Layout:
        """Return the offsets of members.

        :raises BrokenDump: the types are unknown.
        """
        try:
            return _Layout(self._types)
        except (LookupError, TypeError) as error:
            raise BrokenDump(str(error)) from error

    def _word(self, address: int) -> int:
        return self._structure(address, self._kernel.word_size)

    def _structure(self, address: int, size: int) -> int:
        """Read bytes of kernel memory as one number."""
        try:
            return int.from_bytes(self._kernel.prog.read(address, size), "little")
        except (OverflowError, ValueError) as error:
            raise BrokenDump(_LOST, address=address) from error
