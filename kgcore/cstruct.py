# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declare C structures as NamedTuples: each field once, by its name and its C type.

::

    class PageDesc(NamedTuple):
        offset: S64
        size: U32
        flags: U32
        page_flags: U64

    CStruct(PageDesc).unpack(data).size

List the fields in the order of the C declaration, without padding: as in a compiler, that follows from their types. So
one declaration serves all ABIs. All ABIs are little-endian.
"""

from collections.abc import Callable, Iterator, Mapping
from struct import Struct
from types import MappingProxyType
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

__all__ = ("COMPAT", "I386", "LP64", "S8", "S32", "U8", "U16", "U32", "U64", "CStruct", "CType", "ULong", "chars")

Fields = TypeVar("Fields", bound=tuple[Any, ...])


class CType(NamedTuple):
    """The memory layout of a C type.

    :ivar code: its :mod:`struct` format, for one value.
    :ivar align: alignment in bytes.
    """

    code: str
    align: int


def chars(size: int) -> CType:
    """Return the C type ``char[size]``; its value is bytes."""
    return CType(f"{size}s", 1)


U8 = Annotated[int, CType("B", 1)]
S8 = Annotated[int, CType("b", 1)]
U16 = Annotated[int, CType("H", 2)]
U32 = Annotated[int, CType("I", 4)]
S32 = Annotated[int, CType("i", 4)]
U64 = Annotated[int, "u64"]
ULong = Annotated[int, "unsigned long"]

Abi = Mapping[str, CType]
"""The C types that differ between ABIs, by name."""

LP64: Abi = MappingProxyType({"u64": CType("Q", 8), "unsigned long": CType("Q", 8)})
"""64-bit programs and kernels."""
COMPAT: Abi = MappingProxyType({"u64": CType("Q", 8), "unsigned long": CType("I", 4)})
"""The compat ABI of a 64-bit kernel for 32-bit programs."""
I386: Abi = MappingProxyType({"u64": CType("Q", 4), "unsigned long": CType("I", 4)})
"""32-bit programs and kernels on x86, which align 64-bit numbers to 4 bytes."""


class CStruct(Generic[Fields]):
    """A C structure of one ABI.

    :ivar code: its :mod:`struct` format, for loops in which a NamedTuple per structure costs too much.
    :ivar size: bytes, with the padding at its end.
    """

    def __init__(self, fields: type[Fields], abi: Abi = LP64) -> None:
        """Compute the layout of a structure.

        :param fields: a NamedTuple; its fields are annotated with the types of this module, with
            ``Annotated[bytes, chars(16)]``, or with ``Annotated[..., "a name"]`` of a type in the ABI.
        """
        self._make: Callable[..., Fields] = fields
        codes, size, widest = ["<"], 0, 1
        for hint in get_type_hints(fields, include_extras=True).values():
            named = get_args(hint)[1]
            ctype = abi[named] if isinstance(named, str) else named
            codes += (f"{-size % ctype.align}x", ctype.code)
            size += -size % ctype.align + Struct(f"<{ctype.code}").size
            widest = max(widest, ctype.align)
        codes.append(f"{-size % widest}x")
        self.code = Struct("".join(codes))
        self.size = self.code.size

    def unpack(self, data: bytes | bytearray | memoryview, offset: int = 0) -> Fields:
        """Unpack one structure from data.

        :param offset: where it begins in data; more data may follow it.
        :raises struct.error: data is too short.
        """
        return self._make(*self.code.unpack_from(data, offset))

    def unpack_all(self, data: bytes | bytearray | memoryview) -> Iterator[Fields]:
        """Unpack an array of structures.

        :raises struct.error: the size of data is not a multiple of the structure's size.
        """
        make = self._make
        return (make(*values) for values in self.code.iter_unpack(data))

    def pack(self, values: Fields) -> bytes:
        """Return the bytes of a structure, with zeros as padding.

        :raises struct.error: a value does not fit its type.
        """
        return self.code.pack(*values)
