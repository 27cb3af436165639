# SPDX-License-Identifier: LGPL-2.1-or-later
"""A made-up kernel: types from C declarations, and memory that tests fill member by member.

All of it lies in the direct map, so that kernel addresses and physical ones differ by :data:`PAGE_OFFSET`.
"""

import re
import struct
from collections.abc import Iterable
from typing import Any

from drgn import (
    Architecture,
    FaultError,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
    sizeof,
)
from drgn import Type as DrgnType

from kgcore.sources.vmcore.dumpfile import DumpNote
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, FrameState, RunList
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.machine.x86_64 import X86_64
from kgcore.sources.vmcore.opening.spaces.x86_64 import X86Space
from kgcore.sources.vmcore.opening.target import Target
from tests.vmcore.layouts.declare import Declarations

PAGE = 4096
PAGE_OFFSET = 0xFFFF888000000000  # where x86_64 kernels with 4 levels have it if page_offset_base does not say
_FIRST = 0x100000
_RAM = 1 << 40


class _Space(X86Space):
    """No page tables say where the direct map is."""

    direct_map = PAGE_OFFSET


class World:
    """A kernel of some release.

    :ivar symbols: address by name; for :meth:`Target.symbol_address`, and variables of :meth:`variable`.
    :ivar sizes: bytes of a symbol, where they matter: kallsyms has the room up to the next one.
    :ivar lost: page frames that are not in the dump: reading them faults.
    :ivar reads: how often kernel memory was read.
    """

    def __init__(self, text: str, release: str = "6.12.0", vmcoreinfo: dict[str, str] | None = None) -> None:
        self.prog = Program(Platform(Architecture.X86_64))
        self.memory: dict[int, bytearray] = {}
        self.symbols: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.lost: set[int] = set()
        self.reads = 0
        self._next = _FIRST
        self._variables: dict[str, Object] = {}
        declared = Declarations(self.prog, text)
        self.types = declared.types
        self.constants = declared.constants
        self.prog.register_type_finder("world", self._find_type, enable_index=0)
        self.prog.register_object_finder("world", self._find_object, enable_index=0)
        self.prog.register_symbol_finder("world", self._find_symbol, enable_index=0)
        self.prog.add_memory_segment(0, (1 << 64) - 1, self._read_virtual, False)
        self.prog.add_memory_segment(0, 1 << 52, self._read_physical, True)
        self.target = Target(self.prog, None, "btf")
        self.target.release = release
        self.target.vmcoreinfo = vmcoreinfo or {}
        self.target.space = _Space(self.prog)
        self.kernel = Kernel(self.target)
        assert isinstance(self.kernel.machine, X86_64)
        self.machine = self.kernel.machine

    # What drgn asks

    def _find_type(self, _prog: Program, kinds: Any, name: str, _filename: str | None) -> DrgnType | None:
        for tag in (f"struct {name}", f"union {name}", f"enum {name}", name):
            found = self.types.get(tag)
            if found is not None and found.kind in kinds:
                return found
        return None

    def _find_object(self, _prog: Program, name: str, _flags: Any, _filename: str | None) -> Object | None:
        return (self._variables | self.constants).get(name)

    def _find_symbol(self, prog: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
        made = [
            Symbol(symbol, value, self.sizes.get(symbol, 8), SymbolBinding.GLOBAL, SymbolKind.OBJECT)
            for symbol, value in self.symbols.items()
        ]
        found: list[Symbol] = list(SymbolIndex(made)(prog, name, address, one))
        return found

    def _read_virtual(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        self.reads += 1
        if not PAGE_OFFSET <= address < PAGE_OFFSET + _RAM:
            raise FaultError("no memory there", address)
        return self._read_physical(address - PAGE_OFFSET, size, 0, True)

    def _read_physical(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        data = bytearray()
        while len(data) < size:
            frame, offset = divmod(address + len(data), PAGE)
            if frame not in self.memory or frame in self.lost:
                raise FaultError("no memory there", address)
            data += self.memory[frame][offset : offset + size - len(data)]
        return bytes(data)

    # Making things

    def allocate(self, size: int, alignment: int = 64) -> int:
        """Zeroed memory in a page of its own; its address."""
        start = -(-self._next // max(alignment, PAGE)) * max(alignment, PAGE)
        self._next = start + max(size, 1)
        for frame in range(start // PAGE, (self._next - 1) // PAGE + 1):
            self.memory[frame] = bytearray(PAGE)
        return PAGE_OFFSET + start

    def write(self, address: int, data: bytes) -> None:
        for number, byte in enumerate(data):
            frame, offset = divmod(address - PAGE_OFFSET + number, PAGE)
            self.memory[frame][offset] = byte

    def data(self, data: bytes) -> int:
        """Memory with those bytes; its address."""
        address = self.allocate(len(data))
        self.write(address, data)
        return address

    def new(self, type_name: str, **members: Any) -> int:
        """An object with some members set; its address. ``a__b`` means the member ``b`` of ``a``."""
        address = self.allocate(self.prog.type(type_name).size or 0)
        self.set(type_name, address, {name.replace("__", "."): value for name, value in members.items()})
        return address

    def set(self, type_name: str, address: int, members: dict[str, Any]) -> None:
        """Set members: ``{"thread.fsbase": 1, "pids[2]": 2, "comm": b"x"}``."""
        for path, value in members.items():
            member = self.at(type_name, address, path)
            place = member.address_
            assert place is not None
            if isinstance(value, bytes):
                self.write(place, value)
            elif isinstance(value, Iterable):
                size = sizeof(member[0])
                self.write(place, b"".join((word & (1 << 8 * size) - 1).to_bytes(size, "little") for word in value))
            elif member.bit_field_size_ is not None:
                self._set_bits(place, member.bit_offset_ or 0, member.bit_field_size_, value)
            else:
                size = sizeof(member)
                self.write(place, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _set_bits(self, place: int, offset: int, bits: int, value: int) -> None:
        frame, start = divmod(place - PAGE_OFFSET, PAGE)
        (word,) = struct.unpack_from("<Q", self.memory[frame].ljust(PAGE + 8), start)
        word = word & ~((1 << bits) - 1 << offset) | value << offset
        self.write(place, word.to_bytes(8, "little"))

    def at(self, type_name: str, address: int, path: str = "") -> Object:
        """An object, or a member of it."""
        found = Object(self.prog, type_name, address=address)
        for name, index in re.findall(r"([A-Za-z_]\w*)|\[(\d+)\]", path):
            found = found.member_(name) if name else found[int(index)]
        return found

    def offset(self, type_name: str, path: str) -> int:
        """offsetof()."""
        return (self.at(type_name, PAGE_OFFSET, path).address_ or 0) - PAGE_OFFSET

    def pointer(self, type_name: str, address: int) -> Object:
        """``type_name *``"""
        return Object(self.prog, f"{type_name} *", address)

    def variable(self, name: str, type_name: str, **members: Any) -> int:
        """A global variable."""
        address = self.new(type_name, **members)
        return self.place(name, type_name, address)

    def place(self, name: str, type_name: "str | DrgnType", address: int) -> int:
        """Give an object a name."""
        self.symbols[name] = address
        self._variables[name] = Object(self.prog, type_name, address=address)
        return address

    def word(self, name: str, value: int) -> None:
        """A 64-bit variable without a type."""
        self.symbols[name] = self.data(struct.pack("<Q", value & (1 << 64) - 1))

    def has(self, *functions: str) -> None:
        """Functions that the kernel has."""
        for name in functions:
            self.symbols[name] = 0xFFFFFFFF81000000 + 16 * len(self.symbols)

    def code(self, name: str, instructions: str) -> None:
        """A function with these instructions, in hexadecimal digits."""
        raw = bytes.fromhex(instructions)
        self.symbols[name], self.sizes[name] = self.data(raw), len(raw)

    def kernel_threads(self, *flags: int) -> None:
        """Put kernel threads behind ``init_task``, each with its thread flags."""
        tasks = [
            self.new("struct task_struct", flags=0x200000, thread_info__flags=word)  # PF_KTHREAD
            for word in (flags[0] if flags else 0, *flags)
        ]
        self.place("init_task", "struct task_struct", tasks[0])
        self.link(*(self.at("struct task_struct", task, "tasks").address_ or 0 for task in tasks))

    def link(self, head: int, *nodes: int) -> None:
        """A circular ``struct list_head``."""
        ring = (head, *nodes)
        for number, node in enumerate(ring):
            self.write(node, struct.pack("<QQ", ring[(number + 1) % len(ring)], ring[number - 1]))

    # The dump file

    def notes(self, *notes: tuple[bytes, int, bytes]) -> None:
        self.target.notes = tuple(DumpNote(*note) for note in notes)

    def frames(self, *runs: tuple[int, int, FrameState]) -> None:
        """Which frames the file holds; where none is said: no RAM."""
        self.target.frames = RunList([FrameRun(*run) for run in runs])


def physical(address: int) -> int:
    """Where an address of the direct map lies."""
    return address - PAGE_OFFSET
