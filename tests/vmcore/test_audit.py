# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m tools.audit``: types alone say of a kernel what its dump says."""

import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore import Layout, layouts, open_vmcore
from tests.vmcore.conftest import Fixture, need
from tests.vmcore.lookups import Names, watching
from tests.vmcore.test_layout_table import DECLARED
from tools.audit import audited, changes, main

COMPARED = ("found", "absent")


def of_the_dump(fixture: Fixture) -> dict[str, Layout]:
    with open_vmcore(fixture.dump(), symbols_from="btf", tell=lambda _: None) as source:
        return {layout.what: layout for layout in layouts(source)}


def differences(alone: Sequence[Layout], dump: dict[str, Layout]) -> list[str]:
    """What both know, and say differently. Lines of VMCOREINFO are not in a file, and modules need not be loaded."""
    return [
        f"{one.what}: {one.state} {one.since}, in the dump {dump[one.what].state} {dump[one.what].since}"
        for one in alone
        if one.state in COMPARED and dump[one.what].state in COMPARED
        if not any(name.kind == "line" for name in (*one.names, *dump[one.what].names))
        if (one.state, one.since) != (dump[one.what].state, dump[one.what].since)
    ]


@pytest.mark.parametrize("name", ["k510", "k61", "k612", "k72"])
@pytest.mark.parametrize("file", ["vmlinux", "vmlinuz"])
def test_a_kernels_file_says_what_its_dump_says(name: str, file: str) -> None:
    fixture = need(name)
    path = fixture.vmlinux.resolve().with_name(file)
    alone = audited(path)
    assert sum(one.state in COMPARED for one in alone) > 90
    assert differences(alone, of_the_dump(fixture)) == []


def raw_btf(folder: Path) -> Path:
    """That of a 32-bit kernel."""
    path = folder / "pae.btf"
    path.write_bytes(lzma.decompress((need("k61-686pae-small").path / "btf.xz").read_bytes()))
    return path


def test_raw_btf_says_what_types_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has few symbols: what takes them is unknown, not absent."""
    found = {one.what: one for one in audited(raw_btf(tmp_path))}
    assert found["the state of a thread"].state == "found"
    assert found["swap spaces"].state == "unknown"
    assert found["which register sets the kernel has"].state == "unknown"
    assert [one.what for one in found.values() if one.needed and one.state == "absent"] == []
    assert main([str(raw_btf(tmp_path))]) == 0
    assert "absent, " in capsys.readouterr().out


def test_what_a_kernel_lacks_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = raw_btf(tmp_path)
    whole = audited(path)
    members = DECLARED.members - {("struct task_struct", "__state"), ("struct mm_struct", "total_vm")}
    with watching(Names(DECLARED.types, members, DECLARED.symbols, DECLARED.lines)):
        assert main([str(path)]) == 1
        lacking = audited(path)
    said = capsys.readouterr().out
    assert "  absent   the state of a thread: no core is written\n             struct task_struct.__state: no" in said
    assert list(changes(whole, whole)) == []
    assert "the state of a thread: was found as in 5.14 (2f064a59a11f), is absent" in list(changes(whole, lacking))
    assert "how much memory a process uses: was found as in 4.18 and later, is absent" in list(changes(whole, lacking))


def test_what_is_no_kernel_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no kernel")
    assert main([str(tmp_path / "text"), str(raw_btf(tmp_path))]) == 2
    said = capsys.readouterr()
    assert "is neither BTF nor a kernel" in said.err
    assert "pae.btf:" in said.out
