# SPDX-License-Identifier: LGPL-2.1-or-later
"""The location of a swap space on its block device: ``struct swap_extent``.

A swap partition is one extent; a swap file has one extent per piece (setup_swap_extents(), mm/swapfile.c).
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object, sizeof

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace

__all__ = ("Blocks", "SwapBlocks", "partition_start")

_SECTOR = 512  # bytes
_SWP_BLKDEV = 1 << 6  # include/linux/swap.h (5.10 to 7.2)


class Blocks(NamedTuple):
    """Adjacent slots that are also adjacent on the device.

    :ivar length: how many slots.
    :ivar page: offset on the device (``swap_info_struct::bdev``, which may be a partition), in units of 4 KiB.
    """

    slot: int
    length: int
    page: int


class SwapBlocks:
    """Finds slots on block devices. The extents of a swap space are read once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[int, list[Blocks]] = {}

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Blocks]:
        """Yield where slots are, ascending; leave out slots whose extent is not in the dump."""
        if space.number not in self._known:
            self._known[space.number] = list(_in_order(self._read(space)))
        extents = self._known[space.number]
        before = bisect_right(extents, first, key=lambda extent: extent.slot) - 1
        for number in range(max(0, before), len(extents)):
            extent = extents[number]
            if extent.slot >= first + count:
                return
            low, high = max(first, extent.slot), min(first + count, extent.slot + extent.length)
            if low < high:
                yield Blocks(low, high - low, extent.page + low - extent.slot)

    def _read(self, space: SwapSpace) -> list[Blocks]:
        """Return the extents that are in the dump, in any order."""
        try:
            if space.info.member_("flags").value_() & _SWP_BLKDEV:
                return [Blocks(0, space.slots, 0)]
            if self._kernel.target.has_member("struct swap_info_struct", "swap_extent_root"):
                return _Extents(self._kernel, "rb_node").tree(space)
            return _Extents(self._kernel, "list").circle(space)
        except (FaultError, LookupError):
            return []


def _in_order(extents: list[Blocks]) -> Iterator[Blocks]:
    """Yield extents in ascending order; if some overlap, as in a damaged dump, only the first of them."""
    end = 0
    for extent in sorted(extents):
        if extent.slot >= end and extent.length > 0:
            yield extent
            end = extent.slot + extent.length


class _Extents:
    """Reads ``struct swap_extent``.

    :param link: the member that links them.
    """

    def __init__(self, kernel: Kernel, link: str) -> None:
        self._prog = kernel.prog
        kind = kernel.prog.type("struct swap_extent")
        self._size = kind.size or 0
        self._word_size = kernel.word_size
        self._link = kind.member(link).offset
        members = (kind.member(name) for name in ("start_page", "nr_pages", "start_block"))
        self._members = [(member.offset, sizeof(member.type)) for member in members]
        self._links = {member.name: member.offset for member in kind.member(link).type.members or ()}

    def tree(self, space: SwapSpace) -> list[Blocks]:
        """Return the extents of a red-black tree (since 5.4)."""
        found: list[Blocks] = []
        root = space.info.member_("swap_extent_root").member_("rb_node").value_()
        seen, pending = set[int](), [(root, 0)]
        while pending:
            node, parent = pending.pop()
            # Each extent has at least one slot, so there are at most as many extents as slots.
            if not node or node in seen or len(seen) >= space.slots:
                continue
            try:
                raw, extent = self._extent(node)
            except FaultError:
                continue  # this node and those below it are lost, the others are not
            if self._word(raw, self._links["__rb_parent_color"]) & ~3 != parent:
                continue
            seen.add(node)
            found.append(extent)
            pending += [(self._word(raw, self._links[name]), node) for name in ("rb_left", "rb_right")]
        return found

    def circle(self, space: SwapSpace) -> list[Blocks]:
        """Return the extents of a circular list whose head is part of ``struct swap_info_struct`` (before 5.4)."""
        found: list[Blocks] = []
        first = space.info.member_("first_swap_extent").address_of_().value_() + self._link
        seen, node = set[int](), first
        while node not in seen and len(seen) < space.slots:
            seen.add(node)
            try:
                raw, extent = self._extent(node)
            except FaultError:
                break
            found.append(extent)
            node = self._word(raw, self._links["next"])
        return found

    def _extent(self, node: int) -> tuple[bytes, Blocks]:
        """Read one extent: its raw bytes and its blocks.

        :raises FaultError: it is not in the dump.
        """
        raw = kernel_bytes(self._prog, node - self._link, self._size)
        return raw[self._link :], Blocks(*(int.from_bytes(raw[at : at + size], "little") for at, size in self._members))

    def _word(self, raw: bytes, at: int) -> int:
        return int.from_bytes(raw[at : at + self._word_size], "little")


def partition_start(kernel: Kernel, device: Object) -> int:
    """Return where on its disk a block device begins, in pages; 0 for a whole disk.

    In 5.10, its ``struct hd_struct`` has the start.

    :param device: ``struct block_device *``
    :raises FaultError, LookupError: the dump does not have the start.
    :raises BrokenDump: the start is not a multiple of a page.
    """
    if kernel.target.has_member("struct block_device", "bd_start_sect"):
        sector = device.member_("bd_start_sect").value_()
    else:
        partition = device.member_("bd_part")
        sector = partition.member_("start_sect").value_() if partition else 0
    page, rest = divmod(int(sector), kernel.page_size // _SECTOR)
    if rest:
        raise BrokenDump(f"a partition that begins with sector {sector}: not at a multiple of {kernel.page_size} bytes")
    return page
