# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface of a place that may hold swapped pages."""

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

    :ivar length: how many slots.
    :ivar place: as in :class:`kgcore.sources.vmcore.memory.extents.Extent`.
    """

    first: int
    length: int
    provenance: Provenance
    detail: str = ""
    place: Place | None = None


class Layer(Protocol):
    """One of the places that may hold swapped pages."""

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """Yield the slots that this place has, ascending.

        Leave out slots that it does not have; yield as missing those that it should have but that cannot be read. Raise
        nothing for damage in the dump.
        """


class PageBytes(Reader):
    """A page that is already decompressed."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`."""
        view[:] = self._data[at : at + len(view)]


def page_slot(slot: int, provenance: Provenance, data: bytes) -> Slots:
    """Return a slot whose page is decompressed."""
    if data == bytes(len(data)):
        return Slots(slot, 1, Provenance.ZERO)
    return Slots(slot, 1, provenance, place=Place(PageBytes(data), 0))


def unpacked(slot: int, provenance: Provenance, decompress: Decompress, data: bytes, page_size: int) -> Slots:
    """Return a slot, decompressed from its bytes.

    It is decompressed now, not when it is written: the core's headers depend on whether that works.
    """
    try:
        return page_slot(slot, provenance, decompress(data, page_size))
    except (CannotDecompress, BrokenDump, FaultError) as error:
        return Slots(slot, 1, Provenance.UNREADABLE, f"{provenance.value}: {error}")
