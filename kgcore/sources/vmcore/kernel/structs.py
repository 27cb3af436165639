# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read kernel structures fast, since there may be 100 000 of a type: one read of the dump per structure."""

import re
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from drgn import FaultError, Object, Program, Type, TypeKind, sizeof

from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("Members", "Structs")

_FORMATS = {1: "b", 2: "h", 4: "i", 8: "q"}
_MAX_SPAN = 1 << 16  # types may be the dump's own, and damaged; task_struct has 10 KiB


class Members(dict[str, Any]):
    """Members of a structure by name: integers and pointers as int, arrays and structures as bytes.

    Access to a member that could not be read raises FaultError.

    :ivar address: the structure's.
    :ivar lost: the members that could not be read, each with its error.
    """

    __slots__ = ("address", "lost")

    address: int
    lost: Mapping[str, FaultError]

    def __missing__(self, name: str) -> Any:
        raise self.lost.get(name) or FaultError(f"the kernel has no {name} in that structure", self.address)


_NONE_LOST: Mapping[str, FaultError] = MappingProxyType({})


class Structs:
    """Reads chosen members of structures of one type."""

    def __init__(self, prog: Program, type_name: str, *names: str) -> None:
        """Choose the members to read.

        :param names: members as offsetof() takes them: ``f_path.mnt``, ``pids[2]``. Members that this kernel lacks are
            left out.
        :raises LookupError: the type is unknown.
        """
        self._prog = prog
        self._read = prog.read
        self._parts: dict[str, tuple[int, struct.Struct]] = {}
        self._start = end = 0
        layout = "<"
        for offset, name, code in sorted(_members(prog, type_name, names)):
            if not self._parts:
                self._start = end = offset
            if end <= offset <= self._start + _MAX_SPAN:
                part = struct.Struct("<" + code)
                self._parts[name] = offset, part
                layout += f"{offset - end}x{code}"
                end = offset + part.size
        self._names = tuple(self._parts)
        self._whole = struct.Struct(layout)

    def read(self, address: int) -> Members:
        """Read the structure at an address. If only a part of it is in the dump, the other members are lost."""
        if not address:
            return self._read_each(address)
        try:  # kernel_bytes() inlined for speed: there are a dozen structures to a thread
            values = self._whole.unpack(self._read(address + self._start, self._whole.size))
        except (FaultError, OverflowError, ValueError):
            return self._read_each(address)
        found = Members(zip(self._names, values, strict=True))
        found.address = address
        found.lost = _NONE_LOST
        return found

    def _read_each(self, address: int) -> Members:
        found = Members()
        lost: dict[str, FaultError] = {}
        for name, (offset, part) in self._parts.items():
            try:
                found[name] = part.unpack(self._bytes(address, offset, part.size))[0]
            except FaultError as error:
                lost[name] = error
        found.address = address
        found.lost = lost
        return found

    def _bytes(self, address: int, offset: int, size: int) -> bytes:
        if not address:  # drgn does not fault at address 0 of QEMU's ELF dumps: it reads physical memory
            raise FaultError("a pointer is NULL", offset)
        return kernel_bytes(self._prog, address + offset, size)


def _members(prog: Program, type_name: str, names: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield offset, name and struct.unpack() format of each member that exists."""
    whole = Object(prog, type_name, address=0)
    for name in names:
        found = whole
        try:
            for member, index in re.findall(r"(\w+)|\[(\d+)\]", name):
                found = found.member_(member) if member else found[int(index)]
            size = sizeof(found)
        except (LookupError, TypeError):
            continue
        if found.address_ is not None and found.bit_field_size_ is None and 0 < size <= _MAX_SPAN:
            yield found.address_, name, _code(found.type_, size)


def _code(type_: Type, size: int) -> str:
    while type_.kind is TypeKind.TYPEDEF:
        type_ = type_.type
    if size not in _FORMATS or type_.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.ARRAY):
        return f"{size}s"
    return _FORMATS[size] if type_.kind is TypeKind.INT and type_.is_signed else _FORMATS[size].upper()
