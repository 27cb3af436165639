# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same moment in other containers: formats, compressors, dump levels, and with or without a vmlinux."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kgcore.errors import BrokenDump
from kgcore.model.memory import Provenance
from tests.vmcore.conftest import COMMITTED, MAIN, Extractor, Fixture, Victim, find, main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.patterns import pattern
from tests.vmcore.tools import same_bytes
from tests.vmcore_fixtures.make.reduce import reduce

VICTIMS = ("memory", "threads", "dynamic", "spin")
KEEPS_PROCESSES = {0, 1, 17}
"""Dump levels (``makedumpfile -d``) that leave the memory of processes whole."""
LOSES_KERNEL_MEMORY = {"k72", "k72-kexec"}
"""At level 31 makedumpfile 1.7.8 takes some of 7.2's slab pages for user memory: tasks, inodes, names are lost too."""


def other_dumps() -> Iterator[Any]:
    """Every dump of the fixtures that are built, but for the one that all else is compared with."""
    for name in (*MAIN, "k61-kexec", "k72-kexec", "k61-novmcoreinfo"):
        fixture = find(name)
        if fixture is None:
            yield pytest.param(name, "", 0, id=f"{name}-not-built")
            continue
        for dump in fixture.manifest["dumps"]:
            if dump["file"] != main_dump(fixture) and not dump.get("error"):
                yield pytest.param(name, dump["file"], dump["level"], id=f"{name}-{dump['file']}")


@pytest.mark.parametrize(("name", "file", "level"), list(other_dumps()))
def test_same_core_from_every_format(name: str, file: str, level: int, extract: Extractor) -> None:
    fixture = need(name)
    for victim in VICTIMS:
        if victim not in fixture.victims:
            continue
        pid = fixture.victims[victim].pid
        whole, _ = extract(fixture.dump(main_dump(fixture)), pid, mask=None, vendor_note=False)
        if level in KEEPS_PROCESSES:
            path, report = extract(fixture.dump(file), pid, mask=None, vendor_note=False)
            assert same_bytes(path, whole)
            assert all(gap.reason == "file" for gap in report.missing)
            continue
        if name in LOSES_KERNEL_MEMORY and not is_there(fixture.dump(file), pid, extract):
            continue
        path, report = extract(fixture.dump(file), pid, mask=None, vendor_note=False)
        check_less(Core(whole), Core(path), report)
        if name in LOSES_KERNEL_MEMORY:
            assert set(Core(path).files) <= set(Core(whole).files)
            check_told(Core(whole), Core(path), report)
        else:
            assert Core(path).files == Core(whole).files
            assert list(Core(path).threads.items()) == list(Core(whole).threads.items())


def is_there(dump: Path, pid: int, extract: Extractor) -> bool:
    """Whether the task itself is in the dump. If not, there must be one clear error."""
    try:
        extract(dump, pid, mask=None, vendor_note=False)
    except BrokenDump as error:
        return not re.search("not in the dump|tables of tasks are damaged", str(error))
    return True


def check_told(whole: Core, less: Core, report: Any) -> None:
    """What of the threads is lost with the kernel's memory is said."""
    told = [*report.warnings, *(f"thread {tid}: {text}" for tid, text in report.remarks)]
    assert set(less.threads) <= set(whole.threads)
    if len(less.threads) < len(whole.threads):
        assert any("the list of threads ends early" in text for text in told)
    for tid, thread in less.threads.items():
        assert thread == whole.threads[tid] or any(f"thread {tid}" in text for text in told)


def check_less(whole: Core, less: Core, report: Any) -> None:
    """A core out of a dump that lacks memory has no wrong byte, no wrong register, and lists what it lacks."""
    assert report.missing_bytes > 0
    assert not report.complete
    assert {gap.reason for gap in report.missing} <= {"excluded", "file"}
    for load in less.loads:
        for address, data in less.segment(load):
            assert whole.read(address, len(data)) == data
    dumped = sum(load.p_filesz for load in less.loads) + report.missing_bytes
    assert dumped >= sum(load.p_filesz for load in whole.loads)
    for gap in report.missing:
        with pytest.raises(ValueError, match="is not in"):
            less.read(gap.start, 1)
        with pytest.raises(ValueError, match="is not in"):
            less.read(gap.end - 1, 1)
    assert less.auxv == whole.auxv


@pytest.mark.parametrize("name", [name for name in MAIN if name not in LOSES_KERNEL_MEMORY])
def test_zeros_on_request(name: str, extract: Extractor) -> None:
    """``--missing zero`` keeps the kernel's layout, one segment per mapping, and still tells what is missing."""
    fixture = need(name)
    pid = fixture.victims["threads"].pid
    whole, _ = extract(fixture.dump(), pid, mask=None, vendor_note=False)
    path, report = extract(fixture.dump("vmcore.d31-zstd"), pid, mask=None, vendor_note=False, missing="zero")
    one, two = Core(whole), Core(path)
    assert one.phdrs == two.phdrs
    assert report.missing_bytes > 0
    assert not report.complete
    for gap in report.missing:
        assert two.read(gap.start, gap.end - gap.start) == bytes(gap.end - gap.start)


# No vmlinux


@pytest.mark.parametrize(("name", "victim"), [*((name, v) for name in MAIN for v in VICTIMS), ("k61-kexec", "crasher")])
def test_dwarf_and_btf_give_the_same_core(name: str, victim: str, extract: Extractor) -> None:
    fixture = need(name)
    file = fixture.dump(main_dump(fixture))
    pid = fixture.victims[victim].pid
    btf, _ = extract(file, pid, mask=0x7F)
    dwarf, _ = extract(file, pid, mask=0x7F, symbols=(str(fixture.vmlinux),))
    assert same_bytes(btf, dwarf)


# The committed fixtures


@pytest.mark.parametrize("name", sorted(path.parent.name for path in COMMITTED.glob("*/manifest.toml")))
def test_reduced_dump_gives_the_same_cores(name: str, extract: Extractor, tmp_path: Path) -> None:
    """The recipe of the committed fixtures: the frames that it leaves out are ones that extraction does not read."""
    whole = need(name, committed=False)
    reduce(whole.path, tmp_path / name)
    small = Fixture(tmp_path / name)
    symbols = small.packed_symbols(tmp_path)
    for victim in small.victims.values():
        less, report = extract(small.dump("vmcore"), victim.pid, mask=None, vendor_note=False, symbols=symbols)
        more, _ = extract(whole.dump(main_dump(whole)), victim.pid, mask=None, vendor_note=False, symbols=symbols)
        assert same_bytes(less, more)
        assert not any(gap.reason == Provenance.EXCLUDED.value for gap in report.missing)


# Swap


@pytest.mark.parametrize("name", MAIN)
def test_swapped_pages(name: str, extract: Extractor) -> None:
    """The pages that the victim saw leave are recovered from memory or missing; all others are there, and right."""
    fixture = need(name)
    victim = fixture.victims["swapped"]
    path, report = extract(fixture.dump(), victim.pid, mask=None)
    missing = {page for gap in report.missing for page in range(gap.start, gap.end, 4096)}
    assert {gap.reason for gap in report.missing} <= {"swapped"}
    core = Core(path)
    left = 0
    for mapping in victim.said["mappings"]:
        pages = set(range(mapping["addr"], mapping["addr"] + mapping["length"], 4096))
        for page in pages - missing:
            assert core.read(page, 4096) == pattern(mapping["seed"], page - mapping["addr"], 4096)
        for page in pages & missing:
            with pytest.raises(ValueError, match="is not in"):
                core.read(page, 1)
        if mapping["kind"] == "anon-private":
            left += len(mapping["swapped"])
            assert pages & missing <= {mapping["addr"] + number * 4096 for number in mapping["swapped"]}
        else:  # of shared memory pagemap does not tell
            left += swapped_kib(victim, mapping["addr"]) // 4
    recovered = sum(vma.recovered.get("swap-cache", 0) for vma in report.vmas) // 4096
    assert left == recovered + len(missing)


def swapped_kib(victim: Victim, start: int) -> int:
    """``Swap:`` of a mapping in /proc/PID/smaps."""
    smaps = (victim.proc / "smaps").read_text(errors="replace")
    _, _, rest = smaps.partition(f"{start:x}-")
    match = re.search(r"^Swap: +(\d+) kB", rest, re.MULTILINE)
    assert match
    return int(match[1])
