# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page frames in bulk, as fast as the dump file gives them."""

from collections.abc import Callable, Sequence

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import DumpFile
from kgcore.sources.vmcore.dumpfile.source import ShortFile, reason
from kgcore.sources.vmcore.dumpfile.uncompressed import adjacent

__all__ = ("FrameReader",)

_CHECKED = 64  # calls of which a page is compared


class FrameReader:
    """Reads page frames that are STORED: out of the dump file itself, or through drgn.

    A list of them at once, as a call for each would take longer than to unpack it.

    :param dump: None: drgn alone can read.
    :param phys: physical memory, by drgn.
    :param page_size: bytes of a page frame.
    :param check: drgn reads the file by itself, perhaps another one than we: what both read is compared at first, and
        what we cannot read is left to drgn.
    """

    def __init__(
        self, dump: DumpFile | None, phys: Callable[[int, int], bytes], page_size: int, *, check: bool
    ) -> None:
        self._dump = dump
        self._phys = phys
        self.page_size = page_size
        self._to_check = _CHECKED if check else 0

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """Copy page frames.

        :param pages: the physical address of each, not empty.
        :param view: a page for each.
        :raises FaultError: one of them cannot be read. What the view holds then is undefined.
        """
        if self._dump is not None:
            try:
                self._dump.fill(pages, view)
                if not self._to_check or self._agrees(pages[-1], view[-self.page_size :]):
                    return
            except (ShortFile, BrokenDump, OSError) as error:
                if not self._to_check:
                    raise FaultError(reason(error), pages[0]) from error
        self._by_drgn(pages, view)
        self._dump = None  # drgn reads what we do not

    def _by_drgn(self, pages: Sequence[int], view: memoryview) -> None:
        done = 0
        for address, size in adjacent(pages, self.page_size):
            view[done : done + size] = self._phys(address, size)
            done += size

    def _agrees(self, page: int, data: memoryview) -> bool:
        """Whether drgn reads the same."""
        self._to_check -= 1
        return data == self._phys(page, self.page_size)
