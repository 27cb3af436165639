# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that had been swapped to zram, out of real dumps.

Truth is what zram itself said of each page of its disks (``block_state`` in debugfs), what the victims wrote, and the
cores that the kernel made of them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.base import Source
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.layers import Slots
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace
from kgcore.sources.vmcore.memory.swap.zram import Zram
from kgcore.sources.vmcore.opening.target import Target, open_target
from tests.vmcore.conftest import KERNELS, MAIN, Extractor, Fixture, Victim, find, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.patterns import contents
from tests.vmcore.tools import same_bytes

PAGE = 4096
FIXTURES = [f"{name}-zram" for name in MAIN]
# Every makedumpfile that there is takes 7.2's slab pages for user memory: not even a process is found there.
LEVEL_31 = ["k510-zram", "k61-zram", "k612-zram"]
ZRAM, ZERO, SWAPPED = Provenance.ZRAM, Provenance.ZERO, Provenance.SWAPPED


def of_zram(names: list[str]) -> Iterator[tuple[str, str]]:
    """The victims of zram; of a fixture that is not there one, for the test to say so."""
    for name in names:
        fixture = find(name)
        victims = [victim for victim in fixture.victims if victim.startswith("zram_")] if fixture else ["any"]
        yield from ((name, victim) for victim in victims)


EVERY_VICTIM = [*of_zram([*FIXTURES, *KERNELS])]
COMPRESSORS = [case for case in EVERY_VICTIM if not re.search("states|shared|writeback|everything", case[1])]
STATES = [case for case in EVERY_VICTIM if re.search("states|shared|everything|any", case[1])]


@cache
def block_state(fixture: Fixture, device: str) -> dict[int, str]:
    """What zram says of the pages that it has: letters like ``s`` (same-filled), ``w`` (written back), ``h`` (huge)."""
    lines = (fixture.path / "truth/system" / device / "block_state").read_text().splitlines()
    return {int(page): letters for page, _, letters in map(str.split, lines)}


def allowed(letters: str | None) -> set[Provenance]:
    """What may become of a page of zram."""
    if letters is None:
        return {ZERO}
    if "w" in letters:
        return {SWAPPED}
    return {ZRAM, ZERO} if "s" in letters else {ZRAM}


def with_modules(fixture: Fixture) -> tuple[str, ...]:
    """-s vmlinux -s zram.ko ..."""
    return (str(fixture.vmlinux), *map(str, sorted((fixture.path / "debug-modules").iterdir())))


# Whole disks


@pytest.fixture(scope="module", params=FIXTURES)
def target(request: pytest.FixtureRequest) -> Iterator[tuple[Fixture, Target]]:
    fixture = need(request.param)
    with open_target(DumpLocation(core=str(fixture.dump()))) as target:
        yield fixture, target


def test_whole_disks(target: tuple[Fixture, Target]) -> None:
    """Every page of every zram disk, whoever it belongs to."""
    fixture, opened = target
    kernel = Kernel(opened)
    layer, spaces = Zram(kernel, PhysicalMemory(kernel), ModuleTypes(opened)), Spaces(kernel)
    recovered = 0
    for number, device in enumerate(Path(path).name for path in fixture.swap_devices):
        space = spaces.get(number)
        assert isinstance(space, SwapSpace)
        found: dict[int, Slots] = {}
        for slots in layer.find(space, 0, space.slots):
            found |= dict.fromkeys(range(slots.first, slots.first + slots.length), slots)
        if not device.startswith("zram"):
            assert not found
            continue
        assert sorted(found) == list(range(space.slots))
        truth = block_state(fixture, device)
        assert len(truth) == int((fixture.path / "truth/system" / device / "mm_stat").read_text().split()[0]) // PAGE
        wrong = [slot for slot in found if found[slot].provenance not in allowed(truth.get(slot))]
        # A slot may have been given back in the moment between that and the dump, by somebody who ran: no victim did.
        victims = of_victims(fixture, number)
        assert [slot for slot in wrong if found[slot].provenance is not ZERO or slot in victims] == []
        first = found[0].place
        assert first is not None or "w" in truth[0]
        assert first is None or first.reader.read(PAGE - 10, 10) == b"SWAPSPACE2", "mkswap's"
        recovered += sum(slots.provenance is ZRAM for slots in found.values())
    assert recovered > 2000


def of_victims(fixture: Fixture, device: int) -> set[int]:
    """The slots of a swap device that victims had, as they say themselves."""
    return {
        slot
        for victim in fixture.victims.values()
        for mapping in victim.said["mappings"]
        for number, slot in zip(mapping["swap_type"], mapping["swap_offset"], strict=True)
        if number == device
    }


# Processes


def provenances(source: Source, victim: Victim) -> dict[int, tuple[Provenance, str]]:
    """By address of the page, of the victim's mappings."""
    process = source.process(victim.pid)
    image, memory = process.image, process.memory
    wanted = [(mapping["addr"], mapping["addr"] + mapping["length"]) for mapping in victim.said["mappings"]]
    found: dict[int, tuple[Provenance, str]] = {}
    for vma in image.vmas:
        for start, end in wanted:
            low, high = max(start, vma.start), min(end, vma.end)
            for run in memory.runs(vma, low, high) if low < high else ():
                found |= dict.fromkeys(range(run.address, run.end, PAGE), (run.provenance, run.detail))
    return found


def pages_out(victim: Victim, fixture: Fixture) -> Iterator[tuple[int, set[Provenance]]]:
    """Swapped pages of a victim that are not in the swap cache, and what may become of them."""
    names = [Path(path).name for path in fixture.swap_devices]
    for mapping in victim.said["mappings"]:
        cached = set(mapping["swap_cached"])
        entries = zip(mapping["swapped"], mapping["swap_type"], mapping["swap_offset"], strict=True)
        for page, number, slot in entries:
            if page not in cached:
                yield mapping["addr"] + page * PAGE, allowed(block_state(fixture, names[number]).get(slot))


def check_provenances(source: Source, victim: Victim, fixture: Fixture) -> Counter[Provenance]:
    """That each page comes from where zram says that it is; how many come from where."""
    found = provenances(source, victim)
    assert {at: found[at] for at, may in pages_out(victim, fixture) if found[at][0] not in may} == {}
    return Counter(found[address][0] for address, _ in pages_out(victim, fixture))


@pytest.mark.parametrize(("name", "victim_name"), EVERY_VICTIM)
def test_provenances(name: str, victim_name: str, extract: Extractor) -> None:
    fixture = need(name)
    counts = check_provenances(extract.source(fixture.dump()), fixture.victims[victim_name], fixture)
    assert counts[ZRAM] > 20
    assert bool(counts[SWAPPED]) == (victim_name == "zram_writeback")


@pytest.mark.parametrize(("name", "victim_name"), [*of_zram(LEVEL_31)])
def test_level_31(name: str, victim_name: str, extract: Extractor) -> None:
    """makedumpfile leaves out user pages; what zram has of them is the kernel's memory."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    source = extract.source(fixture.dump("vmcore.d31-zlib"))
    counts = check_provenances(source, victim, fixture)
    assert counts == check_provenances(extract.source(fixture.dump()), victim, fixture)
    compared = 0
    one, _ = extract(fixture.dump(), victim.pid, mask=None)
    two, _ = extract(fixture.dump("vmcore.d31-zlib"), victim.pid, mask=None)
    whole, lacking = Core(one), Core(two)
    for address, may in pages_out(victim, fixture):
        if ZRAM in may and holds(whole, address):
            assert lacking.read(address, PAGE) == whole.read(address, PAGE), hex(address)
            compared += 1
    assert compared > 20


def holds(core: Core, address: int) -> bool:
    """Whether the filter has kept it."""
    return any(load.p_vaddr <= address < load.p_vaddr + load.p_filesz for load in core.loads)


@pytest.mark.parametrize(("name", "victim_name"), COMPRESSORS)
def test_compressors(name: str, victim_name: str, extract: Extractor) -> None:
    """Nothing is missing, and every byte is what the victim wrote and what the kernel found."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    path, report = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False)
    core = Core(path)
    assert report.missing_bytes == 0
    assert victim.core is not None
    assert list(compare(Core(victim.core), core, Expected(vvar=victim.vvar))) == []
    for mapping in victim.said["mappings"]:
        for offset, length in mapping["ranges"]:
            assert core.read(mapping["addr"] + offset, length) == contents(mapping, offset, length), mapping["name"]
    found = provenances(extract.source(fixture.dump()), victim)
    zeros = [
        mapping["addr"] + page * PAGE
        for mapping in victim.said["mappings"]
        for page in mapping["swapped"]
        if mapping["mix"][page % len(mapping["mix"])] == "zero"
    ]
    assert {found[address][0] for address in zeros} == {ZERO}
    zram = [address for address, may in pages_out(victim, fixture) if may == {ZRAM}]
    # Every way in which a page compresses, six times over; with a dictionary less.
    assert len(zram) > (100 if "dictionary" in victim_name else 400)
    assert report.recovered["zram"] >= len(zram) * PAGE


@pytest.mark.parametrize(("name", "victim_name"), STATES)
def test_states(name: str, victim_name: str, extract: Extractor) -> None:
    """Shared memory, huge pages, what was forked, moved and protected; code and stack."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    path, report = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False)
    assert victim.core is not None
    expected = Expected(tracer_died=victim_name.endswith("_child"), vvar=victim.vvar)  # its parent had to die first
    assert list(compare(Core(victim.core), Core(path), expected)) == []
    assert report.missing_bytes == 0
    assert report.recovered["zram"]


@pytest.mark.parametrize("name", FIXTURES)
def test_shared_memory(name: str, extract: Extractor) -> None:
    """Its swap entries are in the page cache."""
    fixture = need(name)
    shared = 0
    for victim in fixture.victims.values():
        if not re.match("zram_(states|shared)$", victim.name):
            continue
        found = provenances(extract.source(fixture.dump()), victim)
        for mapping in victim.said["mappings"]:
            if mapping["name"].startswith(("shared", "memfd", "sysv", "tmpfs")):
                pages = [mapping["addr"] + page * PAGE for page in mapping["not_resident"]]
                shared += sum(found[address][0] is ZRAM for address in pages)
    assert shared > 50


@pytest.mark.parametrize("name", FIXTURES)
def test_written_back(name: str, extract: Extractor) -> None:
    """Pages that zram gave to its backing device are missing, and nothing else is."""
    fixture = need(name)
    victim = fixture.victims["zram_writeback"]
    path, report = extract(fixture.dump(), victim.pid, mask=None, vendor_note=False, missing="zero")
    gone = {address for address, may in pages_out(victim, fixture) if may == {SWAPPED}}
    missing = {page for gap in report.missing for page in range(gap.start, gap.end, PAGE)}
    assert missing == gone
    assert len(gone) > 20
    assert victim.core is not None
    assert list(compare(Core(victim.core), Core(path), Expected(pages=frozenset(gone), vvar=victim.vvar))) == []
    for gap in report.missing:
        assert gap.reason == "swapped"
        blocks = r"blocks? \d+(-\d+)?(, \d+(-\d+)?)*(, \.\.\.)?"
        assert re.match(rf"written back to /dev/loop0, {blocks}, slots? \d", gap.detail)


@pytest.mark.parametrize("name", [*FIXTURES, "k-backports"])
def test_with_dwarf(name: str, extract: Extractor) -> None:
    """Types from vmlinux and the modules' debug files lead to the same."""
    fixture = need(name)
    modes = ((), with_modules(fixture))
    for victim_name in ("zram_lz4", "zram_states", *(("zram_writeback",) if name in FIXTURES else ())):
        victim = fixture.victims[victim_name]
        one, two = (
            check_provenances(extract.source(fixture.dump(), symbols=files), victim, fixture) for files in modes
        )
        assert one == two
        btf, dwarf = (extract(fixture.dump(), victim.pid, symbols=files, mask=None)[0] for files in modes)
        assert same_bytes(btf, dwarf)
