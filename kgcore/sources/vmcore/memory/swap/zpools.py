# SPDX-License-Identifier: LGPL-2.1-or-later
"""zbud and z3fold: allocators that put two or three compressed pages into a page frame (up to 6.14).

Their objects are in the direct map and never cross the end of a page. kgcore checks all that a page's header says
against the requested length, which zswap knows exactly.
"""

from drgn import TypeKind, TypeMember, sizeof

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory

__all__ = ("Z3fold", "Zbud")

_CHUNK = 64  # CHUNK_SIZE of both
_NOT_THERE = "its compressed bytes are not in the dump"


class _Frames:
    """The memory of the direct map, as far as the dump holds it."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        self._kernel = kernel
        self._physical = physical

    def read(self, address: int, size: int) -> bytes:
        """Return bytes within one page.

        :raises BrokenDump: the dump does not hold them.
        """
        data = self._physical.stored(self._kernel.machine.direct_map_to_phys(address), size)
        if data is None:
            raise BrokenDump(_NOT_THERE, address=address)
        return data


class Zbud:
    """``struct zbud_pool``: the first object of a page follows the header, the last one ends with the page.

    A handle is the object's address (encode_handle(), mm/zbud.c of 5.10, 6.1 and 6.12), so kgcore needs to know about
    ``struct zbud_header`` only that it fits into a chunk.
    """

    def __init__(self, kernel: Kernel, physical: PhysicalMemory) -> None:
        self._frames = _Frames(kernel, physical)
        self._page_size = kernel.page_size

    def read(self, handle: int, size: int) -> bytes:
        """Return the bytes of an object.

        :raises BrokenDump: no object has that size, or the dump does not hold it.
        """
        room, page = -(-size // _CHUNK) * _CHUNK, self._page_size
        if not _CHUNK <= room <= page - 2 * _CHUNK or handle % page not in (_CHUNK, page - room):
            raise BrokenDump(f"an object of {size} bytes does not fit there", address=handle)
        return self._frames.read(handle, size)


class Z3fold:
    """``struct z3fold_pool``: as zbud, with a third object in the middle, or with one object in a page of its own.

    A handle is the address of a word in a ``struct z3fold_buddy_slots``; the word holds the address of the page and the
    number of the object in it (mm/z3fold.c of 5.10, 6.1 and 6.12). For an object in a page of its own (*headless*), it
    is the address of the page, made odd.
    """

    _SLOTS_ALIGN = 64
    _SLOTS = 4
    _HEADLESS = 1 << 0
    _BUDDY_MASK, _BUDDY_SHIFT = 3, 2
    _FIRST, _MIDDLE, _LAST = 1, 2, 3  # enum buddy
    _COUNTS = ("first_chunks", "middle_chunks", "start_middle")

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes, pool: int) -> None:
        """Look up the layout.

        :param pool: address of the ``struct z3fold_pool``.
        :raises LookupError: the layout of ``struct z3fold_header`` is unknown.
        """
        self._frames = _Frames(kernel, physical)
        self._word_size, self._page_size = kernel.word_size, kernel.page_size
        header = types.type("z3fold", "struct z3fold_header")
        self._offsets = [header.member(name).offset for name in self._COUNTS]
        self._lock = _lock(header.member("page_lock"))
        self._pool, self._owner = pool, header.member("pool").offset
        # A bit field of 2 bits
        self._first_num, self._first_num_shift = divmod(header.member("first_num").bit_offset, 8)
        self._header = -(-(header.size or 0) // _CHUNK) * _CHUNK  # ZHDR_SIZE_ALIGNED

    def read(self, handle: int, size: int) -> bytes:
        """Return the bytes of an object.

        :raises BrokenDump: no object has that size, or the dump does not hold it.
        """
        if handle & self._HEADLESS:
            if handle % self._page_size != self._HEADLESS or not 0 < size <= self._page_size:
                raise BrokenDump("the page does not exist", address=handle)
            return self._frames.read(handle - self._HEADLESS, size)
        slot, rest = divmod(handle % self._SLOTS_ALIGN, self._word_size)
        if rest or slot >= self._SLOTS:
            raise BrokenDump("the handle is invalid", address=handle)
        word = self._word(self._frames.read(handle, self._word_size), 0)
        page = self._frames.read(word & -self._page_size, self._page_size)
        # Behind all members whose sizes depend on options: were one of those different, this would be elsewhere.
        if self._word(page, self._owner) != self._pool:
            raise BrokenDump("its page is not one of its pool", address=handle)
        start, room = self._place(word % self._page_size, page)
        if not (self._header <= start and 0 < size <= room <= self._page_size - start):
            raise BrokenDump(f"an object of {size} bytes does not fit there", address=handle)
        return page[start : start + size]

    def _word(self, page: bytes, at: int) -> int:
        return int.from_bytes(page[at : at + self._word_size], "little")

    def _place(self, word: int, page: bytes) -> tuple[int, int]:
        """Return where in its page an object is, and how much room it has; no room if it does not exist.

        :param word: the low bits of the slot.
        """
        first, middle, start = (int.from_bytes(page[at : at + 2], "little") * _CHUNK for at in self._offsets)
        # handle_to_buddy(): first_num moves on when z3fold_compact_page() makes the middle object the first one.
        moved = page[self._first_num] >> self._first_num_shift & self._BUDDY_MASK
        match word - moved & self._BUDDY_MASK:
            case self._FIRST:
                return self._header, first
            case self._MIDDLE:
                lock, size = self._lock
                if any(page[lock : lock + size]):
                    # z3fold_compact_page() moves the bytes first, then updates the header
                    raise BrokenDump("its compressed bytes may have been moving")
                return start, middle
            case self._LAST:  # the slot says how long it is
                room = (word >> self._BUDDY_SHIFT) * _CHUNK
                return self._page_size - room, room
        return 0, 0


def _lock(member: TypeMember) -> tuple[int, int]:
    """Return where a ``spinlock_t`` says that somebody has it: offset and size of bytes that are then not zero.

    With CONFIG_PREEMPT_RT it is a ``struct rt_mutex`` (``rt_mutex_base`` since 5.15) with an owner; else the first byte
    tells (include/asm-generic/qspinlock_types.h).

    :raises LookupError: its type is a different one.
    """
    kind = member.type
    while kind.kind is TypeKind.TYPEDEF:
        kind = kind.type
    if not kind.has_member("lock"):
        return member.offset, 1
    mutex = kind.member("lock")
    owner = mutex.type.member("owner")
    return member.offset + mutex.offset + owner.offset, sizeof(owner.type)
