# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where each page frame's ``struct page`` is, if not all of them are in one array (FLATMEM, SPARSEMEM)."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from drgn import FaultError

from kgcore.sources.vmcore.symbols import vmcoreinfo

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("Section", "Sections", "of_kernel")

_MAX_ROOTS = 1 << 13  # pages of sections, each with 16 GiB of memory or more: 128 TiB
_MAX_SECTIONS = 1 << 20
_MAP_MASK = ~0x3F  # flags in a pointer to 64-byte objects: include/linux/mmzone.h has up to six of them
_HAS_MEM_MAP = 1 << 1  # SECTION_HAS_MEM_MAP


class Section(NamedTuple):
    """Adjacent page frames whose ``struct page`` are adjacent too.

    :ivar first: its first frame.
    :ivar end: the frame behind its last one.
    :ivar pages: address that the ``struct page`` of frame 0 would have; frame 0 may be outside of the section.
    """

    first: int
    end: int
    pages: int


class Sections:
    """The sections of a kernel, and which of them has a page.

    :param kernel: the kernel, for the size of ``struct page`` and of addresses.
    """

    def __init__(self, kernel: "Kernel", sections: Iterable[Section]) -> None:
        self._kernel = kernel
        self._end = 1 << 8 * kernel.word_size
        self._sections = tuple(_joined(sections))

    @property
    def base(self) -> int | None:
        """Address of frame 0's ``struct page`` if it is the same for all sections (SPARSEMEM_VMEMMAP); else None."""
        bases = {section.pages for section in self._sections}
        return bases.pop() if len(bases) == 1 else None

    def __bool__(self) -> bool:
        return bool(self._sections)

    def frame(self, page: int) -> int | None:
        """Return the page frame of a ``struct page``; None: there is no such frame."""
        size = self._kernel.page_struct_size
        for section in self._sections:
            # The coded pointer may be negative, modulo the end of the address space.
            frame, rest = divmod((page - section.pages) % self._end, size)
            if section.first <= frame < section.end:
                return frame if rest == 0 else None
        return None

    def page(self, frame: int) -> int:
        """Return the address of a page frame's ``struct page``.

        :raises FaultError: it has none.
        """
        for section in self._sections:
            if section.first <= frame < section.end:
                return (section.pages + frame * self._kernel.page_struct_size) % self._end
        raise FaultError("no struct page", frame)


def _joined(sections: Iterable[Section]) -> Iterator[Section]:
    """Sections with neighbours of the same array as one: with SPARSEMEM_VMEMMAP few are left."""
    found: list[Section] = []
    for section in sections:
        if found and (found[-1].end, found[-1].pages) == (section.first, section.pages):
            found[-1] = Section(found[-1].first, section.end, section.pages)
        else:
            found.append(section)
    return iter(found)


def of_kernel(kernel: "Kernel", *, static: bool) -> Sections:
    """Return the sections that ``mem_section`` lists, as VMCOREINFO describes it; none without VMCOREINFO.

    :param static: it is an array of sections (CONFIG_SPARSEMEM_STATIC, which arch/x86/Kconfig selects for 32-bit
        kernels); else one of pointers to pages full of them (CONFIG_SPARSEMEM_EXTREME), and VMCOREINFO has the address
        that the variable holds (kernel/crash_core.c since a0b1280368d1 "kdump: write correct address of mem_section
        into vmcoreinfo", 4.15).
    """
    target = kernel.target
    info = target.vmcoreinfo
    bits = vmcoreinfo.number(info, "NUMBER(SECTION_SIZE_BITS)")
    length = vmcoreinfo.number(info, "LENGTH(mem_section)")
    table = target.symbol_address("mem_section") if static else vmcoreinfo.symbol(info, "mem_section")
    size = vmcoreinfo.number(info, "SIZE(mem_section)")
    offset = vmcoreinfo.number(info, "OFFSET(mem_section.section_mem_map)")
    if bits is None or length is None or table is None or not size or size < 0 or offset is None:
        return Sections(kernel, ())
    shift = bits - kernel.page_shift
    if not 0 <= shift < 64:
        return Sections(kernel, ())
    if static:
        places: Iterator[int] = (table + number * size for number in range(min(length, _MAX_SECTIONS)))
    else:
        places = _in_roots(kernel, table, min(length, _MAX_ROOTS), size)
    return Sections(kernel, _read(kernel, places, offset, shift))


def _in_roots(kernel: "Kernel", table: int, length: int, size: int) -> Iterator[int]:
    """Yield the address of each ``struct mem_section``, 0 where its page is missing."""
    in_a_page = kernel.page_size // size
    for number in range(length):
        try:
            root = int(kernel.prog.read_word(table + number * kernel.word_size))
        except FaultError:
            root = 0
        yield from (root and root + at * size for at in range(in_a_page))


def _read(kernel: "Kernel", places: Iterable[int], offset: int, shift: int) -> Iterator[Section]:
    for number, place in enumerate(places):
        if not place:
            continue
        try:
            coded = int(kernel.prog.read_word(place + offset))
        except FaultError:
            continue
        if coded & _HAS_MEM_MAP:
            yield Section(number << shift, number + 1 << shift, coded & _MAP_MASK & (1 << 8 * kernel.word_size) - 1)
