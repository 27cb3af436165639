# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores under a limit of size: whole files that say what the limit cost, and where more room never costs a byte."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.check.core import check_core
from kgcore.check.verdict import Verdict
from kgcore.coredump.limits import LimitRule, Limits
from kgcore.coredump.pipeline import Options, dump
from kgcore.coredump.report import Report
from kgcore.errors import LimitReached
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE
from kgcore.saving import CoreWriter, save
from kgcore.sinks.streams import StreamSink
from tests.builders import (
    PAGE,
    FakeMemory,
    FakeSource,
    make_file,
    make_image,
    make_regs,
    make_thread,
    make_vma,
    pattern,
)

PID = 4321
TEXT, SMALL, LARGE, SHARED, CLEAN, STACKS, STACK = (0x10000000 * n for n in (1, 2, 3, 0x100, 0x200, 0x300, 0x700))
READ_SHARED = VM_READ | VM_WRITE | VM_SHARED
VMAS = (
    make_vma(TEXT, 4, VM_READ | VM_EXEC, file=make_file()),
    make_vma(SMALL, 6, anon=True),
    make_vma(LARGE, 40, anon=True),
    make_vma(SHARED, 4, READ_SHARED, file=make_file(b"/dev/zero (deleted)", nlink=0)),
    make_vma(CLEAN, 4, VM_READ, file=make_file(b"/data"), pgoff=1),
    make_vma(STACKS, 12, anon=True),
    make_vma(STACK, 8, anon=True),
)
# The second thread's registers point into the middle of the large mapping.
THREADS = (
    make_thread(PID, regs=make_regs(sp=STACK + 5 * PAGE + 8)),
    make_thread(PID + 1, regs=make_regs(sp=STACKS + 9 * PAGE, di=LARGE + 20 * PAGE)),
)
IMAGE = make_image(vmas=VMAS, threads=THREADS, auxv=((0, 0),), start_stack=STACK + 8 * PAGE - 1)
ALL = Options(mask=0x7F)

# What matters most first, as the issue has it; the pages of each group, and those not in the core before.
GROUPS = [
    [(TEXT, 1)],
    [(STACK + 4 * PAGE, 4)],  # with the red zone
    [(STACKS + 8 * PAGE, 4)],
    [(LARGE + 20 * PAGE, 1)],
    [(STACK, 4), (SMALL, 6), (STACKS, 8), (LARGE, 20), (LARGE + 21 * PAGE, 19)],
    [(SHARED, 4)],
    [(TEXT + PAGE, 3), (CLEAN, 4)],
]


def limited(path: Path, size: int, rule: LimitRule = "priority", memory: Any = None, **options: Any) -> Report:
    source = FakeSource(IMAGE, memory or FakeMemory())
    more = {name: options.pop(name) for name in ("compress",) if name in options}
    return save(
        source,
        PID,
        path,
        Options(**{"mask": 0x7F, **options}),
        limits=Limits(size, rule=rule),
        force=True,
        jobs=1,
        **more,
    )


def held(verdict: Verdict, core: bytes) -> set[int]:
    """Addresses of the pages in a core; all of them are right."""
    pages = set()
    for load in loads(core):
        for at in range(0, load[2], PAGE):
            assert core[load[1] + at :][:PAGE] == pattern(load[0] + at, PAGE)
            pages.add(load[0] + at)
    return pages


def loads(core: bytes) -> list[tuple[int, int, int]]:
    """Address, offset and size in the file of each PT_LOAD."""
    found = []
    count = int.from_bytes(core[56:58], "little")
    for at in range(64, 64 + 56 * count, 56):
        fields = [int.from_bytes(core[at + n : at + n + 8], "little") for n in range(8, 56, 8)]
        if int.from_bytes(core[at : at + 4], "little") == 1:
            found.append((fields[1], fields[0], fields[3]))
    return found


def note(verdict: Verdict) -> dict[str, Any]:
    content: dict[str, Any] = verdict.facts["kgcore"]
    return content


def told(path: Path, report: Report, size: int, rule: str = "priority") -> set[int]:
    """The pages of a core that is whole and says, everywhere, what the limit cost."""
    verdict = check_core(path)
    assert verdict.ok, verdict.problems
    core = path.read_bytes()
    assert len(core) == report.size
    pages = held(verdict, core)
    lost = {at for gap in report.missing if gap.reason == "limit" for at in range(gap.start, gap.end, PAGE)}
    everything = {at for vma in VMAS for at in range(vma.start, vma.end, PAGE)}
    assert pages | lost == everything
    assert not pages & lost
    assert bool(lost) == bool(report.limit) == (not verdict.complete)
    assert [row[:3] for row in note(verdict)["missing"]] == [
        [hex(gap.start), hex(gap.end), gap.reason] for gap in report.missing
    ]
    assert note(verdict)["limit"] == {"rule": rule, "size": size}
    if lost:
        assert f"limit: {rule}, at most" in "\n".join(verdict.lines())
        assert report.exit_status == 3
    return pages


def test_what_matters_most_is_kept_and_more_room_costs_nothing(tmp_path: Path) -> None:
    path, before, order = tmp_path / "core", set[int](), list[set[int]]()
    least = head(tmp_path)
    for size in range(least, least + 100 * PAGE, PAGE // 2):
        report = limited(path, size)
        assert path.stat().st_blocks * 512 <= size
        pages = told(path, report, size)
        assert pages >= before, "more room, and fewer pages"
        if pages != before:
            order.append(pages - before)
        before = pages
        if not report.limit:
            break
    else:
        pytest.fail("the whole core never fits")
    sequence = [at for step in order for at in sorted(step)]
    wanted = [[at + n * PAGE for at, count in group for n in range(count)] for group in GROUPS]
    for group in wanted[:4]:
        assert set(sequence[: len(group)]) == set(group)
        del sequence[: len(group)]
    # Small mappings before large ones
    middle = sequence[: len(wanted[4])]
    assert set(middle) == set(wanted[4])
    places = {vma.start: [n for n, at in enumerate(middle) if vma.start <= at < vma.end] for vma in VMAS}
    assert max(places[SMALL]) < min(places[STACKS]) < max(places[STACKS]) < min(places[LARGE])
    rest = sequence[len(wanted[4]) :]
    assert set(rest[:4]) == set(wanted[5])
    assert set(rest[4:]) == set(wanted[6])


def head(tmp_path: Path) -> int:
    """A size that the headers and notes take, but hardly more."""
    for size in range(PAGE, 64 * PAGE, 256):
        try:
            limited(tmp_path / "core", size)
        except LimitReached:
            continue
        return size
    raise AssertionError("no size will do")


def test_the_largest_are_shortened_to_one_length(tmp_path: Path) -> None:
    path, before = tmp_path / "core", set[int]()
    for size in range(head(tmp_path) + 3 * PAGE, 100 * PAGE, 3 * PAGE):
        report = limited(path, size, "largest-first")
        pages = told(path, report, size, "largest-first")
        assert pages >= before
        before = pages
        kept = {vma.start: sorted(at for at in pages if vma.start <= at < vma.end) for vma in VMAS}
        longest = max(map(len, kept.values()))
        for vma in VMAS:
            there = kept[vma.start]
            assert there == list(range(vma.start, vma.start + len(there) * PAGE, PAGE)), "its beginning"
            assert len(there) in (longest, (vma.end - vma.start) // PAGE)
        if not report.limit:
            return
    pytest.fail("the whole core never fits")


def test_truncated_as_the_kernel_does_it(tmp_path: Path) -> None:
    path = tmp_path / "core"
    save(FakeSource(IMAGE), PID, tmp_path / "whole", ALL)
    report = limited(path, 40 * PAGE, "truncate")
    core, verdict = path.read_bytes(), check_core(path)
    assert verdict.cut_short
    assert not verdict.ok
    assert "limit: truncate, at most 160 KiB of cores" in verdict.lines()
    assert note(verdict)["limit"] == {"rule": "truncate", "size": 40 * PAGE}
    assert len(core) == report.size <= 40 * PAGE
    assert report.limit == "reached the size limit of 160 KiB"
    offsets = [offset for _, offset, size in loads(core) if size]
    assert offsets == sorted(offsets), "the kernel's order"
    assert [load[0] for load in loads(core)] == [load[0] for load in loads((tmp_path / "whole").read_bytes())]


@pytest.mark.parametrize("rule", ["priority", "largest-first"])
def test_compressed_cores_are_written_again_without_what_did_not_fit(tmp_path: Path, rule: Any) -> None:
    sizes = set()
    for size in (20_000, 40_000, 60_000):
        report = limited(tmp_path / "core.gz", size, rule, compress="gzip")
        packed = (tmp_path / "core.gz").read_bytes()
        assert len(packed) <= size
        (tmp_path / "core").write_bytes(gzip.decompress(packed))
        told(tmp_path / "core", report, size, rule)
        sizes.add(report.size)
    assert len(sizes) == 3, "the limits are about what is compressed"


def test_a_stream_that_is_compressed_ends_early_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "core"
    with path.open("wb") as file:
        report = limited(file, 20_000, compress="gzip")  # type: ignore[arg-type]
    path.write_bytes(gzip.decompress(path.read_bytes()))
    verdict = check_core(path)
    assert verdict.cut_short
    assert note(verdict)["limit"] == {"rule": "priority", "size": 20_000}
    assert report.limit
    assert len(path.read_bytes()) == report.size


@pytest.mark.parametrize("rule", ["priority", "largest-first"])
@pytest.mark.parametrize("missing", ["omit", "zero"])
def test_what_is_missing_anyway_is_missing_for_its_own_reason(tmp_path: Path, missing: Any, rule: Any) -> None:
    path = tmp_path / "core"
    lost = {(LARGE + n * PAGE, LARGE + (n + 2) * PAGE): (Provenance.SWAPPED, "") for n in (3, 30)}
    zeros = {(LARGE + n * PAGE, LARGE + (n + 3) * PAGE): (Provenance.ZERO, "") for n in (6, 33)}
    for pages in range(14, 80, 5):
        report = limited(path, pages * PAGE, rule, memory=FakeMemory({**lost, **zeros}), missing=missing)
        verdict = check_core(path)
        assert verdict.ok, verdict.problems
        if missing == "omit":
            assert report.account.missing["swapped"] == 4 * PAGE
        assert path.stat().st_blocks * 512 <= pages * PAGE
        if not report.limit:
            return
    pytest.fail("the whole core never fits")


def test_a_library_that_gives_limits_to_write_alone(tmp_path: Path) -> None:
    """Without Options that know of them, as :func:`kgcore.write` is called."""
    from kgcore.coredump.pipeline import prepare, write
    from kgcore.sinks.files import FileSink

    with prepare(FakeSource(IMAGE), PID, ALL) as prepared:
        report = write(prepared, FileSink(str(tmp_path / "core")), limits=Limits(40 * PAGE))
    told(tmp_path / "core", report, 40 * PAGE)


def test_a_stream_takes_zeros_too(tmp_path: Path) -> None:
    """They are written, and count."""
    zeros = {(LARGE, LARGE + 30 * PAGE): (Provenance.ZERO, "")}
    with (tmp_path / "core").open("wb") as file:
        writer = CoreWriter(ALL, output=file, limits=Limits(50 * PAGE), jobs=1)
        report = writer.save(FakeSource(IMAGE, FakeMemory(zeros)), PID)
    assert (tmp_path / "core").stat().st_size == report.size <= 50 * PAGE
    assert check_core(tmp_path / "core").ok
    assert report.limit


@pytest.mark.parametrize("rule", ["priority", "largest-first"])
def test_zeros_that_share_a_place(tmp_path: Path, rule: Any) -> None:
    """They count once."""
    zeros, mib = {}, 1 << 20
    vmas = [make_vma(SMALL, 3, anon=True)]
    for start, size in ((LARGE, 8 * mib), (SHARED, 16 * mib), (STACKS, 3 * mib)):
        vmas.append(make_vma(start, size // PAGE, anon=True))
        zeros[start, start + size] = (Provenance.ZERO, "")
    image = make_image(vmas=tuple(vmas), auxv=((0, 0),))
    before = -1
    for size in (40 * PAGE, mib, 2 * mib + (1 << 16), 4 * mib, 20 * mib, 40 * mib):
        with (tmp_path / "core").open("wb") as file:
            writer = CoreWriter(Options(share_zeros=True), output=file, limits=Limits(size, rule=rule), jobs=1)
            report = writer.save(FakeSource(image, FakeMemory(zeros)), PID)
        assert (tmp_path / "core").stat().st_size == report.size <= size
        verdict = check_core(tmp_path / "core")
        assert verdict.ok, verdict.problems
        assert report.zero >= before
        before = report.zero
    assert not report.limit


def test_no_note_and_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "core"
    report = limited(path, 30 * PAGE, vendor_note=False)
    assert report.limit
    assert check_core(path).ok
    save(FakeSource(IMAGE), PID, tmp_path / "one", ALL)
    limited(tmp_path / "two", 1 << 30)
    one, two = (note(check_core(tmp_path / name)) for name in ("one", "two"))
    assert two.pop("limit") == {"rule": "priority", "size": 1 << 30}
    assert json.dumps(one) == json.dumps(two)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size is 0: expected more than 0"),
        ({"size": -1}, "size is -1"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"size": 1, "rule": "largest"}, "rule is 'largest': expected 'priority' or 'largest-first' or 'truncate'"),
    ],
)
def test_limits_that_make_no_sense(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**values)


@pytest.mark.parametrize("rule", ["priority", "largest-first", "truncate"])
def test_a_limit_below_the_notes_writes_nothing(tmp_path: Path, rule: Any) -> None:
    with pytest.raises(LimitReached, match="size limit"):
        limited(tmp_path / "core", PAGE, rule)
    assert not (tmp_path / "core").exists()


PAGES = st.lists(
    st.sampled_from([Provenance.PRESENT, Provenance.PRESENT, Provenance.ZERO, Provenance.SWAPPED]),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(PAGES, min_size=1, max_size=5),
    st.lists(st.integers(0, 60), min_size=1, max_size=3),
    st.sampled_from(["priority", "largest-first"]),
    st.sampled_from(["omit", "zero"]),
    st.integers(0, 1 << 40),
)
def test_any_process(tmp_path_factory: Any, mappings: Any, rooms: Any, rule: Any, missing: Any, sp: int) -> None:
    ranges: dict[tuple[int, int], tuple[Provenance, str]] = {}
    vmas, at = [], 0x10000000
    for pages in mappings:
        vmas.append(make_vma(at, len(pages), anon=True))
        ranges |= {(at + i * PAGE, at + (i + 1) * PAGE): (state, "") for i, state in enumerate(pages)}
        at += (len(pages) + 1) * PAGE
    image = make_image(
        vmas=tuple(vmas), auxv=((0, 0),), threads=(make_thread(regs=make_regs(sp=0x10000000 + sp % (at - 0x10000000))),)
    )
    path = tmp_path_factory.mktemp("any") / "core"
    before: set[int] = set()
    for room in sorted(rooms):
        size = 3 * PAGE + room * 1000
        with path.open("wb") as file:
            try:
                report = dump(
                    FakeSource(image, FakeMemory(ranges)),
                    PID,
                    lambda image, file=file: StreamSink(file),  # type: ignore[misc]
                    Options(missing=missing),
                )
                file.seek(0)
                file.truncate()
                report = save(
                    FakeSource(image, FakeMemory(ranges)),
                    PID,
                    file,
                    Options(missing=missing),
                    limits=Limits(size, rule=rule),
                )
            except LimitReached:
                continue
        assert path.stat().st_size <= size
        verdict = check_core(path)
        assert verdict.ok, verdict.problems
        account = report.account
        assert account.total == sum(vma.end - vma.start for vma in vmas)
        assert sum(account.missing.values()) == report.missing_bytes
        pages = {load[0] + at for load in loads(path.read_bytes()) for at in range(0, load[2], PAGE)}
        assert pages >= before
        before = pages
