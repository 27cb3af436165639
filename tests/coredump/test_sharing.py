# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores whose zeros have one place in the file: what they hold; what limits, reports and kgcore check make of them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kgcore.check.core import check_core
from kgcore.coredump.limits import Limits
from kgcore.coredump.plan import CorePlan, make_plan
from kgcore.coredump.report import Report
from kgcore.coredump.sharing import LARGEST, zeros_to_share
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import MemorySink
from tests.builders import PAGE, FakeMemory, make_image, make_vma, pattern
from tests.vmcore.corefile import Core

BASE = 0x100000000
MIB, TIB = 1 << 20, 1 << 40
SOURCE = {"dump": "test"}
ZERO = (Provenance.ZERO, "")


def sparse(size: int, step: int, *gaps: tuple[int, int]) -> tuple[Any, FakeMemory]:
    """A process with one large mapping, of which a page is touched here and there, and some pages are missing."""
    vmas = (
        make_vma(0x400000, 4, anon=True),
        make_vma(BASE, size // PAGE, anon=True),
        make_vma(BASE + size, 3, anon=True),
    )
    ranges = {(at + (PAGE if at else 0), min(at + step, size)): ZERO for at in range(0, size, step)}
    found: dict[tuple[int, int], tuple[Provenance, str]] = {}
    for (low, high), what in ranges.items():
        for start, end in gaps:
            if low <= start < high:
                found[BASE + low, BASE + start] = what
                found[BASE + start, BASE + end] = (Provenance.SWAPPED, "swap")
                low = end
        found[BASE + low, BASE + high] = what
    return make_image(vmas=vmas), FakeMemory(found)


def plan_of(image: Any, memory: FakeMemory, **options: Any) -> CorePlan:
    return make_plan(image, CoredumpFilter(0x7F, page_size=PAGE), memory, source=SOURCE, **options)


def written(path: Path, plan: CorePlan, memory: FakeMemory, **options: Any) -> Report:
    with FileSink(path, force=True) as sink:
        report = write_core(plan, memory, sink, **options)
        sink.commit()
    return report


def same_memory(core: Core, plan: CorePlan, memory: FakeMemory) -> None:
    """What each page at an edge and some in between hold, of all that is no hole in the address space."""
    loads = [load for load in core.loads if load.p_filesz]
    for load in loads:
        assert load.p_offset + load.p_filesz <= core.size
        for at in {load.p_vaddr, load.p_vaddr + load.p_filesz - PAGE, load.p_vaddr + load.p_filesz // 2 & -PAGE}:
            (run,) = memory.runs(plan.image.vma_at(at), at, at + PAGE)  # type: ignore[arg-type]
            expected = pattern(at, PAGE) if run.provenance.stored else bytes(PAGE)
            assert core.read(at, PAGE) == expected, hex(at)


@pytest.mark.parametrize("missing", ["omit", "zero"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_shared_range(tmp_path: Path, jobs: int, missing: Any) -> None:
    size, step = 512 * MIB, 64 * MIB
    image, memory = sparse(size, step, (5 * MIB, 6 * MIB))
    plain, plan = (plan_of(image, memory, share_zeros=share, missing=missing) for share in (False, True))
    report = written(tmp_path / "core", plan, memory, jobs=jobs)
    before = written(tmp_path / "plain", plain, memory, jobs=jobs)
    core = Core(tmp_path / "core")
    assert report.size == core.size == plan.size < 70 * MIB < before.size
    assert report.stored < 2 * MIB
    same_memory(core, plan, memory)
    # The same addresses, and in each mapping the same bytes.
    spans = [(load.p_vaddr, load.p_vaddr + load.p_memsz) for load in core.loads]
    assert spans == sorted(spans)
    assert sum(end - start for start, end in spans) == sum(load.p_memsz for load in Core(tmp_path / "plain").loads)
    assert report.account == before.account
    assert [vma.account for vma in report.vmas] == [vma.account for vma in before.vmas]
    assert report.missing == before.missing
    assert 500 * MIB < report.shared_zeros < 512 * MIB
    assert "of zeros share one range" in report.summary()[0]
    verdict = check_core(tmp_path / "core")
    assert verdict.problems == ()
    assert verdict.facts["shared_zeros"] == report.shared_zeros == verdict.facts["kgcore"]["shared_zeros"]
    assert "shared_zeros" not in check_core(tmp_path / "plain").facts
    assert b"shared_zeros" not in plain.head


def test_ordinary_cores_are_the_kernels(tmp_path: Path) -> None:
    """Below the limit of file systems nothing is shared unasked."""
    image, memory = sparse(LARGEST - MIB, LARGEST)
    plan = plan_of(image, memory)
    assert plan.shared == ()
    assert plan.size > LARGEST - MIB
    assert len(plan.segments) == 3


def test_larger_than_any_file(tmp_path: Path) -> None:
    """20 TiB of addresses on a file system that ends at 16."""
    image, memory = sparse(20 * TIB, 3 * TIB)
    plan = plan_of(image, memory)
    assert plan.size < 16 << 30
    assert len(plan.segments) + len(plan.shared) < 20_000
    report = written(tmp_path / "core", plan, memory)
    assert (report.exit_status, report.account.zero) == (0, 20 * TIB - 6 * PAGE)
    assert (tmp_path / "core").stat().st_blocks * 512 < 8 * MIB
    same_memory(Core(tmp_path / "core"), plan, memory)
    assert check_core(tmp_path / "core").problems == ()


def test_a_whole_address_space() -> None:
    """Of five levels: 64 PiB."""
    vma = make_vma(0x10000, ((1 << 56) - 0x20000) // PAGE, anon=True)
    end = vma.end
    memory = FakeMemory({(0x10000, end): ZERO})
    pieces = zeros_to_share([vma], [(end - 0x10000, end - 0x10000)], memory)
    assert len(pieces) <= 1 << 13
    assert pieces[0].end - pieces[0].start < LARGEST
    assert (pieces[0].start, pieces[-1].end) == (0x10000, end)
    assert all(one.end == two.start for one, two in pairwise(pieces))


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("limit", [20 * PAGE, MIB // 2])
def test_limits(tmp_path: Path, limit: int, jobs: int) -> None:
    """A stream gets the zeros, too: where it ends among them, that much is missing of each range."""
    image, memory = sparse(64 * MIB, 16 * MIB)
    plan = plan_of(image, memory, share_zeros=True, order="importance")
    sink = MemorySink()
    report = write_core(plan, memory, sink, limits=Limits(len(plan.head) + limit), jobs=jobs)
    assert len(sink.data) == report.size <= len(plan.head) + limit
    assert report.account.total == sum(vma.end - vma.start for vma in image.vmas)
    assert sum(report.account.missing.values()) == report.missing_bytes > 0
    path = tmp_path / "core"
    path.write_bytes(sink.data)
    lost = {(gap.start, gap.end) for gap in report.missing}
    for load in Core(path).loads:
        there = max(0, min(load.p_filesz, report.size - load.p_offset))
        for start, end in lost:
            assert not load.p_vaddr < start < load.p_vaddr + there
            assert not load.p_vaddr <= start < load.p_vaddr + there, (hex(start), hex(end))
        gone = load.p_filesz - there
        covered = sum(max(0, min(end, load.p_vaddr + load.p_filesz) - max(start, load.p_vaddr)) for start, end in lost)
        assert covered == gone
    assert check_core(path).cut_short


def test_what_a_running_kernel_writes_meanwhile_is_not_read(tmp_path: Path) -> None:
    """The zeros were certain when the core was planned; the one range must not become data of one of its owners."""
    image, memory = sparse(64 * MIB, 16 * MIB)
    plan = plan_of(image, memory, share_zeros=True)
    written(tmp_path / "core", plan, FakeMemory())
    assert check_core(tmp_path / "core").problems == ()


@pytest.mark.parametrize("change", ["data", "note"])
def test_check_of_bytes_that_are_shared_and_not_zero(tmp_path: Path, change: str) -> None:
    image, memory = sparse(64 * MIB, 16 * MIB)
    plan = plan_of(image, memory, share_zeros=True)
    path = tmp_path / "core"
    written(path, plan, memory)
    data = bytearray(path.read_bytes())
    if change == "data":
        data[plan.shared[0].offset + 100] = 1
    else:
        said = json.dumps({"shared_zeros": plan.shared_zeros}, separators=(",", ":"))[1:-1].encode()
        assert data.count(said) == 1
        data = data.replace(said, said[:-1] + (b"1" if said[-1:] != b"1" else b"2"))
    path.write_bytes(data)
    problems = check_core(path).problems
    words = "shares bytes of the file with another segment" if change == "data" else "the KGCORE note does not say so"
    assert any(words in text for text in problems)
