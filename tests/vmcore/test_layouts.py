# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore info --layouts`` and ``kgcore.layouts()``: what a kernel has of what kgcore relies on, and what it loses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")
jsonschema = pytest.importorskip("jsonschema")

from kgcore import Layout, layouts, open_vmcore
from kgcore.errors import KgcoreError
from tests.fake_source import BareSource
from tests.schemas import strict
from tests.vmcore.conftest import need
from tests.vmcore.lookups import Names, watching
from tests.vmcore.test_layout_table import DECLARED
from tests.vmcore.test_schemas import SCHEMAS
from tests.vmcore.tools import kgcore, run

KERNELS = ("k510-small", "k61-small", "k612-small", "k72-small")


def layouts_of(name: str) -> dict[str, Layout]:
    with open_vmcore(need(name).dump("vmcore"), symbols_from="btf", tell=lambda _: None) as source:
        return {layout.what: layout for layout in layouts(source)}


@pytest.mark.parametrize("name", KERNELS)
def test_what_the_command_says_is_what_the_library_says(name: str) -> None:
    path = need(name).dump("vmcore")
    done = kgcore("info", "--layouts", "--json", "-c", path, "--symbols-from", "btf", cwd=path.parent)
    said = json.loads(done.raw)
    assert list(jsonschema.Draft202012Validator(strict(SCHEMAS["info"])).iter_errors(said)) == []
    assert said["layouts"] == json.loads(json.dumps([one.to_json() for one in layouts_of(name).values()]))
    lines = kgcore("info", "--layouts", "-c", path, cwd=path.parent).raw.decode().splitlines()
    for layout in said["layouts"]:
        assert any(line.startswith(f"  {layout['state']:<8} {layout['what']}") for line in lines), layout
        for one in layout["names"]:
            assert any(line.startswith(f"             {one['name']}: ") for line in lines), one


def test_without_the_option_it_says_nothing_of_them() -> None:
    path = need("k61-small").dump("vmcore")
    assert "layouts" not in json.loads(kgcore("info", "--json", "-c", path, cwd=path.parent).raw)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_which_cores_are_right_lack_nothing_that_is_needed(name: str) -> None:
    """test_truth.py says that they are."""
    assert [one.what for one in layouts_of(name).values() if one.needed and one.state != "found"] == []


@pytest.mark.parametrize(
    ("what", "releases"),
    [
        ("the state of a thread", ["4.18 and later", "5.14", "5.14", "5.14"]),
        ("the mappings of a process", ["4.18 and later", "6.1", "6.1", "6.1"]),
        ("pages in memory: which file, which place in it", ["4.18 and later", "5.16", "5.16", "5.16"]),
        ("how much memory a process uses", ["4.18 and later", "4.18 and later", "6.2", "6.2"]),
        ("the swap cache", ["4.18 and later", "4.18 and later", "4.18 and later", "6.18"]),
        ("the current task of a CPU", ["4.18 and later", "4.18 and later", "6.2 to 6.14", "4.18 and later"]),
    ],
)
def test_the_way_is_that_of_the_release(what: str, releases: list[str]) -> None:
    """Debian's kernels are those of kernel.org here: 5.10, 6.1, 6.12, 7.2."""
    assert [layouts_of(name)[what].since.split(" (")[0] for name in KERNELS] == releases


def placed(text: str) -> Iterator[tuple[str, int]]:
    """Members and their offsets, in pahole's output."""
    for line in text.splitlines():
        if found := re.search(r"(\w+)(?:\[\d*\])*;\s*/\*\s*(\d+)\s+\d+\s*\*/", line):
            yield found[1], int(found[2])


@pytest.mark.parametrize("name", KERNELS)
def test_places_are_those_that_pahole_finds(name: str, tmp_path: Path) -> None:
    """In the same BTF, by another reader."""
    from kgcore.library import open_target
    from kgcore.sources.location import DumpLocation

    location = DumpLocation(core=str(need(name).dump("vmcore")), symbols_from="btf")
    with open_target(location, lambda _: None) as target:
        start, stop = target.symbol_address("__start_BTF"), target.symbol_address("__stop_BTF")
        assert start
        assert stop
        (tmp_path / "btf").write_bytes(target.prog.read(start, stop - start))
    compared = 0
    found = layouts_of(name)
    for type_name in ("task_struct", "mm_struct", "vm_area_struct", "signal_struct", "swap_info_struct", "file"):
        seen = list(placed(run("pahole", "-F", "btf", "-C", type_name, tmp_path / "btf")))
        for one in (one for layout in found.values() for one in layout.names):
            owner, _, member = one.name.partition(".")
            places = {at for each, at in seen if each == member}
            if owner == f"struct {type_name}" and one.value.startswith("offset") and len(places) == 1:
                assert one.value == f"offset {places.pop()}", one.name
                compared += 1
    assert compared > 40


def test_what_a_kernel_lacks_is_told() -> None:
    lost = {("struct task_struct", "__state"), ("struct mm_struct", "mm_mt"), ("struct xa_node", "marks")}
    without = Names(DECLARED.types, DECLARED.members - lost, DECLARED.symbols - {"crash_notes"}, DECLARED.lines)
    with watching(without):
        found = layouts_of("k61-small")
    assert (found["the state of a thread"].state, found["the state of a thread"].lost) == (
        "absent",
        "no core is written",
    )
    assert found["the mappings of a process"].state == "absent"
    assert found["the table of ids"].state == "absent"
    assert found["the registers that the crash path saved"].state == "absent"
    assert found["the list of processes"].state == "found"
    with watching(DECLARED):
        assert found.keys() == layouts_of("k61-small").keys()


def test_what_is_unknown_of_a_module_is_not_absent() -> None:
    """In this dump the pages with the list of modules were left out."""
    zram = layouts_of("k61-small")["pages in zram"]
    assert (zram.state, zram.lost) == ("unknown", "")
    assert "page frame excluded" in zram.how


def test_a_source_without_a_kernel_says_so() -> None:
    with pytest.raises(KgcoreError, match="no kernel structures"):
        layouts(BareSource())
