# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bulk reads of page frames, at the speed of the dump file."""

from collections.abc import Callable, Sequence

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import DumpFile
from kgcore.sources.vmcore.dumpfile.source import ShortFile, reason
from kgcore.sources.vmcore.dumpfile.uncompressed import adjacent

__all__ = ("FrameReader",)

_CHECKED = 64  # calls that compare a page with drgn's


class FrameReader:
    """Reads STORED page frames, from the dump file directly or through drgn.

    It reads lists of frames, as a call per frame would take longer than to unpack the frame.

    :param dump: None: only drgn can read the dump.
    :param phys: reads physical memory through drgn.
    :param page_size: bytes of a page frame.
    :param check: drgn opened the file itself and may read a different one: compare the first reads with drgn's, and
        leave to drgn what kgcore cannot read.
    """

    def __init__(
        self, dump: DumpFile | None, phys: Callable[[int, int], bytes], page_size: int, *, check: bool
    ) -> None:
        self._dump = dump
        self._phys = phys
        self.page_size = page_size
        self._to_check = _CHECKED if check else 0

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """Copy page frames into a view.

        :param pages: the physical address of each frame, not empty.
        :param view: room for a page per frame.
        :raises FaultError: one of them cannot be read. The view's content is then undefined.
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
        """Tell whether drgn reads the same page."""
        self._to_check -= 1
        return data == self._phys(page, self.page_size)
