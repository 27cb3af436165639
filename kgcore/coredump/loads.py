# SPDX-License-Identifier: LGPL-2.1-or-later
"""The PT_LOADs of a core: which ranges of the mappings they are, and where each one's bytes stand in the file."""

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

    :ivar vma: the mapping it is (a part of), as an index into the image's.
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

    :ivar shared: it is of the zeros that have one place in the file.
    """

    vma: int
    address: int
    filesz: int
    memsz: int
    shared: bool = False


class Placed(NamedTuple):
    """All PT_LOADs in their places.

    :ivar by_address: all of them, as the headers have them.
    :ivar in_file: those whose bytes are written, in the order of the file, each behind the one before it.
    :ivar shared: those that have the same range of zeros; the first is the longest, and only that is in the file.
    :ivar end: offset behind the last one's bytes.
    """

    by_address: tuple[Segment, ...]
    in_file: tuple[Segment, ...]
    shared: tuple[Segment, ...]
    end: int


def loads_of(
    image_vmas: Sequence[Vma], vmas: Sequence[VmaPlan], policy: MissingPolicy, shared: Sequence[Shared] = ()
) -> Iterator[Load]:
    """Give the PT_LOADs of all mappings, by address.

    :param shared: ranges of zeros that have one place in the file, by address.
    """
    at = 0
    for index, (vma, plan) in enumerate(zip(image_vmas, vmas, strict=True)):
        first = at
        while at < len(shared) and shared[at].vma == index:
            at += 1
        yield from _loads_of(index, vma, plan, policy, shared[first:at])


def _loads_of(index: int, vma: Vma, plan: VmaPlan, policy: MissingPolicy, shared: Sequence[Shared]) -> Iterator[Load]:
    """Those of one mapping."""
    at, kept_end = vma.start, vma.start + plan.keep.length
    omitted = [(run.address, run.end, False) for run in plan.missing] if policy == "omit" else []
    apart = [(piece.start, piece.end, True) for piece in shared]
    for start, end, zeros in sorted(omitted + apart) if apart else omitted:
        if start > at:
            yield Load(index, at, start - at, start - at)
        if zeros:
            yield Load(index, start, end - start, end - start, shared=True)
        at = end
    if at < vma.end:  # what is left, with the part that the filter dropped
        yield Load(index, at, kept_end - at, vma.end - at)


def place(
    image: ProcessImage, vmas: Sequence[VmaPlan], loads: Sequence[Load], offset: int, *, important_first: bool
) -> Placed:
    """Give each PT_LOAD its place in the file.

    :param offset: of the first byte of any.
    :param important_first: the data stand in the order of their importance, not of their addresses.
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
    """The stacks of threads first, then small mappings: those are most, and what a debugger needs first."""
    starts, sp = [vma.start for vma in image.vmas], ARCHES[image.arch].sp
    stacks = {bisect_right(starts, thread.regs.values[sp]) - 1 for thread in image.threads}

    def rank(number: int) -> tuple[bool, int]:
        load = loads[number]
        if load.shared:
            return True, load.filesz  # it stands for them all
        return load.vma not in stacks, min(load.filesz, vmas[load.vma].account.data)

    return rank


def _p_flags(vma: Vma) -> int:
    """VM_* and PF_* have the same three bits in another order."""
    return (
        (PF_R if vma.flags & VM_READ else 0)
        | (PF_W if vma.flags & VM_WRITE else 0)
        | (PF_X if vma.flags & VM_EXEC else 0)
    )
