# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watch what kgcore, and drgn on its behalf, look up in a kernel: types, members, symbols, constants, VMCOREINFO.

The types that kgcore makes of BTF are made so that drgn asks for the type of a member only when somebody uses the
member. So whoever asks is seen: kgcore's own probes, ``Structs``, a member of an ``Object`` in an expression, and
drgn's helpers, those in C too. Only who takes nothing but the offset of a member is not seen (``kind.member(name)``):
what such code needs shows in a kernel that has nothing but what the table declares (:func:`watching` with ``only``).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from drgn import FindObjectFlags, Object, Program, Symbol, Type, TypeKind, TypeKindSet, TypeMember

from kgcore.sources.vmcore.kernel import structs
from kgcore.sources.vmcore.kernel.layouts import Kind, Row
from kgcore.sources.vmcore.kernel.modulelayouts import Declarations
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.opening import target as opening
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.sources.vmcore.symbols.btf import BtfKind, Record
from kgcore.sources.vmcore.symbols.btf_types import _MEMBER, TypeFinder
from kgcore.sources.vmcore.symbols.finders import KernelSymbols
from kgcore.sources.vmcore.symbols.variables import VariableFinder

__all__ = ("Names", "declared", "watching")

_WORDS = {BtfKind.STRUCT: "struct ", BtfKind.UNION: "union ", BtfKind.ENUM: "enum ", BtfKind.ENUM64: "enum "}
_WRAPPERS = {BtfKind.TYPEDEF, BtfKind.CONST, BtfKind.VOLATILE, BtfKind.RESTRICT, BtfKind.TYPE_TAG, BtfKind.ARRAY}
_TAGGED = ((TypeKind.STRUCT, "struct "), (TypeKind.UNION, "union "), (TypeKind.ENUM, "enum "))


@dataclass
class Names:
    """Names in a kernel.

    :ivar types: ``struct task_struct``, ``mm_flags_t``.
    :ivar members: a type and a member: (``struct page``, ``lru``). Members of unnamed types count to the named type
        around them.
    :ivar symbols: symbols, variables, functions and enumerators: who asks drgn for an object by name asks for any.
    :ivar lines: keys of VMCOREINFO.
    """

    types: set[str] = field(default_factory=set)
    members: set[tuple[str, str]] = field(default_factory=set)
    symbols: set[str] = field(default_factory=set)
    lines: set[str] = field(default_factory=set)

    def minus(self, other: "Names") -> list[str]:
        """Those that others do not have, in words."""
        return [
            *sorted(self.types - other.types),
            *sorted(f"{type_}.{member}" for type_, member in self.members - other.members),
            *sorted(self.symbols - other.symbols),
            *sorted(self.lines - other.lines),
        ]

    def add(self, other: "Names") -> None:
        """Take in others."""
        self.types |= other.types
        self.members |= other.members
        self.symbols |= other.symbols
        self.lines |= other.lines


def declared(rows: Iterable[Row]) -> Names:
    """The names that rows declare."""
    names = Names()
    for name in (name for row in rows for name in row.names):
        match name.kind:
            case Kind.TYPE:
                names.types.add(name.name)
            case Kind.MEMBER:
                names.types.add(name.name)
                names.members.add((name.name, name.member))
            case Kind.SYMBOL:
                names.symbols.add(name.name)
            case Kind.CONSTANT:
                names.symbols.add(name.name)
                names.lines.add(f"NUMBER({name.name})")
            case Kind.LINE:
                names.lines.add(name.name)
                if number := re.fullmatch(r"NUMBER\((\w+)\)", name.name):  # Target.constant() asks for both
                    names.symbols.add(number[1])
    return names


class _Lines(dict[str, str]):
    """VMCOREINFO that notes which of its lines are read."""

    def __init__(self, lines: Mapping[str, str], seen: set[str]) -> None:
        super().__init__(lines)
        self._seen = seen

    def get(self, key: str, default: Any = None) -> Any:
        self._seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._seen.add(str(key))
        return super().__contains__(key)


class _Owners:
    """Which named type an unnamed one belongs to."""

    def __init__(self) -> None:
        # By finder and number: a typedef's name; or the type around, and the member's name
        self._of: dict[tuple[TypeFinder, int], str | tuple[int, str]] = {}

    def named(self, finder: TypeFinder, number: int, name: str) -> tuple[str, str] | None:
        """The named type around a member, and the member's path from there; None: no type has that name."""
        record = finder.btf.record(number)
        if own := finder.btf.name(record.name_offset):
            return _WORDS[record.kind] + own, name
        around = self._of.get((finder, number))
        if around is None or isinstance(around, str):
            return (around, name) if around else None
        return self.named(finder, around[0], ".".join(filter(None, (around[1], name))))

    def typedef(self, finder: TypeFinder, number: int) -> None:
        inner, name = self._unwrapped(finder, number)
        if name:
            self._of[finder, inner] = name

    def member(self, finder: TypeFinder, number: int, around: int, name: str) -> None:
        inner, typedef = self._unwrapped(finder, number)
        self._of.setdefault((finder, inner), typedef or (around, name))

    @staticmethod
    def _unwrapped(finder: TypeFinder, number: int) -> tuple[int, str]:
        """A type without typedefs, qualifiers and arrays, and the name of the last typedef."""
        name = ""
        while number >= finder.btf.first and (record := finder.btf.record(number)).kind in _WRAPPERS:
            if record.kind == BtfKind.TYPEDEF:
                name = finder.btf.name(record.name_offset)
            number = finder.btf.word(record) if record.kind == BtfKind.ARRAY else record.size_or_type
        return number, name


@contextmanager
def watching(only: Names | None = None) -> Iterator[Names]:
    """Note what is looked up in dumps that are opened and used in this block.

    What layouts of kgcore's own are made of (sizes of locks and the like) is not noted.

    :param only: let kernels have only these names.
    """
    seen, owners, making, ours = Names(), _Owners(), list[int](), list[str]()
    make, members_of, find_type = TypeFinder._make, TypeFinder._members, TypeFinder.__call__
    find_symbol, find_object = KernelSymbols.__call__, VariableFinder.__call__
    has_member, chosen, parse = opening.Target._has_member, structs._members, vmcoreinfo.parse
    module_type, module_constant, declare = ModuleTypes.type, ModuleTypes.enumerator, Declarations.type

    def new_make(self: TypeFinder, number: int) -> Type:
        owners.typedef(self, number)
        making.append(number)
        try:
            return make(self, number)
        finally:
            making.pop()

    def new_members(self: TypeFinder, record: Record) -> list[TypeMember]:
        number = making[-1]
        found = []
        for member, (_, type_, _) in zip(members_of(self, record), self.btf.elements(record, _MEMBER), strict=True):
            owners.member(self, type_, number, member.name or "")
            known = owners.named(self, number, member.name) if member.name else None
            if only is None or ours or not member.name or known in only.members:
                found.append(TypeMember(used(known, member), member.name, member.bit_offset))
        return found

    def used(known: tuple[str, str] | None, member: TypeMember) -> Callable[[], Object]:
        def thunk() -> Object:
            if known and not ours:
                seen.members.add(known)
            return member.object

        return thunk

    def new_find_type(
        self: TypeFinder, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        found = find_type(self, prog, kinds, name, filename)
        tagged = next((word + name for kind, word in _TAGGED if kind in kinds), name)
        is_number = found is not None and found.unaliased_kind() in (TypeKind.INT, TypeKind.BOOL)
        if ours or is_number or (tagged == name and TypeKind.TYPEDEF not in kinds):
            return found
        seen.types.add(tagged)
        return found if only is None or tagged in only.types else None

    def new_find_symbol(
        self: KernelSymbols, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        if name is not None:
            seen.symbols.add(name)
            if only is not None and name not in only.symbols:
                return []
        return find_symbol(self, prog, name, address, one)

    def new_find_object(
        self: VariableFinder, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        seen.symbols.add(name)
        return find_object(self, prog, name, flags, filename) if only is None or name in only.symbols else None

    def new_has_member(self: opening.Target, type_name: str, member: str) -> bool:
        seen.members.add((type_name, member))
        return has_member(self, type_name, member)

    def new_chosen(prog: Program, type_name: str, names: tuple[str, ...]) -> Any:
        for name in names:
            at = prog.type(type_name)
            for member in re.findall(r"[A-Za-z_]\w*", name):
                while at.kind == TypeKind.ARRAY:
                    at = at.type
                if not at.has_member(member):  # those that it has are noted as they are used
                    seen.members.add((at.type_name(), member))
                    break
                at = at.member(member).type
        return chosen(prog, type_name, names)

    def new_module_type(self: ModuleTypes, module: str, name: str) -> Type:
        seen.types.add(name)
        return module_type(self, module, name)

    def new_module_constant(self: ModuleTypes, module: str, name: str) -> int | None:
        seen.symbols.add(name)
        return module_constant(self, module, name)

    def new_declare(self: Declarations, name: str) -> Type | None:
        ours.append(name)
        try:
            return declare(self, name)
        finally:
            ours.pop()

    with (
        patch.object(TypeFinder, "_make", new_make),
        patch.object(TypeFinder, "_members", new_members),
        patch.object(TypeFinder, "__call__", new_find_type),
        patch.object(KernelSymbols, "__call__", new_find_symbol),
        patch.object(VariableFinder, "__call__", new_find_object),
        patch.object(opening.Target, "_has_member", new_has_member),
        patch.object(structs, "_members", new_chosen),
        patch.object(ModuleTypes, "type", new_module_type),
        patch.object(ModuleTypes, "enumerator", new_module_constant),
        patch.object(Declarations, "type", new_declare),
        patch.object(vmcoreinfo, "parse", lambda text: _Lines(parse(text), seen.lines)),
    ):
        yield seen
