# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the mapped programs and libraries of a process as files, as far as the dump holds them."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

from drgn import FaultError, Object

from kgcore.model.lost import Lost
from kgcore.model.memory import Piece
from kgcore.model.process import VM_EXEC, VM_HUGETLB, MappedFile
from kgcore.sources.base import FileContents
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.extents import Extent
from kgcore.sources.vmcore.memory.pagecache import CachedFile
from kgcore.sources.vmcore.memory.pages import pieces
from kgcore.sources.vmcore.task.vmas import Paths, vma_members

__all__ = ("mapped_programs",)

_ELF = b"\x7fELF"
_MAX_SIZE = 1 << 44  # about the largest file of ext4 and XFS


@dataclass
class _Mapped:
    """A mapped file, perhaps mapped in several parts.

    :ivar path: raw, as in NT_FILE.
    :ivar name: the path without the suffix that the kernel adds.
    :ivar executable: one of the mappings is executable.
    """

    path: bytes
    name: bytes
    named: MappedFile
    cached: CachedFile
    executable: bool = False


def mapped_programs(backing: Backing, task: Object, mm: Object) -> Iterator[FileContents | Lost]:
    """See :meth:`kgcore.sources.base.HasMappedFiles.files`.

    :param task: ``struct task_struct *``, to whose root directory the paths are relative
    :param mm: ``struct mm_struct *``
    """
    found: dict[tuple[bytes, int], _Mapped] = {}
    lost: dict[str, int] = {}
    paths = Paths(backing.kernel, task)
    look = cache(partial(_look, backing, paths))  # thousands of mappings may be of one file
    for file, flags in _opened(backing, mm):
        mapped = file if isinstance(file, Lost) else look(file)
        if isinstance(mapped, Lost):
            lost[mapped.reason] = lost.get(mapped.reason, 0) + 1
            continue
        if mapped is None or (flags or 0) & VM_HUGETLB:
            continue
        # On overlayfs the executable is not the file whose pages are mapped, and has no pages.
        if flags is None and any(path == mapped.path for path, _ in found):
            continue
        known = found.setdefault((mapped.path, mapped.cached.mapping), mapped)
        known.executable |= flags is None or bool(flags & VM_EXEC)
    for mapped in sorted(found.values(), key=lambda one: one.named.deleted):
        if _is_program(backing, mapped):
            key = mapped.name, mapped.cached.mapping
            read = partial(_read, backing, mapped)
            yield FileContents(
                path=mapped.name,
                size=mapped.cached.size,
                mode=mapped.named.mode,
                deleted=mapped.named.deleted,
                key=key,
                read=read,
            )
    yield from (Lost(why if times == 1 else f"{why} ({times} times)") for why, times in lost.items())


def _opened(backing: Backing, mm: Object) -> Iterator[tuple[int | Lost, int | None]]:
    """Yield the address of each mapped ``struct file`` with its mapping's flags; last, the executable with None."""
    for vma in vma_members(backing.kernel, mm):
        if isinstance(vma, Lost):
            yield vma, None
            continue
        try:
            file, flags = vma["vm_file"], vma["vm_flags"]
        except FaultError:
            yield Lost("a mapping is not in the dump"), None
            continue
        if file:
            yield file, flags
    try:
        file = mm.exe_file.value_()
    except FaultError:
        yield Lost("the executable is not in the dump"), None
    else:
        if file:
            yield file, None


def _look(backing: Backing, paths: Paths, file: int) -> _Mapped | Lost | None:
    """Return the mapped file of a ``struct file``, or why it is lost; None: not a regular file."""
    try:
        named = paths.mapped_file(file)
        if not stat.S_ISREG(named.mode):
            return None
        if named.path is None or named.name is None:
            return Lost("the name of a mapped file was not found")
        cached = backing.cache.file(Object(backing.kernel.prog, "struct file *", file))
        return _Mapped(named.path, named.name, named, cached)
    except FaultError:
        return Lost("a mapped file is not in the dump")


def _is_program(backing: Backing, mapped: _Mapped) -> bool:
    """Tell whether a mapped file is an ELF file.

    If that is unknown, tell whether it is mapped like one and has or had a name in a directory (not memfd_create()).
    """
    if not 0 < mapped.cached.size <= _MAX_SIZE:
        return False
    page = backing.kernel.page_size
    for run, data in pieces(_extents(backing, mapped, 1), page, page):
        if run.provenance.stored:
            return bytes(data[: len(_ELF)]) == _ELF
        if not run.provenance.missing:
            return False
    return mapped.executable and not (mapped.cached.in_memory and mapped.named.deleted)


def _read(backing: Backing, mapped: _Mapped) -> Iterator[Piece]:
    page = backing.kernel.page_size
    count = -(-mapped.cached.size // page)
    return pieces(_extents(backing, mapped, count), count * page, page)


def _extents(backing: Backing, mapped: _Mapped, count: int) -> Iterator[Extent]:
    """Yield the first pages of a file from the page cache, by their offsets."""
    found = backing.cache.extents(mapped.cached, 0, count, 0)
    return backing.root.fill(mapped.named, mapped.cached, 0, found) if backing.root is not None else found
