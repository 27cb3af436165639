# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of a 32-bit kernel: two Programs for one dump.

On a 32-bit platform drgn cuts physical addresses to 32 bits, and translates no addresses of i386 kernels in ELF dumps.
So one Program, of a 64-bit platform, reads physical memory; the other has the kernel's types and symbols, and its
memory by the page tables, which are walked here. (Its own physical memory is empty.)
"""

from collections.abc import Mapping
from functools import lru_cache

from drgn import FaultError, Program

from kgcore.arch.paging import EntryKind, PagingMode, walk
from kgcore.arch.x86.paging import I386_2LEVEL, I386_PAE
from kgcore.errors import TargetError
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("PAGE_OFFSETS", "LowMemory")

_CACHED_PAGES = 4096
_END = 1 << 32
_KEY = "kgcore_lowmem"
# CONFIG_PAGE_OFFSET, arch/x86/Kconfig: VMSPLIT_3G, 3G_OPT, 2G, 2G_OPT, 1G
PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
_UTS_NAMESPACE = 400  # bytes of struct uts_namespace: all six names, wherever they start


class LowMemory:
    """How a 32-bit kernel's memory is to be read.

    The kernel and all memory that it has at addresses of its own lie from ``page_offset`` on, in one piece: KASLR moves
    the kernel within it. The rest (vmalloc(), kmap()) takes the page tables.

    :ivar page_offset: __PAGE_OFFSET, the end of user space.
    :ivar mode: of its page tables.
    """

    def __init__(self, physical: Program, root: int, page_offset: int, mode: PagingMode) -> None:
        self._physical = physical
        self._root = root
        self.page_offset = page_offset
        self.mode = mode
        self._page_shift, self._page_size = mode.page_shift, mode.page_size
        self._page = lru_cache(_CACHED_PAGES)(self._read_page)

    @classmethod
    def find(cls, physical: Program, info: Mapping[str, str]) -> "LowMemory":
        """Find out where user space ends; VMCOREINFO does not say.

        :param physical: reads physical memory.
        :raises TargetError: it cannot be found out.
        """
        root, names = vmcoreinfo.symbol(info, "swapper_pg_dir"), vmcoreinfo.symbol(info, "init_uts_ns")
        release = b"\0" + info.get("OSRELEASE", "").encode() + b"\0"
        # arch_crash_save_vmcoreinfo(): VMCOREINFO_CONFIG(X86_PAE)
        mode = I386_PAE if info.get("CONFIG_X86_PAE") == "y" else I386_2LEVEL
        for offset in PAGE_OFFSETS:
            if root is None or names is None or not offset <= min(root, names) <= max(root, names) < _END:
                continue
            try:
                found = physical.read(names - offset, _UTS_NAMESPACE, physical=True)
            except FaultError:
                continue
            if release in found:
                return cls(physical, root - offset, offset, mode)
        raise TargetError(
            "the memory of the dump's 32-bit kernel is not to be found: what VMCOREINFO says of it is not in the dump",
            hint="if the VMCOREINFO is another kernel's, give the right one with --vmcoreinfo",
        )

    @staticmethod
    def of(prog: Program) -> "LowMemory | None":
        """Of a Program that :meth:`give` was done with; None of all others."""
        found: LowMemory | None = prog.cache.get(_KEY)
        return found

    def give(self, prog: Program) -> None:
        """Make this the memory of a Program."""
        prog.add_memory_segment(0, _END, self._read, False)
        prog.cache[_KEY] = self

    def physical(self, address: int, size: int) -> bytes:
        """:raises FaultError: it is not in the dump."""
        data: bytes = self._physical.read(address, size, physical=True)
        return data

    def _read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        """What drgn calls for the kernel's memory."""
        if address < self.page_offset:
            raise FaultError("no memory of the kernel", address)
        start = address & self._page_size - 1
        if start + size <= self._page_size:
            return self._page(address >> self._page_shift)[start : start + size]
        first, last = address >> self._page_shift, address + size - 1 >> self._page_shift
        data = b"".join(self._page(page) for page in range(first, last + 1))
        return data[start : start + size]

    def _read_page(self, page: int) -> bytes:
        address = page << self._page_shift
        leaf = next(walk(self.mode, self._root, address, address + self._page_size, self._table))
        if leaf.kind is EntryKind.PRESENT:
            return self.physical(leaf.value, self._page_size)
        if leaf.kind is EntryKind.BROKEN:  # the table was not dumped; of memory in one piece it is not needed
            return self.physical(address - self.page_offset, self._page_size)
        raise FaultError("address is not mapped", address)

    def _table(self, address: int, size: int) -> bytes | None:
        try:
            return self.physical(address, size)
        except FaultError:
            return None
