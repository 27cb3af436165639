# SPDX-License-Identifier: LGPL-2.1-or-later
"""Extents: ranges of a process's memory, each with the place of its bytes."""

from typing import NamedTuple

from kgcore.model.memory import Provenance, Run

__all__ = ("Extent", "Place", "Reader", "missing", "zeros")


class Reader:
    """Something that holds bytes: page frames, a compressed page, a file."""

    def fill(self, at: int, view: memoryview) -> None:
        """Fill a view with the bytes from an offset on.

        :raises drgn.FaultError, kgcore.errors.BrokenDump: they are missing after all. The view's content is then
            undefined.
        """
        raise NotImplementedError

    def read(self, at: int, size: int) -> bytes:
        """Return a copy of a few bytes.

        :raises drgn.FaultError, kgcore.errors.BrokenDump: as :meth:`fill`.
        """
        data = bytearray(size)
        self.fill(at, memoryview(data))
        return bytes(data)


class Place(NamedTuple):
    """Where bytes lie: a reader, and an offset in it."""

    reader: Reader
    at: int


class Extent(NamedTuple):
    """A run of memory and the place of its bytes.

    :ivar place: of the first byte; all others follow it. None unless the provenance is ``stored``; for EXCLUDED, it
        may be where the bytes would be.
    :ivar slot: for missing memory in a swap space: the slot of the first page; all others follow it.
    """

    run: Run
    place: Place | None = None
    slot: int | None = None


def zeros(address: int, length: int) -> Extent:
    """Return an extent of memory that is certainly zeros."""
    return Extent(Run(address, length, Provenance.ZERO))


def missing(address: int, length: int, provenance: Provenance, detail: str = "") -> Extent:
    """Return an extent of missing memory."""
    return Extent(Run(address, length, provenance, detail))
