# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/kdump.md: its table of dump levels, measured again on real makedumpfile's work."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("drgn")

from kgcore import Options, TaskRef, open_vmcore, prepare
from tests.vmcore.conftest import need
from tests.vmcore.test_info import info
from tests.vmcore.tools import ROOT

DOCUMENT = ROOT / "docs" / "kdump.md"
MIB = 1 << 20


class Row(NamedTuple):
    level: int
    size: float
    missing: dict[int, float]
    user_memory: str


def rows() -> list[Row]:
    pattern = r"^\| (\d+) \| ([\d.]+) MiB \| ([\d.]+) MiB \| ([\d.]+) MiB \| (\w+) \|$"
    found = re.findall(pattern, DOCUMENT.read_text(), re.MULTILINE)
    return [
        Row(int(level), float(size), {51: float(default), 127: float(every)}, user)
        for level, size, default, every, user in found
    ]


def test_table_has_the_levels_that_matter() -> None:
    assert [row.level for row in rows()] == [0, 1, 2, 4, 8, 16, 17, 23, 31]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


def accounts(path: Path, mask: int) -> Iterator[tuple[int, int, int]]:
    """Of each process: bytes that are there, bytes that the level costs, threads that have their registers."""
    with open_vmcore(path) as source:
        pids = [process.pid for process in source.processes() if process.memory]
        for pid in pids:
            plan = prepare(source, TaskRef(str(pid), pid=pid), Options(mask=mask)).plan
            lost = sum(planned.account.missing.get("excluded", 0) for planned in plan.vmas)
            yield plan.data, lost, sum("ip" not in thread.regs.unknown for thread in plan.image.threads)


def make(level: int, path: Path) -> float:
    """A dump of that level; how many MiB it has."""
    from tests.vmcore_fixtures.make.makedumpfile import Makedumpfile

    whole = need("k61-kexec").dump("vmcore.kexec")
    words = [*Makedumpfile.of("trixie").command, "-c", "-d", str(level), str(whole), str(path)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    return path.stat().st_size / MIB


_FREE_PAGES = 16  # the bit of a level that leaves them out


@pytest.fixture(scope="module")
def shift(place: Path) -> float:
    """By how much this build's free pages differ from the document's.

    How many pages are free when the guest crashes, and what is in them, is chance: two builds differed by 7 MiB.
    """
    path = place / "free"
    (expected,) = (row.size for row in rows() if row.level == _FREE_PAGES)
    found = make(_FREE_PAGES, path)
    path.unlink()
    return found - expected


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"d{row.level}")
def test_level(row: Row, place: Path, shift: float) -> None:
    """Sizes differ a little with every build of the guest."""
    path = place / f"d{row.level}"
    size = make(row.level, path)
    assert size == pytest.approx(row.size + (shift if row.level & _FREE_PAGES else 0), rel=0.1)
    if row.level & _FREE_PAGES:
        assert size < min(other.size for other in rows() if not other.level & _FREE_PAGES), "free pages cost much"
    threads = set()
    for mask, whole in ((51, 12.8), (127, 34.3)):
        there, lost, known = (sum(column) for column in zip(*accounts(path, mask), strict=True))
        assert lost / MIB == pytest.approx(row.missing[mask], rel=0.05, abs=0.1)
        assert (there + lost) / MIB == pytest.approx(whole, rel=0.05)
        threads.add(known)
    assert threads == {23}, "no level costs registers"
    assert info(path)["user_memory"] == row.user_memory
    path.unlink()


def test_zram_is_kept_at_every_level() -> None:
    """What the document says of it."""
    (shown,) = re.findall(r"got ([\d.]+) MiB from zram at level 1, and ([\d.]+) MiB at level 31", DOCUMENT.read_text())
    guest = need("k61-zram")
    for file, expected in zip(("vmcore.d1-zlib", "vmcore.d31-zlib"), map(float, shown), strict=True):
        found = 0
        with open_vmcore(guest.dump(file)) as source:
            for pid in [process.pid for process in source.processes() if process.memory]:
                plan = prepare(source, TaskRef(str(pid), pid=pid), Options(mask=127)).plan
                found += sum(planned.account.recovered.get("zram", 0) for planned in plan.vmas)
        assert found / MIB == pytest.approx(expected, rel=0.05), file
