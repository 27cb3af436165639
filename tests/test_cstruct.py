# SPDX-License-Identifier: LGPL-2.1-or-later
import ctypes
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.cstruct import COMPAT, I386, LP64, S8, S32, U8, U16, U32, U64, CStruct, CType, ULong, chars

# C types: our annotation, ctypes, C
TYPES: list[tuple[Any, Any, str]] = [
    (U8, ctypes.c_uint8, "unsigned char {}"),
    (S8, ctypes.c_int8, "signed char {}"),
    (U16, ctypes.c_uint16, "unsigned short {}"),
    (U32, ctypes.c_uint32, "unsigned {}"),
    (S32, ctypes.c_int32, "int {}"),
    (U64, ctypes.c_uint64, "unsigned long long {}"),
    (ULong, ctypes.c_ulong, "unsigned long {}"),
    (Annotated[bytes, chars(5)], ctypes.c_char * 5, "char {}[5]"),
]


def declared(kinds: list[int]) -> Any:
    return NamedTuple("Made", [(f"f{at}", TYPES[kind][0]) for at, kind in enumerate(kinds)])


@settings(deadline=None)
@given(st.lists(st.integers(0, len(TYPES) - 1), min_size=1, max_size=12), st.binary(min_size=200, max_size=200))
def test_laid_out_as_ctypes_does(kinds: list[int], data: bytes) -> None:
    class Truth(ctypes.LittleEndianStructure):
        _fields_ = [(f"f{at}", TYPES[kind][1]) for at, kind in enumerate(kinds)]

    ours = CStruct(declared(kinds), LP64)
    assert ours.size == ctypes.sizeof(Truth)
    values = ours.unpack(data, 7)
    for at, kind in enumerate(kinds):
        place = 7 + getattr(Truth, f"f{at}").offset
        raw = data[place : place + ctypes.sizeof(TYPES[kind][1])]
        assert values[at] == (raw if kind == 7 else TYPES[kind][1].from_buffer_copy(raw).value)
    packed = ours.pack(values)
    assert ours.unpack(packed) == values
    assert list(ours.unpack_all(packed * 3)) == [values] * 3


@pytest.mark.parametrize(("abi", "flag"), [(LP64, "-m64"), (I386, "-m32")])
def test_sizes_are_those_of_the_c_compiler(tmp_path: Path, abi: dict[str, CType], flag: str) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    rows = [[0, kind, 0] for kind in range(len(TYPES))] + [[6, 4, 6, 0, 5, 2], [7, 5, 7], [1, 3, 1]]
    source = ""
    for number, kinds in enumerate(rows):
        members = "; ".join(TYPES[kind][2].format(f"f{at}") for at, kind in enumerate(kinds))
        size = CStruct(declared(kinds), abi).size
        source += (
            f'struct s{number} {{ {members}; }};\n_Static_assert(sizeof(struct s{number}) == {size}, "{kinds}");\n'
        )
    (tmp_path / "s.c").write_text(source)
    done = subprocess.run(["gcc", flag, "-fsyntax-only", tmp_path / "s.c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_type_of_the_users() -> None:
    class Made(NamedTuple):
        first: ULong
        regs: Annotated[bytes, "regs"]
        last: U8

    layout = CStruct(Made, {**COMPAT, "regs": CType("24s", 8)})
    assert layout.size == 40
    data = layout.pack(Made(first=1, regs=b"r" * 24, last=2))
    assert data == b"\1" + bytes(7) + b"r" * 24 + b"\2" + bytes(7)
    assert layout.unpack(data).last == 2


def test_what_does_not_fit() -> None:
    class Made(NamedTuple):
        value: U16

    with pytest.raises(struct.error):
        CStruct(Made).pack(Made(1 << 16))
    with pytest.raises(struct.error):
        CStruct(Made).unpack(b"\0")
