# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes whose memory the OOM reaper and process_mrelease() took while a thread of theirs could not die: nothing of
it is zeros. And huge pages that are PROT_NONE, in entries that the kernel inverts."""

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.model.memory import Provenance
from kgcore.sinks.files import FileSink
from kgcore.sources.base import TaskRef
from tests.vmcore.conftest import MAIN, Extractor, Victim, need
from tests.vmcore.corefile import Core
from tests.vmcore.patterns import contents

PAGE = 4096
KINDS = {  # what may become of their pages, of which there is nothing in the page table
    "anon-private": {Provenance.UNSTABLE},
    "file-private-written": {Provenance.UNSTABLE},  # some are its own, the rest was the file's: nothing tells which
    "file-private-clean": {Provenance.PAGE_CACHE, Provenance.PRESENT},
    "anon-shared": {Provenance.PAGE_CACHE, Provenance.PRESENT},
}
VICTIMS = [
    (f"{name}-reaped", who) for name in MAIN for who in ("reaped", "released") if (name, who) != ("k510", "released")
]


@pytest.mark.parametrize(("name", "who"), VICTIMS)
def test_nothing_is_zeros(name: str, who: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    victim: Victim = fixture.victims[who]
    prepared = prepare(extract.source(fixture.dump()), TaskRef.parse(str(victim.pid)), Options(mask=0x7F))
    for mapping in victim.said["mappings"]:
        start, end = mapping["addr"], mapping["addr"] + mapping["length"]
        found: Counter[Provenance] = Counter()
        for vma in prepared.image.vmas:
            low, high = max(start, vma.start), min(end, vma.end)
            for run, data in prepared.memory.read(vma, low, high) if low < high else ():
                found[run.provenance] += run.length
                if run.provenance.stored:
                    assert data == contents(mapping, run.address - start, run.length), mapping["name"]
        assert sum(found.values()) == mapping["length"]
        assert set(found) <= KINDS[mapping["kind"]], mapping["name"]
    assert [thread.tid for thread in prepared.image.threads] == [victim.pid]

    report = write(prepared, FileSink(tmp_path / "core"))
    assert report.exit_status == 3
    assert report.account.missing["unstable"] > 6 << 20
    assert any("was taking the memory of this process" in text for text in report.warnings)
    assert check_core(tmp_path / "core").problems == ()


@pytest.mark.parametrize("name", MAIN)
def test_huge_pages_without_access(name: str, extract: Extractor) -> None:
    fixture = need(f"{name}-reaped")
    victim = fixture.victims["protected"]
    path, report = extract(fixture.dump(), victim.pid, mask=0x7F)
    assert report.complete
    ours, (mapping,) = Core(path), victim.said["mappings"]
    assert victim.core is not None
    kernels = Core(victim.core)
    for at in range(0, mapping["length"], 1 << 20):
        expected = contents(mapping, at, 1 << 20)
        assert ours.read(mapping["addr"] + at, 1 << 20) == expected
        assert kernels.read(mapping["addr"] + at, 1 << 20) == expected
