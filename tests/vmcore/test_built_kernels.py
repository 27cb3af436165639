# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that nobody packages, in configurations that real users have (tests/vmcore_fixtures/make/built_configs.py):
the same truths as on Debian's kernels, without a vmlinux and with it."""

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel.swapnumbers import SwapNumbers, swap_numbers
from kgcore.sources.vmcore.opening.target import open_target
from tests.vmcore import test_bt as bt
from tests.vmcore import test_map as maps
from tests.vmcore import test_recovery as recovery
from tests.vmcore import test_truth as truth
from tests.vmcore.conftest import Extractor, Fixture, find, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import compare
from tests.vmcore.patterns import contents, pattern
from tests.vmcore.tools import kgcore, same_bytes, tool
from tests.vmcore_fixtures.make.built_configs import CONFIGURATIONS
from tests.vmcore_fixtures.make.built_guests import RECIPES
from tests.vmcore_fixtures.make.built_kernels import PREFIX

QUICK = {PREFIX + name for name, one in CONFIGURATIONS.items() if one.quick}
# The quick ones must be there. Of the others, those that somebody has built: .ci/run says which were not.
NAMES = [name for name, recipe in RECIPES.items() if recipe.flavour in QUICK or find(name)]
BLOCKED = ("threads", "dynamic")

BTF, MAP = "BTF that was made of it once (pahole --btf_encode_detached FILE.btf vmlinux)", "its System.map"
LADDER = {
    "b61-nobtf": ("has no type information (no CONFIG_DEBUG_INFO_BTF)", BTF),
    "b61-fewsyms": ("has no variables (no CONFIG_KALLSYMS_ALL)", MAP),
    "b61-nokallsyms": ("(kallsyms) was not found in its memory", MAP),
}
"""Kernels that say too little of themselves: what kgcore says then, and what will do, besides a vmlinux."""


def built(fixture: Fixture, file: str) -> Path:
    """What else the build of its kernel left."""
    return fixture.vmlinux.resolve().parent / file


class Given(Extractor):
    """Gives a kernel what it does not say of itself, where a test gives it nothing."""

    @cached_property
    def _types(self) -> Path:
        return self.directory / "made.btf"

    def least(self, fixture: Fixture) -> tuple[str, ...]:
        """What to give with -s at least."""
        what = LADDER.get(fixture.name, ("", ""))[1]
        if what == BTF and not self._types.exists():
            subprocess.run(
                [tool("pahole"), "--btf_encode_detached", self._types, fixture.vmlinux], check=True, timeout=300
            )
        return {BTF: (str(self._types),), MAP: (str(built(fixture, "System.map")),)}.get(what, ())

    def source(self, path: Path, **options: Any) -> Any:
        options["symbols"] = options.get("symbols") or self.least(need(path.parent.name))
        return super().source(path, **options)


@pytest.fixture(scope="module")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    extractor = Given(tmp_path_factory.mktemp("cores"))
    yield extractor
    extractor.close()


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
def test_kernel_stacks(name: str, types: str, extract: Given) -> None:
    fixture = need(name)
    assert bt.compare_kernel_stacks(fixture, types, extract.least(fixture)) > 20


@pytest.mark.parametrize(("name", "victim_name"), VICTIMS)
def test_mappings_are_those_of_proc_pid_maps(name: str, victim_name: str, extract: Given) -> None:
    """Ranges, permissions, offsets, and names; also those that a process gave."""
    fixture = need(name)
    victim = fixture.victims[victim_name]
    words = [word for file in extract.least(fixture) for word in ("-s", file)]
    told = maps.map_of(fixture.dump(), victim.pid, *words)
    rows = [
        maps.Line(vma["start"], vma["end"], vma["permissions"], vma["offset"], maps.told_names(vma))
        for vma in told["vmas"]
    ]
    assert rows == maps.proc_maps(victim.proc / "maps")
    if victim_name == "named":
        assert {row.name for row in rows if row.name.startswith(b"[anon")} == {
            b"[anon:an arena (of many): a/b/c]",
            b"[anon:the latter half]",
            b"[anon:%b the end.]" % (b"0123456789" * 7),
            b"[anon_shmem:shared by all]",
        }


NAMED = [case for case in VICTIMS if case[1] == "named"]
if NAMED:  # its kernel is built

    @pytest.mark.parametrize(("name", "victim_name"), NAMED)
    def test_rules_know_the_names_that_a_process_gave(name: str, victim_name: str, tmp_path: Path) -> None:
        fixture = need(name)
        victim = fixture.victims[victim_name]
        rules = ["--exclude", "name:[anon:the latter half]", "--redact", "name:[anon:an arena*]"]
        rules += ["--exclude", "name:[anon_shmem:*]"]
        kept = {}
        for file, words in (("whole", []), ("ruled", rules)):
            done = kgcore("-c", fixture.dump(), *words, "-o", tmp_path / file, victim.pid, cwd=tmp_path)
            assert done.status == 0, done.remarks
            kept[file] = Core(tmp_path / file)
        page = recovery.PAGE
        by_name = {mapping["name"]: (mapping["addr"], mapping["length"]) for mapping in victim.said["mappings"]}
        address, length = by_name["named-half"]
        for start, there in ((address, True), (address + length // 2, False), (by_name["named-shared"][0], False)):
            for at in range(start, start + length // 2, page):
                if there:
                    assert kept["ruled"].read(at, page) == kept["whole"].read(at, page)
                else:
                    with pytest.raises(ValueError, match="is not in"):
                        kept["ruled"].read(at, page)
        address, length = by_name["named-private"]
        assert not any(kept["ruled"].read(address, length))
        assert any(kept["whole"].read(address, length))
        address, length = by_name["named-no-more"]
        assert kept["ruled"].read(address, length) == kept["whole"].read(address, length)


@pytest.mark.parametrize("name", [name for name in NAMES if name in LADDER])
def test_a_kernel_that_says_too_little_of_itself(name: str) -> None:
    """It is refused, with what to give: the tests above show that this helps."""
    fixture = need(name)
    with pytest.raises(TargetError) as caught:
        open_target(DumpLocation(core=str(fixture.dump())))
    why, what = LADDER[name]
    release = fixture.manifest["release"]
    package = f"install the debuginfo package of kernel {release} and give its vmlinux with -s"
    assert why in caught.value.message
    assert caught.value.hint is not None
    assert re.match(rf"{re.escape(package)},? or {re.escape(what)}", caught.value.hint), caught.value.hint
    done = kgcore("ps", "-c", fixture.dump(), cwd=fixture.path)
    assert done.status == 1
    assert "Traceback" not in done.raw.decode() + "".join(done.remarks)


@pytest.mark.parametrize("types", ["btf", "dwarf"])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_numbers_of_swap_entries_mean(name: str, types: str, extract: Given) -> None:
    """As the configuration has it; with the types of variables there is no doubt."""
    fixture = need(name)
    given = (str(fixture.vmlinux),) if types == "dwarf" else extract.least(fixture)
    with open_target(DumpLocation(core=str(fixture.dump()), symbols=given)) as target:
        found = swap_numbers(target)
    assert numbers(fixture) in found
    assert {each.max_swapfiles for each in found} == {numbers(fixture).max_swapfiles}


def numbers(fixture: Fixture) -> SwapNumbers:
    """How many types of swap entries there are for each purpose: include/linux/swap.h."""
    options = built(fixture, "config").read_text().splitlines()

    def has(option: str) -> bool:
        return f"CONFIG_{option}=y" in options

    old, between = fixture.version < (5, 19), (5, 19) <= fixture.version < (6, 2)
    exclusive = 0 if fixture.version < (5, 14) else 1 if fixture.version >= (6, 15) else 2
    return SwapNumbers(
        hwpoison=has("MEMORY_FAILURE"),
        migration=(2 if old else 3) * has("MIGRATION"),
        private=2 * has("DEVICE_PRIVATE"),
        exclusive=exclusive * has("DEVICE_PRIVATE"),
        marker=0 if old else has("PTE_MARKER") if between else 1,
        swapin_error=between,
    )


OF_842 = [case for case in VICTIMS if case[1] == "zram_842"]
if OF_842:  # its kernel is built

    @pytest.mark.parametrize(("name", "victim_name"), OF_842)
    def test_pages_that_nothing_unpacks_are_missing(name: str, victim_name: str, extract: Extractor) -> None:
        """842: no library has it. Which pages these are test_equals_the_kernels_core knows."""
        fixture = need(name)
        victim = fixture.victims[victim_name]
        path, report = extract(fixture.dump(), victim.pid, mask=None)
        gaps = [gap for gap in report.missing if gap.reason == "unreadable"]
        assert {page for page, reason in recovery.nowhere(victim).items() if reason == "unreadable"} == {
            page for gap in gaps for page in range(gap.start, gap.end, recovery.PAGE)
        }
        assert len(gaps) > 5
        assert all("842" in gap.detail for gap in gaps)
        for gap in gaps:
            with pytest.raises(ValueError, match="is not in"):
                Core(path).read(gap.start, 1)
