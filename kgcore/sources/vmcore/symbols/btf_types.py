# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make drgn's types from BTF, each on first use.

pahole loses some facts on the way from DWARF to BTF: an array of several dimensions becomes one long array, and
``x[0]`` and ``x[]`` become the same; here both are ``x[]``. Before about 1.21 it also lost that ``char`` is signed.
"""

from collections.abc import Callable
from struct import Struct

from drgn import Object, Program, Qualifiers, Type, TypeEnumerator, TypeKind, TypeKindSet, TypeMember, TypeParameter

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind, Record

__all__ = ("TypeFinder",)

_MEMBER = Struct("<III")  # struct btf_member: name_off, type, offset
_PARAM = Struct("<II")  # struct btf_param: name_off, type

_INT_SIGNED, _INT_BOOL = 1, 4  # BTF_INT_ENCODING()
_QUALIFIERS = {
    BtfKind.CONST: Qualifiers.CONST,
    BtfKind.VOLATILE: Qualifiers.VOLATILE,
    BtfKind.RESTRICT: Qualifiers.RESTRICT,
}
_FINDABLE = (
    (TypeKind.STRUCT, BtfKind.STRUCT),
    (TypeKind.UNION, BtfKind.UNION),
    (TypeKind.TYPEDEF, BtfKind.TYPEDEF),
    (TypeKind.ENUM, BtfKind.ENUM),
    (TypeKind.ENUM, BtfKind.ENUM64),
    (TypeKind.INT, BtfKind.INT),
    (TypeKind.BOOL, BtfKind.INT),
    (TypeKind.FLOAT, BtfKind.FLOAT),
)
_INT_SIZES = (1, 2, 4, 8, 16)
_ENUM_INTS = {1: "char", 2: "short", 4: "int", 8: "long"}
_CACHE_KEY = "kgcore_btf_types"
_MAX_DEPTH = 64  # nested types to make for one type; C declarators stay far below


class TypeFinder:
    """A type finder for :meth:`drgn.Program.register_type_finder`, and the types of variables and constants.

    All methods raise :class:`kgcore.errors.BrokenDump` where the BTF contradicts itself.

    :param base: if ``btf`` is a module's, the finder of the kernel's BTF; it makes the types that both share.
    :ivar btf: as given.
    """

    def __init__(self, prog: Program, btf: Btf, base: "TypeFinder | None" = None) -> None:
        self._prog = prog
        self.btf = btf
        self._base = base
        self._types: dict[int, Type] = {}
        self._named: dict[tuple[str, int], Type | None] = {}
        self._depth = 0
        self._checked: set[int] = set()  # types that do not contain themselves
        if base is None:
            prog.cache.setdefault(_CACHE_KEY, self)

    @staticmethod
    def of(prog: Program) -> "TypeFinder | None":
        """Return the finder of the kernel's types for a Program; None: none was made."""
        found: TypeFinder | None = prog.cache.get(_CACHE_KEY)
        return found

    def __call__(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        if filename:  # BTF does not say where a type was defined
            return None
        for kind, btf_kind in _FINDABLE:
            if kind in kinds and (found := self.find(name, btf_kind)) is not None and found.kind == kind:
                return found
        return None

    def find(self, name: str, kind: int) -> Type | None:
        """Return the type with a name; for ``BtfKind.VAR`` and ``BtfKind.FUNC``, the type of the variable or function.

        A kernel's BTF has per-CPU variables only; the others are in :mod:`kgcore.sources.vmcore.symbols.variables`.
        """
        key = name, kind
        if key not in self._named:
            number = self.btf.find(name, kind)
            self._named[key] = None if number is None else self.type(number)
        return self._named[key]

    def constant(self, name: str) -> Object | None:
        """Return an enumerator of any enum; None: not found."""
        if (found := self.btf.find_enumerator(name)) is None:
            return None
        number, value = found
        return Object(self._prog, self.type(number), value)

    def type(self, number: int) -> Type:
        """Return the type with a BTF id."""
        if self._base and number < self.btf.first:
            return self._base.type(number)
        if (known := self._types.get(number)) is not None:
            return known
        if self._depth == _MAX_DEPTH:
            raise BrokenDump(f"type {number} of the kernel's type information (BTF) is circular")
        self._depth += 1
        try:
            made = self._types[number] = self._make(number)
        except (TypeError, ValueError, OverflowError) as error:  # drgn checks its arguments
            raise BrokenDump(f"type {number} of the kernel's type information (BTF) is invalid: {error}") from error
        finally:
            self._depth -= 1
        return made

    def _make(self, number: int) -> Type:
        prog, btf = self._prog, self.btf
        if number == 0:
            return prog.void_type()
        record = btf.record(number)
        name = btf.name(record.name_offset)
        if record.kind in (BtfKind.STRUCT, BtfKind.UNION):
            self._check_parts(number)
        match record.kind:
            case BtfKind.STRUCT:
                return prog.struct_type(name or None, record.size_or_type, self._members(record))
            case BtfKind.UNION:
                return prog.union_type(name or None, record.size_or_type, self._members(record))
            case BtfKind.FWD:
                return (prog.union_type if record.flag else prog.struct_type)(name)
            case BtfKind.PTR:
                return prog.pointer_type(self.type(record.size_or_type))
            case BtfKind.ARRAY:  # struct btf_array: type, index_type, nelems
                return prog.array_type(self.type(btf.word(record)), btf.word(record, 2) or None)
            case BtfKind.TYPEDEF:
                return prog.typedef_type(name, self.type(record.size_or_type))
            case BtfKind.CONST | BtfKind.VOLATILE | BtfKind.RESTRICT:
                inner = self.type(record.size_or_type)
                return inner.qualified(inner.qualifiers | _QUALIFIERS[record.kind])
            case BtfKind.INT:
                return self._int(record, name)
            case BtfKind.FLOAT:
                return prog.float_type(name, record.size_or_type)
            case BtfKind.ENUM | BtfKind.ENUM64:
                return self._enum(record, name)
            case BtfKind.FUNC_PROTO:
                return self._function(record)
            case BtfKind.VAR | BtfKind.FUNC | BtfKind.TYPE_TAG:
                return self.type(record.size_or_type)
        raise BrokenDump(f"the kernel's type information (BTF) uses type {number}, of kind {record.kind}, as a type")

    def _check_parts(self, number: int, around: frozenset[int] = frozenset()) -> None:
        """Refuse a type that contains itself: drgn's search for a member recurses into unnamed members."""
        if number in self._checked or not 0 < number < len(self.btf):  # type() refuses an invalid number
            return
        if number in around or len(around) == _MAX_DEPTH:
            raise BrokenDump(f"type {number} of the kernel's type information (BTF) contains itself")
        record = self.btf.record(number)
        match record.kind:
            case BtfKind.STRUCT | BtfKind.UNION:
                for _, member, _ in self.btf.elements(record, _MEMBER):
                    self._check_parts(member, around | {number})
            case BtfKind.ARRAY:
                self._check_parts(self.btf.word(record), around | {number})
            case BtfKind.TYPEDEF | BtfKind.CONST | BtfKind.VOLATILE | BtfKind.RESTRICT | BtfKind.TYPE_TAG:
                self._check_parts(record.size_or_type, around | {number})
        self._checked.add(number)

    def _later(self, number: int) -> Callable[[], Type]:
        return lambda: self.type(number)

    def _members(self, record: Record) -> list[TypeMember]:
        members = []
        for name_offset, number, offset in self.btf.elements(record, _MEMBER):
            bits = offset >> 24 if record.flag else 0
            members.append(
                TypeMember(
                    self._bit_field(number, bits) if bits else self._later(number),
                    self.btf.name(name_offset) or None,
                    offset & 0xFF_FFFF if record.flag else offset,
                )
            )
        return members

    def _bit_field(self, number: int, bits: int) -> Callable[[], Object]:
        def make() -> Object:
            try:
                return Object(self._prog, self.type(number), bit_field_size=bits)
            except (TypeError, ValueError) as error:  # not an integer, or too narrow
                raise BrokenDump(
                    f"type {number} of the kernel's type information (BTF) as a bit field: {error}"
                ) from error

        return make

    def _int(self, record: Record, name: str) -> Type:
        if record.size_or_type not in _INT_SIZES:
            raise BrokenDump(f"the kernel's type information (BTF) has an integer of {record.size_or_type} bytes")
        encoding = self.btf.word(record) >> 24 & 15
        if encoding & _INT_BOOL:
            return self._prog.bool_type(name, record.size_or_type)
        return self._prog.int_type(name, record.size_or_type, bool(encoding & _INT_SIGNED))

    def _enum(self, record: Record, name: str) -> Type:
        if not record.vlen:  # only declared, never defined
            return self._prog.enum_type(name or None)
        signed = self.btf.is_signed(record)
        integer = _ENUM_INTS.get(record.size_or_type)
        if integer is None:
            raise BrokenDump(f"the kernel's type information (BTF) has an enum of {record.size_or_type} bytes")
        return self._prog.enum_type(
            name or None,
            self._prog.int_type(integer if signed else f"unsigned {integer}", record.size_or_type, signed),
            [TypeEnumerator(self.btf.name(at), value) for at, value in self.btf.enumerators(record)],
        )

    def _function(self, record: Record) -> Type:
        parameters = list(self.btf.elements(record, _PARAM))
        if variadic := bool(parameters) and parameters[-1] == (0, 0):
            parameters.pop()
        return self._prog.function_type(
            self.type(record.size_or_type),
            [TypeParameter(self._later(number), self.btf.name(at) or None) for at, number in parameters],
            variadic,
        )
