# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore map`` on real vmcores, beside /proc/PID/maps and smaps of the moment before the dump."""

import functools
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("drgn")

from tests.views.test_addressmap import SCHEMAS, validator
from tests.vmcore.conftest import MAIN, Extractor, Fixture, find, need
from tests.vmcore.corefile import Core
from tests.vmcore.test_cli_real import ps
from tests.vmcore.test_dumps import LOSES_KERNEL_MEMORY, is_there
from tests.vmcore.tools import ROOT, TIMEOUT, kgcore

PAGE = 4096
SMALL = ("k510-small", "k61-small", "k612-small", "k72-small", "k61-crash-small", "k61-686pae-small", "k61-abi-small")
VICTIMS = ("memory", "threads", "spin", "dynamic", "swapped", "crasher", "nspid", "ia32", "abi_x32", "abi_ia32")

ZERO_PAGES = ("thp-zero", "anon-zero-page")
"""Mappings of the victim "memory"."""


class Line(NamedTuple):
    """Of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    name: bytes


def proc_maps(path: Path) -> list[Line]:
    return [line_of(line) for line in path.read_bytes().splitlines()]


def line_of(line: bytes) -> Line:
    range_, permissions, offset, _, _, *name = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in range_.split(b"-"))
    # seq_path() writes line feeds and backslashes as octal numbers, and nothing else.
    path = name[0] if name else b""
    path = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)
    return Line(start, end, permissions.decode(), int(offset, 16), path)


def smaps(path: Path) -> dict[int, dict[str, int]]:
    """/proc/PID/smaps: first address to its numbers, in bytes."""
    found: dict[int, dict[str, int]] = {}
    for line in path.read_bytes().splitlines():
        if re.match(rb"[0-9a-f]+-[0-9a-f]+ ", line):
            numbers = found[line_of(line).start] = {}
        elif line.endswith(b" kB"):
            key, number, _ = line.decode().split()
            numbers[key.rstrip(":")] = int(number) << 10
    return found


@functools.cache
def map_of(dump: Path, pid: int, *words: str) -> dict[str, Any]:
    done = kgcore("map", "--json", "-c", dump, *words, pid, cwd=dump.parent)
    assert (done.status, done.remarks) == (0, [])
    told = json.loads(done.raw)
    validator().validate(told)
    return dict(told)


def told_names(vma: dict[str, Any]) -> bytes:
    r"""The name as it was: ``\xNN`` stands for bytes that are no UTF-8."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), vma["name"].encode())


def cases() -> Iterator[Any]:
    for name in (*MAIN, *SMALL):
        fixture = find(name)
        if fixture is None:
            yield pytest.param(name, "", id=f"{name}-not-built")
            continue
        for victim in VICTIMS:
            if victim in fixture.victims and (fixture.victims[victim].proc / "maps").exists():
                yield pytest.param(name, victim, id=f"{name}-{victim}")


def dump_of(fixture: Fixture, tmp_path: Path) -> tuple[Path, list[str]]:
    path = fixture.dump("vmcore.elf")
    words = [word for file in fixture.packed_symbols(tmp_path) for word in ("-s", file)]
    return (path if path.exists() else fixture.dump("vmcore")), words


@pytest.mark.parametrize(("name", "victim"), list(cases()))
def test_rows_are_those_of_proc_pid_maps(name: str, victim: str, tmp_path: Path) -> None:
    """Ranges, permissions, offsets and names, heap and stack included."""
    fixture = need(name)
    dump, words = dump_of(fixture, tmp_path)
    told = map_of(dump, fixture.victims[victim].pid, *words)
    lines = proc_maps(fixture.victims[victim].proc / "maps")
    assert len(lines) > 5
    assert {b"[stack]"} <= {line.name for line in lines}
    rows = [Line(vma["start"], vma["end"], vma["permissions"], vma["offset"], told_names(vma)) for vma in told["vmas"]]
    assert rows == lines
    assert told["account"]["total"] == sum(line.end - line.start for line in lines)


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("victim", ["memory", "threads", "dynamic", "swapped"])
def test_sizes_are_those_of_smaps(name: str, victim: str) -> None:
    """With all filter bits: what the page tables point to is the resident size, as the kernel counted it.

    It does not count its own pages of zeros, which some mappings of a victim are made of, as it says.
    """
    fixture = need(name)
    told = map_of(fixture.dump(), fixture.victims[victim].pid, "-f", "0x7f")
    kernel = smaps(fixture.victims[victim].proc / "smaps")
    said = fixture.victims[victim].said["mappings"] if victim == "memory" else []
    zeros = [(mapping["addr"], mapping["length"]) for mapping in said if mapping["name"] in ZERO_PAGES]
    assert len(zeros) == (len(ZERO_PAGES) if victim == "memory" else 0)
    compared = 0
    for vma in told["vmas"]:
        numbers = kernel[vma["start"]]
        assert vma["end"] - vma["start"] == numbers["Size"]
        if vma["kept"] == "whole" and not vma["name"].startswith("[v"):  # which is not counted
            resident = numbers["Rss"] + numbers["Shared_Hugetlb"] + numbers["Private_Hugetlb"]
            resident += sum(length for address, length in zeros if vma["start"] <= address < vma["end"])
            assert vma["account"]["present"] == resident, vma
            compared += resident
    assert compared > 100 * PAGE


@pytest.mark.parametrize("name", MAIN)
def test_whose_stacks_lie_where(name: str) -> None:
    """Each thread's stack pointer is the one in the kernel's own core, and in the mapping that says so."""
    victim = need(name).victims["threads"]
    told = map_of(need(name).dump(), victim.pid)
    assert victim.core is not None
    kernels = {tid: thread.regs["sp"] for tid, thread in Core(victim.core).threads.items()}
    found = {stack["tid"]: (stack["sp"], vma) for vma in told["vmas"] for stack in vma["stack_of"]}
    assert {tid: sp for tid, (sp, _) in found.items()} == kernels
    assert set(kernels) == set(victim.tids)
    for tid, (sp, vma) in found.items():
        assert vma["start"] <= sp < vma["end"]
        assert (vma["name"] == "[stack]") == (tid == victim.pid)


def level_31(fixture: Fixture) -> str:
    (file,) = (dump["file"] for dump in fixture.manifest["dumps"] if dump["level"] == 31 and "zstd" in dump["file"])
    return str(file)


@pytest.mark.parametrize("name", MAIN)
def test_what_a_filtered_dump_lacks_is_what_the_report_of_a_core_says(name: str, extract: Extractor) -> None:
    fixture = need(name)
    dump, pid = fixture.dump(level_31(fixture)), fixture.victims["dynamic"].pid
    if name in LOSES_KERNEL_MEMORY and not is_there(dump, pid, extract):
        # Then of one that is. Which are is left to chance; so far the first process was.
        pid = next((pid for pid in sorted(ps(dump)) if ps(dump)[pid]["rss"] and is_there(dump, pid, extract)), 0)
        if not pid:
            return
    _, report = extract(dump, pid)
    told, core = map_of(dump, pid), json.loads(json.dumps(report.to_json()))
    assert told["missing"] == core["missing"] != []
    assert "excluded" in told["account"]["missing"]
    for key in ("tgid", "size", "data", "zero", "filtered", "missing_bytes", "account", "warnings", "complete"):
        assert told[key] == core[key]
    for ours, theirs in zip(told["vmas"], core["vmas"], strict=True):
        assert {key: ours[key] for key in theirs if key != "name"} == {
            key: value for key, value in theirs.items() if key != "name"
        }
        assert ours["name"] == theirs["name"] or ours["name"] in ("[heap]", "[stack]")
        lacking = sum(
            gap["end"] - gap["start"] for gap in told["missing"] if ours["start"] <= gap["start"] < ours["end"]
        )
        assert ours["missing"] == lacking
    if name in LOSES_KERNEL_MEMORY:  # of mappings and files, too
        return
    whole = map_of(fixture.dump(), pid)
    for less, vma in zip(told["vmas"], whole["vmas"], strict=True):
        # Where it cannot be seen whether a page is an ELF header, it is kept.
        assert (less["kept"], less["reason"]) in ((vma["kept"], vma["reason"]), ("first-page", "maybe-elf-header"))
    assert whole["missing_bytes"] < told["missing_bytes"]


# The table


def test_the_table_says_what_the_json_says() -> None:
    fixture = need("k61")
    dump, pid = fixture.dump(level_31(fixture)), fixture.victims["memory"].pid
    told = map_of(dump, pid)
    done = kgcore("map", "-c", dump, pid, cwd=dump.parent)
    assert (done.status, done.remarks) == (0, [])
    _, *rows = done.lines[: len(told["vmas"]) + 1]
    signs = {"present": "█", "recovered": "▓", "zero": "░", "missing": "\N{BOX DRAWINGS LIGHT DIAGONAL CROSS}"}
    for row, vma in zip(rows, told["vmas"], strict=True):
        assert row.startswith(f"{vma['start']:012x}-{vma['end']:012x}")
        assert vma["permissions"] in row
        assert {"whole": " all ", "first-page": " page ", "nothing": " no "}[vma["kept"]] in row
        assert f" {vma['reason']} " in row
        if vma["name"]:
            assert vma["name"].replace("\n", "\\n").split("\x1b")[0] in row
        for key, sign in signs.items():
            size = vma["account"][key]
            assert (sign in row) == bool(size)
        assert ("·" in row) == bool(vma["filtered"])
    lines = "\n".join(done.lines[len(rows) + 1 :])
    assert f"{len(rows)} mappings" in lines
    assert "makedumpfile level 31" in lines


@pytest.mark.parametrize("width", [80, 160])
def test_it_fits_on_a_terminal(width: int, tmp_path: Path) -> None:
    """On a real one: a pseudo-terminal of that width."""
    fixture = need("k61-crash-small")
    main, side = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    done = subprocess.Popen(
        [sys.executable, "-m", "kgcore", "map", "-c", str(fixture.dump("vmcore"))],
        stdout=side,
        stdin=subprocess.DEVNULL,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": str(width), "PYTHONPATH": str(ROOT)},
    )
    os.close(side)
    text = b""
    while True:
        try:
            text += os.read(main, 1 << 16)
        except OSError:  # the other end is closed
            break
    os.close(main)
    assert done.wait(TIMEOUT) == 0
    assert b"\x1b[34m" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    (last,) = (number for number, line in enumerate(lines) if line.startswith("total"))
    assert max(len(line) for line in lines[: last + 2]) <= width
    assert ("WHY" in lines[0]) == (width == 160)


# Documentation


def test_the_documented_example() -> None:
    text = (ROOT / "docs" / "map.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^`kgcore map -c (\S+) --json (\d+)`", text, re.MULTILINE)
    told = map_of(ROOT / command[0], int(command[1]))
    told = told | {"vmas": [vma for vma in told["vmas"] if vma["missing"]]}
    assert json.loads(example) | {"kgcore": told["kgcore"]} == told


def test_the_schema_is_installed() -> None:
    from importlib.resources import files

    assert json.loads((files("kgcore.schemas") / "map.schema.json").read_text()) == SCHEMAS[0]
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["kgcore"]
    assert any(fnmatch("schemas/map.schema.json", pattern) for pattern in patterns)
