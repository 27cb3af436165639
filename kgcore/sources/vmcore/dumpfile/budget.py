# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limit the memory that opening a dump may take beyond what the file holds.

Each size in a header has a limit of its own, but a file may have a thousand headers, and a sparse file of 16 KB may
claim tables of gigabytes. So each file has one budget, and kgcore spends from it all that it reads or allocates because
a header says so.
"""

from kgcore.errors import TargetError
from kgcore.text import human_size

__all__ = ("DAMAGED", "Budget")

_HEADROOM = 128 << 20
"""Bytes: 8192 CPUs have 6 MB of notes, half a million segments take this much."""

DAMAGED = "its headers are damaged, or the copy is incomplete: compare it with the original"


class Budget:
    """Bytes of memory that all headers of a file together may ask for."""

    def __init__(self, limit: int = _HEADROOM) -> None:
        self._limit = limit
        self._spent = 0

    def spend(self, size: int, what: str, stored: int = 0) -> None:
        """Spend bytes of the budget; call this before allocating them.

        :param what: what needs this memory.
        :param stored: how many of these bytes the file really holds. These are free.
        :raises TargetError: the budget is used up.
        """
        self._spent += max(0, size - stored)
        if self._spent > self._limit:
            raise TargetError(
                f"its headers need {human_size(self._spent)} of memory and more that the file does not hold, "
                f"last for {what}",
                hint=DAMAGED,
            )
