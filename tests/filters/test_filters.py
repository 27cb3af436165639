# SPDX-License-Identifier: LGPL-2.1-or-later
from typing import Any

import pytest

from kgcore.filters.base import Keep
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.process import VM_DONTDUMP, VM_HUGETLB, VM_IO, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, Vma
from tests.builders import PAGE, make_file, make_vma

START = 0x10000


def nothing(vma: Vma, address: int, size: int) -> bytes | None:
    raise AssertionError("this rule must not look at the memory")


def decide(mask: int, flags: int = VM_READ | VM_WRITE, *, dontdump: bool = False, **values: Any) -> Keep:
    return CoredumpFilter(mask, dontdump, page_size=PAGE)(make_vma(START, 3, flags, **values), nothing)


DELETED = make_file(b"/dev/zero (deleted)", nlink=0)
DAX = make_file(dax=True)
DATA = make_file(b"/etc/locale", mode=0o100644)


@pytest.mark.parametrize(
    ("bit", "flags", "values", "reason"),
    [
        (0, VM_READ, {"anon": True}, "anon-private"),
        (0, VM_READ, {"anon": True, "file": make_file(), "pgoff": 1}, "anon-private"),
        (1, VM_SHARED, {"file": DELETED}, "anon-shared"),
        (1, VM_SHARED, {"file": DELETED, "anon": True}, "anon-shared"),
        (2, VM_READ, {"file": make_file(), "pgoff": 1}, "mapped-private"),
        (3, VM_SHARED, {"file": make_file()}, "mapped-shared"),
        (5, VM_HUGETLB, {"file": DELETED, "anon": True}, "hugetlb-private"),
        (6, VM_HUGETLB | VM_SHARED, {"file": DELETED}, "hugetlb-shared"),
        (6, VM_HUGETLB | VM_SHARED | VM_IO, {"file": DELETED}, "hugetlb-shared"),
        (7, VM_READ, {"file": DAX, "anon": True}, "dax-private"),
        (8, VM_SHARED, {"file": DAX}, "dax-shared"),
        (8, VM_SHARED | VM_HUGETLB, {"file": DAX}, "dax-shared"),
    ],
)
def test_each_bit_decides_its_kind_alone(bit: int, flags: int, values: dict[str, Any], reason: str) -> None:
    assert decide(1 << bit, flags, **values) == Keep(3 * PAGE, reason)
    others = 0x1FF & ~(1 << bit)
    if reason == "anon-private" and "file" in values:
        # a private file mapping that was written to is also a private file mapping
        assert decide(others, flags, **values) == Keep(3 * PAGE, "mapped-private")
        others &= ~(1 << 2)
        reason = "mapped-private"
    if reason == "mapped-private":
        others &= ~(1 << 2)
    assert decide(others, flags, **values) == Keep(0, reason)


@pytest.mark.parametrize("flags", [VM_IO | VM_DONTDUMP | VM_PFNMAP, VM_READ])
def test_named_mappings_are_always_whole(flags: int) -> None:
    assert decide(0, flags, name="[vvar]") == Keep(3 * PAGE, "special")


def test_dontdump_comes_before_all_else_unless_overridden() -> None:
    for values in ({"anon": True}, {"file": DAX}, {"file": make_file()}):
        assert decide(0x1FF, VM_READ | VM_DONTDUMP, **values) == Keep(0, "dontdump")
    assert decide(1, VM_READ | VM_DONTDUMP, anon=True, dontdump=True) == Keep(3 * PAGE, "anon-private")
    assert decide(1, VM_IO | VM_DONTDUMP, anon=True, dontdump=True) == Keep(0, "io")


def test_io_and_untouched_memory_is_left_out() -> None:
    assert decide(0x1FF, VM_IO, anon=True) == Keep(0, "io")
    assert decide(0x1FF) == Keep(0, "untouched")
    assert decide(0, anon=True) == Keep(0, "anon-private")


def test_shared_without_a_file_is_anonymous() -> None:
    assert decide(2, VM_SHARED) == Keep(3 * PAGE, "anon-shared")


@pytest.mark.parametrize(
    ("content", "keep"),
    [
        (b"\x7fELF", Keep(PAGE, "elf-header")),
        (b"LPKS", Keep(0, "mapped-private")),
        (None, Keep(PAGE, "maybe-elf-header")),
    ],
)
def test_elf_header_by_magic(content: bytes | None, keep: Keep) -> None:
    asked = []

    def peek(vma: Vma, address: int, size: int) -> bytes | None:
        asked.append((address, size))
        return content

    assert CoredumpFilter(0x33, page_size=PAGE)(make_vma(START, 3, VM_READ, file=DATA), peek) == keep
    assert asked == [(START, 4)]


def test_elf_header_of_an_executable_needs_no_look() -> None:
    assert decide(0x10, VM_READ, file=make_file()) == Keep(PAGE, "elf-header")
    assert decide(0x10, VM_READ, file=make_file(mode=0o100001)) == Keep(PAGE, "elf-header")


@pytest.mark.parametrize(
    ("by_mode", "by_magic", "kept"),
    [
        (False, True, [False, True, True, False]),  # up to 5.9
        (True, False, [True, False, True, False]),  # 5.10 to 5.17
        (True, True, [True, True, True, False]),
    ],
)
def test_elf_header_by_the_rule_of_the_kernel(by_mode: bool, by_magic: bool, kept: list[bool]) -> None:
    """vma_dump_size(), fs/binfmt_elf.c and then fs/coredump.c."""
    decision = CoredumpFilter(0x10, page_size=PAGE, header_by_mode=by_mode, header_by_magic=by_magic)
    script, library, program, data = make_file(), DATA, make_file(), DATA
    files = zip((script, library, program, data), (b"#!/b", b"\x7fELF", b"\x7fELF", b"abcd"), strict=True)
    found = []
    for file, content in files:
        keep = decision(make_vma(START, 3, VM_READ, file=file), lambda *_: content)  # noqa: B023
        found.append(keep.length == PAGE)
    assert found == kept


def test_elf_header_only_readable_and_at_the_start() -> None:
    assert decide(0x10, VM_READ, file=make_file(), pgoff=1) == Keep(0, "mapped-private")
    assert decide(0x10, 0, file=make_file()) == Keep(0, "mapped-private")
    assert decide(0, VM_READ, file=make_file()) == Keep(0, "mapped-private")


def test_settings() -> None:
    assert CoredumpFilter(21, True, page_size=PAGE).describe() == {
        "name": "coredump_filter",
        "mask": 21,
        "dontdump": True,
    }
