# SPDX-License-Identifier: LGPL-2.1-or-later
"""The PT_LOADs of a core: the ranges of mappings that they cover, and the place of their bytes in the file."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kgcore.arch import ARCHES
from kgcore.coredump.mappings import MissingPolicy, VmaPlan
from kgcore.coredump.sharing import Shared
from kgcore.elf.layout import PF_R, PF_W, PF_X
from kgcore.model.process import VM_EXEC, VM_READ, VM_WRITE, ProcessImage, Vma

__all__ = ("Load", "Placed", "Segment", "loads_of", "place")


class Segment(NamedTuple):
    """A PT_LOAD.

    :ivar vma: the mapping that it covers, or a part of it: an index into the image's mappings.
    :ivar address: ``p_vaddr``: user virtual address.
    :ivar filesz: ``p_filesz``: bytes in the file.
    :ivar memsz: ``p_memsz``: bytes in memory.
    :ivar offset: ``p_offset``: bytes from the start of the file.
    :ivar flags: ``p_flags`` (PF_*).
    """

    vma: int
    address: int
    filesz: int
    memsz: int
    offset: int
    flags: int


class Load(NamedTuple):
    """A PT_LOAD that has no place in the file yet.

    :ivar shared: it is one of the ranges of zeros that share one place in the file.
    """

    vma: int
    address: int
    filesz: int
    memsz: int
    shared: bool = False


class Placed(NamedTuple):
    """All PT_LOADs with their places in the file.

    :ivar by_address: all PT_LOADs, in the order of the program headers.
    :ivar in_file: those whose bytes are written, in the order of the file, without gaps.
    :ivar shared: those that share one range of zeros; the first is the longest, and only its bytes are in the file.
    :ivar end: offset after the last byte of any.
    """

    by_address: tuple[Segment, ...]
    in_file: tuple[Segment, ...]
    shared: tuple[Segment, ...]
    end: int


def loads_of(
    image_vmas: Sequence[Vma], vmas: Sequence[VmaPlan], policy: MissingPolicy, shared: Sequence[Shared] = ()
) -> Iterator[Load]:
    """Yield the PT_LOADs of all mappings, by address.

    :param shared: ranges of zeros that share one place in the file, by address.
    """
    at = 0
    for index, (vma, plan) in enumerate(zip(image_vmas, vmas, strict=True)):
        first = at
        while at < len(shared) and shared[at].vma == index:
            at += 1
        yield from _loads_of(index, vma, plan, policy, shared[first:at])


def _loads_of(index: int, vma: Vma, plan: VmaPlan, policy: MissingPolicy, shared: Sequence[Shared]) -> Iterator[Load]:
    """Yield the PT_LOADs of one mapping, by address."""
    at, kept_end = vma.start, vma.start + plan.keep.length
    omitted = [(run.address, run.end, False) for run in plan.missing] if policy == "omit" else []
    apart = [(piece.start, piece.end, True) for piece in shared]
    for start, end, zeros in sorted(omitted + apart) if apart else omitted:
        if start > at:
            yield Load(index, at, start - at, start - at)
        if zeros:
            yield Load(index, start, end - start, end - start, shared=True)
        at = end
    if at < vma.end:  # the rest, with the part that the filter leaves out
        yield Load(index, at, kept_end - at, vma.end - at)


def place(
    image: ProcessImage, vmas: Sequence[VmaPlan], loads: Sequence[Load], offset: int, *, important_first: bool
) -> Placed:
    """Give each PT_LOAD its place in the file.

    :param offset: where the first PT_LOAD's bytes begin.
    :param important_first: order the bytes by importance, not by address.
    """
    alike = [number for number, load in enumerate(loads) if load.shared]
    longest = max(alike, key=lambda number: loads[number].filesz, default=-1)
    order = [number for number, load in enumerate(loads) if not load.shared or number == longest]
    if important_first:
        order.sort(key=_importance(image, vmas, loads))
    offsets = [0] * len(loads)
    for number in order:
        offsets[number] = offset
        offset += loads[number].filesz
    for number in alike:
        offsets[number] = offsets[longest]
    segments = tuple(
        Segment(load.vma, load.address, load.filesz, load.memsz, at, _p_flags(image.vmas[load.vma]))
        for load, at in zip(loads, offsets, strict=True)
    )
    alike.sort(key=lambda number: number != longest)
    in_file, shared = (tuple(segments[number] for number in numbers) for numbers in (order, alike))
    return Placed(segments, in_file, shared, offset)


def _importance(
    image: ProcessImage, vmas: Sequence[VmaPlan], loads: Sequence[Load]
) -> Callable[[int], tuple[bool, int]]:
    """Return a sort key: threads' stacks first, then small mappings, which are most and what a debugger needs first."""
    starts, sp = [vma.start for vma in image.vmas], ARCHES[image.arch].sp
    stacks = {bisect_right(starts, thread.regs.values[sp]) - 1 for thread in image.threads}

    def rank(number: int) -> tuple[bool, int]:
        load = loads[number]
        if load.shared:
            return True, load.filesz  # its bytes serve all shared ones
        return load.vma not in stacks, min(load.filesz, vmas[load.vma].account.data)

    return rank


def _p_flags(vma: Vma) -> int:
    """Return PF_* for a mapping's VM_*, which has the same three bits in another order."""
    return (
        (PF_R if vma.flags & VM_READ else 0)
        | (PF_W if vma.flags & VM_WRITE else 0)
        | (PF_X if vma.flags & VM_EXEC else 0)
    )
