# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core of which nothing is left out is given back as it is: byte for byte, in its own order, with its own notes."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

from kgcore.coredump.loads import Segment
from kgcore.coredump.plan import CorePlan
from kgcore.sources.base import CoreLayout

__all__ = ("given_back",)


def given_back(plan: CorePlan, layout: CoreLayout, *, note: bool, state: bool) -> CorePlan | None:
    """Return the plan of the core as it is; None: it is to have less, or something else.

    :param plan: what would be written of it.
    :param layout: the core as it stands in its file.
    :param note: the KGCORE note is wanted if there is one, and ``state`` what the process had of its kernel in it.
    """
    held = sum(size for _, size, _ in layout.segments)
    kept = zeros = 0
    for mapping in plan.vmas:
        kept += mapping.account.data + mapping.account.zero
        zeros += sum(run.length for run in mapping.missing)
        if mapping.account.redacted:
            return None
    if layout.policy == "zero":  # zeros stand for what is missing, and are to
        kept += zeros
    if kept != held or (zeros and plan.policy != layout.policy):
        return None
    if (layout.noted and not note) or (layout.has_state and not state):
        return None
    segments = tuple(_segments(plan, layout))
    size = len(layout.head) + held + len(layout.tail)
    return replace(plan, head=layout.head, segments=segments, tail=layout.tail, size=size, shared=())


def _segments(plan: CorePlan, layout: CoreLayout) -> Iterator[Segment]:
    vmas = plan.image.vmas
    for address, size, offset in layout.segments:
        number = bisect_right(vmas, address, key=lambda vma: vma.start) - 1
        while size > 0:  # rules may have cut the mapping
            length = min(size, vmas[number].end - address)
            yield Segment(number, address, length, length, offset, 0)
            address, size, offset, number = address + length, size - length, offset + length, number + 1
