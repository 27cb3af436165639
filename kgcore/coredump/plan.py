# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fix every byte offset of a core before the first byte is written.

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
byte for byte. With them only the offsets differ: the note precedes the data so that a truncated core still says what it
lacks, and its header is last so that the first PT_NOTE and the n-th PT_LOAD stay where readers expect them.

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
from itertools import pairwise
from typing import NamedTuple

from kgcore.arch import ARCHES, Arch
from kgcore.coredump.important import Ranges, important
from kgcore.coredump.kgcorenote import vendor_note
from kgcore.coredump.loads import FileOrder, Load, Segment, loads_of, place
from kgcore.coredump.mappings import PART, MissingPolicy, VmaPlan, plan_mappings
from kgcore.coredump.notes import Remark, process_notes, remarks
from kgcore.coredump.ownnotes import Note
from kgcore.coredump.sharing import LARGEST, zeros_to_share
from kgcore.elf.layout import (
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
from kgcore.filters.base import Filter
from kgcore.model.memory import Memory, Provenance
from kgcore.model.process import ProcessImage
from kgcore.model.state import ProcessState

__all__ = ("CorePlan", "Part", "make_plan")

_SEGMENTS_PER_PART = 1024


class Part(NamedTuple):
    """A part of a core's memory that is written at once: a range of the file, from a place in one segment to a place in
    the same or a later one.

    :ivar first: the segment that it begins in, as an index into the plan's.
    :ivar start: address of its first byte.
    :ivar last: the segment that it ends in.
    :ivar end: address after its last byte.
    :ivar most: bytes to write at most; the rest is certainly holes.
    """

    first: int
    start: int
    last: int
    end: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """The plan of a core: everything except its memory.

    :ivar image: the process.
    :ivar policy: what to do with missing memory: ``omit`` or ``zero``.
    :ivar filter_settings: the settings of the filter, for the vendor note and the report.
    :ivar head: everything before the first segment: headers and notes, padded.
    :ivar segments: in file order: the data of the first one start where ``head`` ends, the others follow. The order is
        that of their addresses or of their importance.
    :ivar shared: segments that have the same range of zeros in the file. The longest one is the first, and only that
        is among ``segments``, too.
    :ivar tail: everything after the last segment: section 0 or nothing.
    :ivar size: bytes of the whole file.
    :ivar vmas: one per VMA of the image.
    :ivar remarks: remarks on the threads' registers.
    :ivar warnings: what could not be determined, as sentences.
    :ivar limit: what the KGCORE note says of limits; None: nothing.
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
    limit: Mapping[str, object] | None = None

    @property
    def data(self) -> int:
        """Bytes of memory to write; some may turn out to be zeros."""
        return sum(plan.account.data for plan in self.vmas)

    def parts(self) -> Iterator[Part]:
        """Yield the data of the segments as parts of about equal work, in file order and without gaps."""
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
        """Say whether other segments share (part of) a segment of ``segments``."""
        if not self.shared:
            return False
        first = self.shared[0]
        return segment.filesz > 0 and first.offset <= segment.offset < first.offset + first.filesz

    def sharing(self, segment: Segment) -> Iterator[Segment]:
        """Return the segments at the file range of (part of) a segment: itself, or all that share it."""
        if not self.is_shared(segment):
            yield segment
            return
        low = segment.offset - self.shared[0].offset
        for other in self.shared:
            size = min(low + segment.filesz, other.filesz) - low
            if size > 0:
                yield other._replace(address=other.address + low, filesz=size, memsz=size, offset=segment.offset)

    def size_of(self, part: Part) -> int:
        """Return how many bytes of the file a part takes."""
        first, last = self.segments[part.first], self.segments[part.last]
        return last.offset + part.end - last.address - (first.offset + part.start - first.address)

    def segments_of(self, part: Part) -> Iterator[Segment]:
        """Yield the segments of a part; of the first and the last one, what is in the part."""
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
    remarks_of: Callable[[frozenset[Provenance]], Iterable[str]] | None = None,
    order: FileOrder = "address",
    share_zeros: bool = False,
    state: ProcessState | None = None,
    limit: Mapping[str, object] | None = None,
    notes: Sequence[Note] = (),
) -> CorePlan:
    """Plan a core.

    :param missing: what to do with missing memory.
    :param source: describes the source of the process (:meth:`kgcore.sources.base.Source.describe`); None: unknown.
    :param note: write the KGCORE note, if it is known where the process comes from.
    :param remarks_of: asked for further warnings when all memory has been looked at, with the reasons for which some of
        it is missing.
    :param order: the order of the segments' data in the file, if the memory can be read in any. One that ends early
        lacks the last of them: by ``importance`` or ``size`` the least important, or the largest. (The headers stay in
        the order of addresses, as ELF wants them.)
    :param share_zeros: long ranges that are certainly zeros have one place in the file; always if the file would be
        longer than file systems allow (:data:`kgcore.coredump.sharing.LARGEST`).
    :param state: what the KGCORE note says of the process besides; None: nothing.
    :param notes: further notes, behind the kernel's.
    :param limit: what the KGCORE note says of limits that the core is written under
        (:meth:`kgcore.coredump.limits.Limits.describe`); None: no limits.
    :raises KgcoreError: the architecture is not supported, or the core is larger than its ELF class allows.
    """
    arch = _arch_of(image)
    vmas = plan_mappings(image.vmas, keep, memory)
    if remarks_of is not None:
        image = replace(image, warnings=(*image.warnings, *remarks_of(_reasons(vmas))))
    remarks_ = tuple(remarks(image, arch))
    if memory.forward:
        order = "source"
    ranges = important(image, memory) if order == "importance" else None
    loads = _loads(image, vmas, missing, memory, ranges, share_zeros=share_zeros)
    made = image.notes or map(note_bytes, process_notes(image, arch))
    packed = b"".join((*made, *(note.packed() for note in notes)))
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
                (*image.warnings, *(f"thread {tid}: {text}" for tid, text in remarks_)),
                sum(load.filesz for load in loads if load.shared),
                state,
                limit,
            )
        )
    headers = 1 + len(loads) + bool(vendor)
    frame = _frame(image, arch, headers, len(packed) + len(vendor), order)
    placed = place(image, vmas, loads, frame.data, order, ranges)
    size = placed.end + len(frame.tail)
    _check_size(image, arch, size)
    return CorePlan(
        image=image,
        policy=missing,
        filter_settings=keep.describe(),
        head=b"".join(
            (
                pack_ehdr(arch.elf_class, arch.machine, headers, frame.shoff or placed.end),
                pack_phdrs(arch.elf_class, _headers(image, placed.by_address, frame.notes, len(packed), len(vendor))),
                packed,
                vendor,
                frame.padding,
            )
        ),
        segments=placed.in_file,
        tail=frame.tail,
        size=size,
        vmas=vmas,
        remarks=remarks_,
        warnings=image.warnings,
        shared=placed.shared,
        limit=limit,
    )


def _arch_of(image: ProcessImage) -> Arch:
    """:raises KgcoreError: kgcore does not know it."""
    arch = ARCHES.get(image.arch)
    if arch is None:
        raise KgcoreError(
            f"cores of {image.arch} processes are not supported",
            hint=f"supported: {', '.join(sorted(ARCHES))}",
            pid=image.tgid,
        )
    return arch


def _reasons(vmas: Iterable[VmaPlan]) -> frozenset[Provenance]:
    """Why memory is missing."""
    return frozenset(provenance for plan in vmas for provenance in plan.account.parts if provenance.missing)


def _loads(
    image: ProcessImage,
    vmas: Sequence[VmaPlan],
    policy: MissingPolicy,
    memory: Memory,
    ranges: Ranges | None,
    *,
    share_zeros: bool,
) -> list[Load]:
    """The PT_LOADs, with zeros apart that are to have one place in the file."""
    loads = list(loads_of(image.vmas, vmas, policy, ranges=ranges))
    if not share_zeros and sum(load.filesz for load in loads) <= LARGEST:
        return loads
    kept = ((plan.keep.length, plan.account.zero) for plan in vmas)
    return list(loads_of(image.vmas, vmas, policy, zeros_to_share(image.vmas, kept, memory), ranges))


class _Frame(NamedTuple):
    """What stands around the segments' data.

    :ivar notes: offset of the notes, which is where the headers end.
    :ivar padding: what stands between the notes and the data: zeros, and section 0 if that stands there.
    :ivar data: offset of the first segment.
    :ivar shoff: offset of section 0, if that stands before the data; else 0.
    :ivar tail: section 0, if that stands behind the data; else nothing.
    """

    notes: int
    padding: bytes
    data: int
    shoff: int
    tail: bytes


def _frame(image: ProcessImage, arch: Arch, headers: int, notes_size: int, order: FileOrder) -> _Frame:
    """:param headers: how many program headers there are."""
    section = pack_shdr0(arch.elf_class, headers)
    notes = ehdr_size(arch.elf_class) + headers * phdr_size(arch.elf_class)
    end = notes + notes_size
    data = _page_up(image, end)
    if order in ("address", "source"):
        return _Frame(notes, bytes(data - end), data, 0, section)
    # What is behind the data would be the first to be cut off.
    behind = data + _page_up(image, len(section))
    return _Frame(notes, (bytes(data - end) + section).ljust(behind - end, b"\0"), behind, data, b"")


def _page_up(image: ProcessImage, size: int) -> int:
    page = image.page_size  # ELF_EXEC_PAGESIZE of the kernel
    return -(-size // page) * page


def _check_size(image: ProcessImage, arch: Arch, size: int) -> None:
    """:raises KgcoreError: a file of the class cannot be that long."""
    if size >= 1 << (32 if arch.elf_class == 32 else 63):
        raise KgcoreError(
            f"the core would have {size} bytes, too many for an ELF file of class {arch.elf_class}",
            hint="select less memory with -f",
            pid=image.tgid,
        )


def _headers(
    image: ProcessImage, segments: Sequence[Segment], notes_offset: int, notes: int, vendor: int
) -> Iterator[Phdr]:
    align = image.dialect.note_align
    yield Phdr(PT_NOTE, 0, notes_offset, 0, notes, 0, align)
    for _, address, filesz, memsz, offset, flags in segments:
        yield Phdr(PT_LOAD, flags, offset, address, filesz, memsz, image.page_size)
    if vendor:
        yield Phdr(PT_NOTE, 0, notes_offset + notes, 0, vendor, 0, align)
