# SPDX-License-Identifier: LGPL-2.1-or-later
"""The PT_LOADs of a core: the ranges of mappings that they cover, and the place of their bytes in the file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from kgcore.coredump.important import Group, Ranges, group_of
from kgcore.coredump.mappings import MissingPolicy, VmaPlan
from kgcore.coredump.sharing import Shared
from kgcore.elf.layout import PF_R, PF_W, PF_X
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ, VM_WRITE, ProcessImage, Vma

__all__ = ("FileOrder", "Load", "Placed", "Segment", "loads_of", "place")

FileOrder = Literal["address", "importance", "size", "source"]
"""The order of a core's memory in the file: as the kernel has it; what matters most first; small mappings first; as
memory comes that can be read only forward."""


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
    image_vmas: Sequence[Vma],
    vmas: Sequence[VmaPlan],
    policy: MissingPolicy,
    shared: Sequence[Shared] = (),
    ranges: Ranges | None = None,
) -> Iterator[Load]:
    """Yield the PT_LOADs of all mappings, by address.

    :param shared: ranges of zeros that share one place in the file, by address.
    :param ranges: what has PT_LOADs of its own.
    """
    at = 0
    for index, (vma, plan) in enumerate(zip(image_vmas, vmas, strict=True)):
        first = at
        while at < len(shared) and shared[at].vma == index:
            at += 1
        for load in _loads_of(index, vma, plan, policy, shared[first:at]):
            if ranges is None or load.shared:
                yield load
            else:
                yield from _apart(load, ranges)


def _apart(load: Load, ranges: Ranges) -> Iterator[Load]:
    """Cut a PT_LOAD where ranges of its bytes in the file begin and end."""
    at, end = load.address, load.address + load.memsz
    for border in ranges.borders(at, at + load.filesz):
        yield Load(load.vma, at, border - at, border - at)
        at = border
    yield Load(load.vma, at, load.address + load.filesz - at, end - at)


def _loads_of(index: int, vma: Vma, plan: VmaPlan, policy: MissingPolicy, shared: Sequence[Shared]) -> Iterator[Load]:
    """Yield the PT_LOADs of one mapping, by address."""
    at, kept_end = vma.start, vma.start + plan.keep.length
    # What a limit leaves out takes no place in the file, whatever is to stand for what is missing.
    omitted = [
        (run.address, run.end, False) for run in plan.missing if policy == "omit" or run.provenance is Provenance.LIMIT
    ]
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
    image: ProcessImage,
    vmas: Sequence[VmaPlan],
    loads: Sequence[Load],
    offset: int,
    order: FileOrder = "address",
    ranges: Ranges | None = None,
) -> Placed:
    """Give each PT_LOAD its place in the file.

    :param offset: where the first PT_LOAD's bytes begin.
    :param order: the order of their bytes.
    :param ranges: what comes first in the order of importance.
    """
    alike = [number for number, load in enumerate(loads) if load.shared]
    longest = max(alike, key=lambda number: loads[number].filesz, default=-1)
    in_order = [number for number, load in enumerate(loads) if not load.shared or number == longest]
    if order == "source":
        in_order.sort(key=_places(image, loads).__getitem__)
    elif order != "address":
        in_order.sort(key=_rank(image, vmas, loads, ranges))
    offsets = [0] * len(loads)
    for number in in_order:
        offsets[number] = offset
        offset += loads[number].filesz
    for number in alike:
        offsets[number] = offsets[longest]
    segments = tuple(
        Segment(load.vma, load.address, load.filesz, load.memsz, at, _p_flags(image.vmas[load.vma]))
        for load, at in zip(loads, offsets, strict=True)
    )
    alike.sort(key=lambda number: number != longest)
    in_file, shared = (tuple(segments[number] for number in numbers) for numbers in (in_order, alike))
    return Placed(segments, in_file, shared, offset)


def _places(image: ProcessImage, loads: Sequence[Load]) -> list[int]:
    """For each PT_LOAD its place in the order in which memory comes; one without bytes goes with the one before it."""
    places: list[int] = []
    last = 0
    for load in loads:
        last = image.vmas[load.vma].place if load.filesz else last
        places.append(last)
    return places


def _rank(
    image: ProcessImage, vmas: Sequence[VmaPlan], loads: Sequence[Load], ranges: Ranges | None
) -> Callable[[int], tuple[int, int]]:
    """Return a sort key: by group; what is in no range by its mapping's, and there the smaller mappings first.

    :param ranges: None: by the size of mappings alone.
    """

    def rank(number: int) -> tuple[int, int]:
        load = loads[number]
        if load.shared:
            return len(Group), load.filesz  # its bytes serve all shared ones
        if ranges is None:
            return 0, min(vmas[load.vma].keep.length, vmas[load.vma].account.data)
        group = ranges.group(load.address)
        if group is not None:
            return group, 0
        return group_of(image.vmas[load.vma]), min(load.filesz, vmas[load.vma].account.data)

    return rank


def _p_flags(vma: Vma) -> int:
    """Return PF_* for a mapping's VM_*, which has the same three bits in another order."""
    return (
        (PF_R if vma.flags & VM_READ else 0)
        | (PF_W if vma.flags & VM_WRITE else 0)
        | (PF_X if vma.flags & VM_EXEC else 0)
    )
