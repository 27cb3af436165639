# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the page tables of a process of this machine have: /proc/PID/pagemap, and its ioctl PAGEMAP_SCAN."""

import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Iterator

__all__ = ("NO_CONTENT", "PageMap")

_TABLE = 1 << 16  # pages whose pagemap is read at once

# include/uapi/linux/fs.h, 52526ca7fdb9 "fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs"
# (6.7)
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_PRESENT, _PAGE_IS_SWAPPED, _PAGE_IS_PFNZERO, _PAGE_IS_HUGE = 1 << 3, 1 << 4, 1 << 5, 1 << 6
# a516403787e0 "fs/proc: extend the PAGEMAP_SCAN ioctl to report guard regions" (6.16)
_PAGE_IS_GUARD = 1 << 8
_REGIONS = 1024
NO_CONTENT = _PAGE_IS_PFNZERO | _PAGE_IS_GUARD
"""The zero page, or a guard (MADV_GUARD_INSTALL): the kernel's own core has a hole there."""

# The highest byte of a word of pagemap: present, swapped, and neither
_PRESENT_OR_SWAPPED = bytes(1 if byte & 0xC0 else 0 for byte in range(256))
_STRETCHES = re.compile(rb"\x01+")


class _ScanArguments(ctypes.Structure):
    """``struct pm_scan_arg``."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in "size flags start end walk_end vec vec_len max_pages category_inverted category_mask "
        "category_anyof_mask return_mask".split()
    )


class _Region(ctypes.Structure):
    """``struct page_region``."""

    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("categories", ctypes.c_uint64))


class PageMap:
    """Says which pages of a process are in its page tables, present or swapped out. Asking populates nothing.

    :param pid: id of a thread of it that has not exited.
    :param page_size: bytes.
    :raises OSError: it may not be read, or the process has ended.
    """

    def __init__(self, pid: int, page_size: int) -> None:
        self._page_size = page_size
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._scans = True
        self._guards = _PAGE_IS_GUARD

    def close(self) -> None:
        """Close the file."""
        os.close(self._pagemap)

    def has_huge_zero_page(self, start: int, end: int) -> bool:
        """Whether a page table has the huge page of zeros; False also where the kernel does not say (before 6.7)."""
        wanted = _PAGE_IS_PFNZERO | _PAGE_IS_HUGE
        return any(found & wanted == wanted for _, _, found in self.mapped(start, end))

    def mapped(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield what is in the page tables of a range: start, end, and PAGE_IS_* as far as the kernel tells.

        :raises OSError: the process has ended.
        """
        while self._scans:
            try:
                yield from self._scan(start, end)
                return
            except OSError as error:  # by the first call, before anything was found
                if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EPERM):
                    raise
                # An older kernel refuses categories that it does not know.
                self._scans, self._guards = bool(self._guards), 0
        yield from self._table(start, end)

    def _scan(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        vector = (_Region * _REGIONS)()
        arguments = _ScanArguments(
            size=ctypes.sizeof(_ScanArguments),
            start=start,
            end=end,
            vec=ctypes.addressof(vector),
            vec_len=_REGIONS,
            category_anyof_mask=_PAGE_IS_PRESENT | _PAGE_IS_SWAPPED | self._guards,
            return_mask=_PAGE_IS_PFNZERO | _PAGE_IS_HUGE | self._guards,
        )
        while arguments.start < end:
            count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, arguments)
            for region in vector[:count]:
                yield region.start, region.end, region.categories
            # With the last region that has room, walk_end may lie far before it (6.18).
            reached = max(arguments.walk_end, vector[count - 1].end if count else 0)
            if reached <= arguments.start:
                raise OSError(errno.EIO, "PAGEMAP_SCAN does not go on")
            arguments.start = reached

    def _table(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        size = self._page_size
        for low in range(start, end, _TABLE * size):
            count = (min(end, low + _TABLE * size) - low) // size
            words = os.pread(self._pagemap, 8 * count, low // size * 8)
            for found in _STRETCHES.finditer(words[7::8].translate(_PRESENT_OR_SWAPPED)):
                yield low + found.start() * size, low + found.end() * size, 0
