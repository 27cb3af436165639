# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a place where swapped pages may be found has to offer."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.compression import CannotDecompress, Decompress
from kgcore.sources.vmcore.memory.extents import Place, Reader
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace

__all__ = ("Layer", "PageBytes", "Slots", "page_slot", "unpacked")


class Slots(NamedTuple):
    """Adjacent slots that a layer has, or knows to be lost.

    :ivar length: how many.
    :ivar place: as in :class:`kgcore.sources.vmcore.memory.extents.Extent`.
    """

    first: int
    length: int
    provenance: Provenance
    detail: str = ""
    place: Place | None = None


class Layer(Protocol):
    """One of the places."""

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """What this place has of the slots, ascending. What it has not is left out; what it should have and what
        cannot be read is yielded as missing. Raises nothing for damage in the dump."""


class PageBytes(Reader):
    """A page that was unpacked already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`."""
        view[:] = self._data[at : at + len(view)]


def page_slot(slot: int, provenance: Provenance, data: bytes) -> Slots:
    """A slot whose page was unpacked."""
    if data == bytes(len(data)):
        return Slots(slot, 1, Provenance.ZERO)
    return Slots(slot, 1, provenance, place=Place(PageBytes(data), 0))


def unpacked(slot: int, provenance: Provenance, decompress: Decompress, data: bytes, page_size: int) -> Slots:
    """A slot out of its compressed bytes.

    It is unpacked at once and not when it is written, since whether that works decides what the core's headers say.
    """
    try:
        return page_slot(slot, provenance, decompress(data, page_size))
    except (CannotDecompress, BrokenDump, FaultError) as error:
        return Slots(slot, 1, Provenance.UNREADABLE, f"{provenance.value}: {error}")
