# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small cores out of vmcores: debuggers show the same backtraces as with whole ones."""

import re
from pathlib import Path

import pytest

from kgcore.check.core import check_core
from kgcore.errors import NoUserMemory
from tests.vmcore.conftest import Extractor, Victim, need, some
from tests.vmcore.tools import gdb, run

COMMITTED = ("k61-small", "k61-abi-small", "k61-crash-small", "k510-small", "k612-small", "k72-small")
WHOLE = some(("k61", "k61-abi", "k510", "k510-abi", "k612", "k72", "k72-abi"), ("k61", "k61-abi"))
OTHERS = ("k61-686pae-small", "k61-686")  # 32-bit kernels


def traces(core: Path, victim: Victim) -> str:
    """What gdb shows of all threads; what it says of the core's name is the same for all."""
    sysroot = victim.fixture.path / "sysroot"
    names = (f"victims/{victim.name}", f"victims/{victim.name}-ia32")
    program = next((name for name in names if (sysroot / name).exists()), names[0])
    text = gdb(core, sysroot, program, "thread apply all bt")
    return text.replace(str(core), "CORE")


def compare(name: str, extract: Extractor, tmp_path: Path) -> int:
    """Compare all victims of a fixture; return how many frames gdb showed."""
    fixture, frames = need(name), 0
    dump = next(path for path in (fixture.dump("vmcore"), fixture.dump()) if path.exists())
    vmlinux = (str(fixture.vmlinux),) if name == "k61-686" else ()  # it has no types of its own
    symbols = fixture.packed_symbols(tmp_path) or vmlinux
    for victim in fixture.victims.values():
        try:
            full, report = extract(dump, victim.pid, symbols=symbols)
        except NoUserMemory:
            continue  # a zombie
        mini, small = extract(dump, victim.pid, profile="mini", symbols=symbols)
        whole = traces(full, victim)
        assert traces(mini, victim) == whole, victim.name
        frames += len(re.findall(r"^#\d+ ", whole, re.MULTILINE))
        assert run("eu-stack", f"--core={mini}", status=None).replace(str(mini), "") == run(
            "eu-stack", f"--core={full}", status=None
        ).replace(str(full), "")
        verdict = check_core(mini)
        assert verdict.ok, verdict.problems
        # The same memory, and of it no more than the full core has
        assert small.account.total == report.account.total
        for provenance, size in small.account.parts.items():
            assert size <= report.account.parts.get(provenance, 0), (victim.name, provenance)
        assert small.size <= report.size + (1 << 16), "headers and the note may be longer"
    return frames


@pytest.mark.parametrize("name", [*COMMITTED, *OTHERS[:1]])
def test_committed_vmcores(name: str, extract: Extractor, tmp_path: Path) -> None:
    assert compare(name, extract, tmp_path) >= 0


@pytest.mark.parametrize("name", [*WHOLE, *OTHERS[1:]])
def test_whole_vmcores(name: str, extract: Extractor, tmp_path: Path) -> None:
    """Whose sysroot has the programs."""
    assert compare(name, extract, tmp_path) > 30
