# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that no page table points to, out of every place where a dump may still have it.

Truth is the core that the guest's kernel wrote, for which it swapped all of this in again, and what the victims say
that they wrote. With the images of the swap devices nothing is missing but what was nowhere; no byte is wrong, and none
is zero that the kernel's core has not as zero.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore.conftest import KERNELS, MAIN, Extractor, Fixture, Victim, find, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.patterns import contents

PAGE = 4096
FIXTURES = [f"{name}-{kind}" for name in MAIN for kind in ("zram", "zswap")]
LEVEL_31 = [name for name in FIXTURES if not name.startswith("k72")]
"""Not 7.2: no makedumpfile that there is leaves its slab pages alone (LOSES_KERNEL_MEMORY in test_dumps.py)."""

ORDINARY = ("memory", "threads", "dynamic", "identity", "spin")
"""Victims of KERNELS that are not swapped out: test_truth.py looks at them."""


def _victims() -> Iterator[tuple[str, str]]:
    """Of the fixtures that there are, each victim; of the others one, for the test to say that they are not there."""
    for name in (*FIXTURES, *KERNELS):
        fixture = find(name)
        victims = list(fixture.victims) if fixture else ["any"]
        yield from ((name, victim) for victim in victims if name not in KERNELS or victim not in ORDINARY)
    yield from ((name, "pagecache") for name in MAIN)


VICTIMS = list(_victims())


def whole(fixture: Fixture, victim: Victim, extract: Extractor) -> tuple[Core, Any]:
    """The core with all that can be had, in the kernel's own layout."""
    path, report = extract(fixture.dump(), victim.pid, swap=fixture.swaps, mask=None, missing="zero", vendor_note=False)
    return Core(path), report


def pages(report: Any) -> dict[int, str]:
    """Missing pages and the reason."""
    return {page: gap.reason for gap in report.missing for page in range(gap.start, gap.end, PAGE)}


def nowhere(victim: Victim) -> dict[int, str]:
    """Pages that were in no place that we have, by what the victim and its kernel said."""
    found: dict[int, str] = {}
    for mapping in victim.said.get("mappings", ()):
        start, backed = mapping["addr"], mapping["kind"].startswith("file-") and "deleted" not in mapping["kind"]
        if backed and "tmpfs" not in mapping["name"]:  # evicted from the page cache: mincore()
            private = set(mapping.get("swapped", ()))
            found |= {start + n * PAGE: "file" for n in mapping.get("not_resident", ()) if n not in private}
        # What zram wrote to its backing device: "w" in block_state
        for number, kind, slot in zip(
            mapping.get("swapped", ()), mapping.get("swap_type", ()), mapping.get("swap_offset", ()), strict=True
        ):
            if slot in written_back(victim.fixture, kind):
                found[start + number * PAGE] = "swapped"
            if slot in packed_842(victim.fixture, kind):
                found[start + number * PAGE] = "unreadable"
        # What the hardware lost, or UFFDIO_POISON
        lost = mapping.get("poisoned", range(mapping["length"] // PAGE) if mapping["name"] == "uffd-poison" else ())
        found |= {start + number * PAGE: "unreadable" for number in lost}
    return found


def denied(victim: Victim) -> frozenset[int]:
    """Pages that are in the page cache and that the kernel does not get for its own core: a minor fault is for
    userfaultfd to handle, which refuses a task that is dumping (handle_userfault(), fs/userfaultfd.c). test_patterns
    looks at ours."""
    mappings = (mapping for mapping in victim.said["mappings"] if mapping["name"] == "uffd-minor")
    return frozenset(page for m in mappings for page in range(m["addr"], m["addr"] + m["length"], PAGE))


def block_state(fixture: Fixture, number: int) -> tuple[dict[int, str], str]:
    """What the zram device behind a swap space says of its pages, and of its compressors; nothing if it is no zram."""
    device = fixture.path / "truth/system" / Path(fixture.swap_devices[number]).name
    if not (device / "block_state").exists():
        return {}, ""
    rows = (line.split() for line in (device / "block_state").read_text().splitlines())
    return {int(row[0]): row[2] for row in rows}, (device / "comp_algorithm").read_text()


def written_back(fixture: Fixture, number: int) -> set[int]:
    """Pages of the zram device behind a swap space that are on its backing device."""
    return {page for page, letters in block_state(fixture, number)[0].items() if "w" in letters}


def packed_842(fixture: Fixture, number: int) -> set[int]:
    """Pages of the zram device behind a swap space that 842 compressed, and that nothing unpacks."""
    pages, compressors = block_state(fixture, number)
    if "[842]" not in compressors:
        return set()
    return {page for page, letters in pages.items() if not {*"swhr"} & {*letters}}


@pytest.mark.parametrize(("name", "victim_name"), VICTIMS)
def test_equals_the_kernels_core(name: str, victim_name: str, extract: Extractor) -> None:
    """All but the pages that were nowhere, which are missing: none of them too many, none of them silently."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    assert victim.core is not None
    core, report = whole(fixture, victim, extract)
    # Beyond the end of a file nothing is resident, and nothing missing.
    assert pages(report).items() <= nowhere(victim).items()
    assert len(pages(report)) == len(nowhere(victim)) or victim_name == "pagecache"
    # A child's parent had to die before it.
    differ = frozenset(pages(report)) | denied(victim)
    expected = Expected(tracer_died=victim_name.endswith("_child"), pages=differ, vvar=victim.vvar)
    assert list(compare(Core(victim.core), core, expected)) == []


@pytest.mark.parametrize(("name", "victim_name"), VICTIMS)
def test_patterns(name: str, victim_name: str, extract: Extractor) -> None:
    """Every page is what the victim wrote, or missing."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    core, report = whole(fixture, victim, extract)
    missing = pages(report)
    checked = 0
    for mapping in victim.said["mappings"]:
        if "dontdump" in mapping["kind"]:
            continue
        for offset, length in mapping["ranges"]:
            for at in range(offset, offset + length, PAGE):
                if mapping["addr"] + at not in missing:
                    size = min(PAGE, offset + length - at)
                    assert core.read(mapping["addr"] + at, size) == contents(mapping, at, size), mapping["name"]
                    checked += 1
    assert checked


@pytest.mark.parametrize("name", [*FIXTURES, *KERNELS])
def test_every_place(name: str, extract: Extractor) -> None:
    """Each place that the fixture is about gave something."""
    fixture = need(name)
    kinds = {"zram", "zswap"} if name in KERNELS else {name.rpartition("-")[2]}
    recovered: Counter[str] = Counter()
    for victim in fixture.victims.values():
        _, report = whole(fixture, victim, extract)
        recovered.update(report.recovered)
    wanted = {"page-cache", "swap-cache", "swap-image", *kinds}
    assert wanted <= set(recovered)


@pytest.mark.parametrize("name", LEVEL_31)
def test_user_memory_excluded(name: str, extract: Extractor) -> None:
    """makedumpfile level 31 leaves out the memory of processes, not what zram and zswap hold of it."""
    fixture = need(name)
    (file,) = (dump["file"] for dump in fixture.manifest["dumps"] if dump["level"] == 31)
    kind = name.rpartition("-")[2]
    of_this_kind = [victim for victim in fixture.victims if victim.startswith(f"{kind}_")]
    for victim_name in of_this_kind:
        victim = fixture.victims[victim_name]
        full, full_report = whole(fixture, victim, extract)
        path, report = extract(fixture.dump(file), victim.pid, mask=None, missing="zero", vendor_note=False)
        # What the whole dump has in the swap cache may be unpacked here.
        least, more = full_report.recovered[kind], full_report.recovered.get("swap-cache", 0)
        assert least <= report.recovered[kind] <= least + more, victim_name
        core = Core(path)
        missing = pages(report)
        for load in core.loads:
            for address, data in core.segment(load):
                for at in range(0, len(data), PAGE):
                    if address + at not in missing:
                        assert data[at : at + PAGE] == full.read(address + at, len(data[at : at + PAGE]))
        assert any("level 31" in text for text in report.warnings)


@pytest.mark.parametrize("name", FIXTURES)
def test_without_images(name: str, extract: Extractor) -> None:
    """What is on a disk is missing, and the report says on which one and where."""
    fixture = need(name)
    victim = fixture.victims["swap_disk"]
    _, full = whole(fixture, victim, extract)
    path, report = extract(fixture.dump(), victim.pid, mask=None)
    gone = {gap.detail for gap in report.missing}
    assert gone
    assert all(detail.startswith("on /dev/vd") and ", slot" in detail for detail in gone)
    assert report.missing_bytes == full.recovered["swap-image"] + zeros_of(full) - zeros_of(report)
    core = Core(path)
    for gap in report.missing:
        with pytest.raises(ValueError, match="is not in"):
            core.read(gap.start, 1)


def zeros_of(report: Any) -> int:
    return int(report.zero)
