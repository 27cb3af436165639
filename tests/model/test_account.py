# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every byte of a process is accounted for, once and truly, wherever its pages are."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgcore.check.core import check_core
from kgcore.coredump.mappings import MissingPolicy
from kgcore.coredump.pipeline import Options, dump
from kgcore.coredump.plan import make_plan
from kgcore.coredump.report import Report, make_report
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.account import Account, Gaps
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import VM_EXEC, VM_READ, Vma
from kgcore.sinks.files import FileSink
from kgcore.sources.base import TaskRef
from tests.builders import PAGE, FakeMemory, FakeSource, make_file, make_image, make_vma, pattern

START = 0x7F0000000000

# Placements


@dataclass(frozen=True)
class Place:
    """Where a page is.

    :ivar late: reading it fails when nobody expects that any more.
    """

    provenance: Provenance
    detail: str = ""
    late: bool = False


@dataclass
class Placed:
    """A made-up address space, page by page.

    :ivar places: of the pages of each mapping, in its order.
    :ivar chunk: at most so many pages of one kind in a run: memory need not join them as well as it could.
    """

    vmas: tuple[Vma, ...]
    places: tuple[tuple[Place, ...], ...]
    chunk: int
    page_size: int = PAGE
    parallel: bool = False
    forward: bool = False

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        pages = enumerate(self.places[self.vmas.index(vma)])
        at = vma.start
        for place, group in groupby(pages, lambda page: page[1]):
            count = len(list(group))
            for first in range(0, count, self.chunk):
                low = max(start, at + first * PAGE)
                high = min(end, at + min(first + self.chunk, count) * PAGE)
                if low < high:
                    yield Run(low, high - low, place.provenance, place.detail)
            at += count * PAGE

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        places = self.places[self.vmas.index(vma)]
        for run in self.runs(vma, start, end):
            for at in range(run.address, run.end, PAGE):
                piece = run._replace(address=at, length=PAGE)
                if places[(at - vma.start) // PAGE].late:
                    error = f"cannot read {at:#x}"
                    yield Piece(piece._replace(provenance=Provenance.UNREADABLE, detail=error), b"")
                else:
                    yield Piece(piece, pattern(at, PAGE) if run.provenance.stored else b"")


# No memory is LIMIT by itself: what limits cost is the subject of tests/coredump/test_fitting.py.
SOURCES = [each for each in Provenance if each is not Provenance.LIMIT]
PLACES = st.builds(Place, st.sampled_from(SOURCES), st.sampled_from(("", "on /dev/sda2")))
LATE = st.builds(
    Place, st.sampled_from([each for each in Provenance if each.stored]), late=st.sampled_from((False, False, True))
)
# Program text, of which the filter keeps a page; memory that it keeps whole; memory that was never written to.
KINDS: tuple[dict[str, Any], ...] = (
    {"flags": VM_READ | VM_EXEC, "file": make_file(b"/nonexistent/program")},
    {"anon": True},
    {"anon": True, "file": make_file(b"/nonexistent/library")},
    {},
)


@st.composite
def placements(draw: st.DrawFn, places: st.SearchStrategy[Place] = PLACES) -> Placed:
    vmas, pages, at = [], [], START
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(KINDS))
        # In stretches, so that there is something to join.
        stretches = draw(st.lists(st.tuples(places, st.integers(1, 5)), min_size=1, max_size=6))
        row = tuple(place for place, count in stretches for _ in range(count))
        vmas.append(make_vma(at, len(row), **kind))
        pages.append(row)
        at = vmas[-1].end + draw(st.sampled_from((0, 1, 7))) * PAGE
    return Placed(tuple(vmas), tuple(pages), draw(st.integers(1, 5)))


def written(placed: Placed, path: Path, policy: MissingPolicy = "omit") -> Report:
    plan = make_plan(
        make_image(vmas=placed.vmas, auxv=((0, 0),)),
        CoredumpFilter(page_size=PAGE),
        placed,
        missing=policy,
        source={"format": "made up"},
    )
    with FileSink(path, force=True) as sink:
        report = write_core(plan, placed, sink)
        sink.commit()
    return report


def kept(placed: Placed, report: Report) -> Iterator[tuple[int, int, Place]]:
    """(address, index of the mapping, place) of each page that the filter did not leave out."""
    for index, (vma, places) in enumerate(zip(placed.vmas, placed.places, strict=True)):
        for number in range(len(places) - report.vmas[index].filtered // PAGE):
            yield vma.start + number * PAGE, index, places[number]


def note(core: bytes) -> dict[str, object]:
    at = core.index(b"KGCORE\0\0") + 8
    return dict(json.JSONDecoder().raw_decode(core[at:].decode("latin-1"))[0])


def in_file(core: bytes) -> dict[int, bytes]:
    """Address to contents of each page in a PT_LOAD, the filtered ones with b""."""
    pages = {}
    for segment in ELFFile(io.BytesIO(core)).iter_segments("PT_LOAD"):
        data = segment.data()
        for offset in range(0, segment["p_memsz"], PAGE):
            pages[segment["p_vaddr"] + offset] = data[offset : offset + PAGE]
    return pages


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(placements(), st.sampled_from(("omit", "zero")))
def test_every_byte_is_accounted_for(tmp_path: Path, placed: Placed, policy: MissingPolicy) -> None:
    path = tmp_path / "core"
    report = written(placed, path, policy)
    expected: list[Counter[Provenance]] = [Counter() for _ in placed.vmas]
    pages = in_file(path.read_bytes())
    for address, index, place in kept(placed, report):
        expected[index][place.provenance] += PAGE
        if place.provenance.missing and policy == "omit":
            assert address not in pages
        else:
            assert pages[address] == (pattern(address, PAGE) if place.provenance.stored else bytes(PAGE))
    for vma, row, parts in zip(placed.vmas, report.vmas, expected, strict=True):
        assert row.account.total == vma.end - vma.start
        redacted = row.account.redacted
        assert row.account.total == row.data + row.zero + redacted + row.missing + row.filtered
        assert dict(row.account.parts) == dict(parts)
        assert row.data == row.account.present + sum(row.recovered.values())
        assert row.recovered == {each.value: parts[each] for each in Provenance if each.recovered and parts[each]}
    total = Account.sum(row.account for row in report.vmas)
    assert report.account == total
    assert total.total == sum(vma.end - vma.start for vma in placed.vmas)
    redacted = total.redacted
    assert report.data + report.zero + redacted + report.filtered + report.missing_bytes == total.total
    assert report.missing_bytes == sum(total.missing.values())
    assert report.complete == (not report.missing)

    content = note(path.read_bytes())
    assert content["accounts"] == [row.account.compact() for row in report.vmas]
    assert content["account"] == total.compact()
    verdict = check_core(path)
    assert verdict.problems == ()
    assert verdict.complete == report.complete
    assert verdict.facts["recovered"] == report.recovered


@settings(max_examples=150, deadline=None)
@given(placements())
def test_a_line_for_each_range_and_none_for_pages(placed: Placed) -> None:
    """Ranges are as long as they can be, within a mapping, and those with details stay apart from those without."""
    report = make_report(make_plan(make_image(vmas=placed.vmas), CoredumpFilter(page_size=PAGE), placed))
    pages = [page for page in kept(placed, report) if page[2].provenance.missing]
    spans: list[tuple[int, int, str, str]] = []
    last = None
    for address, index, place in pages:
        kind = (index, place)
        if kind == last and spans[-1][1] == address:
            spans[-1] = (spans[-1][0], address + PAGE, *spans[-1][2:])
        else:
            spans.append((address, address + PAGE, place.provenance.value, place.detail))
        last = kind
    assert [gap[:4] for gap in report.missing] == spans
    lines = report.lines(sys.maxsize)
    assert len(lines) == 2 + (1 + len(spans) if spans else 0)
    for line, (start, end, reason, _) in zip(lines[3:], spans, strict=True):
        assert line.startswith(f"  {start:012x}-{end:012x} ")
        assert reason in line


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(placements(LATE))
def test_what_fails_late_is_taken_from_where_it_should_have_come_from(tmp_path: Path, placed: Placed) -> None:
    report = written(placed, tmp_path / "core")
    expected: Counter[Provenance] = Counter()
    late = set()
    for address, _, place in kept(placed, report):
        expected[Provenance.UNREADABLE if place.late else place.provenance] += PAGE
        if place.late:
            late.add(address)
    account = report.account
    assert dict(account.parts) == dict(expected)
    assert account.total == sum(vma.end - vma.start for vma in placed.vmas)
    assert {at for gap in report.missing for at in range(gap.start, gap.end, PAGE)} == late
    assert all(gap.late and gap.detail.startswith("cannot read 0x") for gap in report.missing)
    starts = {vma.start for vma in placed.vmas}
    for one, two in pairwise(report.missing):
        assert one.end != two.start or two.start in starts


# The parts


def test_a_range_keeps_few_of_its_details() -> None:
    gaps = Gaps()
    for number in range(9):
        gaps.add(Run(START + number * PAGE, PAGE, Provenance.UNREADABLE, f"bad page {number}"))
    assert gaps.runs == [
        Run(START, 9 * PAGE, Provenance.UNREADABLE, "bad page 0; bad page 1; bad page 2; ..."),
    ]


def test_pages_of_all_sizes_are_joined() -> None:
    gaps = Gaps()
    at = START
    for size in (PAGE, 1 << 21, PAGE, PAGE, 1 << 30):
        gaps.add(Run(at, size, Provenance.EXCLUDED))
        at += size
    gaps.add(Run(at, PAGE, Provenance.FILE))
    gaps.add(Run(at + 2 * PAGE, PAGE, Provenance.FILE))
    assert [(run.address, run.end) for run in gaps.runs] == [
        (START, at),
        (at, at + PAGE),
        (at + 2 * PAGE, at + 3 * PAGE),
    ]


def test_words() -> None:
    assert Account().words() == "0 B from page tables, 0 B zeros, 0 B left out by the filter, 0 B missing"
    account = Account(
        {
            Provenance.SWAPPED: 8192,
            Provenance.ZRAM: 2 << 20,
            Provenance.PAGE_CACHE: 1 << 20,
            Provenance.PRESENT: 12 << 20,
            Provenance.ZERO: 40 << 20,
        },
        filtered=1 << 20,
    )
    assert account.words() == (
        "12.0 MiB from page tables, 3.00 MiB recovered (2.00 MiB zram, 1.00 MiB page-cache), 40.0 MiB zeros, "
        "1.00 MiB left out by the filter, 8.00 KiB missing (swapped)"
    )
    assert account.compact() == {
        "present": 12 << 20,
        "recovered": {"page-cache": 1 << 20, "zram": 2 << 20},
        "zero": 40 << 20,
        "filtered": 1 << 20,
        "missing": {"swapped": 8192},
    }


# What makedumpfile left out

USER = "makedumpfile level {} excluded user memory from this dump; level 17 keeps it"


@pytest.mark.parametrize("told", [USER.format(31), None])
@pytest.mark.parametrize("with_note", [True, False])
def test_who_left_memory_out_is_told_once(told: str | None, with_note: bool, tmp_path: Path) -> None:
    """The source knows, and is asked with the reasons for which memory is missing."""
    excluded = (Provenance.EXCLUDED, "")
    memory = FakeMemory({(0x600000, 0x602000): excluded, (0x7FFD00000000, 0x7FFD00001000): excluded})

    class Filtered(FakeSource):
        def remarks(self, missing: frozenset[Provenance]) -> Iterator[str]:
            assert missing == {Provenance.EXCLUDED}
            yield from (told,) if told else ()

    path = tmp_path / "core"
    report = dump(
        Filtered(memory=memory), TaskRef("1", pid=1), lambda _: FileSink(path), Options(vendor_note=with_note)
    )
    assert report.warnings == ((told,) if told else ())
    assert [line for line in report.lines() if line.startswith("warning: ")] == ([f"warning: {told}"] if told else [])
    assert report.to_json()["warnings"] == list(report.warnings)
    assert len(report.missing) == 2
    if with_note:
        assert note(path.read_bytes())["warnings"] == list(report.warnings)
        assert [text for text in check_core(path).lacks if "makedumpfile" in text] == ([told] if told else [])
    assert path.read_bytes().count(b"makedumpfile") == bool(told and with_note)


def test_a_dump_that_lacks_nothing_of_a_process_is_not_blamed() -> None:
    image = make_image(warnings=("something else",))
    memory = FakeMemory({(0x600000, 0x601000): (Provenance.SWAPPED, "")})
    plan = make_plan(image, CoredumpFilter(page_size=PAGE), memory, source={"dump_level": "31"})
    assert plan.warnings == ("something else",)
    # nor is it for what the filter leaves out
    memory = FakeMemory({(0x600000, 0x601000): (Provenance.EXCLUDED, "")})
    plan = make_plan(
        replace(image, vmas=image.vmas[1:2]), CoredumpFilter(0, page_size=PAGE), memory, source={"dump_level": "31"}
    )
    assert plan.warnings == ("something else",)
