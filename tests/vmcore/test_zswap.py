# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that zswap had compressed, out of real dumps.

Truth is what the victims wrote, the cores that the kernel made of them, and the kernel's own counts of what zswap has.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace
from kgcore.sources.vmcore.memory.swap.zswap import Zswap
from kgcore.sources.vmcore.opening.target import Target, open_target
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.patterns import contents

PAGE = 4096
FIXTURES = [f"{name}-zswap" for name in MAIN]
ALLOCATORS = {
    "k510-zswap": ("zbud", "z3fold", "zsmalloc"),
    "k61-zswap": ("zbud", "z3fold", "zsmalloc"),
    "k612-zswap": ("zbud", "zsmalloc"),
    "k72-zswap": ("zsmalloc",),
}
COMPRESSORS = {"zsmalloc": ("lzo", "lzo_rle", "lz4", "lz4hc", "zstd", "deflate")}
# Of 7.2 makedumpfile, 1.7.8 too, takes slab pages for user memory, so that not even a process is found there.
LEVEL_31 = ("k510-zswap", "k61-zswap", "k612-zswap")
# A victim for each allocator with each compressor that there is with it: content, and gaps.
PACKED = [
    (name, f"zswap_{allocator}_{compressor}")
    for name in FIXTURES
    for allocator in ALLOCATORS[name]
    for compressor in COMPRESSORS.get(allocator, ("lzo", "zstd"))
]
OTHERS = [
    *((name, victim) for name in FIXTURES for victim in ("zswap_states", "zswap_states_child", "zswap_everything")),
    *((name, "zswap_unsame") for name in ("k510-zswap", "k61-zswap")),  # same-filled pages, compressed all the same
]
ZSWAP, ZERO, SWAPPED, IMAGE = Provenance.ZSWAP, Provenance.ZERO, Provenance.SWAPPED, Provenance.SWAP_IMAGE


class Found(NamedTuple):
    """A page of a victim.

    :ivar wrote: what it wrote there.
    :ivar found: what we read, if anything.
    """

    wrote: bytes
    found: bytes | None
    provenance: Provenance
    detail: str


@cache
def wrote(fixture: Fixture, victim: str) -> dict[int, bytes]:
    """Swapped pages that are not in the swap cache, by address."""
    said = fixture.victims[victim].said
    return {
        mapping["addr"] + page * PAGE: contents(mapping, page * PAGE, PAGE, said["grain"])
        for mapping in said["mappings"]
        for page in mapping["swapped"]
        if page not in mapping["swap_cached"]
    }


def pages(fixture: Fixture, victim: Victim, source: Any) -> Iterator[Found]:
    """What becomes of those pages."""
    found = source.process(victim.pid)
    image, memory = found.image, found.memory
    wanted = wrote(fixture, victim.name)
    for vma in image.vmas:
        if not any(vma.start <= address < vma.end for address in wanted):
            continue
        for (start, length, provenance, detail), data in memory.read(vma, vma.start, vma.end):
            for at in range(0, length, PAGE):
                if start + at in wanted:
                    read = bytes(PAGE) if provenance is ZERO else bytes(data[at : at + PAGE]) or None
                    yield Found(wanted[start + at], read, provenance, detail)


def everything(target: Target) -> tuple[Counter[Provenance], int]:
    """All pages that zswap has, whoever they belong to: how many of each provenance; and the count in the dump."""
    kernel = Kernel(target)
    layer, spaces = Zswap(kernel, PhysicalMemory(kernel), ModuleTypes(target)), Spaces(kernel)
    found: Counter[Provenance] = Counter()
    number = 0
    while isinstance(space := spaces.get(number), SwapSpace):
        for slots in layer.find(space, 0, space.slots):
            found[slots.provenance] += slots.length
        number += 1
    assert number
    count = kernel.read_u64("zswap_stored_pages")
    assert count is not None
    return found, count & 0xFFFFFFFF  # an atomic_t, or an atomic_long_t


# All that there is


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *((name, file) for name in FIXTURES for file in ("vmcore.elf", "vmcore.d1-zlib")),
        *((name, "vmcore.d31-zlib") for name in LEVEL_31),
    ],
)
def test_every_page(name: str, file: str) -> None:
    """zswap's memory is the kernel's: no dump level leaves it out."""
    fixture = need(name)
    with open_target(DumpLocation(core=str(fixture.dump(file)))) as target:
        found, count = everything(target)
    assert set(found) <= {ZSWAP, ZERO}
    assert sum(found.values()) == count > 5000
    told = int((fixture.path / "truth/system/zswap/stored_pages").read_text())
    assert count == told
    assert found[ZSWAP] > 4000


def test_types_from_dwarf() -> None:
    """In this guest zswap was on for a while, too; of the kernels of the others there is no vmlinux."""
    fixture = need("k72-zram")
    found = []
    for options in ({"symbols": (str(fixture.vmlinux),)}, {"symbols_from": "btf"}):
        with open_target(DumpLocation(core=str(fixture.dump()), **options)) as target:
            found.append((target.symbols_from, everything(target)))
    assert [kind for kind, _ in found] == ["dwarf", "btf"]
    pages, count = found[0][1]
    assert found[1][1] == (pages, count)
    assert sum(pages.values()) == count > 400


@pytest.mark.parametrize("name", FIXTURES)
def test_variable(name: str) -> None:
    """What drgn takes zswap_trees for when it goes by the kernel's BTF."""
    fixture = need(name)
    with open_target(DumpLocation(core=str(fixture.dump()))) as target:
        tree = target.prog["zswap_trees"][0]
        assert tree.type_.type_name() == ("struct zswap_tree *" if fixture.version < (6, 10) else "struct xarray *")
        member = tree.rbroot.rb_node if fixture.version < (6, 10) else tree.xa_head
        assert member


# Processes


@pytest.mark.parametrize(("name", "victim_name"), [*PACKED, *OTHERS])
def test_equals_the_kernels_core(name: str, victim_name: str, extract: Extractor) -> None:
    """With what zswap did not take from the image of the swap device, no page that was swapped is missing."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    assert victim.core is not None
    path, report = extract(fixture.dump(), victim.pid, swap=fixture.swaps, mask=None, missing="zero", vendor_note=False)
    lost = {page for gap in report.missing for page in range(gap.start, gap.end, PAGE)}
    # The child's parent dies before it.
    expected = Expected(pages=frozenset(lost), tracer_died=victim_name.endswith("_child"))
    assert list(compare(Core(victim.core), Core(path), expected)) == []
    on_disk = {
        mapping["addr"] + page * PAGE
        for mapping in victim.said["mappings"]
        for page in mapping["not_resident"]
        if mapping["kind"] == "file-private"
    }
    assert lost <= on_disk
    assert {gap.reason for gap in report.missing} <= {"file"}


@pytest.mark.parametrize(("name", "victim_name"), [*PACKED, *OTHERS])
def test_pages(name: str, victim_name: str, extract: Extractor) -> None:
    """Each page as the victim wrote it, and said to be from where it is from."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    found = list(pages(fixture, victim, extract.source(fixture.dump(), swap=fixture.swaps)))
    assert len(found) == len(wrote(fixture, victim_name)) > 20
    assert [page for page in found if page.found != page.wrote] == []
    kinds = Counter(page.provenance for page in found)
    assert set(kinds) <= {ZSWAP, ZERO, IMAGE}
    assert all(page.wrote == bytes(PAGE) for page in found if page.provenance is ZERO)
    if (name, victim_name) in PACKED:
        assert kinds[ZSWAP] > 400
        # What zswap refuses is what gets no smaller; some more if there is no memory for it at the moment.
        dense = sum(len(zlib.compress(page.wrote, 1)) > PAGE // 4 for page in found)
        assert kinds[IMAGE] < dense


@pytest.mark.parametrize(("name", "victim_name"), [row for row in PACKED if row[0] in LEVEL_31])
def test_pages_out_of_a_small_dump(name: str, victim_name: str, extract: Extractor) -> None:
    """Level 31, and no image of the device: what zswap has is there, the rest is missing."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    found = list(pages(fixture, victim, extract.source(fixture.dump("vmcore.d31-zlib"))))
    assert len(found) == len(wrote(fixture, victim_name))
    kinds = Counter(page.provenance for page in found)
    assert set(kinds) <= {ZSWAP, ZERO, SWAPPED}
    assert kinds[ZSWAP] > 400
    assert [page for page in found if page.found not in (page.wrote, None)] == []
    assert {page.detail.partition(",")[0] for page in found if page.provenance is SWAPPED} <= {"on /dev/vdc"}


def test_raw_pages(extract: Extractor) -> None:
    """7.2 keeps pages that get no smaller."""
    fixture = need("k72-zswap")
    victim = fixture.victims["zswap_zsmalloc_lz4"]
    found = list(pages(fixture, victim, extract.source(fixture.dump())))
    raw = [page for page in found if page.provenance is ZSWAP and len(zlib.compress(page.wrote)) > PAGE]
    assert len(raw) > 10
    assert int((fixture.path / "truth/system/zswap/stored_incompressible_pages").read_text()) > len(raw)
