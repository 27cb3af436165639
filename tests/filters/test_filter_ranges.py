# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges of what another filter keeps: nothing more than that, and every byte of a mapping is decided on."""

from kgcore.filters.base import Keep
from kgcore.filters.coredump import CoredumpFilter
from kgcore.filters.ranges import KeptRange, only_ranges
from kgcore.model.process import VM_EXEC, VM_READ, Vma
from tests.builders import PAGE, make_file, make_image, make_vma

TEXT, HEAP, BIG = 0x400000, 0x600000, 0x800000
VMAS = (
    make_vma(TEXT, 8, VM_READ | VM_EXEC, file=make_file()),
    make_vma(HEAP, 8, anon=True),
    make_vma(BIG, 4),  # untouched: the filter drops it
)
RANGES = [
    KeptRange(TEXT, TEXT + 3 * PAGE, "header"),
    KeptRange(HEAP + PAGE, HEAP + 2 * PAGE, "stack"),
    KeptRange(HEAP + 2 * PAGE, HEAP + 3 * PAGE, "tls"),
    KeptRange(HEAP + 5 * PAGE, HEAP + 8 * PAGE, "registers"),
    KeptRange(BIG, BIG + PAGE, "registers"),
]


def within(start: int, end: int) -> list[KeptRange]:
    cut = [KeptRange(max(low, start), min(high, end), why) for low, high, why in RANGES]
    return [part for part in cut if part.start < part.end]


def nothing(vma: Vma, address: int, size: int) -> None:
    return None


def test_each_part_begins_with_what_is_kept_of_it() -> None:
    keep = CoredumpFilter(page_size=PAGE)
    image, chosen = only_ranges(make_image(vmas=VMAS), keep, nothing, within, "mini")
    decided = [((vma.start, vma.end), chosen(vma, nothing)) for vma in image.vmas]
    assert decided == [
        ((TEXT, TEXT + 8 * PAGE), Keep(PAGE, "header")),  # the filter keeps but a page
        ((HEAP, HEAP + PAGE), Keep(0, "not-in-mini")),
        ((HEAP + PAGE, HEAP + 2 * PAGE), Keep(PAGE, "stack")),
        ((HEAP + 2 * PAGE, HEAP + 5 * PAGE), Keep(PAGE, "tls")),
        ((HEAP + 5 * PAGE, HEAP + 8 * PAGE), Keep(3 * PAGE, "registers")),
        ((BIG, BIG + 4 * PAGE), Keep(0, "untouched")),
    ]
    assert [vma.continued for vma in image.vmas] == [False, False, True, True, True, False]
    assert chosen.describe() == {**keep.describe(), "profile": "mini"}


def test_offsets_in_files_go_on() -> None:
    vmas = (make_vma(TEXT, 8, file=make_file(), pgoff=3, anon=True),)
    image, _ = only_ranges(
        make_image(vmas=vmas),
        CoredumpFilter(page_size=PAGE),
        nothing,
        lambda start, end: [KeptRange(TEXT + 2 * PAGE, TEXT + 3 * PAGE, "stack")],
        "mini",
    )
    assert [vma.pgoff for vma in image.vmas] == [3, 5]
