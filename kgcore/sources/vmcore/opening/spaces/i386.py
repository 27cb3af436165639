# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of a 32-bit kernel: two Programs for one dump.

On a 32-bit platform drgn truncates physical addresses to 32 bits, and does not translate addresses of i386 kernels in
ELF dumps. So one Program, of a 64-bit platform, reads physical memory. The other has the kernel's types and symbols,
and reads the kernel's memory through kgcore's page-table walk; its own physical memory is empty.
"""

from collections.abc import Mapping
from functools import lru_cache

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from kgcore.arch.paging import EntryKind, PagingMode, walk
from kgcore.arch.x86.kernels import I386_KERNEL
from kgcore.arch.x86.memorymap import PAGE_OFFSETS
from kgcore.arch.x86.paging import I386_2LEVEL, I386_PAE
from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile import DumpFile
from kgcore.sources.vmcore.opening.connect import open_program
from kgcore.sources.vmcore.opening.drgnmemory import assemble, memory_of
from kgcore.sources.vmcore.opening.dumpmemory import DumpMemory
from kgcore.sources.vmcore.opening.spaces.base import (
    SPACE_KEY,
    Checked,
    KernelOpening,
    KernelSpace,
    KernelVerdict,
    look_at_names,
)
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("I386Opening", "LowMemory")

_CACHED_PAGES = 4096
_END = 1 << 32
_UTS_NAMESPACE = 400  # bytes of struct uts_namespace: all six names, wherever they start

# Enough VMCOREINFO for drgn to open a dump and read its physical memory; virtual addresses do not work.
_STUB = b"""OSRELEASE=5.10.0
PAGESIZE=4096
KERNELOFFSET=0
SYMBOL(swapper_pg_dir)=ffffffff82000000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""


class LowMemory(KernelSpace):
    """Reads the memory of a 32-bit kernel.

    The kernel's image and its low memory are mapped contiguously from ``page_offset`` on; KASLR moves the kernel
    within this range. Everything else (vmalloc(), kmap()) needs the page tables.

    :ivar page_offset: __PAGE_OFFSET, the end of user space.
    :ivar mode: the paging mode of its page tables.
    """

    architecture = I386_KERNEL

    def __init__(self, physical: Program, root: int, page_offset: int, mode: PagingMode) -> None:
        self._physical = physical
        self._prog: Program | None = None
        self._root = root
        self.page_offset = page_offset
        self.mode = mode
        self._page_shift, self._page_size = mode.page_shift, mode.page_size
        self._page = lru_cache(_CACHED_PAGES)(self._read_page)

    @classmethod
    def find(cls, physical: Program, info: Mapping[str, str]) -> "LowMemory":
        """Find where user space ends, which VMCOREINFO does not say, and return the kernel's memory.

        :param physical: reads physical memory.
        :raises TargetError: the end of user space was not found.
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
            "cannot find the memory of the 32-bit kernel: the structures that VMCOREINFO names are not in the dump",
            hint="if the VMCOREINFO belongs to a different kernel, give the right one with --vmcoreinfo",
        )

    def give(self, prog: Program) -> None:
        """Make a Program read its memory from here."""
        prog.add_memory_segment(0, _END, self._read, False)
        prog.cache[SPACE_KEY] = self
        self._prog = prog

    def physical(self, address: int, size: int) -> bytes:
        data: bytes = self._physical.read(address, size, physical=True)
        return data

    def _read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        """Read the kernel's memory; drgn calls this.

        :raises FaultError: it is not the kernel's, not mapped, or not in the dump.
        """
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
        if leaf.kind is EntryKind.BROKEN:  # the table was not dumped; low memory does not need it
            return self.physical(address - self.page_offset, self._page_size)
        raise FaultError("address is not mapped", address)

    def _table(self, address: int, size: int) -> bytes | None:
        try:
            return self.physical(address, size)
        except FaultError:
            return None

    def symbols_known(self) -> None:
        """Do nothing: page tables need no symbols."""

    def moved(self, info: Mapping[str, str]) -> int:
        """Return by how many bytes KASLR moved the kernel: VMCOREINFO of i386 never has KERNELOFFSET."""
        start = vmcoreinfo.symbol(info, "_stext")
        if self._prog is None or "KERNELOFFSET" in info or start is None:
            return 0
        try:
            linked: int = self._prog.symbol("_stext").address
        except LookupError:
            return 0
        return start - linked


class I386Opening(KernelOpening):
    """Opens 32-bit kernels."""

    architecture = I386_KERNEL
    drgn_architecture = Architecture.I386
    platform = Platform(Architecture.I386)
    drgn_reads = False
    _wide = Platform(Architecture.I386, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)

    def open(self, name: str, dump: DumpFile, text: bytes) -> Program:
        def connect(prog: Program) -> None:
            assemble(prog, dump.notes, (memory_of(dump),))

        low = LowMemory.find(open_program(name, connect, self._wide, _STUB), vmcoreinfo.parse(text))

        def connect_low(prog: Program) -> None:
            assemble(prog, dump.notes, ())
            low.give(prog)

        return open_program(name, connect_low, self.platform, text)

    def space(self, prog: Program) -> KernelSpace:
        raise TargetError("drgn cannot read the memory of 32-bit kernels", hint="gcore() and the command kgcore can")

    def check(self, memory: DumpMemory, info: Mapping[str, str], names: int) -> Checked:
        looked = [look_at_names(memory, names - offset, info) for offset in PAGE_OFFSETS if names >= offset]
        for verdict in (KernelVerdict.CONFIRMED, KernelVerdict.UNKNOWN):
            for each in looked:
                if each.verdict is verdict:
                    return each
        return looked[0] if looked else Checked(KernelVerdict.REFUTED, "states impossible addresses")
