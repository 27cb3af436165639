# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our cores against those which the guests' own kernels wrote of the same processes at the same moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vmcore.conftest import KERNELS, MAIN, Extractor, Fixture, Victim, main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.patterns import pattern
from tests.vmcore.tools import same_bytes

VICTIMS = (
    "memory memory33 memory01 memory10 threads dynamic stopped zleader nspid identity zombie_parent tracer tracee "
    "tracee_sys iouring vforker vfork_child ia32 spin"
).split()
SMALL = [f"{name}-small" for name in MAIN]
SMALL_VICTIMS = "memory threads dynamic zleader nspid identity iouring spin".split()
OF_KERNELS = [(name, victim) for name in KERNELS for victim in "memory threads dynamic identity spin".split()]
OTHER = (("k61", "python"), ("k61-la57", "memory"), ("k61-la57", "threads"), ("k61-novmcoreinfo", "memory"),
         ("k61-novmcoreinfo", "threads"), ("k61-huge1g", "huge1g"), ("k61-many", "manyvmas"),
         ("k61-many", "manythreads"))  # fmt: skip


def expected(fixture: Fixture, victim: Victim) -> Expected:
    """What is special about a victim, beyond the signal."""
    name = victim.name
    said = victim.said
    return Expected(
        vvar=victim.vvar,
        running=frozenset(thread["tid"] for thread in said.get("threads", ()) if thread["role"] == "spin"),
        tracer_died=name in ("tracee", "tracee_sys"),
        # The kernel completes the requests in the rings as the process dies.
        pages=frozenset(_ring_pages(victim.core)) if name == "iouring" and victim.core else frozenset(),
        from_disk=frozenset(
            (mapping["addr"], mapping["addr"] + mapping["length"])
            for mapping in said.get("mappings", ())
            if mapping["name"] == "ext4-private-uncached"
        ),
        # vfork() of the parent returns when the child is killed, which had to be first; before 5.16 the child's core
        # has the parent's thread too.
        returned=name in ("vforker", "vfork_child"),
        loses_tls=fixture.version < (5, 16),
        no_file_note=name == "manyvmas",
    )


def _ring_pages(core: Path) -> Iterator[int]:
    for start, end, _, name in Core(core).files:
        if name == b"anon_inode:[io_uring]":
            yield from range(start, end, 4096)


@pytest.mark.parametrize(
    ("name", "victim_name"),
    [*((k, v) for k in MAIN for v in VICTIMS), *((k, v) for k in SMALL for v in SMALL_VICTIMS), *OF_KERNELS, *OTHER],
)
def test_equals_the_kernels_core(name: str, victim_name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims[victim_name]
    if victim.core is None:
        assert (victim_name, fixture.version) == ("vforker", (5, 10)), "there the child's core takes the parent along"
        return
    path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None, vendor_note=False)
    special = expected(fixture, victim)
    assert list(compare(Core(victim.core), Core(path), special)) == []
    assert report.missing_bytes == 0 or special.from_disk


@pytest.mark.parametrize("name", MAIN)
def test_vendor_note_only_adds(name: str, extract: Extractor) -> None:
    """With the KGCORE note the kernel's part stays as it is but for the offsets."""
    fixture = need(name)
    pid = fixture.victims["threads"].pid
    bare, _ = extract(fixture.dump(), pid, mask=None, vendor_note=False)
    full, _ = extract(fixture.dump(), pid, mask=None)
    one, two = Core(bare), Core(full)
    assert one.notes == two.notes
    assert [load._replace(p_offset=0) for load in one.loads] == [load._replace(p_offset=0) for load in two.loads]
    assert [note.owner for note in two.vendor_notes] == ["KGCORE"]
    for load, other in zip(one.loads, two.loads, strict=True):
        assert list(one.segment(load)) == list(two.segment(other))


@pytest.mark.parametrize("name", MAIN)
def test_same_bytes_every_time(name: str, extract: Extractor, tmp_path: Path) -> None:
    fixture = need(name)
    first, _ = extract(fixture.dump(), fixture.victims["dynamic"].pid)
    again = Extractor(tmp_path)
    second, _ = again(fixture.dump(), fixture.victims["dynamic"].pid)
    again.close()
    assert same_bytes(first, second)


@pytest.mark.parametrize("victim_name", ["memory", "threads", "spin"])
def test_with_vmlinux(victim_name: str, extract: Extractor) -> None:
    """The newest kernel's own types say the same as its vmlinux. (Of others: test_zram.py.)"""
    fixture = need("k-backports")
    victim = fixture.victims[victim_name]
    modes = ((), (str(fixture.vmlinux),))
    bare, full = (extract(fixture.dump(), victim.pid, symbols=files, mask=None)[0] for files in modes)
    assert same_bytes(bare, full)


# What the victims said of themselves


@pytest.mark.parametrize(
    ("name", "victim_name"),
    [*((k, v) for k in MAIN for v in ("memory", "memory33")), *((k, "memory") for k in (*SMALL, *KERNELS))],
)
def test_patterns(name: str, victim_name: str, extract: Extractor) -> None:
    """Every word that the victim wrote and that the filter keeps is in the core."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    path, _ = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None)
    core = Core(path)
    checked = 0
    for mapping in victim.said["mappings"]:
        for offset, length in mapping["ranges"]:
            address = mapping["addr"] + offset
            try:
                data = core.read(address, length)
            except ValueError:
                continue  # filtered; what the filter keeps is what test_equals_the_kernels_core compares
            assert data == pattern(mapping["seed"], offset, length, victim.said["grain"]), mapping["name"]
            checked += 1
    assert checked > 20
