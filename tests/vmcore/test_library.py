# SPDX-License-Identifier: LGPL-2.1-or-later
"""open_vmcore() on committed dumps: what it is given arrives, and what there is to be said is said."""

from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore import KgcoreError, TaskRef, open_vmcore
from tests.vmcore import reshape
from tests.vmcore.conftest import need


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    whole = need("k61-small").dump("vmcore")
    return reshape.truncated(whole, tmp_path / "vmcore", whole.stat().st_size - 100)


def test_a_dump_that_is_cut_off_is_told(cut_off: Path) -> None:
    told: list[str] = []
    with open_vmcore(cut_off, tell=told.append) as source:
        assert source.image(TaskRef.parse("110")).tgid == 110
    assert [sentence.split(":")[0] for sentence in told] == ["the dump is cut off"]


def test_or_is_a_warning(cut_off: Path) -> None:
    with pytest.warns(UserWarning, match="the dump is cut off"), open_vmcore(cut_off):
        pass


def test_a_whole_one_is_not(recwarn: pytest.WarningsRecorder) -> None:
    with open_vmcore(need("k61-small").dump("vmcore")):
        pass
    assert not recwarn.list


def test_symbols(tmp_path: Path) -> None:
    """A 32-bit kernel of Debian's tells neither its types nor its variables."""
    fixture = need("k61-686pae-small")
    with pytest.raises(KgcoreError, match="kallsyms"), open_vmcore(fixture.dump("vmcore")):
        pass
    with open_vmcore(fixture.dump("vmcore"), symbols=fixture.packed_symbols(tmp_path)) as source:
        assert {victim.pid for victim in fixture.victims.values()} & {process.pid for process in source.processes()}


def test_parts_architecture_and_vmcoreinfo(tmp_path: Path) -> None:
    vmcore = need("k61-small").dump("vmcore")
    with pytest.raises(KgcoreError, match="not part of a split set"), open_vmcore(vmcore, vmcore):
        pass
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(1 << 20))
    with pytest.raises(KgcoreError, match="neither an ELF core"), open_vmcore(raw):
        pass
    with pytest.raises(KgcoreError, match="has no VMCOREINFO"), open_vmcore(raw, architecture="x86_64"):
        pass
    with pytest.raises(KgcoreError, match="is no VMCOREINFO"), open_vmcore(vmcore, vmcoreinfo=raw):
        pass


def test_swap_and_root(tmp_path: Path) -> None:
    vmcore = need("k61-small").dump("vmcore")
    with pytest.raises(KgcoreError, match="does not swap to /dev/none"):  # noqa: SIM117
        with open_vmcore(vmcore, swap={"/dev/none": tmp_path}) as source:
            source.memory(source.image(TaskRef.parse("110")))
    with pytest.raises(KgcoreError, match="cannot open"):  # noqa: SIM117
        with open_vmcore(vmcore, root=tmp_path / "none") as source:
            source.memory(source.image(TaskRef.parse("110")))
