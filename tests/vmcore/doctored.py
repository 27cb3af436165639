# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real dump in which a few bytes of the kernel's memory are something else, by purpose: the state of a moment that no
guest can be caught in at will."""

import struct
from typing import Any

from drgn import Object, cast, sizeof

from kgcore.coredump.pipeline import Options, Prepared, prepare
from kgcore.model.process import Vma
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import Fixture
from tests.vmcore.hostile import PAGE, Machine

_ADDRESS = ((1 << 52) - 1) & ~0xFFF
_SHIFTS = (39, 30, 21, 12)


class Doctored:
    """
    :ivar machine: sees what was changed; :meth:`heal` takes it back.
    """

    def __init__(self, fixture: Fixture) -> None:
        self.machine = Machine(fixture)
        self.prog = self.machine.target.prog

    def heal(self) -> None:
        self.machine.damage.pages.clear()

    def source(self) -> VmcoreSource:
        return self.machine.source()

    def prepared(self, pid: int, **options: Any) -> Prepared:
        return prepare(self.source(), TaskRef.parse(str(pid)), Options(**{"mask": 0x7F} | options))

    def task(self, pid: int) -> Object:
        """``struct task_struct *``"""
        source = self.source()
        (address,) = (thread.task for thread in source.process(pid).image.threads if thread.tid == pid)
        return Object(self.prog, "struct task_struct *", address)

    # Writing

    def physical(self, address: int) -> int:
        """Of a kernel address: where drgn reads when it is asked for that."""
        size = 7  # no page-table entry's
        with self.machine.recording() as reads:
            self.prog.read(address, size)
        (found,) = (at for at, length in reads if length == size)
        return found

    def write(self, physical: int, data: bytes) -> None:
        """Within a page frame."""
        frame, offset = divmod(physical, PAGE)
        page = bytearray(self.machine.page(frame))
        page[offset : offset + len(data)] = data
        self.machine.damage.pages[frame] = bytes(page)

    def set(self, member: Object, value: int) -> None:
        """A member of a kernel structure, an integer or a pointer."""
        assert member.address_ is not None
        self.write(self.physical(member.address_), value.to_bytes(sizeof(member), "little"))

    def set_word(self, member: Object, bits: int) -> None:
        """Set bits in the first word of a member of any type."""
        assert member.address_ is not None
        word = Object(self.prog, "unsigned long", address=member.address_)
        self.set(word, int(word.value_()) | bits)

    # Page tables of a process, of 4 levels

    def entry(self, mm: Object, address: int, shift: int = 12) -> int | None:
        """Physical address of the entry that covers ``1 << shift`` bytes; None if there is no table for it."""
        table = self.physical(int(cast("unsigned long", mm.pgd)))
        for level in _SHIFTS:
            at = table + 8 * (address >> level & 511)
            if level == shift:
                return at
            (word,) = struct.unpack("<Q", self.machine.read(at, 8))
            if not word & 1 or word & 1 << 7:
                return None
            table = word & _ADDRESS
        return None

    def reap(self, mm: Object, vma: Vma) -> None:
        """Empty all entries of a mapping."""
        for address in range(vma.start, vma.end, PAGE):
            at = self.entry(mm, address)
            if at is None and address % (1 << 21) == 0:
                at = self.entry(mm, address, 21)
            if at is not None:
                self.write(at, bytes(8))

    def empty(self, mm: Object, address: int) -> bool:
        """Whether no page-table entry stands for a page."""
        for shift in (12, 21):
            if (at := self.entry(mm, address, shift)) is not None:
                return not any(self.machine.read(at, 8))
        return True
