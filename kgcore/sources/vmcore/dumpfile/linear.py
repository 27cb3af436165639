# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read uncompressed memory: LiME images, and raw memory, which has no header at all.

A LiME image has, for each range of RAM, a header and the bytes (LiME's doc/README.md; ``struct lime_header``, version
1). AVML writes the same format, unless it compresses.
"""

import re
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, Frames, FrameState, RunList
from kgcore.sources.vmcore.dumpfile.notes import DumpNote, unreadable
from kgcore.sources.vmcore.dumpfile.source import ByteSource, ShortFile, found_again
from kgcore.sources.vmcore.dumpfile.uncompressed import Uncompressed

__all__ = ("LIME", "LinearDump", "PhysicalRange")

LIME = b"EMiL"  # 0x4C694D45, little-endian

_HEADER = Struct("<4sIQQ8x")  # magic, version, s_addr, e_addr (the last byte), reserved
_LIKELY = re.compile(rb"EMiL\x01\0\0\0")
_MAX_EXTENTS = 1 << 16
_SEARCHED = 1 << 36  # bytes to search for the next header
_MAX_ADDRESS = 1 << 52


class PhysicalRange(NamedTuple):
    """A range of physical memory of ``size`` bytes, of which the first ``stored`` are in the file."""

    address: int
    size: int
    offset: int
    stored: int


class LinearDump:
    """A LiME image or raw memory.

    :ivar extents: the ranges, ascending by address, without overlaps.
    :ivar memory: where in the file physical memory lies.
    :param page_shift: a page has ``1 << page_shift`` bytes.
    :raises TargetError: a header is damaged.
    """

    compression = "none"
    architecture = ""  # neither format has a place for it
    dump_level: int | None = None
    release = ""
    needs_platform = True
    flattened = False
    notes: tuple[DumpNote, ...] = ()
    vmcoreinfo: bytes | None = None
    notices: tuple[str, ...] = ()

    def __init__(self, source: ByteSource, *, raw: bool, page_shift: int) -> None:
        self._source = source
        self.page_shift = page_shift
        self.format = "raw memory" if raw else "LiME"
        found = [PhysicalRange(0, source.size, 0, source.size)] if raw else list(self._lime())
        self.extents: tuple[PhysicalRange, ...] = tuple(sorted(found))
        for extent, behind in zip(self.extents, self.extents[1:], strict=False):
            if extent.address + extent.size > behind.address:
                raise TargetError(f"two of its ranges hold the memory at {behind.address:#x}")
        self.missing_bytes = sum(extent.size - extent.stored for extent in self.extents)
        self.incomplete = self.missing_bytes > 0
        # A range whose header is unreadable may be anywhere.
        self.frames: Frames = RunList(self._runs(), FrameState.LOST if self.notices else FrameState.NO_RAM)
        self.memory = Uncompressed(
            source, ((each.address, each.stored, each.offset) for each in self.extents), 1 << page_shift
        )
        self.fill = self.memory.fill

    def _lime(self) -> Iterator[PhysicalRange]:
        offset = 0
        for _ in range(_MAX_EXTENTS):
            try:
                magic, version, first, last = _HEADER.unpack(self._source.read(offset, _HEADER.size))
            except ShortFile:
                return  # end of file, perhaps within a header
            except OSError:
                self.notices = unreadable(["headers"])
                following = found_again(self._source, offset, _LIKELY, self._leads_on, _SEARCHED)
                if following is None:
                    return
                offset = following
                continue
            if magic != LIME or version != 1 or not first <= last < _MAX_ADDRESS:
                raise TargetError(f"it is a LiME image with a damaged or unknown header at offset {offset}")
            offset += _HEADER.size
            size = last + 1 - first
            yield PhysicalRange(first, size, offset, min(size, max(0, self._source.size - offset)))
            offset += size
        raise TargetError(f"it is a LiME image of more than {_MAX_EXTENTS} ranges")

    def _leads_on(self, offset: int) -> bool:
        """Tell whether a range begins there: at its end another range or the end of the file must follow."""
        for _ in range(2):
            if offset == self._source.size:
                return True
            magic, version, first, last = _HEADER.unpack(self._source.read(offset, _HEADER.size))
            if magic != LIME or version != 1 or not first <= last < _MAX_ADDRESS:
                return False
            offset += _HEADER.size + last + 1 - first
        return True

    def _runs(self) -> Iterator[FrameRun]:
        shift, mask = self.page_shift, (1 << self.page_shift) - 1
        for address, size, _, stored in self.extents:
            first, cut = address + mask >> shift, address + stored >> shift
            yield FrameRun(first, cut, FrameState.STORED)
            if stored < size:
                yield FrameRun(max(first, cut), address + size >> shift, FrameState.CUT_OFF)

    def close(self) -> None:
        self._source.close()
