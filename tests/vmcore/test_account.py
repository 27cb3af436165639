# SPDX-License-Identifier: LGPL-2.1-or-later
"""The account of cores: what gdb makes of missing memory, and what is told of real dumps."""

import json
import random
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from kgcore import __version__
from kgcore.check.core import check_core
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.sinks.files import FileSink
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_vma, pattern
from tests.vmcore.conftest import MAIN, Extractor, find, main_dump, need
from tests.vmcore.tools import kgcore, run

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "kgcore" / "schemas" / "report.schema.json").read_text())
START = 0x7F0000000000
ALL = CoredumpFilter(0x7F, page_size=PAGE)


def as_promised(report: dict[str, Any]) -> None:
    """A report on what may be several processes is as its schema says, and its accounts add up."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    for process in report["processes"]:
        for account in (process["account"], *(vma["account"] for vma in process["vmas"])):
            assert total(account) == account["total"]
        assert process["account"]["total"] == sum(vma["account"]["total"] for vma in process["vmas"])
        assert all(vma["account"]["total"] == vma["end"] - vma["start"] for vma in process["vmas"])
        missing: dict[str, int] = {}
        for gap in process["missing"]:
            missing[gap["reason"]] = missing.get(gap["reason"], 0) + gap["end"] - gap["start"]
        assert missing == process["account"]["missing"]
        assert sum(missing.values()) == process["missing_bytes"]


def total(account: dict[str, Any]) -> int:
    sizes = [account[key] for key in ("present", "zero", "filtered")]
    sizes += [*account["recovered"].values(), *account["missing"].values()]
    return sum(sizes)


# gdb


@pytest.mark.parametrize("seed", range(20))
def test_gdb_reads_what_is_there_and_refuses_what_is_missing(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    states: dict[int, Provenance] = {}
    vmas, at = [], START
    for _ in range(chance.randint(1, 4)):
        file = make_file(b"/nonexistent/file") if chance.random() < 0.3 else None
        vmas.append(make_vma(at, chance.randint(1, 12), anon=True, file=file))
        for page in range(at, vmas[-1].end, PAGE):
            # the one before, so that there are ranges, or any
            again = page > at and chance.random() < 0.5
            states[page] = states[page - PAGE] if again else chance.choice(list(Provenance))
        at = vmas[-1].end + chance.choice((0, 0, 1, 16)) * PAGE
    memory = FakeMemory({(page, page + PAGE): (state, "") for page, state in states.items()})
    plan = make_plan(make_image(vmas=tuple(vmas), auxv=((0, 0),)), ALL, memory, source={"format": "made up"})
    core = tmp_path / "core"
    with FileSink(core) as sink:
        report = write_core(plan, memory, sink)
        sink.commit()

    spots = {page + offset: state for page, state in states.items() for offset in (0, 8 * 77, PAGE - 8)}
    commands = [part for spot in spots for part in ("-ex", f"x/1xg {spot:#x}", "-ex", f"x/1xb {spot + 7:#x}")]
    told = run("gdb", "-batch", "-nx", "-ex", f"core-file {core}", *commands, status=None)
    refused = {int(at, 16) for at in re.findall(r"Cannot access memory at address (0x[0-9a-f]+)", told)}
    read = {int(at, 16): int(value, 16) for at, value in re.findall(r"^(0x[0-9a-f]+):\t(0x[0-9a-f]+)$", told, re.M)}
    for spot, state in spots.items():
        if state.missing:
            assert {spot, spot + 7} <= refused
            assert not {spot, spot + 7} & set(read)
        else:
            word = int.from_bytes(pattern(spot, 8), "little") if state.stored else 0
            assert (read[spot], read[spot + 7]) == (word, word >> 56)
            assert not {spot, spot + 7} & refused
    missing = {page for gap in report.missing for page in range(gap.start, gap.end, PAGE)}
    assert missing == {page for page, state in states.items() if state.missing}


# Real dumps


def dumps() -> Iterator[Any]:
    """Of each series the whole one, and those that lack memory of processes."""
    for name in MAIN:
        fixture = find(name)
        if fixture is None:
            yield pytest.param(name, "", id=f"{name}-not-built")
            continue
        for dump in fixture.manifest["dumps"]:
            file = dump["file"]
            # LOSES_KERNEL_MEMORY, test_dumps.py: not all of these processes are in it
            if (file == main_dump(fixture) or dump["level"] > 17) and (name, file) != ("k72", "vmcore.d31-zstd"):
                yield pytest.param(name, file, id=f"{name}-{file}")


@pytest.mark.parametrize(("name", "file"), list(dumps()))
@pytest.mark.parametrize("victim", ["memory", "threads", "swapped"])
def test_accounts_add_up(name: str, file: str, victim: str, extract: Extractor) -> None:
    fixture = need(name)
    path, report = extract(fixture.dump(file), fixture.victims[victim].pid, mask=0x7F)
    found = json.loads(json.dumps(report.to_json()))
    as_promised({"version": 1, "kgcore": "", "status": report.exit_status, "processes": [found], "failures": []})
    verdict = check_core(path)
    assert verdict.problems == ()
    assert verdict.complete == report.complete
    assert verdict.facts["recovered"] == found["account"]["recovered"]
    note = verdict.facts["kgcore"]
    assert note["account"] == {key: value for key, value in found["account"].items() if value and key != "total"}
    assert len(note["accounts"]) == len(found["vmas"])


WHO = {
    "vmcore.d31-zstd": "makedumpfile level 31 excluded user memory from this dump; level 17 keeps it",
    "vmcore.d31-elf": "the dump excludes user memory; makedumpfile level 17 keeps it",
    "vmcore.d23-zlib": "makedumpfile level 23 excluded pages of files from this dump; level 17 keeps them",
    "vmcore.d17-zlib": "",
}


@pytest.mark.parametrize("file", WHO)
def test_who_left_memory_out_is_told_once(file: str, tmp_path: Path) -> None:
    """In a sentence on standard error, in the report and in the core; and there is a core with what the dump has."""
    fixture = need("k61")
    pid = fixture.victims["threads"].pid
    done = kgcore("-c", fixture.dump(file), "--report", "r.json", pid, cwd=tmp_path)
    report = json.loads((tmp_path / "r.json").read_text())
    as_promised(report)
    (process,) = report["processes"]
    lines = [line for line in done.remarks if "makedumpfile" in line]
    if not WHO[file]:
        assert (done.status, lines, process["warnings"]) == (0, [], [])
        return
    assert done.status == 3
    assert lines == [f"kgcore: warning: {WHO[file]}"]
    assert process["warnings"].count(WHO[file]) == 1
    assert process["account"]["missing"].keys() == {"excluded"}
    ranges = [line for line in done.remarks if re.match("kgcore:   [0-9a-f]{12}-", line)]
    assert len(ranges) == len(process["missing"])
    for gap in process["missing"]:
        assert gap["detail"] == ""
    verdict = check_core(tmp_path / f"core.{pid}")
    assert verdict.ok
    assert verdict.lacks.count(WHO[file]) == 1
    assert len(verdict.facts["threads"]) == len(fixture.victims["threads"].tids)
    assert verdict.facts["files"] > 0


def test_the_documented_example(tmp_path: Path) -> None:
    """docs/report.md shows what is printed, but for the mappings that lack nothing."""
    text = (ROOT / "docs" / "report.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^`kgcore -c (\S+) -D /tmp --report r.json (\d+) (\d+)`", text, re.MULTILINE)
    dump, *pids = command
    done = kgcore("-c", ROOT / dump, "-D", tmp_path, "--report", "r.json", *pids, cwd=tmp_path)
    assert done.status == 1
    report = json.loads((tmp_path / "r.json").read_text())
    as_promised(report)
    (process,) = report["processes"]
    process["vmas"] = [vma for vma in process["vmas"] if vma["missing"]]
    process["path"] = process["path"].replace(str(tmp_path), "/tmp")
    printed = json.dumps(report, indent=2) + "\n"
    assert printed == re.sub('(?<="kgcore": ").*(?=")', __version__, example)


def test_the_schema_is_installed() -> None:
    from importlib.resources import files

    assert json.loads((files("kgcore.schemas") / "report.schema.json").read_text()) == SCHEMA
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["kgcore"]
    assert any(fnmatch("schemas/report.schema.json", pattern) for pattern in patterns)
