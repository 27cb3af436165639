# SPDX-License-Identifier: LGPL-2.1-or-later
"""C declarations into drgn types, so that a test can state a kernel's layout as its headers do."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from drgn import Object, Program, Type, TypeEnumerator, TypeMember

_TOKEN = re.compile(r"[A-Za-z_]\w*|0[xX][0-9a-fA-F]+|\d+|[{}\[\];:,*=()]")
_BASIC = {
    "char": (1, True), "unsigned char": (1, False), "short": (2, True), "unsigned short": (2, False),
    "int": (4, True), "unsigned int": (4, False), "long": (8, True), "unsigned long": (8, False),
    "u8": (1, False), "u16": (2, False), "u32": (4, False), "u64": (8, False), "s64": (8, True),
}  # fmt: skip


@dataclass(frozen=True)
class _Declared:
    """A type that drgn is told of when it is first asked for: structures may point to each other."""

    size: int
    alignment: int
    make: Callable[[], Type]


class Declarations:
    """Types and enumerators by name (``struct page``, ``PG_uptodate``).

    :param text: definitions of structures, unions, enumerations and typedefs. A later one of the same name replaces
        the earlier. A structure that is only pointed to need not be defined.
    """

    def __init__(self, prog: Program, text: str) -> None:
        self._prog = prog
        self.types: dict[str, Type] = {}
        self.constants: dict[str, Object] = {}
        self._known: dict[str, _Declared] = {}
        self._tokens = _TOKEN.findall(re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL))
        for name, (size, signed) in _BASIC.items():
            self.types[name] = prog.int_type(name, size, signed)
        while self._tokens:
            self._definition()
            self._take(";")
        for name, declared in self._known.items():
            self.types[name] = declared.make()

    def _take(self, expected: str = "") -> str:
        token = str(self._tokens.pop(0))
        assert not expected or token == expected, f"{token!r} where {expected!r} should be: {self._tokens[:8]}"
        return token

    def _taken(self, token: str) -> bool:
        return self._tokens[0] == token and bool(self._take())

    def _definition(self) -> None:
        if not self._taken("typedef"):
            self._specifier()
            return
        name, base, _ = self._declarator(self._specifier())
        made = self._prog.typedef_type(name, base.make())
        self._known[name] = _Declared(base.size, base.alignment, lambda: made)

    def _specifier(self) -> _Declared:
        word = self._take()
        if word == "void":
            return _Declared(0, 1, self._prog.void_type)
        if word == "enum":
            return self._enum()
        if word in ("struct", "union"):
            return self._compound(word)
        if word == "unsigned":
            word += f" {self._take()}"
        if word in _BASIC:
            size, type_ = _BASIC[word][0], self.types[word]
            return _Declared(size, size, lambda: type_)
        return self._known[word]

    def _enum(self) -> _Declared:
        name = "" if self._tokens[0] == "{" else self._take()
        if not self._taken("{"):
            return self._known[f"enum {name}"]
        values: list[TypeEnumerator] = []
        while not self._taken("}"):
            constant = self._take()
            value = int(self._take(), 0) if self._taken("=") else values[-1].value + 1 if values else 0
            values.append(TypeEnumerator(constant, value))
            self._taken(",")
        type_ = self._prog.enum_type(name or None, self.types["unsigned int"], values)
        self.constants |= {item.name: Object(self._prog, type_, item.value) for item in values}
        declared = _Declared(4, 4, lambda: type_)
        if name:
            self._known[f"enum {name}"] = declared
        return declared

    def _compound(self, kind: str) -> _Declared:
        name = "" if self._tokens[0] == "{" else self._take()
        tag = f"{kind} {name}"
        if not self._taken("{"):
            # Perhaps defined further down, or again; until then it can only be pointed to here.
            known = self._known.get(tag) or _Declared(0, 1, self._prog.void_type)
            return _Declared(known.size, known.alignment, lambda: self._by_name(kind, name))
        members: list[TypeMember] = []
        at = end = 0  # bits
        alignment = 1
        while not self._taken("}"):
            base = self._specifier()
            while True:
                member, type_, bits = ("", base, 0) if self._tokens[0] == ";" else self._declarator(base)
                unit, width = type_.alignment * 8, bits or type_.size * 8
                if not bits or at // unit != (at + bits - 1) // unit:
                    at = -(-at // unit) * unit
                members.append(self._member(member, type_, at, bits))
                alignment = max(alignment, type_.alignment)
                end = max(end, at + width)
                at = end if kind == "struct" else 0
                if not self._taken(","):
                    break
            self._take(";")
        size = -(-end // (alignment * 8)) * alignment
        create = self._prog.struct_type if kind == "struct" else self._prog.union_type
        made = create(name or None, size, members)
        declared = _Declared(size, alignment, lambda: made)
        if name:
            self._known[tag] = declared
        return declared

    def _by_name(self, kind: str, name: str) -> Type:
        known = self._known.get(f"{kind} {name}")
        if known is not None:
            return known.make()
        return self._prog.struct_type(name) if kind == "struct" else self._prog.union_type(name)

    def _member(self, name: str, declared: _Declared, at: int, bits: int) -> TypeMember:
        if not bits:
            return TypeMember(declared.make, name or None, at)
        return TypeMember(lambda: Object(self._prog, declared.make(), bit_field_size=bits), name, at)

    def _declarator(self, base: _Declared) -> tuple[str, _Declared, int]:
        while self._taken("*"):
            base = self._pointer(base)
        if self._taken("("):  # a pointer to a function: (*name)()
            self._take("*")
            name = self._take()
            for token in ")()":
                self._take(token)
            return name, self._pointer(_Declared(0, 1, self._prog.void_type)), 0
        name = self._take()
        lengths: list[int] = []
        while self._taken("["):
            lengths.append(0 if self._tokens[0] == "]" else int(self._take(), 0))
            self._take("]")
        for length in reversed(lengths):
            base = self._array(base, length)
        return name, base, int(self._take()) if self._taken(":") else 0

    def _pointer(self, to: _Declared) -> _Declared:
        return _Declared(8, 8, lambda: self._prog.pointer_type(to.make()))

    def _array(self, of: _Declared, length: int) -> _Declared:
        return _Declared(of.size * length, of.alignment, lambda: self._prog.array_type(of.make(), length))
