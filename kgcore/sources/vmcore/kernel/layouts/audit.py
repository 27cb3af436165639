# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the table of layouts with a kernel: what it has, by which way kgcore decides, and what will not work.

A kernel is what a drgn Program knows of it: a whole dump, or types alone, without any memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from drgn import Program, Type, TypeKind, sizeof

from kgcore.sources.vmcore.damage import DAMAGE
from kgcore.sources.vmcore.kernel.layouts.base import Kind, Name, Row, Way

__all__ = ("Finding", "KernelNames", "State", "Told", "audit")


class State(StrEnum):
    """What is known of a row in a kernel."""

    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Told:
    """What a kernel says of a name.

    :ivar found: whether the kernel has it; None: what was given of the kernel does not tell.
    :ivar gives: its place or value, in words; "": none.
    """

    name: Name
    found: bool | None
    gives: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table, compared with a kernel.

    :ivar way: the way that the kernel has it; None: none of them, or unknown.
    :ivar told: the names of that way and those that count for themselves; where no way fits, those of all ways.
    :ivar value: what was decided, in words; "": nothing.
    """

    row: Row
    state: State
    way: Way | None
    told: tuple[Told, ...]
    value: str = ""

    @property
    def lost(self) -> str:
        """Return what will not work; "": nothing, or unknown."""
        return self.row.without if self.state is State.ABSENT else ""


class KernelNames:
    """Looks names up in a kernel."""

    def __init__(
        self,
        prog: Program,
        *,
        info: Mapping[str, str] | None = None,
        symbols: bool = True,
        module_type: Callable[[str, str], Type] | None = None,
        module_constant: Callable[[str, str], int | None] | None = None,
    ) -> None:
        """Say what is known of the kernel.

        :param info: VMCOREINFO; None: unknown.
        :param symbols: whether its symbols are known.
        :param module_type: returns a type by module and name, or raises LookupError; None: modules are unknown.
        :param module_constant: returns an enumerator likewise.
        """
        self._prog = prog
        self._info = info
        self._symbols = symbols
        self._module_type = module_type
        self._module_constant = module_constant

    def look(self, name: Name, module: str = "") -> Told:
        """Look a name up.

        :param module: the kernel module that may define it.
        """
        try:
            match name.kind:
                case Kind.TYPE | Kind.MEMBER:
                    return self._type(name, module)
                case Kind.SYMBOL:
                    return self._symbol(name)
                case Kind.CONSTANT:
                    return self._constant(name, module)
                case Kind.LINE:
                    return self._line(name)
        except DAMAGE:
            return Told(name, None)

    def _type(self, name: Name, module: str) -> Told:
        try:
            found: Type = self._prog.type(name.name)
        except LookupError:
            if not module:
                return Told(name, False)
            if self._module_type is None:
                return Told(name, None)
            try:
                found = self._module_type(module, name.name)
            except LookupError:
                return Told(name, None)
        if name.kind is Kind.TYPE:
            return Told(name, True, f"{found.size} bytes" if _is_compound(found) and found.size else "")
        offset = 0
        for part in name.member.split("."):
            while found.kind in (TypeKind.TYPEDEF, TypeKind.ARRAY):
                found = found.type
            if not _is_compound(found) or not found.has_member(part):
                return Told(name, False)
            member = found.member(part)
            offset += member.bit_offset
            found = member.type
        if member.bit_field_size:
            return Told(name, True, f"bit {offset}, {member.bit_field_size} bits")
        return Told(name, True, f"offset {offset // 8}, {_size(found)} bytes")

    def _symbol(self, name: Name) -> Told:
        if not self._symbols:
            return Told(name, None)
        try:
            return Told(name, True, hex(self._prog.symbol(name.name).address))
        except LookupError:
            return Told(name, False)

    def _constant(self, name: Name, module: str) -> Told:
        try:
            return Told(name, True, str(int(self._prog.constant(name.name).value_())))
        except LookupError:
            pass
        if not module:
            return Told(name, False)
        if self._module_constant is None:
            return Told(name, None)
        try:
            value = self._module_constant(module, name.name)
        except LookupError:
            return Told(name, None)
        return Told(name, value is not None, "" if value is None else str(value))

    def _line(self, name: Name) -> Told:
        if self._info is None:
            return Told(name, None)
        value = self._info.get(name.name)
        return Told(name, value is not None, value or "")


def audit(rows: Iterable[Row], names: KernelNames, value: Callable[[str], str] = lambda _: "") -> tuple[Finding, ...]:
    """Compare rows with a kernel.

    :param value: returns what was decided, by :attr:`Row.value`.
    """
    return tuple(_compare(row, names, value) for row in rows)


def _compare(row: Row, names: KernelNames, value: Callable[[str], str]) -> Finding:
    also = tuple(names.look(name, row.module) for name in row.also)
    decided = value(row.value) if row.value else ""
    unknown = False
    all_told: list[Told] = []
    for way in row.ways:
        told = tuple(names.look(name, row.module) for name in (*way.names, *way.lacks))
        verdict = _holds(way, told)
        if verdict:
            return Finding(row, State.FOUND, way, told + also, decided)
        unknown = unknown or verdict is None
        all_told += (one for one in told if one not in all_told)
    if not row.ways:
        some = [one.found for one in also]
        state = State.FOUND if any(some) else State.UNKNOWN if None in some else State.ABSENT
        return Finding(row, state, None, also, decided)
    return Finding(row, State.UNKNOWN if unknown else State.ABSENT, None, (*all_told, *also), decided)


def _holds(way: Way, told: tuple[Told, ...]) -> bool | None:
    """Tell whether a kernel has a way; None: unknown."""
    wanted = [one.found for one in told[: len(way.names)]]
    unwanted = [one.found for one in told[len(way.names) :]]
    if False in wanted or True in unwanted:
        return False
    return None if None in wanted or None in unwanted else True


def missing(found: Finding) -> Iterator[Name]:
    """Yield the names of a finding that the kernel lacks though a way needs them."""
    yield from (one.name for one in found.told if one.found is False and one.name not in found.row.also)


def _is_compound(type_: Type) -> bool:
    return type_.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)


def _size(type_: Type) -> int:
    """Return the bytes of a type; 0 for a flexible array."""
    try:
        return int(sizeof(type_))
    except TypeError:
        return 0
