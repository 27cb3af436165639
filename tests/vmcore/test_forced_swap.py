# SPDX-License-Identifier: LGPL-2.1-or-later
"""What no type shows of swap entries, forced to what it is in other kernels, on real dumps: a page is right or missing.

Truth is what the victims wrote.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.errors import BrokenDump
from kgcore.model.memory import Provenance
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel import kernel, trees
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.swapnumbers import Purpose
from kgcore.sources.vmcore.memory.swapentry import SwapTypes
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import MAIN, Fixture, Victim, main_dump, need, some
from tests.vmcore.patterns import contents


def written(mapping: dict[str, Any], offset: int, length: int) -> bytes:
    """What a victim wrote at an offset of a mapping; the rest are zeros."""
    data = bytearray(length)
    for first, end in mapping["ranges"]:
        low, high = max(first, offset), min(end, offset + length)
        if low < high:
            data[low - offset : high - offset] = contents(mapping, low, high - low)
    return bytes(data)


def kinds_of(fixture: Fixture, victims: list[Victim]) -> Counter[Provenance]:
    """Compare each page with what its victim wrote: it is right or missing. Returns the number of each kind."""
    found: Counter[Provenance] = Counter()
    with open_target(DumpLocation(core=str(fixture.dump(main_dump(fixture))))) as target:
        source = VmcoreSource(target)
        for victim in victims:
            process = source.process(victim.pid)
            for mapping in victim.said["mappings"]:
                start, end = mapping["addr"], mapping["addr"] + mapping["length"]
                for vma in process.image.vmas:
                    low, high = max(start, vma.start), min(end, vma.end)
                    for run, data in process.memory.read(vma, low, high) if low < high else ():
                        found[run.provenance] += run.length // 4096
                        if run.provenance in WITH_DATA:
                            is_ = bytes(data) or bytes(run.length)
                            should = written(mapping, run.address - start, run.length)
                            assert is_ == should, f"{victim.name}: {run.address:#x}: {run.provenance}"
    return found


SOME = some(MAIN, ("k510", "k72"))  # the oldest and the newest
WITH_DATA = (Provenance.PRESENT, Provenance.PAGE_CACHE, Provenance.ZRAM, Provenance.ZERO)


def force(monkeypatch: pytest.MonkeyPatch, change: Callable[[SwapTypes], SwapTypes]) -> None:
    of: Callable[[type[SwapTypes], Kernel], SwapTypes] = SwapTypes.of.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(SwapTypes, "of", classmethod(lambda cls, of_dump: change(of(cls, of_dump))))


@pytest.mark.parametrize("name", MAIN)
def test_kind_of_trees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Xarrays, and radix trees before 4.20: these also decide SWP_TYPE_SHIFT, 58 and 57, and which entries are values.

    No kernel has the type of the other kind's nodes: the dump is refused.
    """
    fixture = need(f"{name}-zram")
    monkeypatch.setattr(trees, "is_radix", lambda *_: True)
    monkeypatch.setattr(kernel, "is_radix", lambda *_: True)
    with pytest.raises(BrokenDump, match="radix_tree_node"):
        kinds_of(fixture, list(fixture.victims.values()))


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("kind", ["numa", "zram"])
@pytest.mark.parametrize("name", SOME)
def test_numbers_of_swap_entries(name: str, kind: str, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number more, or less, that is not of a swap space."""
    fixture = need(f"{name}-{kind}")
    victims = [victim for victim in fixture.victims.values() if victim.name in ("migrating", "zram_lzo", "zram_shared")]
    assert victims
    before = kinds_of(fixture, victims)

    def shifted(true: SwapTypes) -> SwapTypes:
        purposes = (*true.purposes[by:], *[true.purposes[-1]] * by) if by > 0 else (
            *[true.purposes[0]] * -by, *true.purposes[:by])  # fmt: skip
        return replace(true, max_swapfiles=true.max_swapfiles - by, purposes=purposes)

    force(monkeypatch, shifted)
    after = kinds_of(fixture, victims)
    assert after.total() == before.total()
    assert all(after[kind] <= before[kind] for kind in WITH_DATA)


@pytest.mark.parametrize("name", SOME)
def test_swap_spaces_taken_for_pages_on_their_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernel had no swap spaces: a slot is then a page frame, of somebody, but of no page that is moved."""
    fixture = need(f"{name}-zram")
    victims = [victim for victim in fixture.victims.values() if victim.name in ("zram_lzo", "zram_shared")]
    before = kinds_of(fixture, victims)
    force(monkeypatch, lambda true: replace(true, purposes=(frozenset({Purpose.MIGRATION}),) * 32))
    after = kinds_of(fixture, victims)
    assert after.total() == before.total()
    assert after[Provenance.UNREADABLE] > before[Provenance.UNREADABLE]
