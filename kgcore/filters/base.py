# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define the interface of filters, which decide which memory goes into a core."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from kgcore.model.process import Vma

__all__ = ("LEFT_OUT", "Filter", "Keep", "Peek", "within")

LEFT_OUT = "left-out"
"""The reason where nobody knows more than that a filter left it out, this one or an earlier one."""

Peek = Callable[[Vma, int, int], bytes | None]
"""``peek(vma, address, size)``: bytes of the process's memory, None if they are missing."""


class Keep(NamedTuple):
    """A decision on a mapping.

    :ivar length: bytes to keep, from the start of the mapping: 0, a page, or all of it.
    :ivar reason: a word for the report (``anon-private``): why it is kept or, with length 0, why not.
    """

    length: int
    reason: str


def within(vma: Vma, keep: Keep) -> Keep:
    """Return a decision, as far as the source has the mapping: what was left out before cannot be kept."""
    if vma.held is None or keep.length <= vma.held:
        return keep
    return Keep(vma.held, keep.reason if vma.held else LEFT_OUT)


class Filter(Protocol):
    """A pure function of a mapping (and of its first bytes, for one rule)."""

    def __call__(self, vma: Vma, peek: Peek) -> Keep: ...

    def describe(self) -> Mapping[str, int | bool | str]:
        """Return its settings, for the vendor note and the report."""
