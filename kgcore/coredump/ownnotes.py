# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notes that a program puts into its core itself."""

from collections.abc import Callable
from dataclasses import dataclass

from kgcore.elf import layout

__all__ = ("Note",)

_TYPES = 1 << 32
_MOST = 1 << 26  # bytes of a description: readers have to hold it
# What readers look for: a second NT_PRSTATUS would be a thread.
_TAKEN = frozenset(("CORE", "LINUX", "KGCORE"))


@dataclass(frozen=True, slots=True)
class Note:
    """A note for a core, besides the kernel's and kgcore's own.

    :ivar owner: whose note it is; not ``CORE``, ``LINUX`` or ``KGCORE``.
    :ivar type: a number that the owner gives it, of 32 bits.
    :ivar desc: its content, or what is called for it when the core is planned.
    :raises TypeError, ValueError: one of these makes no sense.
    """

    owner: str
    type: int
    desc: bytes | Callable[[], bytes]

    def __post_init__(self) -> None:
        if not self.owner or "\0" in self.owner:
            raise ValueError(f"owner is {self.owner!r}: expected a word")
        if self.owner in _TAKEN:
            raise ValueError(f"owner is {self.owner!r}: readers take notes of that name for others")
        if not 0 <= self.type < _TYPES:
            raise ValueError(f"type is {self.type!r}: expected 0 to 2**32 - 1")
        if not callable(self.desc):
            self._checked(self.desc)

    @staticmethod
    def _checked(desc: bytes) -> bytes:
        if not isinstance(desc, bytes | bytearray | memoryview):
            raise TypeError(f"desc is {type(desc).__name__}: expected bytes, or what returns bytes")
        if len(desc) > _MOST:
            raise ValueError(f"desc has {len(desc)} bytes: expected at most {_MOST}")
        return bytes(desc)

    def now(self) -> "Note":
        """Return the note with its content as it is now."""
        return Note(self.owner, self.type, self.content())

    def content(self) -> bytes:
        """Return its content.

        :raises TypeError, ValueError: what is called returns something else, or too much.
        """
        return self._checked(self.desc() if callable(self.desc) else self.desc)

    def packed(self) -> bytes:
        """Return it as it stands in a core."""
        return layout.note_bytes(layout.Note(self.owner.encode(), self.type, self.content()))
