# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limit the bytes and the time for all cores of a run together."""

import time
from collections.abc import Callable

from kgcore.text import human_size

__all__ = ("Limits",)


class Limits:
    """The remaining bytes and time of a run.

    :param size: bytes of output; None: no limit.
    :param seconds: from now on; None: no limit.
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
        """Say whether there is a limit."""
        return self._size is not None or self._end is not None

    def use(self, size: int) -> None:
        """Count bytes that were written."""
        self._used += size

    def reached(self, size: int = 0) -> str:
        """Say which limit forbids writing that many more bytes; "": none."""
        if self._end is not None and self._clock() >= self._end:
            return f"reached the time limit of {self._seconds:g} s"
        if self._size is not None and self._used + size > self._size:
            return f"reached the size limit of {human_size(self._size)}"
        return ""
