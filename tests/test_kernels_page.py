# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/kernels.md says on which kernels kgcore was tried: what ran, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.vmcore.record import Record
from tools import kernels

MANIFEST = {"name": "k61-zram", "suite": "bookworm", "release": "6.1.0-50-cloud-amd64"}


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch, *ends: tuple[str, bool, bool]) -> list[dict[str, Any]]:
    """What is written of tests: file, whether with the dump's own types, and whether it passed."""

    class Target:
        types = "the kernel's own BTF and kallsyms"

    monkeypatch.setenv("KGCORE_RECORD", str(folder))
    record = Record()
    for file, own_types, passed in ends:
        record.begin()
        record.uses(MANIFEST)
        if own_types:
            record.opens(Target())
        record.end(file, "test_it", passed=passed)
    record.write()
    return [row for path in folder.iterdir() for row in json.loads(path.read_text())]


@pytest.mark.parametrize(
    ("ends", "ran"),
    [
        ([("test_zram.py", True, True)], ["opens", "without vmlinux", "swap"]),
        ([("test_zram.py", False, True)], ["opens", "swap"]),
        ([("test_zram.py", True, True), ("test_zram.py", True, False)], ["opens"]),
        ([("test_zram.py", True, True), ("test_truth.py", False, False)], ["opens", "without vmlinux", "swap"]),
        ([("test_readme.py", False, True)], ["opens"]),
    ],
)
def test_what_ran_is_what_tests_passed(
    ends: list[tuple[str, bool, bool]], ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recorded(tmp_path, monkeypatch, *ends)
    known = kernels.merged({}, rows, "2026-01-01")
    assert known == {
        "bookworm cloud": {"release": "6.1.0-50-cloud-amd64", "date": "2026-01-01", "ran": ran},
    }
    row = next(line for line in kernels.page(known).splitlines() if line.startswith("| Debian 12, cloud |"))
    assert row.count("**ran**") == len(ran)
    assert "2026-01-01" in row
    assert kernels.merged(known, rows, "2027-01-01") == known, "nothing is new"


def test_a_run_of_few_tests_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"bookworm cloud": {"release": "6.1.0-49-cloud-amd64", "date": "2026-01-01", "ran": ["opens", "cores"]}}
    same = {"bookworm cloud": {"release": MANIFEST["release"], "date": "2026-01-01", "ran": ["opens", "cores"]}}
    rows = recorded(tmp_path, monkeypatch, ("test_zram.py", False, True))
    assert kernels.merged(before, rows, "2027-01-01")["bookworm cloud"]["ran"] == ["opens", "swap"], "another kernel"
    assert kernels.merged(same, rows, "2027-01-01")["bookworm cloud"]["ran"] == ["opens", "cores", "swap"]


def test_every_kernel_of_a_recipe_has_a_row() -> None:
    rows = [line for line in kernels.page({}).splitlines() if line.startswith("| Debian")]
    assert len(rows) == len({(recipe.suite, recipe.flavour) for recipe in kernels.recipes().values()})
    assert all(row.count("not tried") == len(kernels.COLUMNS) for row in rows)


def test_the_page_is_that_of_the_record() -> None:
    """``./dev generate`` makes it anew."""
    assert kernels.PAGE.read_text() == kernels.page(kernels.load())


def _there(test: str) -> bool:
    name, _, function = test.partition("::")
    path = kernels.ROOT / "tests" / "vmcore" / name
    return path.exists() and f"def {function}" in path.read_text()


def test_tests_of_columns_exist() -> None:
    for tests, _ in kernels.COLUMNS.values():
        for name in tests:
            assert name in (kernels.ANY, kernels.OWN_TYPES) or _there(name)
