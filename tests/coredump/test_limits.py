# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores that a limit cuts short, by one process or several, compressed or not."""

import gzip
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.coredump.limits import Limits
from kgcore.coredump.plan import CorePlan, make_plan
from kgcore.coredump.report import Report
from kgcore.coredump.writer import write_core
from kgcore.errors import LimitReached
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.sinks.base import Sink
from kgcore.sinks.compressed import CompressedSink
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import MemorySink
from tests.builders import PAGE, FakeMemory, make_image, make_regs, make_thread, make_vma, pattern

BASE, STACK = 0x10000000, 0x7FFD00000000  # no register of the builders' points to them
ALL = CoredumpFilter(0x1FF, page_size=PAGE)


def plan_of(memory: FakeMemory, pages: int, **options: Any) -> CorePlan:
    """A process with a large mapping, a stack, and a small mapping behind it."""
    vmas = (make_vma(BASE, pages, anon=True), make_vma(STACK, 8, anon=True), make_vma(STACK + (1 << 20), 1, anon=True))
    image = make_image(vmas=vmas, threads=(make_thread(regs=make_regs(sp=STACK + PAGE)),))
    return make_plan(image, ALL, memory, order="importance", **options)


def written(plan: CorePlan, memory: FakeMemory, sink: Sink, limits: Limits, jobs: int = 1) -> Report:
    report = write_core(plan, memory, sink, jobs=jobs, limits=limits)
    sink.commit()
    account = report.account
    assert account.total == sum(vma.end - vma.start for vma in plan.image.vmas)
    assert sum(account.missing.values()) == report.missing_bytes
    return report


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("pages", [100, 5000])
def test_the_stack_comes_first_and_the_file_is_as_long_as_may_be(tmp_path: Any, pages: int, jobs: int) -> None:
    memory = FakeMemory()
    plan = plan_of(memory, pages)
    limit = len(plan.head) + 50 * PAGE + 17
    with FileSink(tmp_path / "core") as sink:
        report = written(plan, memory, sink, Limits(limit), jobs)
    core = (tmp_path / "core").read_bytes()
    assert len(core) == report.size
    assert limit - 4 * PAGE <= report.size <= limit
    assert (tmp_path / "core").stat().st_blocks * 512 <= limit
    (large,) = [segment for segment in plan.segments if segment.address == BASE]
    for segment in plan.segments:
        held = pattern(segment.address, min(segment.filesz, report.size - segment.offset))
        assert core[segment.offset :][: len(held)] == held
    (gap,) = report.missing
    there = report.size - large.offset
    assert (gap.start, gap.end, gap.reason) == (BASE + there, BASE + pages * PAGE, "limit")
    assert report.limit.startswith("reached the size limit of")
    assert large.offset == len(plan.head) + 9 * PAGE
    assert sum("limit" in line for line in report.lines()) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([Provenance.PRESENT, Provenance.ZERO, Provenance.SWAPPED]), min_size=1, max_size=40),
    st.sampled_from(["omit", "zero"]),
    st.integers(0, 60),
    st.sampled_from(["plain", "gzip"]),
    st.booleans(),
)
def test_no_limit_is_exceeded_and_every_byte_accounted_for(
    pages: Any, policy: Any, room: int, kind: str, noisy: bool
) -> None:
    ranges = {(BASE + i * PAGE, BASE + (i + 1) * PAGE): (place, "") for i, place in enumerate(pages)}
    noise = random.Random(len(pages)).randbytes(len(pages) * PAGE)
    memory = FakeMemory(ranges, content={BASE: noise} if noisy else {})
    plan = plan_of(memory, len(pages), missing=policy)
    inner = MemorySink()
    sink: Sink = inner if kind == "plain" else CompressedSink(inner, "gzip")
    limits = Limits(len(plan.head) + 8192 + room * 1000)
    report = written(plan, memory, sink, limits)
    assert len(inner.data) <= len(plan.head) + 8192 + room * 1000
    assert not limits.reached()
    core = gzip.decompress(inner.data) if kind == "gzip" else bytes(inner.data)
    assert len(core) == report.size
    assert (report.size == plan.size) == (not report.limit)
    assert report.limit or "limit" not in report.account.missing
    # With zeros for what is missing anyway, it may be just those that the file ends before.
    assert not report.limit or policy == "zero" or "limit" in report.account.missing
    whole = MemorySink()
    write_core(plan, memory, whole)
    assert core == whole.data[: report.size]


def test_all_cores_together() -> None:
    memory = FakeMemory()
    plan = plan_of(memory, 10)
    limits = Limits(2 * plan.size + 100)
    for _ in range(2):
        assert not written(plan, memory, MemorySink(), limits).limit
    with pytest.raises(LimitReached, match="size limit"):
        write_core(plan, memory, MemorySink(), limits=limits)


@pytest.mark.parametrize("jobs", [1, 2])
def test_time(jobs: int) -> None:
    """It runs out while the core is written: that ends between two parts."""
    now = iter(range(1000))
    memory = FakeMemory(piece=1 << 20)
    plan = plan_of(memory, 3 << 12)
    sink = MemorySink()
    report = written(plan, memory, sink, Limits(seconds=2.5, clock=lambda: next(now)), jobs)
    assert report.limit == "reached the time limit of 2.5 s"
    assert 0 < report.data < plan.data
    assert len(sink.data) == report.size < plan.size
    with pytest.raises(LimitReached, match="time limit"):
        write_core(plan, memory, MemorySink(), limits=Limits(seconds=1, clock=lambda: next(now)), jobs=jobs)


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_any_number_of_workers_writes_the_same(tmp_path: Any, kind: str, jobs: int) -> None:
    lost = {(BASE + 7 * PAGE, BASE + 9 * PAGE): (Provenance.SWAPPED, ""), (BASE, BASE + PAGE): (Provenance.ZERO, "")}
    memory = FakeMemory(lost, fails=[(BASE + 20 * PAGE, BASE + 22 * PAGE)], piece=1 << 20)
    plan = make_plan(make_image(vmas=(make_vma(BASE, 6000, anon=True),)), ALL, memory)
    alone = MemorySink()
    first = write_core(plan, memory, alone)
    stream = MemorySink()
    with FileSink(tmp_path / "core") as file:
        for inner in (stream, file):
            sink: Sink = CompressedSink(inner, "gzip") if kind == "gzip" else inner
            report = write_core(plan, memory, sink, jobs=jobs)
            sink.commit()
            assert (report.account, report.missing, report.stored) == (first.account, first.missing, first.stored)
    for core in (bytes(stream.data), (tmp_path / "core").read_bytes()):
        assert (gzip.decompress(core) if kind == "gzip" else core) == alone.data
