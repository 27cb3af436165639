# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of ``--root`` on a disk with bad sectors, and some that become shorter: what cannot be read is missing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Piece, Provenance
from kgcore.sources.vmcore.memory.extents import Extent
from kgcore.sources.vmcore.memory.pages import pieces
from tests.bad_sectors import bad
from tests.vmcore.layouts.test_rootfiles import Mapped, elf, kinds, refused

PAGE, PAGES = 4096, 6


def read(extents: Iterator[Extent]) -> list[Piece]:
    return list(pieces(extents, PAGES * PAGE, PAGE))


def lost(world: Mapped, found: list[Piece]) -> dict[int, str]:
    """The pages that are missing, and why; all others are right."""
    gone: dict[int, str] = {}
    at = 0
    for run, data in found:
        if run.provenance is Provenance.UNREADABLE:
            gone |= {page // PAGE: run.detail for page in range(at, at + run.length, PAGE)}
        else:
            assert data == world.content[at : at + run.length]
        at += run.length
    assert at == PAGES * PAGE
    return gone


@pytest.mark.parametrize("build_id", [b"id", None])
@pytest.mark.parametrize("sector", range(0, PAGES * PAGE, PAGE // 2))
def test_a_bad_sector(tmp_path: Path, sector: int, build_id: bytes | None) -> None:
    """It costs the page that it is in, if the dump has not that: also where it is of no use as proof."""
    world = Mapped(tmp_path, elf(build_id, PAGES * PAGE))
    world.hold(0)
    world.hold(3)
    file = world.ours()
    with bad(file, (sector, sector + 512)):
        files = world.files()
        assert kinds(world.mapped(files)) == "crrcrr"
        gone = lost(world, read(world.mapped(files)))
        assert list(files.remarks([world.named])) == []
    assert set(gone) == {sector // PAGE} - {0, 3}
    assert all("Input/output error" in detail for detail in gone.values())


def test_no_proof_is_left(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", PAGES * PAGE))
    world.hold(0)
    world.hold(3)
    with bad(world.ours(), (0, 512), (3 * PAGE, 3 * PAGE + 512)):
        assert "cannot be read: Input/output error" in refused(world)


def test_another_file_is_another(tmp_path: Path) -> None:
    """What can be read is compared, before and behind the bad sector."""
    world = Mapped(tmp_path, elf(None, PAGES * PAGE))
    world.large(0, 4)
    changed = bytearray(world.content)
    changed[3 * PAGE + 9] ^= 1
    with bad(world.ours(bytes(changed)), (PAGE, PAGE + 512)):
        assert "its page at offset 0x3000 differs" in refused(world)


@pytest.mark.parametrize("size", [0, 100, PAGE, 4 * PAGE + 1])
def test_a_file_that_becomes_shorter(tmp_path: Path, size: int) -> None:
    """Nobody knows what it is now."""
    world = Mapped(tmp_path, elf(b"id", PAGES * PAGE))
    world.hold(0)
    world.hold(3)
    file = world.ours()
    files = world.files()
    assert kinds(world.mapped(files)) == "crrcrr"
    extents = list(world.mapped(files))
    os.truncate(file, size)
    gone = lost(world, read(iter(extents)))
    assert set(gone) == {1, 2, 4, 5}
    assert all("changed during the run" in detail for detail in gone.values())


def test_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Mapped(tmp_path, elf(b"id", PAGES * PAGE))
    world.hold(0)
    world.hold(3)
    world.ours()
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda number, size, at: real(number, min(size, 1000), at))
    files = world.files()
    assert kinds(world.mapped(files)) == "crrcrr"
    assert lost(world, read(world.mapped(files))) == {}
