# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixes every byte offset of a core before the first byte is written.

::

    +---------------------+ 0
    | ELF header          |
    | PT_NOTE             | -> notes
    | PT_LOAD ...         | -> segments, in address order, the gate VMA last
    | PT_NOTE  (*)        | -> KGCORE note
    +---------------------+
    | notes               | as the kernel's, byte for byte
    | KGCORE note  (*)    |
    | zeros               | up to a multiple of the page size
    +---------------------+
    | segments            | back to back
    +---------------------+
    | section 0           | only if there are 65535 program headers or more
    +---------------------+

Without the two parts marked (*) and with no memory missing, this is what elf_core_dump() in fs/binfmt_elf.c writes,
byte for byte. With them the kernel's parts are the same but for the offsets: the note stands before the data so that
a core cut short still says what it lacks, and its header is last so that the first PT_NOTE and the n-th PT_LOAD stay
where readers are used to find them.

Missing memory. A mapping with missing ranges becomes several PT_LOADs that leave these ranges out (``omit``), or keeps
its one PT_LOAD with zeros (``zero``). What gdb 13.1, lldb 14, elfutils 0.188 and drgn 0.3 do:

================================  ===========================================================================
a range in no PT_LOAD             all refuse to read it, and unwinding stops there. What a file was mapped to is
                                  read from that file if it is there (gdb, lldb)
zeros                             all believe them: gdb shows a frame ``0x0 in ?? ()`` behind the last good one,
                                  drgn a thousand of them
``p_filesz`` < ``p_memsz``        gdb shows zeros unless it has the mapped file; lldb and drgn refuse. Hence only
                                  what the filter dropped is left to this, as in the kernel's own cores
several segments, one place       all read the same bytes for each
the KGCORE note, its header last  all skip it: threads, frames and mappings are the same with and without
================================  ===========================================================================

A core that would be longer than a file may be has one place for all the zeros that are certain:
:mod:`kgcore.coredump.sharing`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from kgcore.arch import ARCHES, Arch
from kgcore.coredump.kgcorenote import vendor_note
from kgcore.coredump.notes import Remark, process_notes, remarks
from kgcore.coredump.sharing import LARGEST, Shared, zeros_to_share
from kgcore.elf.layout import (
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    PT_NOTE,
    Phdr,
    ehdr_size,
    note_bytes,
    pack_ehdr,
    pack_phdrs,
    pack_shdr0,
    phdr_size,
)
from kgcore.errors import KgcoreError
from kgcore.filters.base import Filter, Keep
from kgcore.model.account import Account, Gaps, left_out
from kgcore.model.memory import Memory, Provenance, Run, peek
from kgcore.model.process import VM_EXEC, VM_READ, VM_WRITE, ProcessImage, Vma

__all__ = ("PART", "CorePlan", "MissingPolicy", "Part", "Segment", "VmaPlan", "make_plan")

MissingPolicy = Literal["omit", "zero"]

PART = 8 << 20
"""Bytes of memory to be written that make a :class:`Part`."""
_SEGMENTS_PER_PART = 1024
_CUT_ALIGNMENT = 1 << 21  # bytes


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


class VmaPlan(NamedTuple):
    """What becomes of a mapping.

    :ivar keep: the filter's decision.
    :ivar account: of all its bytes.
    :ivar missing: ranges of the kept part that are not to be had; neighbours have different reasons.
    :ivar cuts: addresses in the kept part, between each two of which there are about PART bytes to be written.
    """

    keep: Keep
    account: Account
    missing: tuple[Run, ...]
    cuts: tuple[int, ...] = ()


class Part(NamedTuple):
    """A part of a core's memory that is written in one go: a range of the file, from a place in one segment up to one
    in the same or a later segment.

    :ivar first: the segment that it begins in, as an index into the plan's.
    :ivar start: address of its first byte.
    :ivar last: the segment that it ends in.
    :ivar end: address behind its last byte.
    :ivar most: bytes that there may be to be written; the rest is certainly holes.
    """

    first: int
    start: int
    last: int
    end: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """A core, all but its memory.

    :ivar image: the process.
    :ivar policy: what becomes of missing memory: ``omit`` or ``zero``.
    :ivar filter_settings: what the filter was set to, for the vendor note and the report.
    :ivar head: everything before the first segment: headers and notes, padded.
    :ivar segments: in file order; ``head`` ends where the first one's data start, each next one's follow. That is the
        order of their addresses, or that of their importance.
    :ivar shared: segments that have the same range of zeros in the file. The longest one is the first, and only that
        is among ``segments``, too.
    :ivar tail: everything behind the last segment: section 0 or nothing.
    :ivar size: bytes of the whole file.
    :ivar vmas: one per VMA of the image.
    :ivar remarks: what is wrong with the threads' registers.
    :ivar warnings: what could not be found out, as sentences.
    """

    image: ProcessImage
    policy: MissingPolicy
    filter_settings: Mapping[str, int | bool | str]
    head: bytes
    segments: tuple[Segment, ...]
    tail: bytes
    size: int
    vmas: tuple[VmaPlan, ...]
    remarks: tuple[Remark, ...]
    warnings: tuple[str, ...]
    shared: tuple[Segment, ...] = ()

    @property
    def data(self) -> int:
        """Bytes of memory to be written; some may turn out to be zeros."""
        return sum(plan.account.data for plan in self.vmas)

    def parts(self) -> Iterator[Part]:
        """The segments' data as parts of about equal work, in file order and without gaps."""
        part: Part | None = None
        for number, segment in enumerate(self.segments):
            plan = self.vmas[segment.vma]
            start, end = segment.address, segment.address + segment.filesz
            first, last = bisect_right(plan.cuts, start), bisect_left(plan.cuts, end)
            for low, high in pairwise((start, *plan.cuts[first:last], end)):
                if low == high:
                    continue
                weight = min(high - low, plan.account.data, PART)
                if part and part.most + weight <= PART and number - part.first < _SEGMENTS_PER_PART:
                    part = Part(part.first, part.start, number, high, part.most + weight)
                    continue
                if part:
                    yield part
                part = Part(number, low, number, high, weight)
        if part:
            yield part

    @property
    def shared_zeros(self) -> int:
        """Bytes of memory that have the same range of zeros in the file."""
        return sum(segment.filesz for segment in self.shared)

    def is_shared(self, segment: Segment) -> bool:
        """Whether (part of) a segment of ``segments`` stands for others, too."""
        if not self.shared:
            return False
        first = self.shared[0]
        return segment.filesz > 0 and first.offset <= segment.offset < first.offset + first.filesz

    def sharing(self, segment: Segment) -> Iterator[Segment]:
        """What of the core is where (part of) a segment of ``segments`` is in the file: that, or all that share it."""
        if not self.is_shared(segment):
            yield segment
            return
        low = segment.offset - self.shared[0].offset
        for other in self.shared:
            size = min(low + segment.filesz, other.filesz) - low
            if size > 0:
                yield other._replace(address=other.address + low, filesz=size, memsz=size, offset=segment.offset)

    def size_of(self, part: Part) -> int:
        """How many bytes of the file a part is."""
        first, last = self.segments[part.first], self.segments[part.last]
        return last.offset + part.end - last.address - (first.offset + part.start - first.address)

    def segments_of(self, part: Part) -> Iterator[Segment]:
        """The segments of a part, and of the first and the last one what is in it."""
        for number in range(part.first, part.last + 1):
            segment = self.segments[number]
            low = part.start if number == part.first else segment.address
            high = part.end if number == part.last else segment.address + segment.filesz
            if low < high:
                offset = segment.offset + low - segment.address
                yield segment._replace(address=low, filesz=high - low, memsz=high - low, offset=offset)


def make_plan(
    image: ProcessImage,
    keep: Filter,
    memory: Memory,
    *,
    missing: MissingPolicy = "omit",
    source: Mapping[str, str] | None = None,
    note: bool = True,
    remarks_of: Callable[[], Iterable[str]] = tuple,
    important_first: bool = False,
    share_zeros: bool = False,
) -> CorePlan:
    """Plan a core.

    :param missing: what to do with memory that is not to be had.
    :param source: where the process comes from (:meth:`kgcore.sources.base.Source.describe`); None: nobody knows.
    :param note: write the KGCORE note, if it is known where the process comes from.
    :param remarks_of: asked for further warnings when all memory has been looked at.
    :param important_first: the segments' data stand in the file in the order of their importance: a file that ends
        early lacks the least important ones. (The headers stay in the order of addresses, as ELF wants them.)
    :param share_zeros: long ranges that are certainly zeros have one place in the file; always if the file would be
        longer than file systems allow (:data:`kgcore.coredump.sharing.LARGEST`).
    :raises KgcoreError: kgcore does not know the architecture, or the core is larger than its ELF class allows.
    """
    arch = ARCHES.get(image.arch)
    if arch is None:
        raise KgcoreError(
            f"cores of {image.arch} processes are not supported",
            hint=f"supported: {', '.join(sorted(ARCHES))}",
            pid=image.tgid,
        )
    look = partial(peek, memory)
    shared: dict[object, VmaPlan] = {}  # of a hundred thousand mappings most become the same
    vmas = tuple(_plan_vma(vma, keep(vma, look), memory, shared) for vma in image.vmas)
    image = replace(image, warnings=(*image.warnings, *remarks_of()))
    remarks_ = tuple(remarks(image, arch))
    warnings = (*image.warnings, *_why_excluded(vmas, source or {}))

    parts = list(_all_parts(image.vmas, vmas, missing, ()))
    zeros: list[Shared] = []
    if share_zeros or sum(part.filesz for part in parts) > LARGEST:
        kept = ((plan.keep.length, plan.account.zero) for plan in vmas)
        zeros = zeros_to_share(image.vmas, kept, memory)
        parts = list(_all_parts(image.vmas, vmas, missing, zeros))

    notes = b"".join(note_bytes(note) for note in process_notes(image, arch))
    vendor = b""
    if source is not None and note:
        vendor = note_bytes(
            vendor_note(
                image,
                source,
                keep.describe(),
                missing,
                [(plan.keep, plan.account) for plan in vmas],
                (run for plan in vmas for run in plan.missing),
                (*warnings, *(f"thread {tid}: {text}" for tid, text in remarks_)),
                sum(piece.end - piece.start for piece in zeros),
            )
        )

    headers = 1 + len(parts) + bool(vendor)
    notes_offset = ehdr_size(arch.elf_class) + headers * phdr_size(arch.elf_class)
    unpadded = notes_offset + len(notes) + len(vendor)
    page = image.page_size  # ELF_EXEC_PAGESIZE of the kernel
    data_offset = -(-unpadded // page) * page

    tail = pack_shdr0(arch.elf_class, headers)
    shoff = 0
    if important_first:  # what is behind the data would be the first to be cut off
        shoff, data_offset = data_offset, data_offset + -(-len(tail) // page) * page
    alike = [number for number, part in enumerate(parts) if part.shared]
    longest = max(alike, key=lambda number: parts[number].filesz, default=-1)
    written = [number for number, part in enumerate(parts) if not part.shared or number == longest]
    order = _by_importance(image, vmas, parts, written) if important_first else written
    offsets, offset = [0] * len(parts), data_offset
    for number in order:
        offsets[number] = offset
        offset += parts[number].filesz
    for number in alike:
        offsets[number] = offsets[longest]
    segments = [
        Segment(part.vma, part.address, part.filesz, part.memsz, at, _p_flags(image.vmas[part.vma]))
        for part, at in zip(parts, offsets, strict=True)
    ]
    size = offset + (0 if shoff else len(tail))
    if size >= 1 << (32 if arch.elf_class == 32 else 63):
        raise KgcoreError(
            f"the core would have {size} bytes, more than an ELF file of class {arch.elf_class} can",
            hint="choose less memory with -f",
            pid=image.tgid,
        )

    head = b"".join(
        (
            pack_ehdr(arch.elf_class, arch.machine, headers, shoff or offset),
            pack_phdrs(arch.elf_class, _headers(image, arch, segments, notes_offset, len(notes), len(vendor))),
            notes,
            vendor,
            (bytes(-unpadded % page) + (tail if shoff else b"")).ljust(data_offset - unpadded, b"\0"),
        )
    )
    alike.sort(key=lambda number: number != longest)
    return CorePlan(
        image=image,
        policy=missing,
        filter_settings=keep.describe(),
        head=head,
        segments=tuple(segments[number] for number in order),
        tail=b"" if shoff else tail,
        size=size,
        vmas=vmas,
        remarks=remarks_,
        warnings=warnings,
        shared=tuple(segments[number] for number in alike),
    )


class _Part(NamedTuple):
    """What becomes a PT_LOAD.

    :ivar shared: of the zeros that have one place in the file.
    """

    vma: int
    address: int
    filesz: int
    memsz: int
    shared: bool = False


def _all_parts(
    image_vmas: Sequence[Vma], vmas: Sequence[VmaPlan], policy: MissingPolicy, shared: Sequence[Shared]
) -> Iterator[_Part]:
    """The PT_LOADs of all mappings."""
    at = 0
    for index, (vma, plan) in enumerate(zip(image_vmas, vmas, strict=True)):
        first = at
        while at < len(shared) and shared[at].vma == index:
            at += 1
        yield from _parts(index, vma, plan, policy, shared[first:at])


def _by_importance(
    image: ProcessImage, vmas: Sequence[VmaPlan], parts: Sequence[_Part], written: Iterable[int]
) -> list[int]:
    """The threads' stacks, then what is small: that is most mappings, and what a debugger needs to begin with."""
    starts = [vma.start for vma in image.vmas]
    stacks = {bisect_right(starts, thread.regs.values["sp"]) - 1 for thread in image.threads}

    def rank(number: int) -> tuple[bool, int]:
        part = parts[number]
        if part.shared:
            return True, part.filesz  # it stands for them all
        return part.vma not in stacks, min(part.filesz, vmas[part.vma].account.data)

    return sorted(written, key=rank)


def _plan_vma(vma: Vma, keep: Keep, memory: Memory, shared: dict[object, VmaPlan]) -> VmaPlan:
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
    if key not in shared:
        shared[key] = VmaPlan(keep, Account(parts, filtered), tuple(gaps.runs), tuple(cuts))
    return shared[key]


def _why_excluded(vmas: Iterable[VmaPlan], source: Mapping[str, str]) -> Iterator[str]:
    """What there is to be said once, if memory was left out when the dump was made."""
    if any(Provenance.EXCLUDED in plan.account.parts for plan in vmas):
        level = source.get("dump_level", "")
        # Of a dump that was cut off and does not tell its level we cannot know who took the memory.
        if level.isdecimal() or (source and "cut_off_bytes" not in source):
            sentence = left_out(int(level) if level.isdecimal() else None)
            if sentence:
                yield sentence


def _parts(index: int, vma: Vma, plan: VmaPlan, policy: MissingPolicy, shared: Sequence[Shared]) -> Iterator[_Part]:
    """The PT_LOADs of a mapping."""
    at, kept_end = vma.start, vma.start + plan.keep.length
    omitted = [(run.address, run.end, False) for run in plan.missing] if policy == "omit" else []
    apart = [(piece.start, piece.end, True) for piece in shared]
    for start, end, zeros in sorted(omitted + apart) if apart else omitted:
        if start > at:
            yield _Part(index, at, start - at, start - at)
        if zeros:
            yield _Part(index, start, end - start, end - start, shared=True)
        at = end
    if at < vma.end:  # what is left, with the part that the filter dropped
        yield _Part(index, at, kept_end - at, vma.end - at)


def _headers(
    image: ProcessImage, arch: Arch, segments: list[Segment], notes_offset: int, notes: int, vendor: int
) -> Iterator[Phdr]:
    align = image.dialect.note_align
    yield Phdr(PT_NOTE, 0, notes_offset, 0, notes, 0, align)
    for _, address, filesz, memsz, offset, flags in segments:
        yield Phdr(PT_LOAD, flags, offset, address, filesz, memsz, image.page_size)
    if vendor:
        yield Phdr(PT_NOTE, 0, notes_offset + notes, 0, vendor, 0, align)


def _p_flags(vma: Vma) -> int:
    """VM_* and PF_* have the same three bits in another order."""
    return (
        (PF_R if vma.flags & VM_READ else 0)
        | (PF_W if vma.flags & VM_WRITE else 0)
        | (PF_X if vma.flags & VM_EXEC else 0)
    )
