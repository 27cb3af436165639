# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore filter`` against what was to be filtered: vmcores, and what kernels wrote with other filters."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.errors import BrokenDump
from kgcore.library import open_core, open_vmcore
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import Source, TaskRef
from tests.vmcore.conftest import COMMITTED, need
from tests.vmcore.corefile import Core

MASKS = (0x00, 0x01, 0x02, 0x10, 0x33, 0x4C, 0x7F)


def core_of(source: Source, ref: TaskRef | int, options: Options) -> bytes:
    sink = MemorySink()
    with prepare(source, ref, options) as prepared:
        write(prepared, sink)
    return bytes(sink.data)


def filtered(path: Path, options: Options) -> bytes:
    with open_core(path) as source:
        return core_of(source, TaskRef.current(), options)


def processes(source: Source) -> Iterator[int]:
    """A few of different kinds: by their names."""
    seen = set()
    for one in source.processes():
        if one.memory and not one.kernel_thread and one.comm not in seen:
            seen.add(one.comm)
            yield one.pid


@pytest.mark.parametrize("name", ["k510-small", "k61-abi-small", "k61-crash-small", "k612-small"])
def test_a_core_with_all_memory_becomes_any_other(tmp_path: Path, name: str) -> None:
    """The note says what each mapping is: then filtering is what kgcore, and so the kernel, does of the process."""
    path = tmp_path / "core"
    with open_vmcore(COMMITTED / name / "vmcore") as source:
        tried = 0
        for pid in processes(source):
            try:
                whole = core_of(source, pid, Options(mask=0x1FF, dontdump=True))
            except BrokenDump:
                continue
            path.write_bytes(whole)
            assert filtered(path, Options(mask=None)) == whole
            for mask in MASKS:
                wanted = core_of(source, pid, Options(mask=mask, vendor_note=False))
                assert filtered(path, Options(mask=mask, vendor_note=False)) == wanted, f"{pid}, filter {mask:#x}"
            tried += 1
    assert tried


def test_filtering_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "core"
    with open_vmcore(COMMITTED / "k61-small" / "vmcore") as source:
        path.write_bytes(core_of(source, 110, Options(mask=0x7F)))
    found = filtered(path, Options(mask=0x31))
    assert len(found) < path.stat().st_size
    path.write_bytes(found)
    assert filtered(path, Options(mask=0x31)) == found


# The victim "memory" in one guest, each time with another filter of its own
VICTIMS = {0x7F: "memory", 0x33: "memory33", 0x01: "memory01", 0x10: "memory10"}


@pytest.mark.parametrize("name", ["k510", "k61", "k612", "k72"])
def test_what_the_kernel_would_have_kept_is_never_dropped(name: str) -> None:
    """A core of the kernel does not say all that its filter went by. Where it does, the result is the kernel's; where
    it does not, the mapping stays, and says so."""
    fixture = need(name)
    said = {mask: told(fixture.path, victim) for mask, victim in VICTIMS.items()}
    cores = {mask: Core(core) for mask, (core, _) in said.items()}
    decided = dropped = 0
    for mask, kernels in cores.items():
        with (
            open_core(cores[0x7F].path) as source,
            prepare(source, TaskRef.current(), Options(mask=mask)) as prepared,
        ):
            plans = dict(zip(prepared.image.vmas, prepared.plan.vmas, strict=True))
            image = prepared.image
        for what, address in said[0x7F][1].items():
            theirs = kept_at(kernels, said[mask][1][what])
            vma = image.vma_at(address)
            assert vma is not None
            keep = plans[vma].keep
            ours = min(max(keep.length - (address - vma.start), 0), 4096)
            where = f"filter {mask:#x}, {what}: {keep}"
            if keep.reason == "undecided":
                assert ours >= theirs, where
            else:
                assert ours == theirs, where
                decided += 1
                dropped += not ours
    assert decided > 60
    assert dropped > 20


def told(fixture: Path, victim: str) -> tuple[Path, dict[str, int]]:
    """The kernel's core of a victim, and where that says that its mappings are."""
    said = json.loads((fixture / "truth" / "victims" / f"{victim}.json").read_text())
    (path,) = (fixture / "truth" / "cores").glob(f"core.{said['pid']}*")
    return path, {mapping["name"]: mapping["addr"] for mapping in said["mappings"]}


def kept_at(core: Core, address: int) -> int:
    """How many bytes of a page the kernel kept."""
    (load,) = (one for one in core.loads if one.p_vaddr <= address < one.p_vaddr + one.p_memsz)
    return min(max(load.p_filesz - (address - load.p_vaddr), 0), 4096)
