# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import json
import struct
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.coredump.kgcorenote import NT_KGCORE
from kgcore.coredump.mappings import PART
from kgcore.coredump.plan import CorePlan, make_plan
from kgcore.coredump.writer import write_core
from kgcore.errors import KgcoreError
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance, Run, peek
from kgcore.model.process import VM_EXEC, VM_READ, VM_WRITE, CoreDialect, FpuState, RegisterSource
from kgcore.sinks.streams import MemorySink
from tests.builders import PAGE, FakeMemory, make_image, make_regs, make_thread, make_vma, pattern

ALL = CoredumpFilter(0x1FF, page_size=PAGE)
SWAPPED = (Provenance.SWAPPED, "swap 0")


def plan_of(vmas: Any, memory: FakeMemory | None = None, **options: Any) -> CorePlan:
    return make_plan(make_image(vmas=tuple(vmas)), ALL, memory or FakeMemory(), **options)


def loads(plan: CorePlan) -> list[tuple[int, int, int]]:
    return [(segment.address, segment.filesz, segment.memsz) for segment in plan.segments]


def elf_of(plan: CorePlan) -> ELFFile:
    return ELFFile(io.BytesIO(plan.head + plan.tail))


def test_kernel_layout() -> None:
    plan = make_plan(make_image(), CoredumpFilter(0x33, page_size=PAGE), FakeMemory())
    headers = [segment.header for segment in elf_of(plan).iter_segments()]
    assert [header["p_type"] for header in headers] == ["PT_NOTE"] + ["PT_LOAD"] * 6
    note, first = headers[0], headers[1]
    assert note["p_offset"] == 64 + 7 * 56
    assert (note["p_vaddr"], note["p_memsz"], note["p_flags"], note["p_align"]) == (0, 0, 0, 4)
    assert first["p_offset"] == len(plan.head)
    assert len(plan.head) % 4096 == 0
    end = note["p_offset"] + note["p_filesz"]
    assert first["p_offset"] - end < 4096
    assert plan.head[end:] == bytes(first["p_offset"] - end)
    assert [header["p_align"] for header in headers[1:]] == [4096] * 6
    assert plan.size == headers[-1]["p_offset"] + headers[-1]["p_filesz"]
    assert (first["p_filesz"], first["p_memsz"]) == (4096, 8192)  # the ELF header of the program


@pytest.mark.parametrize("align", [0, 4])
def test_note_alignment_is_the_kernels(align: int) -> None:
    plan = make_plan(make_image(dialect=CoreDialect(note_align=align)), ALL, FakeMemory())
    assert elf_of(plan).get_segment(0).header["p_align"] == align


@pytest.mark.parametrize(
    ("vm_flags", "p_flags"), [(0, 0), (VM_READ, 4), (VM_WRITE, 2), (VM_EXEC, 1), (VM_READ | VM_EXEC | 0x70, 5)]
)
def test_flags_are_translated(vm_flags: int, p_flags: int) -> None:
    assert plan_of([make_vma(0x1000, flags=vm_flags, anon=True)]).segments[0].flags == p_flags


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ([], [(0, 4, 4)]),
        ([(0, 1)], [(1, 3, 3)]),
        ([(3, 4)], [(0, 3, 3)]),
        ([(1, 2)], [(0, 1, 1), (2, 2, 2)]),
        ([(0, 1), (2, 4)], [(1, 1, 1)]),
        ([(0, 4)], []),
    ],
)
def test_missing_ranges_lie_in_no_segment(missing: list[tuple[int, int]], parts: list[tuple[int, int, int]]) -> None:
    start = 0x10000
    memory = FakeMemory({(start + a * PAGE, start + b * PAGE): SWAPPED for a, b in missing})
    vma = make_vma(start, 4, anon=True)
    assert loads(plan_of([vma], memory)) == [(start + a * PAGE, b * PAGE, c * PAGE) for a, b, c in parts]
    assert loads(plan_of([vma], memory, missing="zero")) == [(start, 4 * PAGE, 4 * PAGE)]


def test_what_the_filter_left_out_stays_in_the_last_part() -> None:
    text = make_image().vmas[0]
    header = FakeMemory({(text.start, text.start + PAGE): (Provenance.FILE, "")})
    plan = make_plan(make_image(vmas=(text,)), CoredumpFilter(0x33, page_size=PAGE), header)
    assert loads(plan) == [(text.start + PAGE, 0, PAGE)]
    assert plan.vmas[0].missing == (Run(text.start, PAGE, Provenance.FILE),)
    none = make_plan(make_image(vmas=(text,)), CoredumpFilter(0, page_size=PAGE), FakeMemory())
    assert loads(none) == [(text.start, 0, 2 * PAGE)]


def test_vendor_note_has_its_own_segment_behind_all_others() -> None:
    bare = make_plan(make_image(), ALL, FakeMemory())
    plan = make_plan(make_image(), ALL, FakeMemory(), source={"format": "x"})
    first, *middle, last = [segment.header for segment in elf_of(plan).iter_segments()]
    assert {header["p_type"] for header in middle} == {"PT_LOAD"}
    assert (first["p_type"], last["p_type"]) == ("PT_NOTE", "PT_NOTE")
    assert last["p_offset"] == first["p_offset"] + first["p_filesz"]
    kernel_notes = elf_of(bare).get_segment(0).header
    assert (
        plan.head[first["p_offset"] : last["p_offset"]]
        == bare.head[kernel_notes["p_offset"] : kernel_notes["p_offset"] + kernel_notes["p_filesz"]]
    )
    assert [segment[:4] for segment in plan.segments] == [segment[:4] for segment in bare.segments]


def vendor(plan: CorePlan) -> dict[str, Any]:
    header = elf_of(plan).get_segment(elf_of(plan).num_segments() - 1).header
    data = plan.head[header["p_offset"] :][: header["p_filesz"]]
    assert struct.unpack_from("<III", data) == (7, len(data.rstrip(b"\0")) - 20, NT_KGCORE)
    assert data[12:20] == b"KGCORE\0\0"
    content = json.loads(data[20:].rstrip(b"\0"))
    assert isinstance(content, dict)
    return content


def test_vendor_note_says_what_elf_cannot() -> None:
    lost = replace(make_regs(), source=RegisterSource.UNAVAILABLE, unknown=frozenset(("ip", "sp")))
    image = make_image(
        threads=(make_thread(7, fpu=FpuState(bytes(2696), stale=True), cpu=3), make_thread(8, regs=lost, fpu=None)),
        vmas=(make_vma(0x1000, 3, anon=True), make_vma(0xFFFFFFFFFF600000, name="[vsyscall]")),
        warnings=("a\udcff b",),
    )
    memory = FakeMemory({(0x2000, 0x3000): (Provenance.SWAPPED, "swap 1")})
    content = vendor(make_plan(image, ALL, memory, source={"file": "vm\udce4core"}))
    assert content["format"] == 1
    assert content["missing"] == [["0x2000", "0x3000", "swapped", "swap 1"]]
    assert content["missing_policy"] == "omit"
    assert content["source"] == {"file": "vm\\xe4core"}
    assert content["filter"]["mask"] == 0x1FF
    assert content["threads"] == [
        {"tid": 7, "registers": "entry-frame", "unknown": [], "fpu": "stale", "cpu": 3},
        {"tid": 8, "registers": "unavailable", "unknown": ["ip", "sp"], "fpu": "none", "cpu": None},
    ]
    assert content["vmas"][1][:2] == ["0xffffffffff600000", "0xffffffffff601000"]
    assert content["accounts"] == [{"present": 2 * PAGE, "missing": {"swapped": PAGE}}, {"present": PAGE}]
    assert content["account"] == {"present": 3 * PAGE, "missing": {"swapped": PAGE}}
    assert content["warnings"][0] == "a\\xff b"
    assert content["kernel"] == "6.12.0-test"


def test_extended_numbering() -> None:
    vmas = [make_vma(0x10000 + index * 2 * PAGE) for index in range(70_000)]
    image = make_image(vmas=tuple(vmas))
    plan = make_plan(image, ALL, FakeMemory(), source={"format": "x"})
    core = io.BytesIO(plan.head + plan.tail)  # nothing was touched: there are no data between
    elf = ELFFile(core)
    assert elf["e_phnum"] == 0xFFFF
    assert elf.num_segments() == 70_002
    assert elf["e_shoff"] == plan.size - len(plan.tail)


def test_unknown_architecture() -> None:
    with pytest.raises(KgcoreError, match="vax"):
        make_plan(make_image(arch="vax"), ALL, FakeMemory())


def test_memory_that_breaks_its_promise_is_a_defect() -> None:
    class Gappy(FakeMemory):
        def runs(self, vma: Any, start: int, end: int) -> Any:
            yield Run(start + PAGE, end - start - PAGE, Provenance.PRESENT)

    with pytest.raises(ValueError, match="not adjacent"):
        plan_of([make_vma(0x1000, 2, anon=True)], Gappy())


def test_peek() -> None:
    memory = FakeMemory({(0x2000, 0x3000): (Provenance.ZERO, ""), (0x3000, 0x4000): SWAPPED})
    look, vma = partial(peek, memory), make_vma(0x1000, 4)
    assert look(vma, 0x1008, 4) == pattern(0x1008, 8)[:4]
    assert look(vma, 0x2000, 4) == bytes(4)
    assert look(vma, 0x3000, 4) is None


STATES = st.sampled_from(
    [(Provenance.PRESENT, ""), (Provenance.ZERO, ""), SWAPPED, (Provenance.FILE, ""), (Provenance.EXCLUDED, "x")]
)
ORDERS = st.sampled_from(["address", "importance", "size"])
MAPPINGS = st.lists(st.lists(STATES, min_size=1, max_size=12), max_size=5)


@settings(max_examples=150, deadline=None)
@given(MAPPINGS, st.sampled_from(["omit", "zero"]), st.booleans())
def test_every_byte_is_accounted_for(mappings: Any, policy: Any, note: bool) -> None:
    vmas, ranges, at = [], {}, 0x10000
    for pages in mappings:
        vmas.append(make_vma(at, len(pages), anon=True))
        for state in pages:
            ranges[at, at + PAGE] = state
            at += PAGE
        at += PAGE
    memory = FakeMemory(ranges)
    plan = plan_of(vmas, memory, missing=policy, source={"format": "x"} if note else None)
    sink = MemorySink()
    seen = []
    report = write_core(plan, memory, sink, lambda done, total: seen.append((done, total)))

    assert len(sink.data) == plan.size == report.size
    assert seen[-1] == (plan.data, plan.data)
    assert report.data + report.zero + report.missing_bytes == sum(vma.end - vma.start for vma in vmas)
    assert report.complete == (not report.missing)
    in_file = {
        address + offset: segment.offset + offset
        for segment in plan.segments
        for address in [segment.address]
        for offset in range(0, segment.filesz, PAGE)
    }
    for (start, _), (provenance, _) in ranges.items():
        if provenance.missing and policy == "omit":
            assert start not in in_file
            assert not any(s.address <= start < s.address + s.memsz for s in plan.segments)
        else:
            page = bytes(sink.data[in_file[start] :][:PAGE])
            assert page == (pattern(start, PAGE) if provenance is Provenance.PRESENT else bytes(PAGE))
    missing = {at for gap in report.missing for at in range(gap.start, gap.end, PAGE)}
    assert missing == {start for (start, _), (provenance, _) in ranges.items() if provenance.missing}
    assert not any(gap.late for gap in report.missing)


@settings(max_examples=60, deadline=None)
@given(MAPPINGS, st.lists(st.integers(1, 40), max_size=4), st.sampled_from(["omit", "zero"]), ORDERS)
def test_parts_cover_the_file_in_order(mappings: Any, large: list[int], policy: Any, order: Any) -> None:
    """:param large: further mappings, in MiB, which are several parts."""
    ranges: dict[tuple[int, int], Any] = {}
    vmas, at = [], 0x10000
    for pages in mappings:
        vmas.append(make_vma(at, len(pages), anon=True))
        ranges |= {(at + i * PAGE, at + (i + 1) * PAGE): state for i, state in enumerate(pages)}
        at += (len(pages) + 1) * PAGE
    for size in large:
        vmas.append(make_vma(at, size << 8, anon=True))
        at += (size << 20) + PAGE
    plan = plan_of(vmas, FakeMemory(ranges), missing=policy, order=order)
    offset = len(plan.head)
    covered: dict[int, list[tuple[int, int]]] = {}
    for part in plan.parts():
        segments = list(plan.segments_of(part))
        assert plan.size_of(part) == sum(segment.filesz for segment in segments)
        assert 0 <= part.most <= PART + PAGE
        for segment in segments:
            assert segment.offset == offset
            offset += segment.filesz
            covered.setdefault(segment.vma, []).append((segment.address, segment.address + segment.filesz))
    assert offset == plan.size - len(plan.tail)
    for vma, spans in covered.items():
        wanted = [(s.address, s.address + s.filesz) for s in plan.segments if s.vma == vma and s.filesz]
        joined: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if joined and joined[-1][1] == start and start not in dict(wanted):
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        assert joined == sorted(wanted)
    assert {segment.vma for segment in plan.segments if segment.filesz} == set(covered)
