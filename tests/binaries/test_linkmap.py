# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of libraries out of a process's own memory: made-up lists, whole, in parts and hostile."""

import struct
from typing import Any

import pytest

from kgcore.binaries.linkmap import LinkName, link_names
from kgcore.model.memory import Provenance
from kgcore.model.process import Vma
from tests.builders import FakeMemory, make_image

PAGE = 4096
BIAS = 0x555500000000
HEADERS, INTERPRETER, DYNAMIC, DEBUG, MAPS, NAMES = (BIAS + n * PAGE for n in (0, 1, 2, 3, 4, 5))
EXECFN = 0x7FFD00000FF0
AUXV = {3: HEADERS + 64, 4: 56, 5: 3, 7: 0x7F0000000000, 9: BIAS + 0x100, 31: EXECFN}
NAME = b"/lib/libc.so.6"


def page(*parts: tuple[int, bytes]) -> bytes:
    data = bytearray(PAGE)
    for at, part in parts:
        data[at : at + len(part)] = part
    return bytes(data)


def header(kind: int, address: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, 0, address - BIAS, 0, size, size, 8)


def content(**pages: bytes) -> dict[int, bytes]:
    """The memory of a process with one library; ``pages`` replace some."""
    whole = {
        "headers": page((64, header(6, HEADERS + 64, 0) + header(3, INTERPRETER, 28) + header(2, DYNAMIC, 64))),
        "interpreter": page((0, b"/lib64/ld-linux-x86-64.so.2\0")),
        "dynamic": page((0, struct.pack("<8Q", 5, 1, 21, DEBUG, 6, 2, 0, 0))),
        "debug": page((0, struct.pack("<IIQ", 1, 0, MAPS))),
        "maps": page((0, link(NAMES, 0x7F1100000000, MAPS + 40) + link(NAMES + 100, 0x7F2200000000, 0))),
        "names": page((100, NAME + b"\0")),
    } | pages
    return {BIAS + number * PAGE: data for number, data in enumerate(whole.values())}


def link(name: int, where: int, following: int) -> bytes:
    return struct.pack("<5Q", 0, name, where, following, 0)


def names(
    memory: dict[int, bytes], auxv: dict[int, int] = AUXV, lost: tuple[int, ...] = (), **values: Any
) -> list[LinkName]:
    stack = Vma(0x7FFD00000000, 0x7FFD00002000, 3, anon=True)
    program = Vma(BIAS, BIAS + 6 * PAGE, 3, anon=True)
    memory = {**memory, stack.start: page((0xFF0, b"/usr/bin/program")), stack.start + PAGE: page((0, b"s\0"))}
    process = make_image(vmas=(program, stack), auxv=(*auxv.items(), (0, 0)), **values)
    gone = {(at, at + PAGE): (Provenance.EXCLUDED, "") for at in lost}
    return list(link_names(process, FakeMemory(gone, memory)))


PROGRAM = LinkName(b"/usr/bin/programs", BIAS + 0x100)  # the name goes over a page's end
LINKER = LinkName(b"/lib64/ld-linux-x86-64.so.2", 0x7F0000000000)
LIBRARY = LinkName(NAME, 0x7F2200000000)


def test_all_of_them() -> None:
    assert names(content()) == [PROGRAM, LINKER, LIBRARY]


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        (HEADERS, []),
        (INTERPRETER, [LIBRARY]),
        (DYNAMIC, [LINKER]),
        (DEBUG, [LINKER]),
        (MAPS, [LINKER]),
        (NAMES, [LINKER]),
    ],
)
def test_what_is_missing_costs_no_more_than_it_must(lost: int, left: list[LinkName]) -> None:
    assert names(content(), lost=(lost,)) == [PROGRAM, *left]
    assert names(content(), lost=(0x7FFD00001000,)) == [LINKER, LIBRARY]


def test_a_static_program_has_none() -> None:
    assert len(names(content(headers=bytes(PAGE)))) == 1


@pytest.mark.parametrize(
    "pages",
    [
        {"maps": page((0, link(NAMES + 100, 1, MAPS)))},  # a circle
        {"maps": page((0, link(NAMES + 100, 1, MAPS + 40) + link(NAMES + 100, 1, MAPS)))},
        {"maps": page((0, link(0xFFFFFFFFFFFFFFFF, 1, 0xFFFFFFFFFFFFFFF8)))},
        {"names": b"x" * PAGE},  # a name without end
        {"debug": b"\xff" * PAGE},
        {"dynamic": b"\xff" * PAGE},
        {"headers": b"\xff" * PAGE},
        {"headers": page((64, header(6, HEADERS + 64, 0) + header(2, DYNAMIC, 1 << 62)))},
    ],
)
def test_damage_ends(pages: dict[str, bytes]) -> None:
    assert len(names(content(**pages))) <= 4


@pytest.mark.parametrize("auxv", [{}, {3: 0}, {4: 32}, {5: 1 << 60}, {3: (1 << 64) - 1}, {31: 5}])
def test_odd_auxiliary_vectors(auxv: dict[int, int]) -> None:
    assert len(names(content(), {**AUXV, **auxv} if auxv else {})) <= 3
