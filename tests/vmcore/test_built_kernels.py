# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that nobody packages, in configurations that real users have (tests/vmcore_fixtures/make/built_configs.py):
the same truths as on Debian's kernels, without a vmlinux and with it."""

import dataclasses
from collections.abc import Iterator

import pytest

pytest.importorskip("drgn")

from tests.vmcore import test_bt as bt
from tests.vmcore import test_recovery as recovery
from tests.vmcore import test_truth as truth
from tests.vmcore.conftest import Extractor, Fixture, find, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import compare
from tests.vmcore.patterns import contents, pattern
from tests.vmcore.tools import same_bytes
from tests.vmcore_fixtures.make.built_configs import CONFIGURATIONS
from tests.vmcore_fixtures.make.built_guests import RECIPES
from tests.vmcore_fixtures.make.built_kernels import PREFIX

QUICK = {PREFIX + name for name, one in CONFIGURATIONS.items() if one.quick}
# The quick ones must be there. Of the others, those that somebody has built: .ci/run says which were not.
NAMES = [name for name, recipe in RECIPES.items() if recipe.flavour in QUICK or find(name)]
BLOCKED = ("threads", "dynamic")


def _victims() -> Iterator[tuple[str, str]]:
    """Every victim of the fixtures that there are; of the others one, for the test to say that they are not there."""
    for name in NAMES:
        fixture = find(name)
        yield from ((name, victim) for victim in (_able(fixture) if fixture else ("any",)))


def _able(fixture: Fixture) -> list[str]:
    """The victims that the kernel could run."""
    return [victim["name"] for victim in fixture.manifest["victims"] if "pid" in victim]


VICTIMS = list(_victims())


def symbols(fixture: Fixture, types: str) -> tuple[str, ...]:
    """What to give with -s."""
    return (str(fixture.vmlinux),) if types == "vmlinux" else ()


@pytest.mark.parametrize("types", ["dump", "vmlinux"])
@pytest.mark.parametrize(("name", "victim_name"), VICTIMS)
def test_equals_the_kernels_core(name: str, victim_name: str, types: str, extract: Extractor) -> None:
    """Of ordinary victims; and of those that swap, all but the pages that were nowhere, which are missing."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    assert victim.core is not None
    given = symbols(fixture, types)
    special = truth.expected(fixture, victim)
    if special.from_disk:
        path, _ = extract(fixture.dump(), victim.pid, symbols=given, mask=None, vendor_note=False)
        assert list(compare(Core(victim.core), Core(path), special)) == []
        return
    path, report = extract(
        fixture.dump(), victim.pid, symbols=given, swap=fixture.swaps, mask=None, missing="zero", vendor_note=False
    )
    missing = recovery.pages(report)
    assert missing == recovery.nowhere(victim)
    denied = recovery.denied(victim) if "mappings" in victim.said else frozenset()
    differ = special.pages | denied | frozenset(missing)
    special = dataclasses.replace(special, pages=differ, tracer_died=victim_name.endswith("_child"))
    assert list(compare(Core(victim.core), Core(path), special)) == []


@pytest.mark.parametrize(("name", "victim_name"), VICTIMS)
def test_same_core_with_a_vmlinux(name: str, victim_name: str, extract: Extractor) -> None:
    fixture = need(name)
    pid = fixture.victims[victim_name].pid
    with_it, bare = (extract(fixture.dump(), pid, symbols=symbols(fixture, types))[0] for types in ("vmlinux", "dump"))
    assert same_bytes(with_it, bare)


@pytest.mark.parametrize(("name", "victim_name"), [case for case in VICTIMS if case[1] not in (*BLOCKED, "spin")])
def test_patterns(name: str, victim_name: str, extract: Extractor) -> None:
    """Every page is what the victim wrote, or missing, or left out by the filter."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    path, report = extract(fixture.dump(), victim.pid, swap=fixture.swaps, mask=None)
    core, missing, checked = Core(path), recovery.pages(report), 0
    for mapping in victim.said["mappings"]:
        for offset, length in mapping["ranges"]:
            for at in range(offset, offset + length, recovery.PAGE):
                address, size = mapping["addr"] + at, min(recovery.PAGE, offset + length - at)
                if address in missing:
                    continue
                try:
                    data = core.read(address, size)
                except ValueError:
                    assert "dontdump" in mapping["name"] + mapping["kind"] or victim_name == "memory"
                    continue
                if "mix" in mapping:
                    assert data == contents(mapping, at, size), mapping["name"]
                else:
                    assert data == pattern(mapping["seed"], at, size, victim.said["grain"]), mapping["name"]
                checked += 1
    assert checked


@pytest.mark.parametrize("name", NAMES)
def test_the_same_calls_as_in_the_kernels_core(name: str, extract: Extractor) -> None:
    bt.test_the_same_calls_as_in_the_kernels_core(name, extract)


@pytest.mark.parametrize("name", NAMES)
def test_which_thread_was_running(name: str, extract: Extractor) -> None:
    """Also where the kernel has no word in a task for it (SMP=n)."""
    victim = need(name).victims["spin"]
    found = {thread.tid: thread for thread in bt.ours(extract, victim, kernel=True).threads}
    (spinner,) = (thread for thread in victim.said["threads"] if thread["role"] == "spin")
    assert {tid: thread.cpu for tid, thread in found.items()} == dict.fromkeys(victim.tids) | {
        spinner["tid"]: spinner["cpu"]
    }
    assert bt.names(found[spinner["tid"]].frames) == ["spin_now"]


@pytest.mark.parametrize("types", ["dwarf", "btf"])
@pytest.mark.parametrize("name", NAMES)
def test_kernel_stacks(name: str, types: str) -> None:
    assert bt.compare_kernel_stacks(need(name), types) > 20
