# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that were on their way from one node to another when the dump was made: migration entries, of pages and of huge
pages, which name the frame that still has the bytes."""

from collections import Counter
from collections.abc import Iterator

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.memory.swapentry import SwapEntry, SwapKind, SwapTypes
from tests.vmcore.conftest import MAIN, Extractor, Fixture, main_dump, need
from tests.vmcore.patterns import contents

PAGE = 4096
FIXTURES = [f"{name}-numa" for name in MAIN]


def pages(fixture: Fixture, file: str, extract: Extractor) -> Iterator[tuple[Provenance, bytes, bytes]]:
    """Each page of the victim's mappings: what is known of it, what it is, what it should be."""
    victim = fixture.victims["migrating"]
    source = extract.source(fixture.dump(file))
    found = source.process(TaskRef(str(victim.pid), pid=victim.pid))
    image, memory = found.image, found.memory
    for vma in image.vmas:
        for _ in memory.runs(vma, vma.start, vma.end):
            pass  # what was met is counted
    for mapping in victim.said["mappings"]:
        start, end = mapping["addr"], mapping["addr"] + mapping["length"]
        for vma in image.vmas:
            low, high = max(start, vma.start), min(end, vma.end)
            for run, data in memory.read(vma, low, high) if low < high else ():
                for at in range(0, run.length, PAGE):
                    offset = run.address + at - start
                    yield run.provenance, bytes(data[at : at + PAGE]), contents(mapping, offset, PAGE)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Counter[SwapKind]:
    """Counts the special page-table entries that were met."""
    met: Counter[SwapKind] = Counter()
    decode = SwapTypes.decode

    def counting(self: SwapTypes, pte: int) -> SwapEntry:
        entry = decode(self, pte)
        met[entry.kind] += 1
        return entry

    monkeypatch.setattr(SwapTypes, "decode", counting)
    return met


def test_pages_on_their_way(extract: Extractor, entries: Counter[SwapKind]) -> None:
    """In each of the dumps every page is there, and right. The machine was stopped just before a page was copied: there
    is one at least on its way; 6.12 and 7.2 move many at a time."""
    dumps = 0
    for name in FIXTURES:
        fixture = need(name)
        for dump in fixture.manifest["dumps"]:
            entries.clear()
            wrong: Counter[Provenance] = Counter()
            for provenance, is_, should in pages(fixture, dump["file"], extract):
                wrong[provenance] += is_ != should
            assert not +wrong, (name, dump)
            many = fixture.version >= (6, 3) and dump["file"] == main_dump(fixture)
            assert entries[SwapKind.MIGRATION] >= (100 if many else 1), (name, dump)
            dumps += 1
    assert dumps == len(FIXTURES) * 3
