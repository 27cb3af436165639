# SPDX-License-Identifier: LGPL-2.1-or-later
"""The profiles of cores, on a made-up process: a small core has what a full one has, only less of it."""

import struct
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import Options
from kgcore.coredump.report import Report
from kgcore.filters.rules import Rule
from kgcore.saving import save
from tests.builders import PAGE, FakeMemory, FakeSource, pattern
from tests.coredump.test_important import HEAP, LD, STACK, image, linked


def saved(path: Path, **options: Any) -> Report:
    source = FakeSource(image(), FakeMemory(content=linked()))
    report = save(source, source.image.tgid, path, Options(**options), force=True, jobs=1)
    verdict = check_core(path)
    assert verdict.ok, verdict.problems
    assert verdict.complete
    return report


def segments(path: Path) -> list[tuple[int, int, bytes]]:
    """Address, bytes in memory and bytes in the file of each PT_LOAD."""
    with path.open("rb") as file:
        return [(one["p_vaddr"], one["p_memsz"], one.data()) for one in ELFFile(file).iter_segments("PT_LOAD")]


def notes(path: Path) -> list[tuple[str, bytes]]:
    """The kernel's notes."""
    with path.open("rb") as file:
        found: Any = next(iter(ELFFile(file).iter_segments("PT_NOTE")))
        return [(note["n_type"], note["n_descdata"]) for note in found.iter_notes()]


def test_a_small_core_has_all_of_the_full_ones_but_memory(tmp_path: Path) -> None:
    full, mini = saved(tmp_path / "full"), saved(tmp_path / "mini", profile="mini")
    assert notes(tmp_path / "full") == notes(tmp_path / "mini"), "mapped files as the kernel lists them"
    whole = segments(tmp_path / "full")
    for address, size, data in segments(tmp_path / "mini"):
        (start, length, content) = next(one for one in whole if one[0] <= address < one[0] + one[1])
        assert address + size <= start + length
        assert content[address - start :][: len(data)] == data
    assert sum(size for _, size, _ in segments(tmp_path / "mini")) == sum(size for _, size, _ in whole)
    assert mini.account.total == full.account.total
    assert mini.filtered > full.filtered
    assert mini.data < full.data // 100
    assert not mini.missing
    reasons = {vma.reason for vma in mini.vmas}
    assert {"headers", "stack", "linker", "registers", "not-in-mini"} <= reasons
    assert check_core(tmp_path / "mini").facts["kgcore"]["filter"]["profile"] == "mini"
    assert "profile" not in check_core(tmp_path / "full").facts["kgcore"]["filter"]


def kept(path: Path, address: int) -> bytes | None:
    """A page of a core."""
    for start, _, data in segments(path):
        if start <= address < start + len(data):
            return data[address - start :][:PAGE]
    return None


def test_rules_and_the_filter_come_first(tmp_path: Path) -> None:
    saved(tmp_path / "core", profile="mini")
    assert kept(tmp_path / "core", STACK + 31 * PAGE) == pattern(STACK + 31 * PAGE, PAGE)
    assert kept(tmp_path / "core", HEAP + 20 * PAGE) == pattern(HEAP + 20 * PAGE, PAGE)
    saved(tmp_path / "core", profile="mini", rules=(Rule("exclude", "name:[stack]"),))
    assert kept(tmp_path / "core", STACK + 31 * PAGE) is None
    redact = (Rule("redact", f"addr:{HEAP:x}-{HEAP + 30 * PAGE:x}"),)
    saved(tmp_path / "core", profile="mini", rules=redact)
    assert kept(tmp_path / "core", HEAP + 20 * PAGE) == bytes(PAGE)
    saved(tmp_path / "core", profile="mini", mask=0)
    assert kept(tmp_path / "core", STACK + 31 * PAGE) is None
    assert kept(tmp_path / "core", LD) is None


def test_there_is_no_other_profile() -> None:
    with pytest.raises(ValueError, match="profile is 'tiny': expected 'full' or 'mini'"):
        Options(profile="tiny")  # type: ignore[arg-type]


def test_the_stack_leads_on(tmp_path: Path) -> None:
    """What it points to is there, and what is beside it in the heap is not."""
    target = HEAP + 90 * PAGE
    content = linked() | {STACK + 31 * PAGE: struct.pack("<Q", target).ljust(PAGE, b"\0")}
    source = FakeSource(image(), FakeMemory(content=content))
    save(source, source.image.tgid, tmp_path / "core", Options(profile="mini"))
    assert kept(tmp_path / "core", target) == pattern(target, PAGE)
    assert kept(tmp_path / "core", target - 2 * PAGE) is None
