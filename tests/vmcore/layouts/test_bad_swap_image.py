# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of swap on a disk with bad sectors, and some that become shorter: what cannot be read is missing."""

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.model.memory import Provenance, Run
from kgcore.sources.vmcore.memory.extents import Extent
from kgcore.sources.vmcore.memory.pages import pieces
from kgcore.sources.vmcore.memory.swap.images import SwapImages
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace
from tests.bad_sectors import bad

PAGE, SLOTS = 4096, 600  # more than is read at once


class Spaces:
    page_size = PAGE

    def all(self) -> tuple[SwapSpace, ...]:
        nothing: Any = None
        return (SwapSpace(0, nothing, SLOTS, "/dev/vdc"),)


class Image:
    def __init__(self, path: Path) -> None:
        head = bytes(1024) + struct.pack("<II", 1, SLOTS - 1)
        self.content = head.ljust(PAGE - 10, b"\0") + b"SWAPSPACE2" + random.Random(2).randbytes((SLOTS - 1) * PAGE)
        self.path = path / "image"
        self.path.write_bytes(self.content)

    def opened(self) -> SwapImages:
        spaces: Any = Spaces()
        return SwapImages(spaces, {"/dev/vdc": str(self.path)})

    def lost(self, images: SwapImages) -> dict[int, str]:
        """Slots that are missing, and why; all others are right."""
        (space,) = Spaces().all()
        gone: dict[int, str] = {}
        extents = (
            Extent(Run(found.first * PAGE, found.length * PAGE, found.provenance, found.detail), found.place)
            for found in images.find(space, 1, SLOTS - 1)
        )
        end = PAGE
        for run, data in pieces(extents, (SLOTS - 1) * PAGE, PAGE):
            assert run.address == end
            end = run.address + run.length
            if run.provenance is Provenance.UNREADABLE:
                gone |= {page // PAGE: run.detail for page in range(run.address, end, PAGE)}
            else:
                assert run.provenance is Provenance.SWAP_IMAGE
                assert data == self.content[run.address : end]
        assert end == SLOTS * PAGE
        return gone


def test_bad_sectors(tmp_path: Path) -> None:
    image = Image(tmp_path)
    images = image.opened()
    for slots in ([1], [SLOTS - 1], [100, 101, 300], [256, 257, 511, 512]):
        with bad(image.path, *((slot * PAGE + 1024, slot * PAGE + 1536) for slot in slots)):
            gone = image.lost(images)
        assert list(gone) == slots
        assert all("Input/output error" in detail for detail in gone.values())
    assert image.lost(images) == {}


@pytest.mark.parametrize("sector", [(1024, 1536), (3584, PAGE), (0, PAGE)])
def test_a_bad_header(tmp_path: Path, sector: tuple[int, int]) -> None:
    """Nobody knows whether it is an image of that swap space: it is not used, and all else goes on."""
    image = Image(tmp_path)
    with bad(image.path, sector):
        images = image.opened()
    assert images.remarks == (
        f"{image.path} is not used: its first page, which says whether it is an image of /dev/vdc, cannot be read "
        "(Input/output error)",
    )
    (space,) = Spaces().all()
    assert list(images.find(space, 5, 7)) == [
        (5, 7, Provenance.SWAPPED, "on /dev/vdc, whose image has an unreadable header", None)
    ]


@pytest.mark.parametrize("sector", [(0, 1024), (512, 1024), (1536, 3584)])
def test_a_bad_sector_of_the_header_beside_what_proves_it(tmp_path: Path, sector: tuple[int, int]) -> None:
    image = Image(tmp_path)
    with bad(image.path, sector):
        images = image.opened()
    assert images.remarks == ()
    assert image.lost(images) == {}
    image.path.write_bytes(image.content[:1028] + b"x" + image.content[1029:])
    with bad(image.path, sector), pytest.raises(TargetError, match="its header says"):
        image.opened()


@pytest.mark.parametrize("size", [0, PAGE, 300 * PAGE, 300 * PAGE + 100, (SLOTS - 1) * PAGE])
def test_an_image_that_becomes_shorter(tmp_path: Path, size: int) -> None:
    image = Image(tmp_path)
    images = image.opened()
    os.truncate(image.path, size)
    gone = image.lost(images)
    assert list(gone) == list(range(max(1, size // PAGE), SLOTS))
    assert all("shrank" in detail for detail in gone.values())


def test_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(tmp_path)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda number, size, at: real(number, min(size, 1000), at))
    assert image.lost(image.opened()) == {}
