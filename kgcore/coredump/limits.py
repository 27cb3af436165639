# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limit the bytes and the time for all cores of a run together."""

import time
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from kgcore.text import human_size

__all__ = ("LimitRule", "Limits")

LimitRule = Literal["priority", "largest-first", "truncate"]
"""What a limit costs: what matters least; the ends of the largest mappings; the end of the file as the kernel has it"""


class Limits:
    """The remaining bytes and time of a run.

    :param size: bytes of output; None: no limit.
    :param seconds: from now on; None: no limit.
    :param rule: what a limit costs first. ``"priority"``: what matters least, where threads' stacks, thread-local
        storage, the dynamic linker's list and what registers point to come before small mappings, large ones, shared
        memory and files. ``"largest-first"``: the ends of the largest mappings. ``"truncate"``: the end of the file,
        in the kernel's order, as the kernel does it (``RLIMIT_CORE``).
    :raises ValueError: a limit is not more than 0, or there is no such rule.
    """

    def __init__(
        self,
        size: int | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        rule: LimitRule = "priority",
    ) -> None:
        for name, limit in (("size", size), ("seconds", seconds)):
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} is {limit}: expected more than 0")
        if rule not in get_args(LimitRule):
            raise ValueError(f"rule is {rule!r}: expected {' or '.join(map(repr, get_args(LimitRule)))}")
        self.rule = rule
        self._size = size
        self._used = 0
        self._clock = clock
        self._seconds = seconds
        self._end = None if seconds is None else clock() + seconds

    @property
    def any(self) -> bool:
        """Say whether there is a limit."""
        return self._size is not None or self._end is not None

    @property
    def sized(self) -> bool:
        """Say whether the number of bytes is limited."""
        return self._size is not None

    @property
    def timeless(self) -> bool:
        """Say whether there is no limit of time."""
        return self._end is None

    @property
    def late(self) -> bool:
        """Say whether the time is over."""
        return self._end is not None and self._clock() >= self._end

    def describe(self) -> Mapping[str, object] | None:
        """Return what the KGCORE note says of them; None: no limits."""
        if not self.any:
            return None
        limits = {"size": self._size, "seconds": self._seconds}
        return {"rule": self.rule, **{name: value for name, value in limits.items() if value is not None}}

    def use(self, size: int) -> None:
        """Count bytes that were written; fewer than 0: they are gone again."""
        self._used += size

    def reached(self, size: int = 0) -> str:
        """Say which limit forbids writing that many more bytes; "": none."""
        if self.late:
            return f"reached the time limit of {self._seconds:g} s"
        return self.too_large if self.full(size) else ""

    def full(self, size: int) -> bool:
        """Say whether the limit of size forbids writing that many more bytes."""
        return self._size is not None and self._used + size > self._size

    @property
    def too_large(self) -> str:
        """The reason for which memory is missing that the size limit costs."""
        return f"reached the size limit of {human_size(self._size or 0)}"
