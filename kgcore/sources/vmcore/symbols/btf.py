# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read BTF as raw records: the description of its types that a kernel with CONFIG_DEBUG_INFO_BTF carries.

BTF ("BPF Type Format"; Documentation/bpf/btf.rst, include/uapi/linux/btf.h) is a header, an array of type records of
varying length, numbered from 1, and a table of strings. One pass finds the start and the name of each record;
:mod:`kgcore.sources.vmcore.symbols.btf_types` decodes a record only when a caller asks for that type.

A module (CONFIG_DEBUG_INFO_BTF_MODULES, Linux 5.11) has *split* BTF: only the types that its base, the kernel's BTF,
lacks. Its type ids continue after the base's last, its string offsets after the base's strings, and its records refer
to types and strings of both.
"""

from array import array
from collections.abc import Iterator
from functools import cached_property
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from kgcore.cstruct import U8, U16, U32, CStruct
from kgcore.errors import BrokenDump

__all__ = ("MAGIC", "Btf", "BtfKind", "Record")

MAGIC = b"\x9f\xeb\x01"  # u16 magic 0xeb9f, u8 version 1; little-endian

_RECORD = Struct("<III")  # struct btf_type: name_off, info, size or type
_WORD = Struct("<I")
_ENUM = Struct("<Ii")  # struct btf_enum: name_off, val
_ENUM64 = Struct("<III")  # struct btf_enum64: name_off, val_lo32, val_hi32

_MAX_TYPES = 1 << 20  # BTF_MAX_TYPE; a distribution's kernel has 100 000
_MAX_BYTES = 1 << 25  # of all records: twelve for each, and the data behind it
_MAX_VLEN = 1 << 18  # BTF_MAX_VLEN has 16 bits up to 6.12 at least, 24 in 7.2


class _Header(NamedTuple):
    """``struct btf_header``. Both offsets count from the end of the header."""

    magic: U16
    version: U8
    flags: U8
    hdr_len: U32
    type_off: U32
    type_len: U32
    str_off: U32
    str_len: U32


_HEADER = CStruct(_Header)


class BtfKind:
    """BTF_KIND_*. Plain integers, for speed: opening a dump compares them a hundred thousand times."""

    INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
    RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(11, 20)


# Bytes behind a record, by kind: fixed, and per element. BtfKind 0 does not exist.
_FIXED = (0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0)
_EACH = (0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12)


class Record(NamedTuple):
    """A ``struct btf_type``.

    Up to Linux 6.12 at least, ``vlen`` has 16 bits, the kind 5, and all bits between are zero; in 7.2 they have 24
    and 7.

    :ivar offset: in the BTF data, of the bytes behind the record.
    :ivar vlen: how many members, enumerators or parameters follow.
    :ivar flag: ``kind_flag``.
    :ivar size_or_type: size in bytes if the kind has a size, else the id of the type that the record refers to.
    """

    offset: int
    name_offset: int
    kind: int
    vlen: int
    flag: bool
    size_or_type: int


class Btf:
    """The types of a kernel by number and by name.

    :param data: from ``__start_BTF`` to ``__stop_BTF``, or a file that ``pahole --btf_encode_detached`` wrote.
    :param base: the base of split BTF. The object then has the types of both; names in ``data`` come first.
    :ivar data: as given.
    :ivar first: the id of the first type in ``data``.
    :ivar string_length: of the base's strings and those in ``data``.
    :raises BrokenDump: ``data`` is not BTF, or is damaged. All methods raise it too.
    """

    def __init__(self, data: bytes, base: "Btf | None" = None) -> None:
        if len(data) < _HEADER.size or not data.startswith(MAGIC):
            raise BrokenDump("the kernel's type information (BTF) does not start with a BTF header")
        header = _HEADER.unpack(data)
        types, strings_at = header.hdr_len + header.type_off, header.hdr_len + header.str_off
        if header.type_len > _MAX_BYTES:
            raise BrokenDump(f"the kernel's type information (BTF) has {header.type_len} bytes of types")
        if max(types + header.type_len, strings_at + header.str_len) > len(data):
            raise BrokenDump("the kernel's type information (BTF) is cut off")
        self.data = data
        self._base = base
        self._all: bytes = base._all + data if base else data
        strings = data[strings_at : strings_at + header.str_len]
        self._strings: bytes = base._strings + strings if base else strings
        # Offset of the record by type id; id 0 is void.
        self._offsets: array[int] = base._offsets[:] if base else array("I", (0,))
        self._ids: dict[int, int] = {}  # name offset << 5 | kind -> the first type of that name
        self._enums: list[int] = []
        self.first = len(self._offsets)
        self.string_length = len(self._strings)
        start = len(self._all) - len(data) + types
        self._scan(start, start + header.type_len)

    def _scan(self, offset: int, end: int) -> None:
        """Find all records. The loop runs 100 000 times: leave everything out that can be done later."""
        data, offsets, first = self._all, self._offsets, self._ids.setdefault
        unpack = _RECORD.unpack_from
        number = self.first
        try:
            while offset < end:
                name, info, _ = unpack(data, offset)
                kind = info >> 24 & 127
                offsets.append(offset)
                if name:
                    first(name << 5 | kind, number)
                if kind == 6 or kind == 19:  # ENUM, ENUM64; attribute look-ups would take as long as all the rest
                    self._enums.append(number)
                offset += 12 + _FIXED[kind] + _EACH[kind] * (info & 0xFF_FFFF)
                number += 1
        except IndexError:
            raise BrokenDump(f"the kernel's type information (BTF) has a type of unknown kind {kind}") from None
        except StructError:
            raise BrokenDump("the kernel's type information (BTF) ends within a type") from None
        if number > _MAX_TYPES:
            raise BrokenDump(f"the kernel's type information (BTF) has {number} types")
        if offset != end:
            raise BrokenDump("the kernel's type information (BTF) ends within a type")

    def __len__(self) -> int:
        """Return the highest type id plus one."""
        return len(self._offsets)

    def record(self, number: int) -> Record:
        """Return the record of a type; type 0, void, has no record."""
        if not 0 < number < len(self._offsets):
            raise BrokenDump(f"the kernel's type information (BTF) refers to type {number}, which it does not have")
        offset = self._offsets[number]
        name, info, size_or_type = _RECORD.unpack_from(self._all, offset)
        vlen = info & 0xFF_FFFF
        if vlen > _MAX_VLEN:
            raise BrokenDump(f"the kernel's type information (BTF) has a type with {vlen} members")
        return Record(offset + _RECORD.size, name, info >> 24 & 127, vlen, bool(info >> 31), size_or_type)

    def elements(self, record: Record, layout: Struct) -> Iterator[tuple[int, ...]]:
        """Yield the members, enumerators or parameters that follow a record."""
        return layout.iter_unpack(self._all[record.offset : record.offset + layout.size * record.vlen])

    def word(self, record: Record, index: int = 0) -> int:
        """Return one of the 32-bit words that follow a record."""
        value: int = _WORD.unpack_from(self._all, record.offset + _WORD.size * index)[0]
        return value

    def name(self, offset: int) -> str:
        """Return the string at an offset of the string table, with bytes that are not ASCII escaped."""
        end = self._strings.find(b"\0", offset)
        return self._strings[offset : end if end >= 0 else None].decode("ascii", "backslashreplace")

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of the first type (variable, function) with a name and kind; None: not found."""
        found = (self._ids.get(offset << 5 | kind) for offset in self._name_offsets(name))
        number = next((number for number in found if number is not None), None)
        return self._base.find(name, kind) if number is None and self._base else number

    def find_enumerator(self, name: str) -> tuple[int, int] | None:
        """Find a constant in any enum; return the id of the enum and the value. None: not found."""
        found = next((self._enumerators[at] for at in self._name_offsets(name) if at in self._enumerators), None)
        return self._base.find_enumerator(name) if found is None and self._base else found

    def enumerators(self, record: Record) -> Iterator[tuple[int, int]]:
        """Yield the constants of an enum: offset of the name, value."""
        signed = self.is_signed(record)
        if record.kind == BtfKind.ENUM:
            for name, value in self.elements(record, _ENUM):
                yield name, value if signed else value & 0xFFFF_FFFF
        else:
            for name, low, high in self.elements(record, _ENUM64):
                value = high << 32 | low
                yield name, value - (1 << 64) if signed and value >> 63 else value

    def is_signed(self, record: Record) -> bool:
        """Tell whether an enum may hold negative values.

        Since Linux 6.0 (6089fb325cf7) ``kind_flag`` says so. Before that every value was an s32: kgcore takes an enum
        as signed if it has a small negative value, which is likelier than an unsigned one close to 2^32.
        """
        if self._enums_have_flags or record.kind == BtfKind.ENUM64:
            return record.flag
        return any(-0x10000 < value < 0 for _, value in self.elements(record, _ENUM))

    @cached_property
    def _enums_have_flags(self) -> bool:
        if self._base and self._base._enums_have_flags:
            return True
        return any(record.flag or record.kind == BtfKind.ENUM64 for record in map(self.record, self._enums))

    @cached_property
    def _enumerators(self) -> dict[int, tuple[int, int]]:
        """Map the offset of a constant's name to the id of its enum and its value."""
        return {
            name: (number, value) for number in self._enums for name, value in self.enumerators(self.record(number))
        }

    def _name_offsets(self, name: str) -> Iterator[int]:
        """Yield the offsets of a name in the string table: one, or several if the table is not deduplicated."""
        needle = b"\0" + name.encode() + b"\0"
        at = self._strings.find(needle)
        while at >= 0:
            yield at + 1
            at = self._strings.find(needle, at + 1)
