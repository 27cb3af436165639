# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real dumps whose symbol table (kallsyms) has the form of other kernels: opened without vmlinux, and the same core.

The kernels that have these forms cannot be had here: before 5.0, RHEL 8, a single CPU.
"""

from pathlib import Path

import pytest

from kgcore.sources.drgnversion import older_than
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from tests.vmcore.conftest import need
from tests.vmcore.kallsyms_forms import COMMITTED, Form, Reformed
from tests.vmcore.tools import kgcore

_FORMS = {
    "as before 5.0": Form(wide=True, addresses="per-cpu"),
    "as before 5.0, one CPU": Form(wide=True, addresses="relative"),
    "one CPU": Form(wide=False, addresses="relative"),
    "absolute": Form(wide=True, addresses="absolute"),
    "as since 6.4": Form(wide=False, addresses="per-cpu", behind=True),
    "as since 6.4, one CPU": Form(wide=False, addresses="relative", behind=True),
    "as since 7.0": Form(wide=False, addresses="place", behind=True, align=4),
}
_NAMES = ("init_task", "_stext", "_end", "__start_BTF", "runqueues", "page_offset_base", "swap_info", "init_css_set")


@pytest.mark.parametrize("form", _FORMS)
def test_every_symbol_is_where_it_was(form: str, tmp_path: Path) -> None:
    if _FORMS[form].addresses == "place" and older_than(0, 1):
        pytest.skip("needs drgn 0.1.0")
    made = Reformed("k510-small", _FORMS[form], tmp_path)
    location = DumpLocation(core=str(made.path), symbols_from="btf", vmcoreinfo=str(made.info))
    with open_target(location) as target:
        for part, address in made.places.items():
            assert int(target.vmcoreinfo[f"SYMBOL({part})"], 16) == address
        for symbol in _NAMES:
            if symbol in made.known:
                assert target.symbol_address(symbol) == made.known[symbol]
        assert {symbol for symbol in made.known if target.symbol_address(symbol) is None} == set()
        wrong = [s for s in list(made.known)[::37] if target.symbol_address(s) != made.known[s]]
        assert len(wrong) < len(made.known) / 37 / 20  # names that several functions share


@pytest.mark.parametrize("form", ["as before 5.0", "as since 6.4"])
def test_the_same_core(form: str, tmp_path: Path) -> None:
    fixture = need("k510-small")
    made = Reformed("k510-small", _FORMS[form], tmp_path)
    pid = next(iter(fixture.victims.values())).pid
    cores = [tmp_path / "one", tmp_path / "two"]
    whole = COMMITTED / "k510-small" / "vmcore"
    for path, core in ((whole, cores[0]), (made.path, cores[1])):
        done = kgcore("-c", path, "--no-kgcore-note", "-o", core, pid, cwd=tmp_path)
        assert done.status in (0, 3)
    assert cores[0].read_bytes() == cores[1].read_bytes()


@pytest.mark.parametrize("name", ["k61", "k612", "k72"])
def test_a_table_of_a_new_kernel_is_found_without_vmcoreinfo(name: str, tmp_path: Path) -> None:
    """VMCOREINFO has the addresses since 6.0; a search that does not need them finds the same."""
    source = need(name).dump("vmcore.elf")
    with open_target(DumpLocation(core=str(source), symbols_from="btf")) as target:
        known = {key: value for key, value in target.vmcoreinfo.items() if "kallsyms" in key}
        text = target.prog["VMCOREINFO"].string_()
    assert len(known) >= 5
    (tmp_path / "info").write_bytes(b"".join(line + b"\n" for line in text.split(b"\n") if b"kallsyms" not in line))
    location = DumpLocation(core=str(source), symbols_from="btf", vmcoreinfo=str(tmp_path / "info"))
    with open_target(location) as target:
        found = {key: value for key, value in target.vmcoreinfo.items() if "kallsyms" in key}
    assert found == known
