# SPDX-License-Identifier: LGPL-2.1-or-later
import json
from dataclasses import replace
from typing import Any

import pytest

from kgcore.filters.coredump import CoredumpFilter
from kgcore.memory import Provenance, Run
from kgcore.model import FpuState, RegisterSource
from kgcore.plan import make_plan
from kgcore.report import Report, make_report
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma

START = 0x7F0000000000


def report_of(memory: FakeMemory | None = None, **values: Any) -> Report:
    return make_report(make_plan(make_image(**values), CoredumpFilter(), memory or FakeMemory()))


def test_a_complete_core() -> None:
    report = report_of()
    assert report.complete
    assert report.exit_status == 0
    assert (report.data, report.zero, report.filtered, report.missing_bytes) == (17 * PAGE, 0, PAGE, 0)
    assert sum(vma.end - vma.start for vma in report.vmas) == 18 * PAGE
    assert report.path is None
    first, second = report.lines()
    assert first == "process 4321 (victim), 2 threads: core of 80.0 KiB"
    assert second == "memory: 68.0 KiB data, 0 B zeros, 4.00 KiB left out by the filter, 0 B missing"


def test_missing_ranges_have_a_line_each() -> None:
    vmas = (make_vma(START, 8, anon=True), make_vma(START + 16 * PAGE, 1, anon=True, file=make_file(b"/lib/\x1b[2Jx")))
    memory = FakeMemory(
        {
            (START + PAGE, START + 3 * PAGE): (Provenance.SWAPPED, "swap 0"),
            (START + 16 * PAGE, START + 17 * PAGE): (Provenance.EXCLUDED, ""),
        }
    )
    report = report_of(memory, vmas=vmas)
    assert report.exit_status == 3
    assert report.missing_bytes == 3 * PAGE
    assert report.lines()[2:] == [
        "MISSING from the core: 2 ranges; debuggers will refuse to read them:",
        "  7f0000001000-7f0000003000  8.00 KiB  swapped (swap 0)",
        "  7f0000010000-7f0000011000  4.00 KiB  excluded  /lib/\\x1b[2Jx",
    ]


def test_long_lists_are_cut() -> None:
    memory = FakeMemory({(START + 2 * i * PAGE, START + (2 * i + 1) * PAGE): (Provenance.FILE, "") for i in range(50)})
    lines = report_of(memory, vmas=(make_vma(START, 100, anon=True),)).lines(limit=10)
    assert len(lines) == 3 + 10 + 1
    assert lines[-1] == "  ... and 40 more: --report FILE lists them all"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"fpu": FpuState(bytes(2696), stale=True)}, "older"),
        ({"regs": replace(make_regs(), source=RegisterSource.UNAVAILABLE)}, "not in the dump"),
        ({"regs": replace(make_regs(), unknown=frozenset(("bx",)))}, "bx"),
    ],
)
def test_doubtful_registers_make_it_incomplete(values: dict[str, Any], told: str) -> None:
    report = report_of(threads=(make_thread(17, **values), make_thread(18)))
    assert report.exit_status == 3
    (line,) = report.lines()[2:]
    assert line.startswith("thread 17: ")
    assert told in line


def test_warnings_make_it_incomplete() -> None:
    report = report_of(warnings=("the list of VMAs ends\nearly",))
    assert not report.complete
    assert report.lines()[-1] == "warning: the list of VMAs ends\\nearly"


def test_late_gaps() -> None:
    plan = make_plan(make_image(vmas=(make_vma(START, 3, anon=True),)), CoredumpFilter(), FakeMemory())
    late = [(0, Run(START, PAGE, Provenance.UNREADABLE, "I/O error"))]
    report = make_report(plan, path="core.1", stored=5, late=late)
    assert (report.data, report.missing_bytes, report.stored, report.path) == (2 * PAGE, PAGE, 5, "core.1")
    assert "the read failed late, zeros stand for it" in report.lines()[-1]


def test_json() -> None:
    memory = FakeMemory({(START, START + PAGE): (Provenance.SWAPPED, "swap 0")})
    report = report_of(
        memory,
        vmas=(make_vma(START, 2, anon=True, file=make_file(b"/\xff")),),
        threads=(make_thread(17, fpu=None),),
        warnings=("w",),
    )
    data = json.loads(json.dumps(report.to_json()))
    assert data["version"] == 1
    assert data["complete"] is False
    assert data["missing"] == [
        {"start": START, "end": START + PAGE, "reason": "swapped", "detail": "swap 0", "name": "/\\xff", "late": False}
    ]
    assert data["remarks"] == [{"tid": 17, "text": "its floating-point state was not found"}]
    assert data["warnings"] == ["w"]
    assert data["vmas"] == [
        {
            "start": START,
            "end": START + 2 * PAGE,
            "name": "/\\xff",
            "reason": "anon-private",
            "data": PAGE,
            "zero": 0,
            "missing": PAGE,
            "filtered": 0,
        }
    ]
