# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much may be written, and until when: for all cores of a run together."""

import time
from collections.abc import Callable

from kgcore.text import human_size

__all__ = ("Limits",)


class Limits:
    """What is left to be used.

    :param size: bytes of output; None: any number.
    :param seconds: from now on; None: as long as it takes.
    """

    def __init__(
        self, size: int | None = None, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._used = 0
        self._clock = clock
        self._seconds = seconds
        self._end = None if seconds is None else clock() + seconds

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self._size is not None or self._end is not None

    def use(self, size: int) -> None:
        """Note that so many bytes more were written."""
        self._used += size

    def reached(self, size: int = 0) -> str:
        """Say which limit keeps us from writing so many bytes more, as a few words; "" if none does."""
        if self._end is not None and self._clock() >= self._end:
            return f"the time limit of {self._seconds:g} s was reached"
        if self._size is not None and self._used + size > self._size:
            return f"the size limit of {human_size(self._size)} was reached"
        return ""
