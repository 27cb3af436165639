# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where files of a process are on this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ("Paths",)


@dataclass(frozen=True, slots=True)
class Paths:
    """Names of then as names of now.

    :ivar moved: beginnings of names and what they are now; the longest that fits counts.
    :ivar sysroot: a directory with files under their names of then; a name that it has is there. Empty: not given.
    :ivar taken: files and directories that were taken out of a dump, by their names of then.
    :ivar nameless: files without a name that were taken out of a dump, by the lowest descriptor that they had.
    """

    moved: tuple[tuple[bytes, bytes], ...] = ()
    sysroot: bytes = b""
    taken: Mapping[bytes, bytes] = field(default_factory=dict)
    nameless: Mapping[int, bytes] = field(default_factory=dict)

    def of(self, path: bytes) -> bytes:
        """Return where a file is now."""
        fitting = [(old, new) for old, new in self.moved if path == old or path.startswith(old.rstrip(b"/") + b"/")]
        if fitting:
            old, new = max(fitting, key=lambda pair: len(pair[0]))
            rest = path[len(old.rstrip(b"/")) :]
            return new.rstrip(b"/") + rest or b"/"
        if self.sysroot and path.startswith(b"/"):
            there = os.path.join(self.sysroot, path.lstrip(b"/"))
            if b"\0" not in there and os.path.lexists(there):
                return there
        return self.taken.get(path, path)

    def of_descriptor(self, fd: int, path: bytes) -> bytes:
        """Return where the file of a descriptor is now: of the lowest of those that share it."""
        return self.nameless.get(fd) or self.of(path)
