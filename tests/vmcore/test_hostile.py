# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps that lie: kernel structures overwritten and pages lost at random, on the committed dumps and some others.

Whatever the memory holds, what comes out is a core with a report or a KgcoreError: no other exception, not after an
endless walk, not by way of all the machine's memory. Where pages are merely lost, nothing that does come out is wrong.
"""

import contextlib
import gc
import random
from collections.abc import Iterator

import pytest

pytest.importorskip("drgn")

from kgcore.errors import KgcoreError
from kgcore.sources.base import TaskRef
from kgcore.views.backtrace import backtrace
from tests.vmcore.conftest import COMMITTED
from tests.vmcore.hostile import Baseline, Damage, changed, peak_memory, reset_peak_memory, run, watchdog

SWAPPED = ("k510-zswap", "k61-zram", "k612-zswap", "k72-zram")
"""With victims in compressed memory."""
# Not the one that needs types from elsewhere: the harness knows x86_64 only.
OWN_TYPES = sorted(
    path.parent.name for path in COMMITTED.glob("*/manifest.toml") if not path.with_name("btf.xz").exists()
)
NAMES = [*OWN_TYPES, *SWAPPED]
CORRUPTED, LOST = 50, 20
"""Seeds per dump. ``python3 -m tests.vmcore.hostile`` runs any number of others."""
PATIENCE = 20
"""Seconds for a run that takes 0.1: for machines that are busy with other things."""
MEMORY = 192 << 20
"""What a run may need beyond what the clean one did; cores themselves are thrown away."""


@pytest.fixture(scope="module", params=NAMES)
def base(request: pytest.FixtureRequest) -> Iterator[Baseline]:
    yield Baseline.of(request.param)
    gc.collect()


def test_clean_run_is_whole(base: Baseline) -> None:
    """What the damage is done to: all victims' cores, and reads of all kinds of structures."""
    assert set(base.cores) == {victim.name for victim in base.machine.victims}
    assert len(base.structures) > 500, "one for each structure: the smallest dump has one process of three threads"
    assert len(base.pointers) > 100


def test_corrupted(base: Baseline) -> None:
    reset_peak_memory()
    before = peak_memory()
    reports = 0
    for seed in range(CORRUPTED):
        with watchdog(PATIENCE):
            reports += run(base, random.Random(seed), "corrupt")
        assert peak_memory() - before < MEMORY, f"seed {seed}"
    assert reports > CORRUPTED, "most victims get a core all the same"


def test_lost(base: Baseline) -> None:
    reports = 0
    for seed in range(LOST):
        with watchdog(PATIENCE):
            reports += run(base, random.Random(seed), "lose")
    assert reports > LOST * min(len(base.machine.victims), 3) / 3


def test_backtraces(base: Baseline) -> None:
    """Of corrupted dumps: traces that end, or a KgcoreError."""
    found = 0
    for seed in range(CORRUPTED // 2):
        rng = random.Random(seed)
        victim = base.machine.victims[seed % len(base.machine.victims)]
        base.machine.damage = base.corrupted(rng, victim)
        try:
            with watchdog(PATIENCE), contextlib.suppress(KgcoreError):
                ref = TaskRef.parse(str(victim.pid))
                threads = backtrace(base.machine.source(), ref, all_threads=True, kernel=True).threads
                assert all(thread.kernel is not None and len(thread.kernel.frames) <= 257 for thread in threads)
                found += 1
        finally:
            base.machine.damage = Damage()
    unwound = any(prepared.image.arch == "x86_64" for prepared in base.prepared.values())
    assert found > CORRUPTED // 4 or not unwound


def test_the_damage_is_seen(base: Baseline) -> None:
    """The harness itself: memory that is changed shows, unsaid differences are found."""
    victim = base.machine.victims[0]
    prepared, core = base.prepared[victim.name], base.cores[victim.name]
    report = base.reports[victim.name]
    assert list(base.wrong(victim, prepared, core, report)) == []
    bad = bytearray(core)
    bad[next(at for at in range(prepared.plan.segments[0].offset, len(core)) if core[at])] ^= 1
    assert len(list(base.wrong(victim, prepared, bytes(bad), report))) == 1
    at, size = base.structures[0]
    base.machine.damage = Damage({at // 4096: b"\xa5" * 4096})
    assert base.machine.read(at, size) == b"\xa5" * size
    base.machine.damage = Damage()
    assert changed(prepared.image.threads[0], prepared.image.threads[0]) == ""


def test_reproducible(base: Baseline) -> None:
    """A seed is a fault that can be looked into."""
    victim = base.machine.victims[0]
    one, two, other = (base.corrupted(random.Random(seed), victim) for seed in (7, 7, 8))
    assert one == two != other
