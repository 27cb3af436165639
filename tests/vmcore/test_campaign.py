# SPDX-License-Identifier: LGPL-2.1-or-later
"""The campaign itself: it undoes what it does, sees what is wrong, and a trial can be repeated."""

import os
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.campaign.damage import CLASSES, Fault, Trial
from tests.campaign.material import Base, Material, in_a_child, split
from tests.campaign.measured import run
from tests.campaign.report import Tally
from tests.campaign.trial import Result, apply, built, children, different, judge, left_over, waited
from tests.vmcore.conftest import need
from tests.vmcore.reshape import elf_of_kdump


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    place = tmp_path_factory.mktemp("base")
    dump = need("k61-small").dump("vmcore")
    made = Base("kdump", "k61-small", [dump], ["-c", str(dump)], [128])
    done = run(*made.options, "-D", place, "128")
    assert done.status in (0, 3), done
    made.clean[128] = place / "core.128"
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("out", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def judged(trial: Trial, place: Path, **values: object) -> list[str]:
    result = Result(1, "x", trial.words)
    for name, value in values.items():
        setattr(result, name, value)
    judge(trial, result, place)
    return result.faults


def test_damage_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for at in (0, 1 << 20, 50 << 20):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(60 << 20)
    before, blocks = path.read_bytes(), path.stat().st_blocks
    undo = apply(Trial(patches=[(path, 10, b"x" * 50), (path, 30, b"y" * 50)], cuts=[(path, (1 << 20) + 100)]))
    assert path.stat().st_size == (1 << 20) + 100
    assert path.read_bytes() != before[: (1 << 20) + 100]
    undo()
    assert path.read_bytes() == before
    assert path.stat().st_blocks <= blocks + 16


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"said": "Traceback (most recent call last):"}, "said"),
        ({"said": "kgcore: 1: unexpected KeyError: 1 (-v 2 ...)"}, "said"),
        ({"said": "Exception ignored in: <function"}, "said"),
        ({"status": -11}, "exit status -11"),
        ({"status": 4}, "exit status 4"),
        ({"cpu": 11.0}, "11.0 s of CPU"),
        ({"peak": 301 << 20}, "301 MiB"),
    ],
)
def test_what_is_wrong_is_seen(values: dict[str, object], words: str, place: Path) -> None:
    assert any(words in fault for fault in judged(Trial(["ps"]), place, **values))
    assert judged(Trial(["ps"]), place, said="kgcore: 1 is the kernel thread x", status=1, cpu=1.0, peak=1 << 20) == []


def test_files_that_stay_are_seen(place: Path) -> None:
    (place / "out" / "report.json").touch()
    assert judged(Trial(["ps"]), place) == []
    (place / "out" / ".core.1.part").touch()
    (place / "tmp" / "x").touch()
    assert judged(Trial(["ps"]), place) == ["left behind: .core.1.part, tmp/x"]
    stopped = Trial(["ps"], fault=Fault("", 0.5, 1, 0, 15))
    assert judged(stopped, place, status=-15) == ["left behind: .core.1.part, tmp/x"]
    assert judged(Trial(["ps"], fault=Fault("unlink", 0.5, 1, 5)), place) == []


def test_a_wrong_byte_is_seen(base: Base, place: Path) -> None:
    data = bytearray(base.clean[128].read_bytes())
    path = place / "out" / "core.128"
    path.write_bytes(data)
    result = Result(1, "x", [])
    assert different(base, path, result) == []
    assert result.compared > 1 << 20
    at = next(at for at in range(len(data) // 4096 * 4096 - 4096, 0, -4096) if any(data[at : at + 4096]))
    data[at + 5] ^= 1
    path.write_bytes(data)
    assert "is wrong" in different(base, path, Result(1, "x", []))[0]
    assert any("is wrong" in fault for fault in judged(Trial(["x"], comparable=True, base=base), place))


def test_orphans_are_seen() -> None:
    script = "import os, time\nif not os.fork():\n    os.setsid(); time.sleep(600)\n"

    def count() -> int:
        from tests.campaign.trial import become_subreaper

        become_subreaper()
        child = os.fork()
        if not child:
            os.execv(sys.executable, [sys.executable, "-c", script])
        waited(child, 1e12, Result(1, "x", []))
        found = left_over()
        return found + 100 * len(children())

    assert in_a_child(count) == 1


def test_a_split_set_is_one_dump(base: Base, tmp_path: Path) -> None:
    files = split(base.files[0], tmp_path)
    done = run(*(word for file in files for word in ("-c", file)), "-D", tmp_path, "128")
    assert done.status in (0, 3), done.said
    assert different(base, tmp_path / "core.128", result := Result(1, "x", [])) == []
    assert result.compared > 1 << 20


def test_trials_can_be_repeated(base: Base, tmp_path: Path) -> None:
    elf = Base("ELF", "k61-small", [elf_of_kdump(base.files[0], tmp_path / "vmcore.elf")], [], [128, 110])
    material = Material.__new__(Material)
    material.bases = {"ELF": [elf], "kdump": [base]}
    material.cores = [base.clean[128]]
    for name in ("container: ELF", "container: kdump", "finished cores"):
        make = CLASSES[name][1]
        one, two, other = (make(material, random.Random(seed)) for seed in (5, 5, 6))
        assert (one.words, one.patches, one.cuts) == (two.words, two.patches, two.cuts)
        assert (one.words, one.patches, one.cuts) != (other.words, other.patches, other.cuts)


def test_system_calls_can_be_made_to_fail(tmp_path: Path) -> None:
    library = built(tmp_path)
    if library is None:
        pytest.skip("there is no gcc")
    script = """
import os, signal
from tests.campaign.trial import Injector
injector = Injector()
signal.signal(signal.SIGTERM, lambda *_: print("signal"))
injector.arm("open", 2, 1, 28, 0)
first = os.open("/dev/null", os.O_RDONLY)
try:
    os.open("/dev/null", os.O_RDONLY)
except OSError as error:
    print(error.errno)
os.open("/dev/null", os.O_RDONLY)
injector.arm("pread", 1, 0, 0, signal.SIGTERM)
os.pread(first, 1, 0)
injector.disarm()
print(injector.counts()["pread"])
"""
    environment = {"LD_PRELOAD": str(library)}
    os.environ.update(environment)
    try:
        done = run("-c", script, program=(sys.executable,))
    finally:
        del os.environ["LD_PRELOAD"]
    assert done.out.split() == ["28", "signal", "1"], done


def test_a_report_is_written_between_its_marks(tmp_path: Path) -> None:
    tally = Tally(7, ["zram: not built"])
    row = {"kind": "BTF", "faults": [], "cpu": 0.5, "peak": 9 << 20, "cores": 1, "compared": 0, "status": 0, "whole": 0}
    tally.add(row)
    tally.add(row | {"faults": ["x"]})
    document = tmp_path / "x.md"
    document.write_text("before\n<!-- campaign: begin -->\nold\n<!-- campaign: end -->\nafter\n")
    tally.write(document)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| BTF | 2 | 1 | 0.5 s | 9 MiB | 2 |  |" in text
    assert "Not tried: zram: not built." in text
