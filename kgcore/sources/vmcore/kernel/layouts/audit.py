# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the table of layouts with a kernel: what it has, by which way kgcore decides, and what will not work.

A kernel is what a drgn Program knows of it: a whole dump, or types alone, without any memory.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from drgn import Program, Type, TypeKind, sizeof

from kgcore.model.layouts import Layout, LayoutName, State
from kgcore.sources.vmcore.damage import DAMAGE
from kgcore.sources.vmcore.kernel.layouts.base import Kind, Name, Row

__all__ = ("KernelNames", "ModuleNames", "audit")


class ModuleNames(Protocol):
    """The types of a kernel's modules. All methods may raise LookupError: nothing describes them; the text says why."""

    def loaded(self, module: str) -> bool:
        """Tell whether a module is loaded. If not, it is built in or does not exist."""

    def type(self, module: str, name: str) -> Type | None:
        """Return a type; None: the module has none of that name."""

    def enumerator(self, module: str, name: str) -> int | None:
        """Return the value of an enumerator likewise."""


class KernelNames:
    """Looks names up in a kernel."""

    def __init__(
        self,
        prog: Program,
        *,
        info: Mapping[str, str] | None = None,
        symbol: Callable[[str], tuple[bool | None, str]] | None = None,
        modules: ModuleNames | None = None,
    ) -> None:
        """Say what is known of the kernel.

        :param info: VMCOREINFO; None: unknown.
        :param symbol: says whether the kernel has a symbol (None: unknown), and where; by default the Program does.
        :param modules: the types of its modules; None: unknown, but for what the Program itself has.
        """
        self._prog = prog
        self._info = info
        self._symbol = symbol or self._address
        self._modules = modules
        self._troubles: dict[str, str] = {}

    def why_unknown(self, module: str) -> str:
        """Return why nothing is known of a module; "": its types are known."""
        if self._modules is None:
            return "the types of modules were not given"
        try:
            return self._troubles.get(module, "") if self._modules.loaded(module) else f"{module} is not loaded"
        except LookupError as error:
            return str(error)

    def look(self, name: Name, module: str = "", *, wanted: bool = True) -> LayoutName:
        """Look a name up.

        :param module: the kernel module that may define it.
        """
        found: bool | None = None
        value = ""
        try:
            found, value = self._look(name, module)
        except LookupError as error:
            found = None if module else False
            self._troubles.setdefault(module, str(error))
        except DAMAGE:
            pass
        return LayoutName(name.kind.value, str(name), found, wanted, value)

    def _look(self, name: Name, module: str) -> tuple[bool | None, str]:
        match name.kind:
            case Kind.TYPE | Kind.MEMBER:
                found = self._type(name.name, module)
                if found is None:
                    return (None if module and self._modules is None else False), ""
                return (True, _size_words(found)) if name.kind is Kind.TYPE else _member(found, name.member)
            case Kind.SYMBOL:
                return self._symbol(name.name)
            case Kind.CONSTANT:
                return self._constant(name.name, module)
            case Kind.LINE:
                if self._info is None:
                    return None, ""
                return name.name in self._info, self._info.get(name.name, "")

    def _address(self, name: str) -> tuple[bool | None, str]:
        try:
            return True, hex(self._prog.symbol(name).address)
        except LookupError:
            return False, ""

    def _type(self, name: str, module: str) -> Type | None:
        try:
            return self._prog.type(name)
        except LookupError:
            return self._modules.type(module, name) if module and self._modules is not None else None

    def _constant(self, name: str, module: str) -> tuple[bool | None, str]:
        try:
            return True, str(int(self._prog.constant(name).value_()))
        except LookupError:
            pass
        if (line := (self._info or {}).get(f"NUMBER({name})")) is not None:
            return True, line
        if not module:
            return False, ""
        if self._modules is None:
            return None, ""
        value = self._modules.enumerator(module, name)
        return value is not None, "" if value is None else str(value)


def audit(rows: Iterable[Row], names: KernelNames, value: Callable[[str], str] = lambda _: "") -> tuple[Layout, ...]:
    """Compare rows with a kernel.

    :param value: returns what was decided, in words, by :attr:`Row.value`.
    """
    return tuple(_compare(row, names, value) for row in rows)


def _compare(row: Row, names: KernelNames, value: Callable[[str], str]) -> Layout:
    also = tuple(names.look(name, row.module) for name in row.also)
    state: State = "absent"
    since = how = ""
    shown: list[LayoutName] = []
    for way in row.ways:
        told = (
            *(names.look(name, row.module) for name in way.names),
            *(names.look(name, row.module, wanted=False) for name in way.lacks),
        )
        fits = _fits(told)
        if fits:
            state, since, how, shown = "found", way.since, way.how, list(told)
            break
        if fits is None:
            state = "unknown"
        shown += (one for one in told if one not in shown)
    if not row.ways:
        some = [one.found for one in also]
        state = "found" if True in some else "unknown" if None in some else "absent"
    own = any(one.found for one in also if one.kind == Kind.TYPE.value)
    if row.module and (state == "unknown" or (state == "absent" and not own)):
        how = names.why_unknown(row.module)
        state = "unknown" if how else state
    return Layout(
        what=row.what,
        use=row.use.value,
        state=state,
        since=since,
        how=how,
        value=value(row.value) if row.value else "",
        lost=row.without if state == "absent" else "",
        needed=row.needed,
        names=tuple(dict.fromkeys((*shown, *also))),
    )


def _fits(told: tuple[LayoutName, ...]) -> bool | None:
    """Tell whether a kernel has a way; None: unknown."""
    if any(one.found is not None and one.found != one.wanted for one in told):
        return False
    return None if any(one.found is None for one in told) else True


def _member(found: Type, path: str) -> tuple[bool, str]:
    """Tell whether a type has a member, and where: a path leads through members."""
    offset = bits = 0
    for part in path.split("."):
        while found.kind in (TypeKind.TYPEDEF, TypeKind.ARRAY):
            found = found.type
        if not _is_compound(found) or not found.has_member(part):
            return False, ""
        member = found.member(part)
        offset += member.bit_offset
        bits = member.bit_field_size or 0
        found = member.type
    return True, f"bit {offset}, {bits} bits" if bits else f"offset {offset // 8}"


def _is_compound(type_: Type) -> bool:
    return type_.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)


def _size_words(type_: Type) -> str:
    try:
        return f"{sizeof(type_)} bytes"
    except TypeError:  # incomplete, void, a function
        return ""
