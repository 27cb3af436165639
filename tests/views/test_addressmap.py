# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map of made-up address spaces: as values, as JSON, and as ``kgcore map`` prints it."""

import copy
import io
import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kgcore
from kgcore.cli import main as cli
from kgcore.cli import render
from kgcore.cli.commands import opening
from kgcore.coredump.plan import make_plan
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, RegisterSource
from kgcore.views.addressmap import AddressMap, Kind, by_kind, make_map, ranges, shares
from tests import fake_source
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma

START = 0x7F0000000000
SCHEMAS = [
    json.loads((Path(kgcore.__file__).parent / "schemas" / name).read_text())
    for name in ("map.schema.json", "report.schema.json")
]


def map_of(memory: FakeMemory | None = None, mask: int = 0x33, **values: Any) -> AddressMap:
    plan = make_plan(make_image(**values), CoredumpFilter(mask, page_size=PAGE), memory or FakeMemory())
    return make_map(plan, {"format": "made up"})


# Values


def test_names_are_those_of_proc_pid_maps() -> None:
    vmas = (
        make_vma(0x400000, 2, VM_READ | VM_EXEC, file=make_file(b"/bin/x"), pgoff=3),
        make_vma(0x600000, 4, anon=True),
        make_vma(0x604000, 4, anon=True),
        make_vma(START, 4, anon=True),
        make_vma(0x7FFD00000000, 8, anon=True),
        make_vma(0x7FFD10000000, 1, VM_READ | VM_EXEC, name="[vdso]"),
    )
    areas = map_of(vmas=vmas, start_brk=0x604100, brk=0x606000, start_stack=0x7FFD00007F00, threads=()).areas
    assert [area.name for area in areas] == [b"/bin/x", b"", b"[heap]", b"", b"[stack]", b"[vdso]"]
    assert [area.title() for area in areas] == ["/bin/x", "anon", "[heap]", "anon", "[stack]", "[vdso]"]
    assert [area.permissions for area in areas[:2]] == ["r-xp", "rw-p"]
    assert [area.offset for area in areas[:2]] == [3 * PAGE, 0]


def test_a_file_in_the_place_of_the_heap_keeps_its_name() -> None:
    vmas = (make_vma(0x600000, 4, file=make_file(b"/x")), make_vma(0x604000, 1, file=make_file(None)))
    areas = map_of(vmas=vmas, start_brk=0x600000, brk=0x605000, start_stack=0x600000, threads=()).areas
    assert [area.name for area in areas] == [b"/x", b""]


def test_what_the_process_called_its_memory() -> None:
    """As show_map_vma() has it (fs/proc/task_mmu.c): heap and stack keep their names, shared memory differs."""
    zero = make_file(b"/dev/zero (deleted)", nlink=0)
    vmas = (
        make_vma(0x600000, 4, anon=True, anon_name=b"not the heap"),
        make_vma(0x604000, 4, anon=True, anon_name=b"the heap"),
        make_vma(START, 4, anon_name=b"a/b \xe9"),
        make_vma(START + 8 * PAGE, 4, file=zero, anon_name=b"shared"),
        make_vma(0x7FFD00000000, 8, anon=True, anon_name=b"the stack"),
    )
    areas = map_of(vmas=vmas, start_brk=0x604100, brk=0x606000, start_stack=0x7FFD00007F00, threads=()).areas
    names = [b"[anon:not the heap]", b"[heap]", b"[anon:a/b \xe9]", b"[anon_shmem:shared]", b"[stack]"]
    assert [area.name for area in areas] == names
    assert areas[2].to_json()["name"] == "[anon:a/b \\xe9]"


def test_nothing_is_known_of_heap_and_stack() -> None:
    assert {area.name for area in map_of(vmas=(make_vma(PAGE, 4, anon=True),)).areas} == {b""}


def test_whose_stacks_lie_where() -> None:
    vmas = (make_vma(START, 4, anon=True), make_vma(START + 8 * PAGE, 4, anon=True), make_vma(0x10000, 1, anon=True))
    threads = [make_thread(number, regs=make_regs(sp=START + 16 * number)) for number in range(1, 6)]
    threads.append(make_thread(6, regs=make_regs(sp=START + 9 * PAGE)))
    threads.append(make_thread(7, regs=make_regs(sp=START + 5 * PAGE)))  # in no mapping
    unknown = replace(make_regs(sp=START), source=RegisterSource.UNAVAILABLE, unknown=frozenset({"sp"}))
    threads.append(make_thread(8, regs=unknown))
    low, first, second = map_of(vmas=(vmas[2], *vmas[:2]), threads=tuple(threads)).areas
    assert low.stacks == ()
    assert first.stacks == tuple((number, START + 16 * number) for number in range(1, 6))
    assert second.stacks == ((6, START + 9 * PAGE),)
    assert first.title() == "stack of threads 1, 2, 3 and 2 more"
    assert second.title() == "stack of thread 6"
    assert second._replace(name=b"[stack]").title() == "[stack] of thread 6"
    assert second._replace(name=b"/mem\n").title() == "/mem\\n (stack of thread 6)"


def test_what_the_filter_decides() -> None:
    elf = make_file(b"/lib/x", mode=0o100755)
    vmas = (
        make_vma(0x400000, 4, VM_READ, file=elf),
        make_vma(0x500000, 4, VM_READ | VM_EXEC, file=elf, pgoff=1),
        make_vma(START, 4, anon=True),
        make_vma(START + 8 * PAGE, 1, VM_READ | VM_WRITE | VM_SHARED, file=make_file(b"/dev/zero (deleted)", nlink=0)),
    )
    told = [(area.kept, area.vma.reason) for area in map_of(vmas=vmas, threads=()).areas]
    assert told == [
        ("first-page", "elf-header"),
        ("nothing", "mapped-private"),
        ("whole", "anon-private"),
        ("whole", "anon-shared"),
    ]


def test_every_provenance_has_a_kind_and_the_account_says_the_same() -> None:
    memory = FakeMemory({(START + i * PAGE, START + (i + 1) * PAGE): (place, "") for i, place in enumerate(Provenance)})
    count = len(Provenance)
    account = map_of(memory, vmas=(make_vma(START, count, anon=True), make_vma(START + count * PAGE))).report.account
    told = account.to_json()
    sums = {
        key: sum(value.values()) if isinstance(value, dict) else value for key, value in told.items() if key != "total"
    }
    assert {kind.value: size for kind, size in by_kind(account).items()} == sums
    assert set(by_kind(account)) == set(Kind)


SIZES = st.dictionaries(st.sampled_from(list(Kind)), st.integers(1, 1 << 48))


@settings(deadline=None)
@given(SIZES, st.integers(0, 40))
def test_a_bar_is_in_proportion_and_overlooks_nothing(sizes: dict[Kind, int], width: int) -> None:
    cells = shares(sizes, width)
    assert sum(cells.values()) == (width if sizes else 0)
    for kind, size in sizes.items():
        assert cells[kind] >= (1 if width >= len(sizes) else 0)
        assert abs(cells[kind] - width * size / sum(sizes.values())) < len(sizes) + 1


def test_ranges_of_a_mapping() -> None:
    memory = FakeMemory(
        {(START + 2 * i * PAGE, START + (2 * i + 1) * PAGE): (Provenance.ZERO, "") for i in range(8)}
        | {(START + 64 * PAGE, START + 65 * PAGE): (Provenance.FILE, "why")}
    )
    vmas = (make_vma(START, 16, anon=True), make_vma(START + 64 * PAGE, 2, anon=True), make_vma(START + 80 * PAGE, 2))
    plan = make_plan(make_image(vmas=vmas), CoredumpFilter(page_size=PAGE), memory)
    found = ranges(plan, memory, 0, 16)
    assert [run.provenance for run in found] == [Provenance.ZERO, Provenance.PRESENT] * 8
    assert found == tuple(memory.runs(vmas[0], vmas[0].start, vmas[0].end))
    assert ranges(plan, memory, 0, 15) == ()
    assert [(run.provenance, run.detail) for run in ranges(plan, memory, 1, 4)] == [
        (Provenance.FILE, "why"),
        (Provenance.PRESENT, ""),
    ]
    assert ranges(plan, memory, 2, 4) == ()  # nothing is kept


# JSON


def maps() -> Iterator[dict[str, Any]]:
    every = {(START + i * PAGE, START + (i + 1) * PAGE): (place, "why") for i, place in enumerate(Provenance)}
    vmas = (make_vma(START, 40, anon=True), make_vma(START + 64 * PAGE, 2), make_image().vmas[-1])
    threads = (make_thread(17, fpu=None, regs=make_regs(sp=START)),)
    yield map_of(FakeMemory(every), vmas=vmas, threads=threads, warnings=("w",)).to_json()
    yield map_of(mask=0x7F).to_json()
    hostile = make_file(b"\xff\x1b[2J\xe2\x80\xae")
    yield map_of(vmas=(make_vma(START, 2, file=hostile),), threads=()).to_json()
    yield map_of(vmas=()).to_json()


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    registry = referencing.Registry().with_contents([(schema["$id"], schema) for schema in SCHEMAS])
    for schema in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(SCHEMAS[0], registry=registry)


@pytest.mark.parametrize("told", list(maps()))
def test_json_is_as_the_schema_says(told: dict[str, Any]) -> None:
    validator().validate(json.loads(json.dumps(told)))


def test_every_key_is_in_the_schema_and_in_the_documentation() -> None:
    schema, report = SCHEMAS
    keys = set(schema["properties"]) | set(report["$defs"]["process"]["properties"])
    area = schema["$defs"]["area"]["properties"]
    for told in maps():
        assert set(told) <= keys
        for vma in told["vmas"]:
            assert set(vma) == set(area) | set(report["$defs"]["vma"]["properties"])
    document = (Path(__file__).parents[2] / "docs" / "map.md").read_text()
    for name in {*schema["properties"], *area, *area["kept"]["enum"], "tid", "sp"}:
        assert f"`{name}`" in document


def test_the_schema_is_not_lenient() -> None:
    check = validator()
    good = next(maps())
    assert check.is_valid(good)
    changes: list[dict[str, Any]] = [
        {"version": 2},
        {"path": "core.1"},
        {"filter": {}},
        {"vmas": [good["vmas"][0] | {"kept": "all"}]},
        {"vmas": [good["vmas"][0] | {"permissions": "rwx"}]},
        {"vmas": [good["vmas"][0] | {"stack_of": [1]}]},
        {"vmas": [{key: value for key, value in good["vmas"][0].items() if key != "account"}]},
    ]
    for change in changes:
        assert not check.is_valid(copy.deepcopy(good) | change), change


# The table


BLOCKS = str.maketrans("#+0x.", "█▓░\N{BOX DRAWINGS LIGHT DIAGONAL CROSS}·")
ASCII = {new: old for old, new in BLOCKS.items()}
LEGEND = "## present   ++ recovered   00 zeros   xx missing   .. left out by the filter"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Ascii(io.StringIO):
    encoding = "ascii"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def without_ansi(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def mixed() -> AddressMap:
    """A mapping with as much of each kind, and others."""
    memory = FakeMemory(
        {
            (START, START + PAGE): (Provenance.SWAPPED, ""),
            (START + PAGE, START + 2 * PAGE): (Provenance.ZRAM, ""),
            (START + 2 * PAGE, START + 3 * PAGE): (Provenance.ZERO, ""),
        }
    )
    long = b"/usr/lib/x86_64-linux-gnu/" + b"long" * 20 + b"/libend.so"
    vmas = (make_vma(START, 4, anon=True), make_vma(START + 8 * PAGE, 2, file=make_file(long, mode=0o100644), pgoff=1))
    return map_of(memory, vmas=vmas, threads=(make_thread(regs=make_regs(sp=START + PAGE)),))


def shown(out: io.StringIO, found: AddressMap | None = None) -> list[str]:
    render.show_map(found or mixed(), out)
    return [line.rstrip() for line in without_ansi(out.getvalue()).splitlines()]


def test_in_a_pipe_everything_is_there() -> None:
    titles, stack, library, total, legend, *sums = shown(io.StringIO())
    assert titles.split() == ["RANGE", "SIZE", "PERM", "KEPT", "WHY", "MEMORY", "NAME"]
    assert stack.split(maxsplit=7) == [
        "7f0000000000-7f0000004000",
        *("16.0", "KiB", "rw-p", "all", "anon-private"),
        "#####+++++00000xxxxx".translate(BLOCKS),
        "stack of thread 4321",
    ]
    assert library.split()[1:] == [
        *("8.00", "KiB", "rw-p", "no", "mapped-private"),
        "·" * 20,
        "/usr/lib/x86_64-linux-gnu/" + "long" * 20 + "/libend.so",
    ]
    assert total.split() == ["total", "24.0", "KiB", "####+++0000xxx......".translate(BLOCKS), "2", "mappings"]
    assert legend.translate(ASCII) == LEGEND
    assert sums[0].startswith("process 4321 (victim), 1 thread: core of ")
    assert sums[1].startswith("memory: 4.00 KiB from page tables, 4.00 KiB recovered (zram), ")
    assert sums[2] == "left out by the filter: 8.00 KiB (mapped-private)"


def test_without_utf_8_and_without_colours_the_kinds_are_told_apart() -> None:
    out = Ascii()
    lines = shown(out)
    assert "#####+++++00000xxxxx" in lines[1]
    assert ".".join(["", *[""] * 20]) in lines[2]
    assert lines[4] == LEGEND
    assert out.getvalue().isascii()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
def test_on_a_terminal_it_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(Terminal())
    table = lines[:4]
    if width >= 80:
        assert max(map(len, table)) <= width
    assert table[2].endswith("libend.so")  # shortened in front
    assert "…" in table[2] or width == 250
    assert table[1].endswith("thread 4321" if width >= 80 else "4321")
    assert ("anon-private" in table[1]) == (width >= 100)
    bar = re.search("#+[+]+0+x+", table[1].translate(ASCII).partition("  all  ")[2])
    assert bar is not None
    assert 8 <= len(bar[0]) <= 32
    assert (len(bar[0]) == 32) == (width >= 160)


def test_colours_only_on_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(3|9)[0-7]m")
    plain_, painted = io.StringIO(), Terminal()
    render.show_map(mixed(), plain_)
    render.show_map(mixed(), painted)
    assert "\x1b" not in plain_.getvalue()
    text = painted.getvalue().translate(ASCII)
    assert re.search(r"\x1b\[34m#+\x1b\[0m\x1b\[32m[+]+\x1b\[0m\x1b\[90m0+\x1b\[0m\x1b\[1;31mx+\x1b", text)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = Terminal()
    render.show_map(mixed(), bare)
    assert not colour.search(bare.getvalue())


def test_hostile_names_stay_in_their_cells() -> None:
    for out in (io.StringIO(), Terminal(), Ascii()):
        vmas = (make_vma(START, 1, file=make_file(b"/\x1b[2J[red]\n\xff")),)
        render.show_map(map_of(vmas=vmas, threads=()), out)
        assert "\x1b[2J" not in out.getvalue()
        assert "[red]\\n\\xff" in out.getvalue()
        assert len(out.getvalue().splitlines()) == 6


def test_an_address_space_without_mappings() -> None:
    assert shown(io.StringIO(), map_of(vmas=()))[1].split() == ["total", "0", "B", "0", "mappings"]


# The command


@pytest.fixture
def kgcore_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vmcore").touch()
    monkeypatch.setattr(opening, "opened", fake_source.opened)

    def run(*words: object) -> tuple[int, str, str]:
        status = cli.main(["map", *map(str, words)])
        return (status, *capfd.readouterr())

    return run


def test_the_command(kgcore_map: Any, tmp_path: Path) -> None:
    status, out, err = kgcore_map(fake_source.INCOMPLETE)
    assert (status, err) == (0, "")
    assert "7f0000000000-7f0000003000" in out
    assert "1 missing" not in out
    assert "4.00 KiB missing (swapped)" in out
    status, out, _ = kgcore_map("--json", "-f", "4", fake_source.INCOMPLETE)
    told = json.loads(out)
    assert (status, told["tgid"], told["filter"]["mask"], told["complete"]) == (0, 200, 4, True)
    assert [vma["kept"] for vma in told["vmas"]] == ["whole", "nothing"]
    status, out, _ = kgcore_map("-f", "process", "--json")
    assert json.loads(out)["tgid"] == fake_source.COMPLETE  # the current one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmcore"]


def test_filter_options_are_those_of_a_dump(kgcore_map: Any) -> None:
    def kept(*words: str) -> list[str]:
        return [vma["kept"] for vma in json.loads(kgcore_map(*words, "--json", fake_source.MARKED)[1])["vmas"]]

    assert kept() == ["nothing", "whole", "nothing", "nothing"]
    assert kept("--dontdump", "--dax") == ["nothing", "whole", "whole", "whole"]


def test_the_page_is_a_private_file_and_none_is_overwritten(kgcore_map: Any, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    assert kgcore_map("--html", "map.html", fake_source.COMPLETE) == (0, "Saved map.html\n", "")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    written = page.read_text()
    assert written.startswith("<!DOCTYPE html>")
    status, out, err = kgcore_map("--html", "map.html", fake_source.INCOMPLETE)
    assert (status, out) == (2, "")
    assert "--force" in err
    assert page.read_text() == written
    assert kgcore_map("--force", "--html", "map.html", fake_source.INCOMPLETE)[0] == 0
    assert page.read_text() != written
    page.unlink()
    page.symlink_to("elsewhere")
    assert kgcore_map("--force", "--html", "map.html", fake_source.COMPLETE)[0] == 1
    assert not (tmp_path / "elsewhere").exists()
    status, out, err = kgcore_map("--html", "-", fake_source.COMPLETE)
    assert (status, out, err) == (0, written, "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--json --html x 100", "not allowed with"),
        ("--html", "expected one argument"),
        ("100 200", "unrecognized arguments: 200"),
        ("init", "neither a PID nor"),
        ("-f 300 100", "out of range"),
        ("--swap x 100", "DEV=IMAGE"),
    ],
)
def test_mistakes(kgcore_map: Any, words: str, complaint: str) -> None:
    status, out, err = kgcore_map(*words.split())
    assert (status, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize("pid", [fake_source.KERNEL_THREAD, fake_source.ZOMBIE, fake_source.UNKNOWN])
def test_what_has_no_map(kgcore_map: Any, pid: int) -> None:
    status, out, err = kgcore_map("--html", "x.html", pid)
    assert (status, out) == (1, "")
    assert str(pid) in err
    assert not Path("x.html").exists()


def test_help_has_examples(kgcore_map: Any) -> None:
    status, out, _ = kgcore_map("--help")
    assert status == 0
    assert "examples:" in out
    for line in re.findall(r"^  kgcore (map .*?)(?:   .*)?$", out, re.MULTILINE):
        words = line.partition(" | ")[0].split()
        if "--swap" not in words:  # which wants a file
            assert (
                cli.main([*words[:1], "-c", "vmcore", *(word for word in words[1:] if word not in ("-c", "vmcore"))])
                != 2
            )


def test_names_that_the_stream_cannot_have() -> None:
    """What is run here is the command as it is installed: a process with a name in Japanese, in the C locale."""
    code = (
        "import tests.builders as b; from kgcore.cli import main as cli; from kgcore.cli.commands import opening;"
        "import contextlib;"
        "image = b.make_image(vmas=(b.make_vma(4096, file=b.make_file('/日本語'.encode())),));"
        "source = b.FakeSource(image);"
        "opening.opened = contextlib.contextmanager(lambda *a: iter([source]));"
        "cli.entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "map", "-c", "/dev/null", "1"],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"/\u65e5\u672c\u8a9e" in done.stdout
