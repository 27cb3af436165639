# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF records, on made-up bytes."""

import struct
from dataclasses import dataclass, field

import pytest

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind


@dataclass
class Writer:
    """Puts BTF together; every ``add`` returns the id of the type.

    :ivar strings_before: bytes of strings in what this continues.
    """

    types: bytearray = field(default_factory=bytearray)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    count: int = 0
    strings_before: int = 0

    @classmethod
    def splitting(cls, base: "Writer") -> "Writer":
        """For split BTF, which continues the base as that is now."""
        return cls(strings=bytearray(), count=base.count, strings_before=len(base.strings))

    def text(self, name: str) -> int:
        if not name:
            return 0
        at = self.strings_before + len(self.strings)
        self.strings += name.encode() + b"\0"
        return at

    def add(
        self, kind: int, name: str = "", size: int = 0, *, vlen: int = 0, flag: bool = False, rest: bytes = b""
    ) -> int:
        self.types += struct.pack("<III", self.text(name), flag << 31 | kind << 24 | vlen, size) + rest
        self.count += 1
        return self.count

    def data(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


def enum(writer: Writer, name: str, values: dict[str, int], *, flag: bool = False) -> int:
    rest = b"".join(struct.pack("<Ii", writer.text(key), value) for key, value in values.items())
    return writer.add(BtfKind.ENUM, name, 4, vlen=len(values), flag=flag, rest=rest)


def test_finds_types_by_name_and_kind() -> None:
    writer = Writer()
    number = writer.add(BtfKind.INT, "int", 4, rest=struct.pack("<I", 1 << 24 | 32))
    member = struct.pack("<III", writer.text("pid"), number, 64)
    task = writer.add(BtfKind.STRUCT, "task", 16, vlen=1, rest=member)
    typedef = writer.add(BtfKind.TYPEDEF, "task", task)
    btf = Btf(writer.data())
    assert btf.find("task", BtfKind.STRUCT) == task
    assert btf.find("task", BtfKind.TYPEDEF) == typedef
    assert btf.find("task", BtfKind.UNION) is None
    assert btf.find("tas", BtfKind.STRUCT) is None
    assert len(btf) == 4
    record = btf.record(task)
    assert (btf.name(record.name_offset), record.size_or_type, record.vlen) == ("task", 16, 1)
    assert [(btf.name(name), *rest) for name, *rest in btf.elements(record, struct.Struct("<III"))] == [("pid", 1, 64)]
    assert btf.word(btf.record(number)) == 1 << 24 | 32


def test_finds_a_name_that_occurs_twice() -> None:
    writer = Writer()
    writer.add(BtfKind.TYPEDEF, "x", 0)
    union = writer.add(BtfKind.UNION, "x", 8)
    assert Btf(writer.data()).find("x", BtfKind.UNION) == union


@pytest.mark.parametrize("kind", [kind for kind in range(1, 20) if kind not in (BtfKind.DATASEC, BtfKind.FUNC_PROTO)])
def test_steps_over_every_kind(kind: int) -> None:
    fixed = {BtfKind.INT: 4, BtfKind.ARRAY: 12, BtfKind.VAR: 4, BtfKind.DECL_TAG: 4}.get(kind, 0)
    each = {BtfKind.STRUCT: 12, BtfKind.UNION: 12, BtfKind.ENUM: 8, BtfKind.ENUM64: 12}.get(kind, 0)
    writer = Writer()
    writer.add(kind, "first", vlen=2 if each else 0, rest=bytes(fixed + 2 * each))
    last = writer.add(BtfKind.PTR)
    assert Btf(writer.data()).record(last).kind == BtfKind.PTR


def test_constants() -> None:
    writer = Writer()
    number = enum(writer, "zone", {"DMA": 0, "TOP": 7})
    big = writer.add(
        BtfKind.ENUM64,
        "big",
        8,
        vlen=1,
        flag=True,
        rest=struct.pack("<III", writer.text("BIG"), 0xFFFFFFFE, 0xFFFFFFFF),
    )
    btf = Btf(writer.data())
    assert btf.find_enumerator("TOP") == (number, 7)
    assert btf.find_enumerator("BIG") == (big, -2)
    assert btf.find_enumerator("zone") is None


@pytest.mark.parametrize(
    ("new", "flag", "stored", "value"),
    [
        pytest.param(False, False, -1, -1, id="before 6.0, a small negative number is one"),
        pytest.param(False, False, -(1 << 31), 1 << 31, id="before 6.0, bit 31 alone is a mask"),
        pytest.param(True, False, -1, 0xFFFFFFFF, id="since 6.0, without the flag, unsigned"),
        pytest.param(True, True, -1, -1, id="since 6.0, with the flag, signed"),
    ],
)
def test_sign_of_enums(*, new: bool, flag: bool, stored: int, value: int) -> None:
    writer = Writer()
    enum(writer, "e", {"E": stored}, flag=flag)
    if new:
        writer.add(BtfKind.ENUM64, "marks the new format", 8)
    found = Btf(writer.data()).find_enumerator("E")
    assert found is not None
    assert found[1] == value


def test_damaged() -> None:
    writer = Writer()
    writer.add(BtfKind.STRUCT, "s", 8, vlen=1, rest=bytes(12))
    good = writer.data()
    with pytest.raises(BrokenDump, match="header"):
        Btf(b"")
    with pytest.raises(BrokenDump, match="header"):
        Btf(bytes(len(good)))
    with pytest.raises(BrokenDump, match="cut off"):
        Btf(good[:-1])
    too_many = bytearray(good)
    too_many[24 + 4] = 2  # vlen
    with pytest.raises(BrokenDump, match="within a type"):
        Btf(bytes(too_many))
    unknown = bytearray(good)
    unknown[24 + 7] = 31  # kind
    with pytest.raises(BrokenDump, match="unknown kind 31"):
        Btf(bytes(unknown))
    with pytest.raises(BrokenDump, match="type 2"):
        Btf(good).record(2)


@pytest.mark.parametrize("cut", range(0, 64, 3))
def test_every_cut_is_told(cut: int) -> None:
    writer = Writer()
    writer.add(BtfKind.STRUCT, "s", 8, vlen=1, rest=bytes(12))
    with pytest.raises(BrokenDump):
        Btf(writer.data()[:-1][:cut])


def test_more_members_than_16_bits_count() -> None:
    """As include/uapi/linux/btf.h of 7.2 has it."""
    writer = Writer()
    many = writer.add(BtfKind.ENUM, "many", 4, vlen=70_000, rest=bytes(8 * 70_000))
    writer.add(BtfKind.TYPEDEF, "t", many)
    btf = Btf(writer.data())
    assert btf.record(many).vlen == 70_000
    assert btf.find("t", BtfKind.TYPEDEF) == many + 1


class TestSplit:
    """BTF of a module, which continues the kernel's."""

    def test_types_of_both(self) -> None:
        base = Writer()
        number = base.add(BtfKind.INT, "int", 4, rest=struct.pack("<I", 1 << 24 | 32))
        shared = base.text("shared")
        module = Writer.splitting(base)
        first = module.add(
            BtfKind.TYPEDEF, "first", number
        )  # its name stands at the very start of the module's strings
        rest = struct.pack("<III", shared, first, 0)
        own = module.add(BtfKind.STRUCT, "own", 4, vlen=1, rest=rest)
        kernel = Btf(base.data())
        btf = Btf(module.data(), kernel)
        assert (btf.first, len(btf), btf.string_length) == (first, own + 1, len(base.strings) + len(module.strings))
        assert (kernel.first, len(kernel), kernel.string_length) == (1, number + 1, len(base.strings))
        assert btf.find("int", BtfKind.INT) == number
        assert btf.find("first", BtfKind.TYPEDEF) == first == number + 1
        assert btf.find("own", BtfKind.STRUCT) == own
        assert kernel.find("own", BtfKind.STRUCT) is None
        assert [
            (btf.name(name), *others) for name, *others in btf.elements(btf.record(own), struct.Struct("<III"))
        ] == [("shared", first, 0)]
        assert btf.word(btf.record(number)) == 1 << 24 | 32
        assert btf.record(first).size_or_type == number
        with pytest.raises(BrokenDump, match=f"type {own + 1}"):
            btf.record(own + 1)

    def test_own_names_go_first(self) -> None:
        base = Writer()
        theirs = base.add(BtfKind.STRUCT, "same", 4)
        enum(base, "colour", {"RED": 1, "BLUE": 2})
        module = Writer.splitting(base)
        own = module.add(BtfKind.STRUCT, "same", 8)
        enum(module, "colour", {"RED": 3})
        kernel = Btf(base.data())
        btf = Btf(module.data(), kernel)
        assert btf.find("same", BtfKind.STRUCT) == own
        assert kernel.find("same", BtfKind.STRUCT) == theirs
        found = [btf.find_enumerator(name) for name in ("RED", "BLUE", "GREEN")]
        assert found == [(own + 1, 3), (theirs + 1, 2), None]

    def test_own_type_of_a_name_that_the_kernel_has(self) -> None:
        """The name then stands in the kernel's strings alone."""
        base = Writer()
        base.add(BtfKind.TYPEDEF, "same", 0)
        module = Writer.splitting(base)
        module.types += struct.pack("<III", 1, BtfKind.UNION << 24, 4)
        assert Btf(module.data(), Btf(base.data())).find("same", BtfKind.UNION) == 2

    @pytest.mark.parametrize(("flag", "value"), [(False, 0xFFFFFFFF), (True, -1)])
    def test_sign_of_enums_is_told_as_in_the_kernel(self, *, flag: bool, value: int) -> None:
        base = Writer()
        base.add(BtfKind.ENUM64, "marks the new format", 8)
        module = Writer.splitting(base)
        number = enum(module, "e", {"E": -1}, flag=flag)
        assert Btf(module.data(), Btf(base.data())).find_enumerator("E") == (number, value)

    @pytest.mark.parametrize("cut", range(0, 50, 3))
    def test_every_cut_is_told(self, cut: int) -> None:
        base = Writer()
        base.add(BtfKind.TYPEDEF, "t", 0)
        module = Writer.splitting(base)
        module.add(BtfKind.STRUCT, "s", 8, vlen=1, rest=bytes(12))
        with pytest.raises(BrokenDump):
            Btf(module.data()[:-1][:cut], Btf(base.data()))


def test_absurd_numbers() -> None:
    writer = Writer()
    writer.add(BtfKind.STRUCT, "wide", 4, vlen=1 << 19, rest=bytes(12 << 19))
    with pytest.raises(BrokenDump, match="524288 members"):
        Btf(writer.data()).record(1)
    many = Writer(types=bytearray(struct.pack("<III", 0, BtfKind.PTR << 24, 0) * ((1 << 20) + 1)))
    with pytest.raises(BrokenDump, match="1048578 types"):
        Btf(many.data())
    with pytest.raises(BrokenDump, match="bytes of types"):
        Btf(Writer(types=bytearray((1 << 25) + 12)).data())
