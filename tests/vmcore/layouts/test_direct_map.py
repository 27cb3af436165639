# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the direct map is in kernels without ``page_offset_base``: made-up page tables prove it."""

import struct

import pytest

pytest.importorskip("drgn")

from drgn import Architecture, FaultError, Platform, Program

from kgcore.arch.x86.memorymap import FIVE_LEVEL, FOUR_LEVEL
from kgcore.sources.vmcore.opening.drgnmemory import assemble
from kgcore.sources.vmcore.opening.spaces.x86_64 import KernelMemory, Translation, X86Space

_START_KERNEL = 0xFFFFFFFF80000000
_ROOT, _NAMES = 0x3000, 0x1234100  # physical
_HUGE = 0x80 | 0x63
_INFO = """OSRELEASE=5.10.0
PAGESIZE=4096
SYMBOL(init_uts_ns)={names:x}
SYMBOL(swapper_pg_dir)={root:x}
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)={five}
KERNELOFFSET=0
"""


class Memory:
    """16 MiB and a few frames more, and page tables in it that map the first GiB at some kernel addresses."""

    def __init__(self, five: bool, *direct: int) -> None:
        self.frames: dict[int, bytearray] = {}
        self._next = _ROOT + 4096
        self._levels = (48, 39, 30) if five else (39, 30)
        for start in (_START_KERNEL, *direct):
            self._map(start)
        self.write(_NAMES, b"Linux" + bytes(60) + b"host" + bytes(61) + b"5.10.0" + bytes(59) + bytes(60) + b"x" * 60)
        info = _INFO.format(names=_START_KERNEL + _NAMES, root=_START_KERNEL + _ROOT, five=int(five))
        self.prog = Program(Platform(Architecture.X86_64), vmcoreinfo=info.encode())
        assemble(self.prog, (), ())
        self.prog.add_memory_segment(0, 1 << 52, self._read, True)

    def _map(self, start: int) -> None:
        table = _ROOT
        for shift in self._levels[:-1]:
            at = table + 8 * (start >> shift & 511)
            (entry,) = struct.unpack("<Q", self.read(at, 8))
            if not entry:
                entry = self._next | 0x63
                self._next += 4096
                self.write(at, struct.pack("<Q", entry))
            table = entry & ~0xFFF
        at = table + 8 * (start >> 30 & 511)
        self.write(at, struct.pack("<Q", _HUGE))

    def write(self, address: int, data: bytes) -> None:
        page = self.frames.setdefault(address >> 12, bytearray(4096))
        page[address & 4095 : (address & 4095) + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        page = self.frames.get(address >> 12, bytes(4096))
        return bytes(page[address & 4095 : (address & 4095) + size])

    def _read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        parts = []
        while size:
            count = min(size, 4096 - address % 4096)
            parts.append(self.read(address, count))
            address, size = address + count, size - count
        return b"".join(parts)


PLACES = [(False, place) for place in FOUR_LEVEL.direct_maps] + [(True, place) for place in FIVE_LEVEL.direct_maps]


@pytest.mark.parametrize(("five", "place"), PLACES)
def test_drgn_reads(five: bool, place: int) -> None:
    assert X86Space(Memory(five, place).prog).direct_map == place


@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("place", [None, 0xFFFF900000000000])
def test_not_found(five: bool, place: int | None) -> None:
    """KASLR moved it, and the symbol that says where to is not known: nothing is guessed."""
    with pytest.raises(FaultError, match="direct map was not found"):
        _ = X86Space(Memory(five, *([] if place is None else [place])).prog).direct_map


@pytest.mark.parametrize("five", [False, True])
def test_another_map_at_the_newer_place(five: bool) -> None:
    """Something else is mapped where newer kernels have the direct map: the older place is found."""
    newer, older = (FIVE_LEVEL if five else FOUR_LEVEL).direct_maps
    memory = Memory(five, newer, older)
    table = _ROOT
    for shift in (48, 39) if five else (39,):
        (entry,) = struct.unpack("<Q", memory.read(table + 8 * (newer >> shift & 511), 8))
        table = entry & ~0xFFF
    memory.write(table + 8 * (newer >> 30 & 511), struct.pack("<Q", 1 << 30 | _HUGE))
    assert X86Space(memory.prog).direct_map == older


@pytest.mark.parametrize(("five", "place"), PLACES)
def test_kgcore_reads(five: bool, place: int) -> None:
    memory = Memory(five, place)
    found = Translation.of(_parsed(memory.prog))
    assert found is not None
    space = KernelMemory.__new__(KernelMemory)
    X86Space.__init__(space, memory.prog)
    space.translation, space._table, space._page_size = found, memory.read, 4096
    assert space.direct_map == place


def _parsed(prog: Program) -> dict[str, str]:
    lines = prog["VMCOREINFO"].string_().decode().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize(
    ("line", "offset", "size"),
    [
        ("NUMBER(KERNEL_IMAGE_SIZE)=536870912", 0x1000000, 1 << 29),
        ("NUMBER(KERNEL_IMAGE_SIZE)=1073741824", 0x1000000, 1 << 30),
        ("NUMBER(KERNEL_IMAGE_SIZE)=12", 0x1000000, 1 << 29),
        ("", 0x1000000, 1 << 29),
        ("", 0x31000000, 1 << 30),
    ],
)
def test_modules_are_no_part_of_the_image(line: str, offset: int, size: int) -> None:
    """Without CONFIG_RANDOMIZE_BASE modules lie 512 MiB behind the start; their addresses need page tables."""
    text = f"SYMBOL(swapper_pg_dir)={_START_KERNEL + offset:x}\nNUMBER(phys_base)=0\n{line}\n"
    found = Translation.of(dict(each.split("=", 1) for each in text.splitlines() if each))
    assert found is not None
    assert found.image(_START_KERNEL + size - 1) == size - 1
    assert found.image(_START_KERNEL + size) is None
