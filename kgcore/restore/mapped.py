# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plan the memory: which mapping is had of which file, and whether that is still the file that was mapped."""

import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kgcore.elf.buildid import build_id
from kgcore.model.process import (
    DELETED,
    VM_HUGETLB,
    VM_IO,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.need import Mapped, Need
from kgcore.restore.paths import Paths
from kgcore.restore.words import Refusal
from kgcore.system.regular import open_regular, read_at
from kgcore.text import printable

__all__ = ("Area", "FileNeeded", "MemoryPlan", "ObjectNeeded", "plan_memory")

_PIECE = 1 << 20
_PAGE = mmap.PAGESIZE
_MEMFD, _ZERO, _SYSV = b"/memfd:", b"/dev/zero", b"/SYSV"
_IN_FILE = frozenset(("mapped-private", "elf-header", "maybe-elf-header"))
_PKEYS = 0xF << 32  # VM_PKEY_BIT0 to 3; VM_HIGH_ARCH_BIT_0 is 32
_AT_PHDR = 3
_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_SETID = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNeeded:
    """A file that is mapped.

    :ivar path: its name here.
    :ivar writable: it is opened for writing, too, since a shared mapping may be written to.
    :ivar device: major and minor number of its file system, and ``inode``: the file that was proven.
    :ivar proof: ``build-id``, ``content`` (all pages that the core has are its), ``shared`` (its pages are the file's
        own), or ``age`` (the core has none of its pages, but it is older than the core).
    """

    path: bytes
    writable: bool
    device: int
    inode: int
    proof: Literal["build-id", "content", "shared", "age"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNeeded:
    """Shared memory that has no name: shared anonymous memory, or a memfd.

    :ivar name: of the memfd that it is had by.
    :ivar size: in bytes.
    :ivar fd: the lowest descriptor that is this memfd; -1: none is.
    :ivar parts: address and size in the core, and offset in the object, of all of its content.
    :ivar content: a file with its content, which was taken out of a dump, if there is one.
    """

    name: bytes
    size: int
    fd: int
    parts: tuple[tuple[int, int, int], ...]
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A mapping, and what it is had by.

    :ivar kind: of what ``number`` counts: ``file`` in :attr:`MemoryPlan.files`, ``object`` in
        :attr:`MemoryPlan.objects`; or ``anonymous``.
    :ivar write: its bytes are in the core, and are written where they differ from the file's.
    """

    mapped: Mapped
    kind: Literal["anonymous", "file", "object"]
    number: int = 0
    write: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """All mappings but those that the kernel makes.

    :ivar areas: by address.
    :ivar special: those of the kernel's: the vdso and its data, by address.
    :ivar program: index of the program in ``files``; -1: unknown.
    """

    areas: tuple[Area, ...] = ()
    special: tuple[Mapped, ...] = ()
    files: tuple[FileNeeded, ...] = ()
    objects: tuple[ObjectNeeded, ...] = ()
    program: int = -1
    refused: tuple[Refusal, ...] = ()
    different: tuple[str, ...] = ()


@dataclass
class _Maker:
    """Collects the plan."""

    core: FinishedCore
    need: Need
    areas: list[Area] = field(default_factory=list)
    special: list[Mapped] = field(default_factory=list)
    files: list[FileNeeded] = field(default_factory=list)
    objects: list[ObjectNeeded] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def plan_memory(core: FinishedCore, need: Need, paths: Paths) -> MemoryPlan:
    """Plan all mappings. Nothing is changed; the files are read.

    :param paths: where files are here.

    :raises OSError: the core cannot be read.
    """
    maker = _Maker(core, need)
    groups: dict[bytes, list[Mapped]] = {}
    objects: dict[tuple[tuple[int, ...], int], list[Mapped]] = {}
    shared = {row.start: row for row in need.state.shared or ()}
    anonymous: list[Mapped] = []
    for one in need.mappings:
        unable = _unable(one)
        if one.reason == "special" and one.path is None:
            maker.special.append(one)
        elif unable:
            maker.refused.append(Refusal(word=unable[0], what=f"memory at {one.start:#x} {unable[1]}"))
        elif one.path is None:
            anonymous.append(one)
        elif one.flags & VM_MAYSHARE and _is_nameless(one.path):
            row = shared.get(one.start)
            key = (row.device, row.inode) if row is not None and row.end == one.end else ((), one.start)
            objects.setdefault(key, []).append(one)
        else:
            groups.setdefault(one.path, []).append(one)
    for one in anonymous:
        _lacking(maker, one, list(_absent(core, one)) if one.reason != "untouched" else [])
        maker.areas.append(Area(mapped=one, kind="anonymous", write=True))
    program = -1
    entry = need.words.get(_AT_PHDR, 0)
    for path, group in groups.items():
        now = paths.of(path)
        if now != path:
            maker.different.append(f"{printable(path)} is {printable(now)}")
        found = _file(maker, now, group)
        if found is not None:
            if any(one.start <= entry < one.end for one in group):
                program = len(maker.files)
            maker.files.append(found)
            for one in group:
                areas = Area(mapped=one, kind="file", number=len(maker.files) - 1, write=not one.flags & VM_MAYSHARE)
                maker.areas.append(areas)
    _objects(maker, objects, paths)
    if program < 0 and not maker.refused:
        maker.refused.append(Refusal(word="program", what="the core does not say which file its program is"))
    return MemoryPlan(
        areas=tuple(sorted(maker.areas, key=lambda area: area.mapped.start)),
        special=tuple(maker.special),
        files=tuple(maker.files),
        objects=tuple(maker.objects),
        program=program,
        refused=tuple(maker.refused),
        different=tuple(maker.different),
    )


def _unable(one: Mapped) -> tuple[str, str] | None:
    """Return the word and the clause of a refusal if no mapping of that kind can be had again."""
    if one.flags & VM_HUGETLB:
        return "hugetlb", "is of huge pages that are reserved (hugetlb)"
    if one.flags & (VM_UFFD_MISSING | VM_UFFD_WP):
        return "userfaultfd", "is watched by userfaultfd(2)"
    if one.flags & _PKEYS:
        return "pkeys", "has a protection key"
    if one.flags & (VM_IO | VM_PFNMAP) and one.reason != "special":
        return "devices", "is a device's"
    return None


def _is_nameless(path: bytes) -> bool:
    return path.endswith(DELETED) and path.startswith((_MEMFD, _ZERO, _SYSV))


def _absent(core: FinishedCore, one: Mapped) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a mapping whose bytes the core has not."""
    at = one.start
    for start, end in core.stored(one.start, one.end):
        if at < start:
            yield at, start
        at = end
    if at < one.end:
        yield at, one.end


def _lacking(maker: _Maker, one: Mapped, absent: Sequence[tuple[int, int]]) -> None:
    if absent:
        (start, end), much = absent[0], sum(end - start for start, end in absent)
        why = next((reason for first, last, reason in maker.need.missing if first < end and start < last), one.reason)
        what = f"the core lacks {much // 1024} KiB of memory from {start:#x} on, of {one.start:#x}-{one.end:#x}: {why}"
        maker.refused.append(Refusal(word="missing", what=what))


# Files


def _file(maker: _Maker, path: bytes, group: Sequence[Mapped]) -> FileNeeded | None:
    """Find the file of mappings, and prove that it is the one that was mapped."""
    name = printable(path)
    if path.endswith(DELETED):
        maker.refused.append(Refusal(word="deleted", what=f"{name} was mapped, and has no name any more"))
        return None
    writable = any(one.flags & VM_SHARED and one.flags & VM_MAYWRITE for one in group)
    try:
        descriptor = open_regular(path)
    except OSError as error:
        what = f"{name} was mapped, and cannot be opened here: {error.strerror or error}"
        maker.refused.append(Refusal(word="program", what=what))
        return None
    try:
        status = os.fstat(descriptor)
        is_program = any(one.start <= maker.need.words.get(_AT_PHDR, 0) < one.end for one in group)
        if status.st_mode & _SETID and is_program:
            maker.refused.append(Refusal(word="setid", what=f"{name} is a set-uid program"))
            return None
        if writable and not os.access(path, os.W_OK):
            maker.refused.append(Refusal(word="files", what=f"{name} is mapped for writing, which is not allowed here"))
        if is_program and not status.st_mode & _EXECUTABLE:
            maker.refused.append(Refusal(word="program", what=f"{name} may not be executed", hint="chmod +x"))
        _check_holes(maker, name, group, descriptor)
        proof = _proof(maker, name, group, descriptor, status)
    finally:
        os.close(descriptor)
    if proof is None:
        return None
    return FileNeeded(path=path, writable=writable, device=status.st_dev, inode=status.st_ino, proof=proof)


def _proof(
    maker: _Maker, name: str, group: Sequence[Mapped], descriptor: int, status: os.stat_result
) -> Literal["build-id", "content", "shared", "age"] | None:
    core, need = maker.core, maker.need

    def in_core(offset: int, size: int) -> bytes | None:
        for one in group:
            if one.offset <= offset < one.offset + one.end - one.start:
                at = one.start + offset - one.offset
                stop = next((end for start, end in core.stored(at, one.end) if start == at), at)
                return core.read(at, min(size, stop - at)) if stop > at else None
        return None

    private = [one for one in group if not one.flags & VM_MAYSHARE]
    for one in private:
        absent = list(_absent(core, one))
        if one.reason not in _IN_FILE or not need.anonymous:
            _lacking(maker, one, [span for span in absent if not _in_file_alone(need, span)])
    past = [one for one in group if one.offset >= _rounded(status.st_size)]
    if past:
        what = f"{name} is shorter than it was when it was mapped at {past[0].start:#x}"
        maker.refused.append(Refusal(word="build-id", what=what))
        return "content"
    if not private:
        return "shared"
    old = build_id(in_core)
    new = build_id(lambda offset, size: read_at(descriptor, size, offset))
    compared = 0
    for one in private:
        if one.reason in _IN_FILE and need.anonymous:
            for start, end in core.stored(one.start, one.end):
                differs = _first_difference(core, descriptor, one, start, end)
                compared += end - start
                if differs is not None:
                    what = f"{name} is not the file that was mapped: it differs at {differs:#x}"
                    maker.refused.append(Refusal(word="build-id", what=what))
                    return "content"
    if old is not None:
        if old != new:
            was = new.hex() if new else "none"
            what = f"{name} is not the file that was mapped: its build id is {was}, not {old.hex()}"
            maker.refused.append(Refusal(word="build-id", what=what))
        return "build-id"
    whole = all(not list(_absent(core, one)) for one in private)
    if whole and compared:
        return "content"
    # Nothing of it, or not enough, is in the core: it is taken for the same if it has not changed since.
    if max(status.st_mtime, status.st_ctime) >= core.modified():
        maker.refused.append(Refusal(word="age", what=f"{name} has been changed since the core was written"))
    else:
        maker.different.append(f"{name} has no build id: it is taken as it is, since it is older than the core")
    return "age"


def _check_holes(maker: _Maker, name: str, group: Sequence[Mapped], descriptor: int) -> None:
    """What the core lacks must not be a hole in the file: so --sysroot writes what a dump lacks, too."""
    for one in group:
        for start, end in _absent(maker.core, one):
            first, last = (one.offset + at - one.start for at in (start, end))
            last = min(last, os.fstat(descriptor).st_size)
            if first < last and (hole := os.lseek(descriptor, first, os.SEEK_HOLE)) < last:
                what = f"{name} has a hole at its byte {hole}, of which the core has nothing either"
                maker.refused.append(Refusal(word="missing", what=what))
                return


def _rounded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _in_file_alone(need: Need, span: tuple[int, int]) -> bool:
    """Whether all that lacks in a range are pages that had never left the file."""
    at = span[0]
    for start, end, reason in need.missing:
        if start <= at < end and reason == "file":
            at = end
    return at >= span[1]


def _first_difference(core: FinishedCore, descriptor: int, one: Mapped, start: int, end: int) -> int | None:
    """Return the first address whose page is not the file's."""
    for at in range(start, end, _PIECE):
        size = min(_PIECE, end - at)
        mine = core.read(at, size) or b""
        theirs = read_at(descriptor, size, one.offset + at - one.start).ljust(size, b"\0")
        if mine != theirs:
            pages = range(0, size, _PAGE)
            return at + next((page for page in pages if mine[page : page + _PAGE] != theirs[page : page + _PAGE]), 0)
    return None


# Shared memory without a name


def _objects(maker: _Maker, objects: dict[tuple[tuple[int, ...], int], list[Mapped]], paths: Paths) -> None:
    descriptors = {
        row.inode: row
        for row in reversed(maker.need.state.descriptors or ())
        if row.path.startswith(_MEMFD) and row.type == "regular"
    }
    done = set()
    for (_, inode), group in objects.items():
        path = group[0].path or b""
        if path.startswith(_SYSV):
            what = f"shared memory at {group[0].start:#x} is System V's, which others may have"
            maker.refused.append(Refusal(word="sysv", what=what))
            continue
        row = descriptors.get(inode) if path.startswith(_MEMFD) else None
        fd = -1 if row is None else row.shares
        size = max(one.offset + one.end - one.start for one in group) if row is None else row.size
        parts = tuple(
            (start, end - start, one.offset + start - one.start)
            for one in group
            for start, end in maker.core.stored(one.start, one.end)
        )
        content = paths.nameless.get(fd, b"")
        if not content:
            _check_content(maker, path, size, parts)
        name = path.removesuffix(DELETED).removeprefix(_MEMFD) if path.startswith(_MEMFD) else b"zero"
        for one in group:
            maker.areas.append(Area(mapped=one, kind="object", number=len(maker.objects)))
        maker.objects.append(ObjectNeeded(name=name, size=size, fd=fd, parts=parts, content=content))
        done.add(fd)
    for row in descriptors.values():
        if row.shares not in done:
            content = paths.nameless.get(row.shares, b"")
            if not content:
                _check_content(maker, row.path, row.size, ())
            name = row.path.removesuffix(DELETED).removeprefix(_MEMFD)
            needed = ObjectNeeded(name=name, size=row.size, fd=row.shares, parts=(), content=content)
            maker.objects.append(needed)
            done.add(row.shares)


def _check_content(maker: _Maker, path: bytes, size: int, parts: Sequence[tuple[int, int, int]]) -> None:
    """All of an object's content must be in the core."""
    at = 0
    for offset, end in sorted((offset, offset + length) for _, length, offset in parts):
        if offset <= at:
            at = max(at, end)
    if at < size:
        what = f"the core lacks what is in {printable(path)} from its byte {at} on"
        maker.refused.append(Refusal(word="missing", what=what))
