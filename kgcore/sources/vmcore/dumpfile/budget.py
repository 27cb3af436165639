# SPDX-License-Identifier: LGPL-2.1-or-later
"""What opening a dump may cost beyond what the file holds.

Each size in a header has a limit of its own, but there may be a thousand headers, and a sparse file of 16 KB may claim
tables of gigabytes. So there is one sum for each file, and all that is read or allocated on a header's word is spent
from it.
"""

from kgcore.errors import TargetError
from kgcore.text import human_size

__all__ = ("DAMAGED", "Budget")

_HEADROOM = 128 << 20
"""Bytes: 8192 CPUs have 6 MB of notes, half a million segments take this much."""

DAMAGED = "its headers are damaged, or the copy is incomplete: compare it with the original"


class Budget:
    """Bytes of memory that a file's headers may ask for, together."""

    def __init__(self, limit: int = _HEADROOM) -> None:
        self._limit = limit
        self._spent = 0

    def spend(self, size: int, what: str, stored: int = 0) -> None:
        """Before it is allocated.

        :param what: takes this memory.
        :param stored: how much of it the file really holds. That much is free.
        :raises TargetError: it is more than is left.
        """
        self._spent += max(0, size - stored)
        if self._spent > self._limit:
            raise TargetError(
                f"its headers need {human_size(self._spent)} of memory and more that the file does not hold, "
                f"last for {what}",
                hint=DAMAGED,
            )
