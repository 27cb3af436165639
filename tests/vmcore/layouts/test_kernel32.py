# SPDX-License-Identifier: LGPL-2.1-or-later
"""32-bit kernels that no distribution builds: other splits of the address space, SPARSEMEM, vm86."""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import Architecture, FaultError, Platform, Program

from kgcore.arch.paging import PagingMode
from kgcore.arch.x86.kernels import I386_KERNEL
from kgcore.arch.x86.paging import I386_2LEVEL, I386_PAE
from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.machine.i386 import I386
from kgcore.sources.vmcore.opening.spaces import space_of
from kgcore.sources.vmcore.opening.spaces.i386 import LowMemory

PAGE = 4096
RELEASE = "6.1.0-test"
RAM = 1 << 32  # and some more
P, PSE = 1, 1 << 7


class Machine:
    """Physical memory as the Program that reads it, and a VMCOREINFO."""

    def __init__(self, page_offset: int, *, pae: bool = True) -> None:
        self.memory: dict[int, bytearray] = {}
        self.page_offset = page_offset
        self.info = {
            "OSRELEASE": RELEASE,
            "SYMBOL(swapper_pg_dir)": f"{page_offset + 0x1000000:x}",
            "SYMBOL(init_uts_ns)": f"{page_offset + 0x1800000:x}",
        }
        if pae:
            self.info["CONFIG_X86_PAE"] = "y"
        self.write(0x1800000, b"\0" * 5 + b"Linux\0name\0" + RELEASE.encode() + b"\0")

    def write(self, address: int, data: bytes) -> None:
        for number, byte in enumerate(data):
            at = address + number
            self.memory.setdefault(at // PAGE, bytearray(PAGE))[at % PAGE] = byte

    def word(self, address: int, value: int, size: int = 8) -> None:
        self.write(address, value.to_bytes(size, "little"))

    def read(self, address: int, size: int, physical: bool = False) -> bytes:
        assert physical
        if address // PAGE not in self.memory:
            raise FaultError("no memory there", address)
        data = b"".join(
            bytes(self.memory.get(page, bytes(PAGE))) for page in range(address // PAGE, (address + size) // PAGE + 1)
        )
        return data[address % PAGE :][:size]

    def low(self) -> LowMemory:
        return LowMemory.find(self, self.info)

    def program(self) -> Program:
        prog = Program(Platform(Architecture.I386))
        self.low().give(prog)
        return prog


@pytest.mark.parametrize("page_offset", [0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000])
@pytest.mark.parametrize(("pae", "mode"), [(True, I386_PAE), (False, I386_2LEVEL)])
def test_every_split(page_offset: int, pae: bool, mode: PagingMode) -> None:
    low = Machine(page_offset, pae=pae).low()
    assert (low.page_offset, low.mode) == (page_offset, mode)


def test_another_kernel() -> None:
    machine = Machine(0xC0000000)
    machine.info["OSRELEASE"] = "6.2.0"
    with pytest.raises(TargetError, match="32-bit kernel"):
        machine.low()


def test_virtual_memory_beyond_4_gib() -> None:
    """An address of the kernel's that lies where no 32-bit address reaches: vmalloc() takes high memory, too."""
    machine = Machine(0xC0000000)
    machine.word(0x1000000 + 8 * 3, 0x2000000 | P)  # the top table's last entry: 3 GiB and above
    machine.word(0x2000000 + 8 * 0x1C0, 0x100003000 | P)  # 0xf8000000; this table is in high memory itself
    machine.word(0x100003000, 0x123456000 | P)
    machine.write(0x123456000, b"far away")
    assert machine.program().read(0xF8000000, 8) == b"far away"
    with pytest.raises(FaultError, match="not mapped"):
        machine.program().read(0xF8001000, 1)
    with pytest.raises(FaultError, match="no memory of the kernel"):
        machine.program().read(0xBFFFF000, 1)


def test_page_tables_were_lost() -> None:
    """What the kernel has in one piece can do without."""
    machine = Machine(0xC0000000)
    assert RELEASE.encode() in machine.program().read(0xC1800000, 64)
    with pytest.raises(FaultError):
        machine.program().read(0xF8000000, 1)


def test_across_pages() -> None:
    machine = Machine(0x80000000)
    machine.word(0x1000000 + 8 * 2, 0x2000000 | P)
    machine.word(0x2000000 + 8 * 8, 0x1000000 | P | PSE)  # 2 MiB from 0x81000000 on
    machine.write(0x1001FFE, b"1234")
    assert machine.program().read(0x81001FFE, 4) == b"1234"


class FakeTarget:
    """Symbols and members that are asked for."""

    architecture = I386_KERNEL

    def __init__(self, prog: Any, symbols: dict[str, int], info: dict[str, str], members: set[str]) -> None:
        self.prog, self.vmcoreinfo, self.release = prog, info, RELEASE
        self.space = space_of(prog)
        self.page_shift, self.page_size = 12, 1 << 12
        self.symbol_address = symbols.get
        self.has_member = lambda type_, member: member in members


def kernel(
    machine: Machine,
    symbols: dict[str, int],
    info: dict[str, str] | None = None,
    members: set[str] = frozenset(),  # type: ignore[assignment]
) -> I386:
    target = FakeTarget(machine.program(), symbols, info or {}, members)
    made = Kernel(target)  # type: ignore[arg-type]
    made.__dict__["page_struct_size"] = 40
    assert isinstance(made.machine, I386)
    return made.machine


def test_flat_memory() -> None:
    machine = Machine(0xC0000000)
    machine.write(0x5000, struct.pack("<I", 0xF0000000))
    flat = kernel(machine, {"mem_map": 0xC0005000})
    assert flat.frame_to_page(0x123456) == 0xF0000000 + 0x123456 * 40
    assert flat.page_to_phys(0xF0000000 + 0x123456 * 40) == 0x123456000
    assert not flat.is_page(0xEFFFFFFF)


def test_sparse_memory() -> None:
    """Sections of 512 MiB, each with its own array; that of section 9 lies below where section 0's would start."""
    machine = Machine(0xC0000000)
    info = {
        "NUMBER(SECTION_SIZE_BITS)": "29",
        "LENGTH(mem_section)": "128",
        "SIZE(mem_section)": "8",
        "OFFSET(mem_section.section_mem_map)": "0",
    }
    pages = 1 << 29 - 12
    for section, array in ((0, 0xF0000000), (9, 0xC8000000)):
        coded = array - section * pages * 40 & 0xFFFFFFFF
        machine.write(0x5000 + section * 8, struct.pack("<II", coded | 0b1111, 0))
    machine.write(0x5000 + 8, struct.pack("<II", 0xD0000000 | 0b0001, 0))  # present, but without pages
    sparse = kernel(machine, {"mem_section": 0xC0005000}, info)
    for section, array in ((0, 0xF0000000), (9, 0xC8000000)):
        frame = section * pages + 5
        assert sparse.frame_to_page(frame) == array + 5 * 40
        assert sparse.page_to_phys(array + 5 * 40) == frame << 12
    assert not sparse.is_page(0xD0000000 + 40 * pages + 40)
    with pytest.raises(FaultError):
        sparse.frame_to_page(pages)
    with pytest.raises(FaultError):
        sparse.page_to_phys(0xC1000000)


def test_thread_size_unknown() -> None:
    """THREAD_SIZE_ORDER 1, arch/x86/include/asm/page_32_types.h."""
    assert kernel(Machine(0xC0000000), {})._kernel.thread_size == 8192


def test_probes() -> None:
    machine = Machine(0x80000000)
    plain = kernel(machine, {})
    assert (plain.pt_regs_padding, plain.lazy_gs, plain.user_end) == (8, True, 0x80000000)
    other = kernel(machine, {"stack_canary": 0xC1000000}, members={"vm86"})
    assert (other.pt_regs_padding, other.lazy_gs) == (16, False)
    assert plain.direct_map_to_phys(0x80001000) == 0x1000
    with pytest.raises(BrokenDump):
        plain.direct_map_to_phys(0x7FFFF000)
    entry = 3 << 26 | 5  # swp_entry_t: five bits of type on top of 26
    assert (plain._kernel.swap_type(entry), plain._kernel.swap_offset(entry)) == (3, 5)
