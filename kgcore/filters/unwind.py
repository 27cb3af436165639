# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep only what unwinding needs: stacks near the stack pointers, and the headers of mapped files."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kgcore.filters.base import Keep, Peek
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import merged
from kgcore.model.process import Vma

__all__ = ("UnwindFilter", "cut_out_stacks")

STACK = 16 << 20
"""Bytes kept above a stack pointer: twice the usual limit of a stack (``ulimit -s``)."""
MAPPED = 16 << 20
"""Bytes kept of a file's mapping: its headers and dynamic sections matter, not the data."""


@dataclass(frozen=True, slots=True)
class UnwindFilter:
    """The kernel's decision (default filter), without what unwinding does not need.

    :ivar stacks: start addresses of the mappings that :func:`cut_out_stacks` found to be stacks.
    :ivar page_size: bytes of a page.
    """

    stacks: frozenset[int]
    page_size: int
    _kernel: CoredumpFilter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kernel", CoredumpFilter(page_size=self.page_size))

    def describe(self) -> Mapping[str, int | bool | str]:
        return {"name": "unwind", "stack": STACK, "mapped": MAPPED}

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        if vma.start in self.stacks:
            return Keep(vma.end - vma.start, "stack")
        if vma.file is None and not vma.name:
            return Keep(0, "no-stack")
        keep = self._kernel(vma, peek)
        return keep if keep.length <= MAPPED else Keep(0, "large")


def cut_out_stacks(
    vmas: Sequence[Vma], pointers: Iterable[int], page_size: int, red_zone: int
) -> tuple[tuple[Vma, ...], frozenset[int]]:
    """Split off the memory around stack pointers as separate mappings: goroutines and coroutines have their stacks in
    the middle of the heap.

    :param red_zone: bytes below a stack pointer that are a function's too.
    :returns: the mappings, and where those start that are stacks.
    """
    windows: dict[int, list[tuple[int, int]]] = {}
    starts = [vma.start for vma in vmas]
    for sp in pointers:
        index = bisect_right(starts, sp) - 1
        if index >= 0 and sp < vmas[index].end:
            vma = vmas[index]
            low, high = max(sp - red_zone & -page_size, vma.start), min(sp + STACK & -page_size, vma.end)
            windows.setdefault(index, []).append((low, high))
    cut: list[Vma] = []
    stacks: set[int] = set()
    for index, vma in enumerate(vmas):
        at = vma.start
        for low, high in merged(windows.get(index, [])):
            if at < low:
                cut.append(vma.part(at, low, page_size))
            cut.append(vma.part(low, high, page_size))
            stacks.add(low)
            at = high
        if at < vma.end:
            cut.append(vma.part(at, vma.end, page_size))
    return tuple(cut), frozenset(stacks)
