# SPDX-License-Identifier: LGPL-2.1-or-later
import tracemalloc
from collections.abc import Iterator

import pytest

from kgcore.coredump.mappings import MissingPolicy
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import Vma
from kgcore.sinks.streams import MemorySink
from tests.builders import PAGE, FakeMemory, make_image, make_vma, pattern
from tests.counting import calls_of_c

ALL = CoredumpFilter(0x1FF, page_size=PAGE)
START = 0x10000


class CountingSink(MemorySink):
    """Remembers what came as bytes and what as holes, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def write(self, data: bytes | memoryview) -> None:
        self.calls.append(("write", len(data)))

    def skip(self, length: int) -> None:
        self.calls.append(("skip", length))


def test_zero_runs_and_zero_pages_are_holes() -> None:
    content = bytes(PAGE) + b"x".ljust(PAGE, b"\0") + bytes(2 * PAGE) + b"\0" * (PAGE - 1) + b"y"
    memory = FakeMemory(
        {(START + 5 * PAGE, START + 7 * PAGE): (Provenance.ZERO, "")}, content={START: content}, piece=16 * PAGE
    )
    image = make_image(vmas=(make_vma(START, 8, anon=True),))
    plan = make_plan(image, ALL, memory)
    sink = CountingSink()
    report = write_core(plan, memory, sink)
    assert sink.calls[1:] == [
        ("skip", PAGE),
        ("write", PAGE),
        ("skip", 2 * PAGE),
        ("write", PAGE),
        ("skip", 2 * PAGE),
        ("write", PAGE),
    ]
    assert report.stored == len(plan.head) + 3 * PAGE
    assert (report.data, report.zero) == (6 * PAGE, 2 * PAGE)


@pytest.mark.parametrize("policy", ["omit", "zero"])
def test_a_read_that_fails_late_moves_nothing(policy: MissingPolicy) -> None:
    planned = {(START + PAGE, START + 2 * PAGE): (Provenance.SWAPPED, "swap 0")}
    memory = FakeMemory(planned, fails=[(START + 3 * PAGE, START + 5 * PAGE)])
    image = make_image(vmas=(make_vma(START, 8, anon=True),))
    plan = make_plan(image, ALL, memory, missing=policy)
    sink = MemorySink()
    report = write_core(plan, memory, sink)
    assert len(sink.data) == plan.size
    assert [(gap.start, gap.end, gap.reason, gap.late) for gap in report.missing] == [
        (START + PAGE, START + 2 * PAGE, "swapped", False),
        (START + 3 * PAGE, START + 5 * PAGE, "unreadable", True),
    ]
    assert report.exit_status == 3
    assert report.account.parts == {
        Provenance.PRESENT: 5 * PAGE,
        Provenance.SWAPPED: PAGE,
        Provenance.UNREADABLE: 2 * PAGE,
    }
    last = plan.segments[-1]
    tail = last.offset + (START + 7 * PAGE - last.address)
    assert sink.data[tail : tail + PAGE] == pattern(START + 7 * PAGE, PAGE)
    gap = last.offset + (START + 3 * PAGE - last.address)
    assert sink.data[gap : gap + 2 * PAGE] == bytes(2 * PAGE)


def test_a_late_failure_next_to_a_planned_gap_is_cut_to_what_is_new() -> None:
    class Worse(FakeMemory):
        def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
            yield Piece(Run(start, end - start, Provenance.UNREADABLE, "all"), b"")

    memory = Worse({(START + PAGE, START + 2 * PAGE): (Provenance.SWAPPED, "")})
    plan = make_plan(make_image(vmas=(make_vma(START, 3, anon=True),)), ALL, memory, missing="zero")
    report = write_core(plan, memory, MemorySink())
    assert [(gap.start - START, gap.end - START, gap.late) for gap in report.missing] == [
        (0, PAGE, True),
        (PAGE, 2 * PAGE, False),
        (2 * PAGE, 3 * PAGE, True),
    ]
    assert report.data == 0


def test_recovered_memory_is_written_and_told_from_what_it_was_planned_to_be() -> None:
    """A late failure costs the place that should have given the page."""
    places = [Provenance.ZRAM, Provenance.PAGE_CACHE, Provenance.ZRAM, Provenance.PRESENT]
    memory = FakeMemory(
        {(START + i * PAGE, START + (i + 1) * PAGE): (place, "") for i, place in enumerate(places)},
        fails=[(START, START + PAGE)],
    )
    plan = make_plan(make_image(vmas=(make_vma(START, 4, anon=True),)), ALL, memory)
    assert plan.vmas[0].account.recovered == {"page-cache": PAGE, "zram": 2 * PAGE}
    sink = MemorySink()
    report = write_core(plan, memory, sink)
    assert report.recovered == {"page-cache": PAGE, "zram": PAGE}
    assert (report.account.present, report.account.missing) == (PAGE, {"unreadable": PAGE})
    offset = plan.segments[0].offset
    assert sink.data[offset : offset + PAGE] == bytes(PAGE)
    assert sink.data[offset + PAGE : offset + 4 * PAGE] == pattern(START + PAGE, 3 * PAGE)


def test_many_pages_that_fail_late_are_one_range() -> None:
    class Failing(FakeMemory):
        def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
            for at in range(start, end, PAGE):
                yield Piece(Run(at, PAGE, Provenance.UNREADABLE, f"I/O error at {at:#x}"), b"")

    memory = Failing()
    plan = make_plan(make_image(vmas=(make_vma(START, 1000, anon=True),)), ALL, memory)
    (gap,) = write_core(plan, memory, MemorySink()).missing
    assert (gap.start, gap.end, gap.late) == (START, START + 1000 * PAGE, True)
    assert gap.detail == "I/O error at 0x10000; I/O error at 0x11000; I/O error at 0x12000; ..."


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(Run(START, PAGE, Provenance.PRESENT), b"short")],
        [Piece(Run(START, PAGE, Provenance.ZERO), b"")],
        [Piece(Run(START + PAGE, PAGE, Provenance.ZERO), b"")],
        [Piece(Run(START, 9 * PAGE, Provenance.ZERO), b"")],
    ],
)
def test_memory_that_breaks_its_promise_is_a_defect(pieces: list[Piece]) -> None:
    class Broken(FakeMemory):
        def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
            return iter(pieces)

    plan = make_plan(make_image(vmas=(make_vma(START, 2, anon=True),)), ALL, FakeMemory())
    with pytest.raises(ValueError, match="memory piece"):
        write_core(plan, Broken(), MemorySink())


def test_constant_memory_and_fast_zero_check() -> None:
    """256 MiB in pieces of 4 MiB, half of the pages zero. C compares each page in one call, a copy of the piece being
    made once: == of memoryviews would go byte by byte, and take 50 times as long."""
    size, total = 4 << 20, 1 << 28
    content = (bytes(PAGE) + b"\0" * (PAGE - 1) + b"x") * (size // PAGE // 2)

    class Large(FakeMemory):
        def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
            for at in range(start, end, size):
                length = min(size, end - at)
                yield Piece(Run(at, length, Provenance.PRESENT), memoryview(content)[:length])

    plan = make_plan(make_image(vmas=(make_vma(START, total // PAGE, anon=True),)), ALL, Large())
    tracemalloc.start()
    sink = CountingSink()
    sink.calls = NoList()
    compared = calls_of_c(lambda: write_core(plan, Large(), sink))["startswith"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * size
    assert compared == total // PAGE


class NoList(list[tuple[str, int]]):
    def append(self, call: tuple[str, int]) -> None:
        pass
