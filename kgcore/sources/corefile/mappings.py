# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mappings of a core: what each is, or may be.

A core has of a mapping its addresses, its permissions and, in NT_FILE, its file. The kernel's filter goes by more:
whether the mapping is shared, whether private pages were made, whether its file still has a name ... Kernels do not
write that. What follows from the rest follows here; where several things are possible, the mapping has all of them as
its :attr:`kgcore.model.process.Vma.kinds`, so that no filter drops what it would keep of one of them.
"""

import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from kgcore.arch.fromnotes import MappedRange
from kgcore.elf.layout import PF_R, PF_W, PF_X
from kgcore.model.kinds import VmaKind
from kgcore.model.kindwords import Told
from kgcore.model.process import (
    DELETED,
    VM_EXEC,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    MappedFile,
    Vma,
)
from kgcore.sources.corefile.head import Load
from kgcore.sources.corefile.ownnote import OwnNote, Row

__all__ = ("Mapped", "mappings_of")

_HUGE = 2 << 20  # bytes of the smallest huge page
_EXECUTABLE = stat.S_IFREG | 0o111
_SHARED = VM_SHARED | VM_MAYSHARE
_PERMISSIONS = (PF_R, VM_READ), (PF_W, VM_WRITE), (PF_X, VM_EXEC)

_PRIVATE = VmaKind(anon=True)
# Private, of a file, and no private pages were made
_EXECUTED, _DATA = VmaKind(mode=_EXECUTABLE, mapped=True), VmaKind(mapped=True)
_OF_FILES = VmaKind(_SHARED, mapped=True)
_SHARED_MEMORY = VmaKind(_SHARED, nlink=0, mapped=True)
_HUGE_KINDS = (VmaKind(VM_HUGETLB, mapped=True), VmaKind(VM_HUGETLB | _SHARED, mapped=True))
_DAX = (VmaKind(dax=True, mapped=True), VmaKind(_SHARED, dax=True, mapped=True))


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a core says of its memory besides its segments.

    :ivar files: the rows of NT_FILE, by address; None: it has no such note.
    :ivar gate: the address of [vsyscall]; 0: programs have no page like that.
    :ivar vdso: the address of [vdso], by the auxiliary vector; 0: not known.
    :ivar page_size: bytes of a page.
    :ivar as_kernels: it is as kernels write cores: of each mapping all, a page or nothing.
    """

    files: Sequence[MappedRange] | None
    gate: int
    vdso: int
    page_size: int
    as_kernels: bool

    def file_at(self, start: int) -> MappedRange | None:
        """Return the row for a mapping; None: no file is mapped there, as far as is known."""
        if self.files is None:
            return None
        number = bisect_right(self.files, start, key=attrgetter("start")) - 1
        return self.files[number] if number >= 0 and start < self.files[number].end else None

    def pgoff(self, row: MappedRange, start: int) -> int:
        """Return the offset of an address in the file that is mapped there, in pages."""
        return row.pgoff + (start - row.start) // self.page_size


class _Filter(NamedTuple):
    """What is known of the filter that a core was written with.

    :ivar anonymous: it kept private pages.
    :ivar files: it may have kept private mappings of files of which no private pages were made.
    """

    anonymous: bool
    files: bool


def mappings_of(loads: Sequence[Load], own: OwnNote | None, mapped: Mapped, *, forward: bool) -> tuple[Vma, ...]:
    """Return the mappings of a core, by address.

    :param own: its KGCORE note, if it has one.
    :param forward: the core can only be read in the order that it has.
    """
    places = _places(loads) if forward else {}
    if own is not None:
        return tuple(_told(own, sorted(loads), mapped, places))
    by_address = sorted(loads)
    special = _special(by_address, mapped)
    kept_by = _filter_of(by_address, special, mapped)
    return tuple(
        _vma(load, _vm_flags(load), mapped, special.get(load.start, ""), kept_by, places.get(load.start, 0))
        for load in by_address
    )


def _places(loads: Sequence[Load]) -> dict[int, int]:
    """For each segment its place in the order of the file."""
    in_file = sorted(loads, key=lambda load: load.offset)
    return {load.start: number for number, load in enumerate(in_file, 1)}


def _told(own: OwnNote, by_address: Sequence[Load], mapped: Mapped, places: Mapping[int, int]) -> Iterator[Vma]:
    """The mappings as the KGCORE note has them."""
    as_loads = [Load(row.start, row.end, 0, row.kept, _p_flags(row.flags), 0) for row in own.rows]
    special = {} if own.exact else _special(as_loads, mapped)
    at = 0
    for row, load in zip(own.rows, as_loads, strict=True):
        place = 0
        while at < len(by_address) and by_address[at].start < row.end:
            place = place or places.get(by_address[at].start, 0)
            at += 1
        if row.told is None:
            vma = _vma(load, row.flags, mapped, special.get(row.start, ""), _Filter(True, True), place)
            # A note without these words has all flags; one that has them, and no word, may have the permissions alone.
            yield vma if own.exact else _with_flags(vma, row.flags)
        else:
            yield _exactly(row, row.told, mapped, place)


def _exactly(row: Row, told: Told, mapped: Mapped, place: int) -> Vma:
    mapping = mapped.file_at(row.start)
    file: MappedFile | None = None
    if mapping is not None or told.pgoff is not None:
        mode = _EXECUTABLE if told.executable else stat.S_IFREG
        file = MappedFile(mapping and mapping.path, 0 if told.unlinked else 1, mode, 0, told.dax)
    return Vma(
        row.start,
        row.end,
        row.flags,
        pgoff=told.pgoff or 0 if mapping is None else mapped.pgoff(mapping, row.start),
        file=file,
        anon=told.anon,
        name=told.name,
        anon_name=told.anon_name,
        held=row.kept,
        place=place,
    )


def _with_flags(vma: Vma, flags: int) -> Vma:
    """A mapping of which all flags are known: only kinds with these are left."""
    mask = VM_SHARED | VM_HUGETLB
    return _of_kinds(vma, tuple(kind for kind in vma.kinds if kind.flags & mask == flags & mask) or vma.kinds)


def _vma(load: Load, flags: int, mapped: Mapped, name: str, kept_by: _Filter, place: int) -> Vma:
    mapping = mapped.file_at(load.start)
    vma = Vma(
        load.start,
        load.end,
        flags,
        pgoff=0 if mapping is None else mapped.pgoff(mapping, load.start),
        file=None if mapping is None else MappedFile(mapping.path, 1, stat.S_IFREG, 0),
        held=load.filesz,
        place=place,
    )
    return _of_kinds(vma, (VmaKind(name=name),) if name else _kinds(load, mapping, mapped, kept_by))


def _of_kinds(vma: Vma, kinds: tuple[VmaKind, ...]) -> Vma:
    if len(kinds) == 1:
        return vma.as_kind(kinds[0])
    return replace(vma, kinds=kinds, anon=any(kind.anon for kind in kinds))


def _vm_flags(load: Load) -> int:
    return sum(flag for bit, flag in _PERMISSIONS if load.flags & bit)


def _p_flags(flags: int) -> int:
    return sum(bit for bit, flag in _PERMISSIONS if flags & flag)


def _special(by_address: Sequence[Load], mapped: Mapped) -> dict[int, str]:
    """What the kernel itself maps: [vdso], [vvar] right before it, [vsyscall]."""
    found: dict[int, str] = {}
    for number, load in enumerate(by_address):
        if load.start and load.start == mapped.gate:
            found[load.start] = "[vsyscall]"
        elif load.start and load.start == mapped.vdso and mapped.file_at(load.start) is None:
            found[load.start] = "[vdso]"
            before = [load]
            for one in reversed(by_address[max(number - 2, 0) : number]):
                if one.end != before[-1].start or one.flags != PF_R or mapped.file_at(one.start) is not None:
                    break
                before.append(one)
            names = ("[vvar]",) if len(before) == 2 else ("[vvar_vclock]", "[vvar]")
            found |= {one.start: name for one, name in zip(before[1:], names, strict=False)}
    return found


def _filter_of(by_address: Sequence[Load], special: Mapping[int, str], mapped: Mapped) -> _Filter:
    """What the kernel's rules say of the filter, whose order is that of :mod:`kgcore.filters.coredump`."""
    if not mapped.as_kernels or mapped.files is None:
        return _Filter(anonymous=False, files=True)
    return _Filter(
        anonymous=any(
            load.filesz and load.flags != PF_X and load.start not in special and mapped.file_at(load.start) is None
            for load in by_address
        ),
        # One page of a longer mapping is there by the rule for ELF headers, which comes last.
        files=not any(load.filesz == mapped.page_size < load.end - load.start for load in by_address),
    )


def _kinds(load: Load, file: MappedRange | None, mapped: Mapped, kept_by: _Filter) -> tuple[VmaKind, ...]:
    """What a mapping may be that is not special."""
    if not load.filesz:  # whatever it is, there is nothing to be kept of it
        return _PRIVATE, _DATA
    one_page = load.filesz == mapped.page_size
    if file is None and mapped.files is not None:
        # NT_FILE has all mappings of files. What is left is private memory, or a page with the kernel's own code.
        probes = load.flags == PF_X and one_page
        return (_PRIVATE, VmaKind(name="[uprobes]")) if probes else (_PRIVATE,)
    huge = _HUGE_KINDS if not (load.start | load.end) % _HUGE else ()
    if file is None:
        return _PRIVATE, _EXECUTED, _DATA, _OF_FILES, _SHARED_MEMORY, *_DAX, *huge
    if mapped.as_kernels and one_page and load.end - load.start > load.filesz:
        # The rule for ELF headers, to which none comes that is shared or huge.
        return (_EXECUTED,) if kept_by.anonymous else (_EXECUTED, _PRIVATE)
    private = (_PRIVATE, _EXECUTED, _DATA) if kept_by.files or one_page else (_PRIVATE,)
    if file.path == b"/dev/zero" + DELETED:
        return (_SHARED_MEMORY,)
    if file.path == b"/anon_hugepage" + DELETED:
        return _HUGE_KINDS
    if re.fullmatch(rb"/SYSV[0-9a-f]{8} \(deleted\)", file.path) or file.path.startswith(b"/memfd:"):
        return _SHARED_MEMORY, *private, *huge
    shared = (_OF_FILES, _SHARED_MEMORY) if file.path.endswith(DELETED) else (_OF_FILES,)
    return *private, *shared, *_DAX, *huge
