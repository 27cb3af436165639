# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types out of made-up BTF; real BTF is compared with DWARF in test_target.py."""

import struct

import pytest
from drgn import Architecture, Platform, Program

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder
from tests.sources.vmcore.symbols.test_btf import Writer, enum


def program(writer: Writer) -> Program:
    prog = Program(Platform(Architecture.X86_64))
    prog.register_type_finder("btf", TypeFinder(prog, Btf(writer.data())), enable_index=0)
    return prog


def integer(writer: Writer, name: str = "int", size: int = 4, encoding: int = 1) -> int:
    return writer.add(BtfKind.INT, name, size, rest=struct.pack("<I", encoding << 24 | size * 8))


def members(writer: Writer, *rows: tuple[str, int, int]) -> bytes:
    return b"".join(struct.pack("<III", writer.text(name), number, offset) for name, number, offset in rows)


def test_structure() -> None:
    writer = Writer()
    word = integer(writer)
    array = writer.add(BtfKind.ARRAY, rest=struct.pack("<III", word, word, 3))
    flexible = writer.add(BtfKind.ARRAY, rest=struct.pack("<III", word, word, 0))
    inner = writer.add(BtfKind.UNION, size=4, vlen=1, rest=members(writer, ("x", word, 0)))
    pointer = writer.add(BtfKind.PTR, size=word + 5)  # to the structure that follows
    rows = members(
        writer,
        ("a", word, 0),
        ("bits", word, 5 << 24 | 35),
        ("", inner, 64),
        ("n", array, 96),
        ("p", pointer, 192),
        ("f", flexible, 256),
    )
    outer = writer.add(BtfKind.STRUCT, "s", 32, vlen=6, flag=True, rest=rows)
    assert outer == word + 5
    kind = program(writer).type("struct s")
    assert kind.size == 32
    assert kind.member("bits").bit_field_size == 5
    assert kind.member("bits").bit_offset == 35
    assert kind.member("x").offset == 8
    assert kind.member("n").type.length == 3
    assert kind.member("p").type.type.member("x").offset == 8
    assert kind.member("f").type.length is None


def test_other_kinds() -> None:
    writer = Writer()
    word = integer(writer, "unsigned int", encoding=0)
    integer(writer, "_Bool", 1, 4)
    constant = writer.add(BtfKind.CONST, size=writer.add(BtfKind.VOLATILE, size=word))
    writer.add(BtfKind.TYPEDEF, "t", writer.add(BtfKind.TYPE_TAG, "tag", constant))
    enum(writer, "e", {"A": 1, "B": -1}, flag=True)
    writer.add(BtfKind.FLOAT, "double", 8)
    writer.add(BtfKind.ENUM, "later", 4)
    parameters = struct.pack("<IIII", writer.text("a"), word, 0, 0)
    proto = writer.add(BtfKind.FUNC_PROTO, size=0, vlen=2, rest=parameters)
    writer.add(BtfKind.TYPEDEF, "fn", writer.add(BtfKind.PTR, size=proto))
    prog = program(writer)
    assert prog.type("t").type.type_name() == "const volatile unsigned int"
    assert [tuple(value) for value in prog.type("enum e").enumerators or ()] == [("A", 1), ("B", -1)]
    assert prog.type("_Bool").size == 1
    assert prog.type("double").size == 8
    assert not prog.type("enum later").is_complete()
    assert prog.type("fn").type.type.is_variadic
    with pytest.raises(LookupError):
        prog.type("struct t")


@pytest.mark.parametrize("kind", [BtfKind.PTR, BtfKind.CONST, BtfKind.TYPE_TAG])
def test_types_that_refer_to_themselves(kind: int) -> None:
    writer = Writer()
    writer.add(BtfKind.TYPEDEF, "t", 2)
    writer.add(kind, size=2)
    with pytest.raises(BrokenDump, match="is circular"):
        program(writer).type("t")


@pytest.mark.parametrize("by_way_of", ["itself", "typedef", "array", "a member"])
def test_structures_that_contain_themselves(by_way_of: str) -> None:
    """drgn would look for a member in them without end."""
    writer = Writer()
    inner = {"itself": 1, "typedef": 2, "array": 2, "a member": 2}[by_way_of]
    rest = struct.pack("<III", 0, inner, 0)
    writer.add(BtfKind.STRUCT, "endless", 16, vlen=1, rest=rest)
    if by_way_of == "typedef":
        writer.add(BtfKind.TYPEDEF, "again", 1)
    elif by_way_of == "array":
        writer.add(BtfKind.ARRAY, rest=struct.pack("<III", 1, 1, 1))
    else:
        writer.add(BtfKind.UNION, "", 16, vlen=1, rest=struct.pack("<III", writer.text("x"), 1, 0))
    with pytest.raises(BrokenDump, match="contains itself"):
        program(writer).type("struct endless")


def test_references_to_nothing() -> None:
    writer = Writer()
    writer.add(BtfKind.TYPEDEF, "t", 99)
    writer.add(BtfKind.TYPEDEF, "d", 3)
    writer.add(BtfKind.DATASEC, "section")
    rows = members(writer, ("x", 77, 0))
    writer.add(BtfKind.STRUCT, "s", 4, vlen=1, rest=rows)
    prog = program(writer)
    with pytest.raises(BrokenDump, match="type 99"):
        prog.type("t")
    with pytest.raises(BrokenDump, match="as a type"):
        prog.type("d")
    kind = prog.type("struct s")  # making it does not look at what it is made of
    with pytest.raises(BrokenDump, match="type 77"):
        _ = kind.member("x").type


def test_absurd_sizes() -> None:
    writer = Writer()
    integer(writer, "int", 0)
    word = integer(writer, "long", 8)
    writer.add(BtfKind.ENUM, "e", 3, vlen=1, rest=struct.pack("<Ii", writer.text("A"), 1))
    writer.add(BtfKind.STRUCT, "s", 8, vlen=1, flag=True, rest=members(writer, ("x", word, 65 << 24)))
    prog = program(writer)
    with pytest.raises(BrokenDump, match="integer of 0 bytes"):
        prog.type("int")
    with pytest.raises(BrokenDump, match="enum of 3 bytes"):
        prog.type("enum e")
    with pytest.raises(BrokenDump, match="bit field"):
        _ = prog.type("struct s").member("x").type
