# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the kernel's own type information."""

import random
import struct
from collections.abc import Iterable
from itertools import pairwise

from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind

USED = (
    "task_struct mm_struct vm_area_struct file dentry maple_node maple_tree page folio thread_struct signal_struct "
    "sighand_struct inode address_space pid upid cred list_head module fpu fpstate xarray xa_node rb_node path qstr "
    "mount vfsmount files_struct fdtable pid_namespace css_set cgroup kernfs_node swap_info_struct zram socket sock"
).split()
"""Structures that kgcore reads."""
_DEPTH = 4
_MEMBER = struct.Struct("<III")
_WORD = struct.Struct("<I")


class BtfDamage:
    """What can be done to one kernel's BTF.

    :param clean: all of it.
    """

    def __init__(self, clean: bytes, names: Iterable[str] = USED) -> None:
        self.clean = clean
        self._btf = Btf(clean)
        found: set[int] = set()
        for name in names:
            if (number := self._btf.find(name, BtfKind.STRUCT)) is not None:
                self._walk(number, 0, found)
        self._used = sorted(found)
        offsets = [*self._btf._offsets[1:], self._end()]
        records = dict(enumerate(pairwise(offsets), 1))
        self._places = [records[number] for number in self._used]

    def _end(self) -> int:
        header, offset, size = struct.unpack_from("<4xIII", self.clean)
        return int(header + offset + size)

    def _walk(self, number: int, depth: int, found: set[int]) -> None:
        if not number or number in found or depth > _DEPTH:
            return
        found.add(number)
        record = self._btf.record(number)
        if record.kind in (BtfKind.STRUCT, BtfKind.UNION):
            for _, member, _ in self._btf.elements(record, _MEMBER):
                self._walk(member, depth + 1, found)
        elif record.kind == BtfKind.ARRAY:
            self._walk(self._btf.word(record), depth + 1, found)
        elif record.kind in (BtfKind.PTR, BtfKind.TYPEDEF, BtfKind.CONST, BtfKind.VOLATILE, BtfKind.RESTRICT):
            self._walk(record.size_or_type, depth + 1, found)

    def words(self, rng: random.Random) -> dict[int, int]:
        """Other words, by offset: in the types that kgcore uses, or anywhere."""
        changed = {}
        for _ in range(rng.choice((1, 1, 1, 4, 16, 64))):
            start, end = rng.choice(self._places) if rng.random() < 0.85 else (0, len(self.clean) - 4)
            at = rng.randrange(start, end) & ~3
            changed[at] = self._word(rng, _WORD.unpack_from(self.clean, at)[0])
        return changed

    def _word(self, rng: random.Random, old: int) -> int:
        return rng.choice(
            (
                rng.getrandbits(32),
                0,
                0xFFFFFFFF,
                old ^ 1 << rng.randrange(32),
                rng.choice(self._used),
                rng.randrange(len(self._btf)),
                old + rng.choice((-8, 8, 1, -1)) & 0xFFFFFFFF,
                old << 8 & 0xFFFFFFFF,
            )
        )

    def damaged(self, rng: random.Random) -> bytes:
        """All of it, with such words."""
        data = bytearray(self.clean)
        for at, value in self.words(rng).items():
            _WORD.pack_into(data, at, value)
        return bytes(data)
