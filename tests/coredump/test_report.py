# SPDX-License-Identifier: LGPL-2.1-or-later
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kgcore
from kgcore.binaries.contents import FileGap
from kgcore.binaries.sysroot import SysrootFile, SysrootReport
from kgcore.cli.extract import Failure, Outcome
from kgcore.coredump.plan import make_plan
from kgcore.coredump.report import Read, Report, make_report
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance, Run
from kgcore.model.process import FpuState, RegisterSource
from kgcore.sinks.streams import MemorySink
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma

START = 0x7F0000000000


def report_of(memory: FakeMemory | None = None, **values: Any) -> Report:
    return make_report(make_plan(make_image(**values), CoredumpFilter(page_size=PAGE), memory or FakeMemory()))


def test_a_complete_core() -> None:
    report = report_of()
    assert report.complete
    assert report.exit_status == 0
    assert (report.data, report.zero, report.filtered, report.missing_bytes) == (17 * PAGE, 0, PAGE, 0)
    assert sum(vma.end - vma.start for vma in report.vmas) == 18 * PAGE
    assert report.path is None
    first, second = report.lines()
    assert first == "process 4321 (victim), 2 threads: core of 80.0 KiB"
    assert second == "memory: 68.0 KiB from page tables, 0 B zeros, 4.00 KiB left out by the filter, 0 B missing"


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
        "MISSING from the core: 2 ranges; debuggers cannot read them:",
        "  7f0000001000-7f0000003000  8.00 KiB  swapped (swap 0)",
        "  7f0000010000-7f0000011000  4.00 KiB  excluded  /lib/\\x1b[2Jx",
    ]


def test_long_lists_are_cut() -> None:
    memory = FakeMemory({(START + 2 * i * PAGE, START + (2 * i + 1) * PAGE): (Provenance.FILE, "") for i in range(50)})
    lines = report_of(memory, vmas=(make_vma(START, 100, anon=True),)).lines(limit=10)
    assert len(lines) == 3 + 10 + 1
    assert lines[-1] == "  ... and 40 more: --report FILE lists all"


def test_nothing_one_by_one() -> None:
    """With -v 0."""
    memory = FakeMemory({(START, START + PAGE): (Provenance.FILE, "")})
    threads = tuple(make_thread(tid, fpu=FpuState(bytes(2696), stale=True)) for tid in (1, 2))
    report = report_of(memory, vmas=(make_vma(START, 100, anon=True),), threads=threads)
    assert report.lines(limit=0)[2:] == [
        "MISSING from the core: 1 range; debuggers cannot read them (--report FILE lists them)",
        "threads: 2 remarks (--report FILE lists them)",
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"fpu": FpuState(bytes(2696), stale=True)}, "older"),
        (
            {"regs": replace(make_regs(), source=RegisterSource.UNAVAILABLE)},
            "its registers are not known: all of them are zeros",
        ),
        (
            {"regs": replace(make_regs(), source=RegisterSource.UNAVAILABLE, where="in the dump")},
            "its registers are not in the dump: all of them are zeros",
        ),
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
    memory = FakeMemory({(START, START + PAGE): (Provenance.ZRAM, "")})
    plan = make_plan(make_image(vmas=(make_vma(START, 3, anon=True),)), CoredumpFilter(page_size=PAGE), memory)
    read = Read()
    read.add(Run(START, PAGE, Provenance.UNREADABLE, "I/O error"))
    read.add(Run(START + PAGE, 2 * PAGE, Provenance.PRESENT))
    assert make_report(plan).recovered == {"zram": PAGE}
    report = make_report(plan, path="core.1", stored=5, read={0: read})
    assert (report.data, report.missing_bytes, report.stored, report.path) == (2 * PAGE, PAGE, 5, "core.1")
    assert report.recovered == {}
    assert "the read failed late: zeros in the core" in report.lines()[-1]


def test_json() -> None:
    places = {Provenance.SWAPPED: "swap 0", Provenance.PRESENT: "", Provenance.ZRAM: "", Provenance.ZERO: ""}
    memory = FakeMemory({(START + i * PAGE, START + (i + 1) * PAGE): place for i, place in enumerate(places.items())})
    report = report_of(
        memory,
        vmas=(make_vma(START, 4, anon=True, file=make_file(b"/\xff")),),
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
    account = {
        "present": PAGE,
        "recovered": {"zram": PAGE},
        "zero": PAGE,
        "redacted": 0,
        "filtered": 0,
        "missing": {"swapped": PAGE},
        "total": 4 * PAGE,
    }
    assert data["account"] == account
    assert (data["data"], data["zero"], data["missing_bytes"], data["filtered"]) == (2 * PAGE, PAGE, PAGE, 0)
    assert data["vmas"] == [
        {
            "start": START,
            "end": START + 4 * PAGE,
            "name": "/\\xff",
            "reason": "anon-private",
            "data": 2 * PAGE,
            "zero": PAGE,
            "missing": PAGE,
            "filtered": 0,
            "account": account,
        }
    ]


# The schema

SCHEMA = json.loads((Path(kgcore.__file__).parent / "schemas" / "report.schema.json").read_text())


def reports() -> Iterator[dict[str, Any]]:
    """Of all that there is to be told."""
    every = {(START + 2 * i * PAGE, START + (2 * i + 1) * PAGE): (place, "why") for i, place in enumerate(Provenance)}
    vmas = (make_vma(START, 40, anon=True), make_vma(START + 64 * PAGE, 2), make_image().vmas[-1])
    threads = (make_thread(17, fpu=None),)
    memory = FakeMemory(every, fails=[(START + 39 * PAGE, START + 40 * PAGE)])
    plan = make_plan(make_image(vmas=vmas, threads=threads, warnings=("w",)), CoredumpFilter(page_size=PAGE), memory)
    sink = MemorySink()
    failures = [Failure("4711", "no thread has the id 4711")]
    # Rules are about memory: no file is redacted.
    sources = {place.value: 1 for place in Provenance if not place.missing and place is not Provenance.REDACTED}
    gaps = tuple(FileGap(0, 1, place.value, "why") for place in Provenance if place.missing)
    files = (SysrootFile(b"/bin/x", 9, "ab", gaps, sources), SysrootFile(b"/bin/\xff", 9, None, (), {}))
    sysroot = SysrootReport("sysroot", files, ("r",), ("l",), ("p",))
    done = [make_report(plan, path="core.1"), write_core(plan, memory, sink)]
    yield Outcome(done, failures, {1: sysroot}).to_json()
    yield Outcome([report_of()]).to_json()
    yield Outcome().to_json()


@pytest.mark.parametrize("report", list(reports()))
def test_reports_are_as_the_schema_says(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    validator.validate(json.loads(json.dumps(report)))


def walk(schema: dict[str, Any], value: Any, at: str = "") -> Iterator[str]:
    """Where a value has keys that the schema does not describe."""
    schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, list):
        for number, item in enumerate(value):
            kinds = schema.get("prefixItems", [])
            yield from walk(kinds[number] if number < len(kinds) else schema["items"], item, at + "[]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from walk(schema["properties"][key], item, f"{at}.{key}")
            else:
                yield f"{at}.{key}"


def test_every_key_is_in_the_schema_and_in_the_documentation() -> None:
    """No key is missing there, none is there that no report has; and so it is with places and reasons."""
    for report in reports():
        assert set(walk(SCHEMA, report)) == set()
    document = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    described = set(SCHEMA["properties"])
    for definition in SCHEMA["$defs"].values():
        assert set(definition["required"]) == set(definition["properties"]) - {"sysroot"}
        described |= set(definition["properties"])
    account = SCHEMA["$defs"]["account"]["properties"]
    for key, wanted in (("recovered", "recovered"), ("missing", "missing")):
        names = account[key]["propertyNames"]["enum"]
        assert names == [place.value for place in Provenance if getattr(place, wanted)]
        described |= set(names)
    assert SCHEMA["$defs"]["gap"]["properties"]["reason"]["enum"] == account["missing"]["propertyNames"]["enum"]
    for name in described:
        assert f"`{name}`" in document


def test_the_schema_is_not_lenient() -> None:
    """It would notice a report that breaks the promise."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    good = json.dumps(next(reports()))
    assert validator.is_valid(json.loads(good))
    for old, new in (
        ('"account"', '"accounts"'),
        ('"total": ', '"total": -'),
        ('"zram"', '"heaven"'),
        ('"start"', '"begin"'),
        ('"reason": "swapped"', '"reason": "lost"'),
        ('"version": 1', '"version": 2'),
    ):
        assert old in good
        assert not validator.is_valid(json.loads(good.replace(old, new)))


# At a prompt


def test_two_lines_at_a_prompt() -> None:
    """However many mappings there are, and whatever they are called."""
    vmas = tuple(make_vma(START + 2 * number * PAGE, 1, anon=True) for number in range(1000))
    memory = FakeMemory({(START, START + PAGE): (Provenance.SWAPPED, "swap 0")})
    report = replace(report_of(memory, vmas=vmas), comm=b"a\n<b>\x1b[2J", path="/tmp/co\nre")
    first, second = repr(report).splitlines()
    assert re.fullmatch(r"process 4321 \(a\\n<b>.*\), 2 threads: core of .*, in /tmp/co\\nre; INCOMPLETE", first)
    assert second == report.lines()[1]
    assert str(report) == "\n".join(report.lines())
    assert repr(report_of()).splitlines() == report_of().lines()
    html = report._repr_html_()
    assert "<b>" not in html
    assert "\x1b" not in html
    assert "a\\n&lt;b&gt;" in html
    assert "<tr><th>missing: swapped</th><td>4.00 KiB</td></tr>" in html
    assert len(html) < 1000


def test_doubts_in_a_notebook() -> None:
    report = replace(report_of(), warnings=("the <i> is lost",))
    assert "<li>warning: the &lt;i&gt; is lost</li>" in report._repr_html_()
