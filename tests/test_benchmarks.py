# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmarks measure with: memory that is known, and commands that do not do what they should."""

import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.peers import Command

MIB = 64
BALLAST = f"import mmap, os, time\ndef ballast():\n    return bytearray(b'x') * ({MIB} << 20)\n"
ALONE = "kept = ballast(); time.sleep(0.5)"
SHARED = "kept = ballast(); child = os.fork(); time.sleep(0.5)\nif child: os.wait()"
TWICE = "child = os.fork(); kept = ballast(); time.sleep(0.5)\nif child: os.wait()"
MAPPED = "kept = mmap.mmap(os.open('/FILE', os.O_RDONLY), 0, prot=mmap.PROT_READ); sum(kept[::4096]); time.sleep(0.5)"


@pytest.mark.parametrize(
    ("program", "blocks"),
    [(ALONE, 1), (SHARED, 1), (TWICE, 2), (MAPPED, 0)],
    ids=["alone", "shared", "twice", "mapped"],
)
def test_peak_counts_what_is_unshared(program: str, blocks: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (MIB << 20))
    command = Command((sys.executable, "-c", BALLAST + program.replace("/FILE", str(file))))
    assert blocks * MIB <= measure.peak_mib(command, tmp_path) < blocks * MIB + 40


def test_a_command_that_writes_too_little_has_failed(tmp_path: Path) -> None:
    write = ("sh", "-c", "head -c 4096 /dev/zero > core")
    assert measure.timed(Command(write, least=4096), tmp_path) > 0
    with pytest.raises(measure.Failed, match="4096 bytes"):
        measure.timed(Command(write, least=4097), tmp_path)
    with pytest.raises(measure.Failed, match="exit status 7, 0 bytes: why"):
        measure.timed(Command(("sh", "-c", "rm core; echo why; exit 7")), tmp_path)


def test_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: Command(("sh", "-c", f"echo {name} >> {log}; test ! -e core; : > core")) for name in "ab"}
    times = measure.rounds(commands, 2, tmp_path)
    # One round that does not count, and then two; every other one backwards; always in an empty directory.
    assert log.read_text().split() == list("abbaab")
    assert [len(series.seconds) for series in times.values()] == [2, 2]


def test_ratios_are_of_each_round() -> None:
    ours, theirs = measure.Series([1.0, 20.0, 3.0]), measure.Series([2.0, 40.0, 3.0])
    assert measure.ratio(ours, theirs) == 0.5
