# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep all that the source has: what is left of a process that a filter has been through already."""

from collections.abc import Mapping

from kgcore.filters.base import Keep, Peek, within
from kgcore.model.process import Vma

__all__ = ("HeldFilter",)


class HeldFilter:
    """Keeps every mapping, as far as the source has it."""

    def describe(self) -> Mapping[str, int | bool | str]:
        """See :meth:`kgcore.filters.base.Filter.describe`."""
        return {"name": "held"}

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        return within(vma, Keep(vma.end - vma.start, "held"))
