# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges of a process's memory with the place where their bytes lie: what memory is put together from."""

from typing import NamedTuple

from kgcore.model.memory import Provenance, Run

__all__ = ("Extent", "Place", "Reader", "missing", "zeros")


class Reader:
    """Something that holds bytes: page frames, a compressed page, a file."""

    def fill(self, at: int, view: memoryview) -> None:
        """Copy as many bytes as the view has.

        :raises drgn.FaultError, kgcore.errors.BrokenDump: they are missing after all. What the view holds then is
            undefined.
        """
        raise NotImplementedError

    def read(self, at: int, size: int) -> bytes:
        """A copy of their own of a few bytes.

        :raises drgn.FaultError, kgcore.errors.BrokenDump: as :meth:`fill`.
        """
        data = bytearray(size)
        self.fill(at, memoryview(data))
        return bytes(data)


class Place(NamedTuple):
    """Where bytes lie: in something, from some offset on."""

    reader: Reader
    at: int


class Extent(NamedTuple):
    """A run and where it lies.

    :ivar place: of the first byte; all others follow it. None unless the provenance is ``stored``; but for EXCLUDED
        ones it may be where the bytes would be.
    :ivar slot: of memory missing in a swap space: the slot of the first page; all others follow it.
    """

    run: Run
    place: Place | None = None
    slot: int | None = None


def zeros(address: int, length: int) -> Extent:
    """Return an extent of certain zeros."""
    return Extent(Run(address, length, Provenance.ZERO))


def missing(address: int, length: int, provenance: Provenance, detail: str = "") -> Extent:
    """Return an extent of missing memory."""
    return Extent(Run(address, length, provenance, detail))
