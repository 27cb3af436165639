# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan for each mapping: how much of it to write, which parts of that are missing, and why."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from kgcore.filters.base import Filter, Keep
from kgcore.model.account import Account, Gaps
from kgcore.model.memory import Memory, Provenance, Run, peek
from kgcore.model.process import Vma

__all__ = ("PART", "MissingPolicy", "VmaPlan", "plan_mappings")

MissingPolicy = Literal["omit", "zero"]

PART = 8 << 20
"""Bytes of memory to be written that make a :class:`~kgcore.coredump.plan.Part`."""
_CUT_ALIGNMENT = 1 << 21  # bytes


class VmaPlan(NamedTuple):
    """The plan for a mapping.

    :ivar keep: the filter's decision.
    :ivar account: where all its bytes are.
    :ivar missing: missing ranges of the kept part; adjacent ranges have different reasons.
    :ivar cuts: addresses in the kept part, with about PART bytes to write between two of them.
    """

    keep: Keep
    account: Account
    missing: tuple[Run, ...]
    cuts: tuple[int, ...] = ()


def plan_mappings(vmas: Sequence[Vma], keep: Filter, memory: Memory) -> tuple[VmaPlan, ...]:
    """Plan all mappings of a process.

    :param keep: decides how much of a mapping to keep.
    :return: one plan per mapping; equal plans are one object, which saves memory with 100 000 mappings.
    """
    look = partial(peek, memory)
    known: dict[object, VmaPlan] = {}
    return tuple(_plan_mapping(vma, keep(vma, look), memory, known) for vma in vmas)


def _plan_mapping(vma: Vma, keep: Keep, memory: Memory, known: dict[object, VmaPlan]) -> VmaPlan:
    parts: dict[Provenance, int] = {}
    gaps = Gaps()
    cuts: list[int] = []
    pending = 0  # bytes to be written since the last cut
    if keep.length:
        at = vma.start
        for run in memory.runs(vma, vma.start, vma.start + keep.length):
            if run.address != at or run.length <= 0:
                raise ValueError(f"memory runs are not adjacent: {run} at {at:#x}")
            at = run.end
            parts[run.provenance] = parts.get(run.provenance, 0) + run.length
            if run.provenance.missing:
                gaps.add(run)
            if run.provenance.stored:
                pending += run.length
                while pending >= PART:
                    # Not in the middle of a page table: it would be read twice.
                    cut = max((at - pending + PART) & -_CUT_ALIGNMENT, at - pending + memory.page_size)
                    cuts.append(cut)
                    pending = at - cut
        if at != vma.start + keep.length:
            raise ValueError(f"memory runs end at {at:#x}, not at {vma.start + keep.length:#x}")
    filtered = vma.end - vma.start - keep.length
    key = (keep, filtered, *parts.items(), *gaps.runs, *cuts)
    if key not in known:
        known[key] = VmaPlan(keep, Account(parts, filtered), tuple(gaps.runs), tuple(cuts))
    return known[key]
