# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep only some ranges of what another filter keeps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kgcore.filters.base import Filter, Keep, Peek
from kgcore.model.process import ProcessImage, Vma

__all__ = ("KeptRange", "RangeFilter", "only_ranges")


class KeptRange(NamedTuple):
    """A range to keep: whole pages of one mapping.

    :ivar why: a word for the report.
    """

    start: int
    end: int
    why: str


@dataclass(frozen=True, slots=True)
class RangeFilter:
    """The decisions of :func:`only_ranges` on the parts of mappings that it made.

    :ivar settings: for the vendor note and the report.
    :ivar decisions: by the address where a part starts.
    """

    settings: Mapping[str, int | bool | str]
    decisions: Mapping[int, Keep]

    def describe(self) -> Mapping[str, int | bool | str]:
        """See :meth:`kgcore.filters.base.Filter.describe`."""
        return self.settings

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        return self.decisions[vma.start]


def only_ranges(
    image: ProcessImage, keep: Filter, peek: Peek, ranges_in: Callable[[int, int], Sequence[KeptRange]], profile: str
) -> tuple[ProcessImage, RangeFilter]:
    """Split mappings so that each part begins with what is to be kept of it.

    :param keep: decides on whole mappings; what it leaves out stays out.
    :param ranges_in: the ranges to keep between two addresses, ascending, none of them overlapping.
    :param profile: what this selection is called, in the settings and as the reason for what it leaves out.
    :return: the process with these parts as its mappings, and the filter for them.
    """
    parts: list[Vma] = []
    decisions: dict[int, Keep] = {}
    for vma in image.vmas:
        decision = keep(vma, peek)
        for start, end, part in _parts(vma, decision, ranges_in(vma.start, vma.start + decision.length), profile):
            parts.append(vma if (start, end) == (vma.start, vma.end) else vma.part(start, end, image.page_size))
            decisions[start] = part
    return replace(image, vmas=tuple(parts)), RangeFilter({**keep.describe(), "profile": profile}, decisions)


def _parts(vma: Vma, decision: Keep, ranges: Sequence[KeptRange], profile: str) -> Iterator[tuple[int, int, Keep]]:
    if not ranges or ranges[0].start > vma.start:
        # A mapping that the filter drops whole is dropped for the filter's reason.
        reason = f"not-in-{profile}" if decision.length else decision.reason
        yield vma.start, ranges[0].start if ranges else vma.end, Keep(0, reason)
    for number, (start, end, why) in enumerate(ranges):
        following = ranges[number + 1].start if number + 1 < len(ranges) else vma.end
        yield start, following, Keep(end - start, why)
