# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who reads page frames: the file's own tables, as long as drgn finds the same in it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile.source import ShortFile
from kgcore.sources.vmcore.memory.framereader import FrameReader

PAGE = 4096


def page(address: int) -> bytes:
    return address.to_bytes(8, "little") * (PAGE // 8)


class Dump:
    """:ivar wrong: pages that it reads otherwise than drgn, or not at all."""

    compression = "none"

    def __init__(self) -> None:
        self.wrong: dict[int, bytes | Exception] = {}
        self.asked: list[int] = []

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        self.asked += pages
        for number, address in enumerate(pages):
            data = self.wrong.get(address, page(address))
            if isinstance(data, Exception):
                raise data
            view[number * PAGE : (number + 1) * PAGE] = data


class Drgn:
    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.asked: list[tuple[int, int]] = []

    def __call__(self, address: int, size: int) -> bytes:
        self.asked.append((address, size))
        if address in self.lost:
            raise FaultError("lost", address)
        return b"".join(page(at) for at in range(address, address + size, PAGE))


@pytest.fixture
def dump() -> Dump:
    return Dump()


@pytest.fixture
def drgn() -> Drgn:
    return Drgn()


@pytest.fixture
def read(dump: Any, drgn: Drgn) -> Callable[..., bytes]:
    reader = FrameReader(dump, drgn, PAGE, check=True)

    def filled(*pages: int) -> bytes:
        data = bytearray(len(pages) * PAGE)
        reader.fill(pages, memoryview(data))
        return bytes(data)

    return filled


def test_drgn_is_asked_at_the_start_only(dump: Dump, drgn: Drgn, read: Callable[..., bytes]) -> None:
    for number in range(200):
        assert read(number * PAGE, 5 * PAGE) == page(number * PAGE) + page(5 * PAGE)
    assert len(dump.asked) == 400
    assert len(drgn.asked) == 64


@pytest.mark.parametrize(
    "wrong", [b"\xff" * PAGE, BrokenDump("cannot be unpacked"), ShortFile("the end"), OSError(5, "Input/output error")]
)
def test_one_that_reads_otherwise_is_not_asked_again(
    dump: Dump, drgn: Drgn, read: Callable[..., bytes], wrong: bytes | Exception
) -> None:
    assert read(PAGE) == page(PAGE)
    dump.wrong[3 * PAGE] = wrong
    assert read(7 * PAGE, 2 * PAGE, 3 * PAGE) == page(7 * PAGE) + page(2 * PAGE) + page(3 * PAGE)
    assert drgn.asked[-2:] == [(7 * PAGE, PAGE), (2 * PAGE, 2 * PAGE)]
    dump.asked.clear()
    assert read(9 * PAGE) == page(9 * PAGE)
    assert not dump.asked


def test_what_nobody_can_read_proves_nothing(dump: Dump, drgn: Drgn, read: Callable[..., bytes]) -> None:
    """A damaged page does not make the whole file slow."""
    dump.wrong[PAGE] = BrokenDump("damaged")
    drgn.lost.add(PAGE)
    with pytest.raises(FaultError):
        read(PAGE)
    dump.asked.clear()
    assert read(2 * PAGE) == page(2 * PAGE)
    assert dump.asked == [2 * PAGE]


def test_later_errors_are_the_pages_own(dump: Dump, drgn: Drgn, read: Callable[..., bytes]) -> None:
    for number in range(64):
        read(number * PAGE)
    drgn.asked.clear()
    dump.wrong[PAGE] = OSError(5, "Input/output error")
    with pytest.raises(FaultError, match="Input/output error"):
        read(PAGE)
    assert read(2 * PAGE) == page(2 * PAGE)
    assert not drgn.asked


def test_drgn_is_not_asked_where_it_would_ask_us(dump: Any, drgn: Drgn) -> None:
    reader = FrameReader(dump, drgn, PAGE, check=False)
    data = memoryview(bytearray(PAGE))
    dump.wrong[PAGE] = OSError(5, "Input/output error")
    with pytest.raises(FaultError, match="cannot read the dump file there: Input/output error"):
        reader.fill((PAGE,), data)
    reader.fill((2 * PAGE,), data)
    assert data == page(2 * PAGE)
    assert not drgn.asked


def test_a_guest_is_read_by_drgn_alone(drgn: Drgn) -> None:
    data = memoryview(bytearray(2 * PAGE))
    FrameReader(None, drgn, PAGE, check=True).fill((PAGE, 2 * PAGE), data)
    assert data == page(PAGE) + page(2 * PAGE)
