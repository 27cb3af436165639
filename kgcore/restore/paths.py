# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where files of a process are on this machine."""

import os
from dataclasses import dataclass

__all__ = ("Paths",)


@dataclass(frozen=True, slots=True)
class Paths:
    """Names of then as names of now.

    :ivar moved: beginnings of names and what they are now; the longest that fits counts.
    :ivar sysroot: a directory with files under their names of then; a name that it has is there. Empty: not given.
    """

    moved: tuple[tuple[bytes, bytes], ...] = ()
    sysroot: bytes = b""

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
        return path
