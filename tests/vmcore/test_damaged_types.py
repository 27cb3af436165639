# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own type information is damaged: what comes out is a core with a report, or a KgcoreError."""

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("drgn")

from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.errors import BrokenDump, KgcoreError
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.damage import broken
from kgcore.sources.vmcore.facts import read_facts
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.source import VmcoreSource
from kgcore.sources.vmcore.symbols import finders as symbols
from kgcore.views.backtrace import backtrace
from kgcore.views.openfiles import account
from tests.campaign.btf import BtfDamage
from tests.vmcore.conftest import Fixture, need
from tests.vmcore.hostile import NullSink, watchdog

NAMES = ("k510-small", "k61-small", "k72-small")
SEEDS = 40
PATIENCE = 60


@pytest.fixture(scope="module", params=NAMES)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return need(request.param)


def opened(fixture: Fixture) -> Target:
    return open_target(DumpLocation(core=str(fixture.dump("vmcore")), symbols_from="btf"))


@pytest.fixture(scope="module")
def damage(fixture: Fixture) -> Iterator[BtfDamage]:
    with opened(fixture) as target:
        own = symbols.OwnSymbols.of(target.prog)
        assert own is not None
        yield BtfDamage(own.btf.data)


def everything(target: Target, pid: int) -> None:
    """All that the commands ask for; each has to end, one way or the other."""
    read_facts(target)
    source = VmcoreSource(target)
    ref = TaskRef.parse(str(pid))
    with suppress(KgcoreError):
        list(source.processes())
    with suppress(KgcoreError):
        process = source.process(ref)
        for file in process.open_files().files:
            with suppress(KgcoreError):
                account(process.contents(file))
    with suppress(KgcoreError):
        backtrace(source, ref, all_threads=True, kernel=True)
    prepared = prepare(source, ref, Options(mask=0x7F))
    write(prepared, NullSink())
    list(source.process(ref).files())


def test_every_end_is_an_error_of_ours(fixture: Fixture, damage: BtfDamage, monkeypatch: pytest.MonkeyPatch) -> None:
    victims = list(fixture.victims.values())
    whole = 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        data = damage.damaged(rng)
        monkeypatch.setattr(symbols, "_read_btf", lambda *_, data=data: data)
        with watchdog(PATIENCE), suppress(KgcoreError), opened(fixture) as target:
            everything(target, rng.choice(victims).pid)
            whole += 1
    assert SEEDS / 5 < whole < SEEDS, "most of it is not fatal, and some is"


def test_a_defect_of_ours_is_not_called_damage() -> None:
    assert broken(AttributeError("'NoneType' object has no attribute 'read'"), "x") is None
    assert broken(KeyError("x"), "x") is None
    assert broken(TypeError("f() missing 1 required positional argument: 'y'"), "x") is None
    found = broken(AttributeError("'struct task_struct' has no member 'mm'"), "cannot read the process")
    assert isinstance(found, BrokenDump)
    assert str(found).startswith("cannot read the process: 'struct task_struct' has no member 'mm' (")
    same = KgcoreError("x")
    assert broken(same, "y") is same
