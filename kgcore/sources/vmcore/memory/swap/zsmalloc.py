# SPDX-License-Identifier: LGPL-2.1-or-later
"""zsmalloc: the allocator where zram, and usually zswap too, keep compressed pages (mm/zsmalloc.c).

A handle points to a word that says where the object is: a page frame, and the object's number within a *zspage*. A
zspage is a chain of up to 16 page frames filled with objects of one size, which may cross from one frame to the next.
An object begins with its own handle, so in a damaged dump, or by a wrong layout, kgcore finds the right object or
nothing. Which of both it was, the pool as a whole tells (:meth:`Zsmalloc._strange`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import islice
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.zslayout import MAX_CLASSES, Code, Layout, codes

__all__ = ("Zsmalloc",)

_MAGIC = 0x58  # ZSPAGE_MAGIC
_ALLOCATED = 1  # OBJ_ALLOCATED_TAG, in the header
_MAX_FRAMES = 16  # of a zspage: the maximum of CONFIG_ZSMALLOC_CHAIN_SIZE; before that option it was 4
_CACHED = 1 << 14  # zspages and frames

_SAMPLE = 64  # zspages of a pool that are looked at to see whether its layout is known

_LOST = "the compressed page is not where its handle points"
_STRANGE = f"{_LOST}, and no other of its pool is: this kernel's zsmalloc differs from those that kgcore knows"


class _Certain(BrokenDump):
    """An object whose place is certain cannot be read."""


class _NotThere(BrokenDump):
    """What is where a handle points is not its object."""

    def __init__(self, address: int | None = None) -> None:
        super().__init__(_LOST, address=address)


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

    :ivar class_index: the number of its class.
    :ivar frames: page frame numbers; too few if some are lost.
    """

    kind: _Class
    class_index: int
    frames: tuple[int, ...]


class _Frame(NamedTuple):
    """The content of the ``struct page`` of a zspage's frame.

    :ivar zspage: address of the ``struct zspage``.
    :ivar word: the ``struct page`` of the next frame; for a huge object, its header.
    """

    zspage: int
    word: int


class Zsmalloc:
    """Reads objects of any zsmalloc pool."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes) -> None:
        self._kernel = kernel
        self._page_shift, self._page_size = kernel.page_shift, kernel.page_size
        self._physical = physical
        self._types = types
        self._pools: dict[int, str] = {}  # why each is not believed
        self._odd: dict[int, bool] = {}
        self._forget()

    def _forget(self) -> None:
        """Read everything anew: types have changed."""
        self.__dict__.pop("_layout", None)
        self.__dict__.pop("_codes", None)
        # Neighbours in swap space mostly share zspages. The caches belong to this object and are freed with it.
        self._class: Callable[[int, int], _Class] = lru_cache(MAX_CLASSES)(self._read_class)
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
        where = pool.value_()
        self._believe(where)
        word = self._word(handle)
        doubt: BrokenDump | FaultError | None = None
        for code in self._codes:
            try:
                data = self._object(where, handle, size, code, word)
            except _Certain:
                raise
            except (BrokenDump, FaultError) as error:
                doubt = doubt or error
                continue
            if code is not self._codes[0]:
                self._codes.sort(key=lambda other: other is not code)
            return data
        if self._strange(where):
            raise BrokenDump(_STRANGE, address=handle)
        raise doubt or _NotThere(handle)

    def _object(self, pool: int, handle: int, size: int, code: Code, word: int) -> bytes:
        """Return the bytes of an object of a zspage.

        :param word: what the handle points to.
        """
        frame, number = code.frame(word), code.number(word)
        page = self._frame(frame)
        zspage = self._zspage(pool, page.zspage)
        kind = zspage.kind
        if not code.fits(word, zspage.class_index):
            raise _NotThere(handle)
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
            raise _NotThere(handle)
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
            raise _NotThere
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
            raise _NotThere
        index = layout.class_index(raw)
        kind = self._class(pool, index)
        return _Zspage(kind, index, self._chain(address, layout.first(raw), kind.frames))

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

    # Whether the layouts are right

    def _believe(self, pool: int) -> None:
        """Make sure that a pool is as the types say it is.

        :raises BrokenDump: it is not.
        """
        if pool not in self._pools:
            self._pools[pool] = ""
            try:
                self._types.prove("zsmalloc", lambda: self._check_classes(pool))
                _ = self._layout
            except (BrokenDump, LookupError) as error:
                self._pools[pool] = str(error)
        if self._pools[pool]:
            raise BrokenDump(self._pools[pool], address=pool)

    def _check_classes(self, pool: int) -> None:
        """Compare a pool's classes with what zs_create_pool() makes them: each a step larger than the one before.

        Classes that would hold as many objects are one. It has the number of the largest of them.

        :raises BrokenDump, FaultError, LookupError: they are different.
        """
        self._forget()
        step, smallest, number, index = self._page_size >> 8, 0, 0, -1
        for number in range(self._layout.class_count):
            address = self._word(pool + self._layout.classes + self._kernel.word_size * number)
            if number > index:
                index = self._layout.own_index(self._structure(address, self._layout.class_size))
                known, kind = address, self._class(pool, number)
                smallest = smallest or kind.size - step * index
            if address != known or not number <= index < MAX_CLASSES or kind.size != smallest + step * index:
                raise BrokenDump("the classes of its pool do not have the sizes that they should have", address=pool)
            if number == index and kind.size == self._page_size:
                return
        raise BrokenDump("its pool has no class for whole pages", address=pool)

    def _strange(self, pool: int) -> bool:
        """Tell whether no object is where its handle points, of all those in a sample of a pool's zspages.

        That is no damage. The sample is taken the other way round: from the zspages, whose objects have their handles.
        """
        if pool not in self._odd:
            sample = [self._leads_back(pool, zspage) for zspage in islice(self._zspages(pool), _SAMPLE)]
            self._odd[pool] = False in sample and True not in sample
        return self._odd[pool]

    def _zspages(self, pool: int) -> Iterator[int]:
        """Yield addresses of zspages: the first of each list of each class, as far as they can be read."""
        for index in range(self._layout.class_count):
            with suppress(BrokenDump, FaultError):
                address = self._word(pool + self._layout.classes + self._kernel.word_size * index)
                for place in self._layout.lists:
                    first = self._word(address + place)
                    if first not in (0, address + place):  # in an ELF dump, memory that was left out reads as zeros
                        yield first - self._layout.list

    def _leads_back(self, pool: int, address: int) -> bool | None:
        """Tell whether an object of a zspage has a handle that points to it; None: what tells is not in the dump."""
        try:
            zspage = self._zspage(pool, address)
            for number in range(min(zspage.kind.objects, _SAMPLE)):
                place, offset = divmod(number * zspage.kind.size, self._page_size)
                if place >= len(zspage.frames) or offset + zspage.kind.handle > self._page_size:
                    continue
                frame = zspage.frames[place]
                if zspage.kind.header:
                    handle = int.from_bytes(self._stored(frame, offset, zspage.kind.header), "little")
                else:
                    handle = self._frame(frame).word
                word = self._word(handle & ~_ALLOCATED) if handle & _ALLOCATED else 0
                for code in self._codes:
                    if (code.frame(word), code.number(word)) == (frame, number) and code.fits(word, zspage.class_index):
                        return True
        except (FaultError, _Certain):
            return None
        except BrokenDump:
            pass
        return False

    @cached_property
    def _codes(self) -> list[Code]:
        """Return the possible encodings; the one that was right last comes first."""
        return list(codes(self._kernel.architecture, self._layout.class_bits))

    @cached_property
    def _layout(self) -> Layout:
        """Return the offsets of members.

        :raises BrokenDump: the types are unknown.
        """
        try:
            return Layout(self._types)
        except (LookupError, TypeError) as error:
            raise BrokenDump(str(error)) from error

    def _word(self, address: int) -> int:
        return self._structure(address, self._kernel.word_size)

    def _structure(self, address: int, size: int) -> int:
        """Read bytes of kernel memory as one number."""
        try:
            return int.from_bytes(self._kernel.prog.read(address, size), "little")
        except (OverflowError, ValueError) as error:
            raise _NotThere(address) from error
