# SPDX-License-Identifier: LGPL-2.1-or-later
"""open_vmcore() on committed dumps: what it is given arrives, and what there is to be said is said."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore import KgcoreError, TaskRef, open_vmcore, prepare
from kgcore.sources.location import DumpLocation
from tests.vmcore import reshape
from tests.vmcore.conftest import need


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    whole = need("k61-small").dump("vmcore")
    return reshape.truncated(whole, tmp_path / "vmcore", whole.stat().st_size - 100)


def test_a_dump_that_is_cut_off_is_told(cut_off: Path) -> None:
    told: list[str] = []
    with open_vmcore(cut_off, tell=told.append) as source:
        assert source.process(TaskRef.parse("110")).image.tgid == 110
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
    with pytest.raises(KgcoreError, match="not an ELF core"), open_vmcore(raw):
        pass
    with pytest.raises(KgcoreError, match="has no VMCOREINFO"), open_vmcore(raw, architecture="x86_64"):
        pass
    with pytest.raises(KgcoreError, match="is not VMCOREINFO"), open_vmcore(vmcore, vmcoreinfo=raw):
        pass


def test_swap_and_root(tmp_path: Path) -> None:
    vmcore = need("k61-small").dump("vmcore")
    with pytest.raises(KgcoreError, match="does not swap to /dev/none"):  # noqa: SIM117
        with open_vmcore(vmcore, swap={"/dev/none": tmp_path}) as source:
            _ = source.process(110).memory
    with pytest.raises(KgcoreError, match="cannot open"):  # noqa: SIM117
        with open_vmcore(vmcore, root=tmp_path / "none") as source:
            _ = source.process(110).memory


@pytest.mark.parametrize("pid", [118, "118"])
def test_processes_by_number(pid: int | str) -> None:
    """The process that crashed is another one than the one that is asked for."""
    with open_vmcore(need("k61-crash-small").dump("vmcore")) as source:
        current = source.process(TaskRef.current()).image
        assert prepare(source, pid).image.tgid == source.process(pid).image.tgid == 118
        assert current.tgid != 118
        leader = next(thread.task for thread in source.process(pid).image.threads if thread.tid == 118)
        for address in (leader, f"{leader:#x}", f"{leader:x}", str(leader)):
            assert prepare(source, address).image.tgid == 118


def test_what_is_no_process_is_the_callers_mistake() -> None:
    """It is not said to be damage."""
    with open_vmcore(need("k61-small").dump("vmcore")) as source:
        for use in (source.process, lambda ref: prepare(source, ref)):
            for wrong in (None, 1.5, [110], True):
                with pytest.raises(TypeError, match="expected a PID or the address of a task_struct, not "):
                    use(wrong)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="-110 is neither"):
                use(-110)


class AsPath(os.PathLike[str]):
    def __init__(self, name: str) -> None:
        self._name = name

    def __fspath__(self) -> str:
        return self._name


@pytest.mark.parametrize(
    "kind", [str, Path, AsPath, lambda name: (name,), lambda name: [Path(name)], lambda name: iter([name])]
)
def test_symbols_are_one_file_or_several(kind: Callable[[str], Any], tmp_path: Path) -> None:
    """A string is no tuple of letters."""
    name = str(tmp_path / "vmlinux")
    with (
        pytest.raises(KgcoreError, match=re.escape(name)),
        open_vmcore(need("k61-small").dump("vmcore"), symbols=kind(name)),
    ):
        pass


def test_the_files_of_a_target_are_files() -> None:
    for name in ("symbols", "parts", "debug_directories", "kernel_directories"):
        one: dict[str, Any] = {name: "vmlinux"}
        two: dict[str, Any] = {name: ["a", "b"]}
        assert getattr(DumpLocation(**one), name) == ("vmlinux",)
        assert getattr(DumpLocation(**two), name) == ("a", "b")
