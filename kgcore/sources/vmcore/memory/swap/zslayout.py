# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where zsmalloc's structures have what, and how a handle says where its object is (mm/zsmalloc.c)."""

from collections.abc import Iterator
from typing import NamedTuple

from drgn import Type, sizeof

from kgcore.arch import Architecture
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes

__all__ = ("MAX_CLASSES", "Code", "Field", "Layout", "codes")

MAX_CLASSES = 1 << 9  # CLASS_BITS + 1


class Code(NamedTuple):
    """The encoding of the word that a handle points to: ``frame | class | number | tag``, from the highest bit.

    :ivar frame_shift: the bits of a word minus the bits of a page frame number.
    :ivar tag_bits: how many tag bits are below the object's number.
    :ivar class_bits: how many bits the number of the class has; 0: it is not there.
    """

    frame_shift: int
    tag_bits: int
    class_bits: int

    def frame(self, word: int) -> int:
        return word >> self.frame_shift

    def number(self, word: int) -> int:
        return (word & (1 << self.frame_shift - self.class_bits) - 1) >> self.tag_bits

    def fits(self, word: int, kind: int) -> bool:
        """Tell whether a word may be of an object of a class.

        :param kind: the number of the class.
        """
        low = self.frame_shift - self.class_bits
        return not self.class_bits or (word & (1 << self.frame_shift) - 1) >> low == kind


def codes(architecture: Architecture, class_bits: int) -> Iterator[Code]:
    """Yield the possible encodings.

    _PFN_BITS is MAX_POSSIBLE_PHYSMEM_BITS less the page shift. OBJ_TAG_BITS is 1 in 5.10 and 6.1, 0 in 6.12 and 7.2
    (where the word no longer has a tag), and was 2 for a while in 2023. "mm/zsmalloc: encode class index in obj value
    for lockless class lookup" (7.3) put the class into the word, where there is room for it. No type or symbol says
    which; the encoding that leads to the object's header is the right one.

    :param class_bits: of the member ``class`` of ``struct zspage``.
    """
    for bits in architecture.physical_bits:
        shift = 8 * architecture.word_size - bits + architecture.page_shift
        for tag_bits in (0, 1, 2):
            yield Code(shift, tag_bits, 0)
        if shift > class_bits:
            yield Code(shift, 0, class_bits)


class Field(NamedTuple):
    """A number in a structure's bytes."""

    bit: int
    mask: int

    @classmethod
    def of(cls, kind: Type, name: str) -> "Field":
        """Return a member of a type.

        :raises LookupError: the member does not exist.
        """
        member = kind.member(name)
        return cls(member.bit_offset, (1 << (member.bit_field_size or 8 * sizeof(member.type))) - 1)

    def __call__(self, raw: int) -> int:
        return raw >> self.bit & self.mask


class Layout:
    """The offsets of all members that kgcore uses.

    :raises LookupError: the types are unknown.
    """

    def __init__(self, types: ModuleTypes) -> None:
        def of(name: str) -> Type:
            return types.type("zsmalloc", name)

        pool, zspage, size_class = (of(f"struct {name}") for name in ("zs_pool", "zspage", "size_class"))
        self.zspage_size, self.class_size = sizeof(zspage), sizeof(size_class)
        self.magic, self.class_index = Field.of(zspage, "magic"), Field.of(zspage, "class")
        self.class_bits = self.class_index.mask.bit_length()
        self.first = Field.of(zspage, "first_zpdesc" if zspage.has_member("first_zpdesc") else "first_page")
        self.class_fields = [Field.of(size_class, name) for name in ("size", "objs_per_zspage", "pages_per_zspage")]
        self.own_index = Field.of(size_class, "index")
        self.list = zspage.member("list").offset
        lists = size_class.member("fullness_list")
        self.lists = [lists.offset + sizeof(lists.type.type) * number for number in range(lists.type.length or 0)]
        self.classes = pool.member("size_class").offset
        self.class_count = min(pool.member("size_class").type.length or 0, MAX_CLASSES)
        # The struct page of a frame; it has a different name in 7.2. In 5.10 the next frame is in freelist, at the same
        # offset as index.
        try:
            page, owner, word = of("struct zpdesc"), "zspage", "next"
        except LookupError:
            page, owner, word = of("struct page"), "private", "index"
        self.owner, self.word = Field.of(page, owner), Field.of(page, word)
