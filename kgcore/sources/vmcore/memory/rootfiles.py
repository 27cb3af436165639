# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of mapped files that the dump lacks, read from the same files in a directory that the user names.

kgcore reads two kinds of pages: those that were not in the page cache, which the kernel itself would have read from the
disk; and those that were in the page cache, unchanged since they were read from or written to the disk, and that
makedumpfile left out.

It reads them only from a file that is proven to be the mapped one. A file of the same size is proven

* if its GNU build id equals the build id of the file in the dump, or
* if every page that the dump holds is the same (except where bad sectors took bytes of the user's file), and at least
  one of these pages is significant: whole and not all zeros, or
* if it is a program or library (an ELF file) and the same inode: number, size, mtime and ctime are the same to the
  nanosecond. No program can set the ctime, so nothing has happened to the inode since. (This applies to ELF files only:
  anybody can stat a file without permission to read it, and a forged dump must not make kgcore copy other files.)

No proof counts if a page that the dump holds differs. If the file was open for writing when the machine crashed, the
first two proofs count only if its time of last change is the same: the writer may have gone on.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from weakref import finalize

from drgn import FaultError, Object

from kgcore.elf.buildid import build_id
from kgcore.errors import BrokenDump, TargetError
from kgcore.model.memory import Provenance
from kgcore.model.process import MappedFile
from kgcore.sources.inroot import open_in_root
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.memory.extents import Extent, Place, Reader
from kgcore.sources.vmcore.memory.pagecache import CachedFile, PageCache
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.system.regular import read_at
from kgcore.text import first_names, plain

__all__ = ("Identity", "RootFiles", "identity")

_PIECE = 1 << 20  # compared at once
_MOST_BAD = 256  # unreadable pages; each may take seconds on a broken disk
_ELF = b"\x7fELF"
_NAMED = 3  # files named in one sentence
_Clean = Callable[[CachedFile, int, int], Iterator[tuple[int, int, int]]]  # PageCache.clean
_NSEC_MASK = (1 << 30) - 1  # the bit above is I_CTIME_QUERIED, include/linux/fs.h (6.13)


class Identity(NamedTuple):
    """The identity of an inode and its state within its file system; times in nanoseconds."""

    number: int
    size: int
    mtime: int
    ctime: int


def identity(descriptor: int) -> Identity:
    """Return the identity of an open file."""
    found = os.fstat(descriptor)
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Page(NamedTuple):
    """Adjacent pages of a file that are in the dump."""

    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that may be one of the mapped files.

    :ivar objection: why it is not used, as a predicate; "": it is used.
    """

    objection: str = ""
    reader: "_RootFile | None" = None


class RootFiles:
    """The files of the crashed machine, in a directory that the user names."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, cache: PageCache, directory: str) -> None:
        """Open the directory.

        :raises TargetError: the directory does not exist.
        """
        self._kernel = kernel
        self._physical = physical
        self._page_shift = kernel.page_shift
        self._cache = cache
        self._directory = directory
        try:
            self._root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(f"cannot open {directory}: {error.strerror}") from error
        finalize(self, os.close, self._root)
        self._known: dict[tuple[bytes, int], _Candidate] = {}

    def remarks(self, files: Iterable[MappedFile]) -> Iterator[str]:
        """Yield sentences about the user's files that match some of these mapped files but were not used."""
        wanted = {file.path for file in files}
        refused: dict[str, list[str]] = {}
        for (path, _), candidate in self._known.items():
            if path in wanted and candidate.objection:
                refused.setdefault(candidate.objection, []).append(plain(path))
        for objection, paths in refused.items():
            if len(paths) == 1:
                yield f"{self._shown(paths[0])} {objection}"
            else:
                yield f"in {self._directory}, each of {first_names(paths, _NAMED)} {objection}"

    def _shown(self, path: str) -> str:
        return self._directory.rstrip("/") + path

    def fill(self, named: MappedFile, file: CachedFile, offset: int, extents: Iterator[Extent]) -> Iterator[Extent]:
        """Yield the same extents, with missing pages filled from the user's file where that is safe.

        :param offset: of the file's byte that address 0 would map; may be negative.
        :param extents: of memory that is mapped from the file, including private copies of its pages.
        """
        if not _may_be_given(named, file):
            yield from extents
            return
        for extent in extents:
            run = extent.run
            if run.provenance is Provenance.FILE and not run.detail:  # else what the cache had is unknown
                yield from self._give(named, file, offset, extent, run.address, run.end)
            elif run.provenance is Provenance.EXCLUDED and extent.place is not None:
                yield from self._excluded(named, file, offset, extent, extent.place)
            else:
                yield extent

    def _excluded(
        self, named: MappedFile, file: CachedFile, offset: int, extent: Extent, place: Place
    ) -> Iterator[Extent]:
        """Yield an extent of pages that were in memory but are not in the dump, filled where possible.

        Private copies stay missing: the page cache has a different page for that part of the file.
        """
        start, end = extent.run.address, extent.run.end
        at = start
        first = start + offset >> self._page_shift
        for page, count, physical in self._clean(file, first, end - start >> self._page_shift):
            low = start + (page - first << self._page_shift)
            high = min(low + (count << self._page_shift), end)
            if low < at or physical != place.at + (low - start):
                continue
            if at < low:
                yield _part(extent, at, low)
            yield from self._give(named, file, offset, extent, low, high)
            at = high
        if at < end:
            yield _part(extent, at, end)

    def _clean(self, file: CachedFile, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield the pages of :meth:`PageCache.clean`; none if the file is mapped shared and writable anywhere.

        Then a write may show in the page-table entry alone. Most file systems learn of the first write to a page and
        mark the page (``vm_ops->page_mkwrite``, vma_needs_dirty_tracking(), mm/mmap.c), but not all do.
        """
        try:
            mapping = Object(self._kernel.prog, "struct address_space *", file.mapping)
            if mapping.i_mmap_writable.counter.value_() > 0:
                return
        except FaultError:
            return
        yield from self._cache.clean(file, first, count)

    def _give(
        self, named: MappedFile, file: CachedFile, offset: int, extent: Extent, low: int, high: int
    ) -> Iterator[Extent]:
        """Yield a part of an extent, from the user's file if that is proven to be the mapped one."""
        part, reader = _part(extent, low, high), self._candidate(named, file).reader
        if reader is not None:
            part = Extent(part.run._replace(provenance=Provenance.ROOT, detail=""), Place(reader, low + offset))
        yield part

    # The proof

    def _candidate(self, named: MappedFile, file: CachedFile) -> _Candidate:
        key = (named.path or b"", file.mapping)
        if key not in self._known:
            self._known[key] = self._look(key[0], file)
        return self._known[key]

    def _look(self, path: bytes, file: CachedFile) -> _Candidate:
        try:
            descriptor = open_in_root(self._root, path)
        except FileNotFoundError:
            return _Candidate()
        except OSError as error:
            return _Candidate(f"cannot be opened: {error.strerror}")
        try:
            ours = identity(descriptor)
            objection = _judge(descriptor, ours, _Mapped(self._kernel, self._physical, file, self._clean))
        except OSError as error:
            objection = f"cannot be read: {error.strerror}"
        finally:
            os.close(descriptor)
        if objection:
            return _Candidate(objection)
        return _Candidate(reader=_RootFile(self._root, path, self._shown(plain(path)), ours))


class _Mapped:
    """A mapped file, as the dump knows it."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, file: CachedFile, clean: _Clean) -> None:
        self.file = file
        self.page_size = kernel.page_size
        self._page_shift = kernel.page_shift
        self._kernel = kernel
        self._physical = physical
        self._clean = clean

    def pages(self, first: int, count: int) -> Iterator[_Page]:
        """Yield the pages in the dump whose content is, or will be, on the disk."""
        for page, length, physical in self._clean(self.file, first, count):
            for run, place, _ in self._physical.extents(page << self._page_shift, length << self._page_shift, physical):
                if place is None or not run.provenance.stored:
                    continue
                for done in range(0, run.length, _PIECE):
                    try:
                        data = place.reader.read(place.at + done, min(_PIECE, run.length - done))
                    except (FaultError, BrokenDump):
                        continue
                    yield _Page(run.address + done, data[: self.file.size - run.address - done])

    def read(self, at: int, size: int) -> bytes | None:
        """Return a part of the file; None if it is not in the dump."""
        if not 0 <= at < self.file.size or size <= 0:
            return None
        size = min(size, self.file.size - at)
        first, last = at >> self._page_shift, at + size - 1 >> self._page_shift
        data = b""
        for page in self.pages(first, last - first + 1):
            if page.at != (first << self._page_shift) + len(data):
                return None
            data += page.data
        part = data[at - (first << self._page_shift) :][:size]
        return part if len(part) == size else None

    def identity(self) -> Identity | None:
        """Return the identity of the inode; None if it is not in the dump."""
        try:
            inode = self._inode()
            return Identity(inode.i_ino.value_(), self.file.size, _time(inode, "mtime"), _time(inode, "ctime"))
        except (FaultError, LookupError):
            return None

    def writable(self) -> bool:
        """Tell whether anybody may have been writing to the file."""
        try:
            inode = self._inode()
            return bool(inode.i_writecount.counter.value_() > 0 or inode.i_mapping.i_mmap_writable.counter.value_() > 0)
        except FaultError:
            return True

    def _inode(self) -> Object:
        return Object(self._kernel.prog, "struct address_space *", self.file.mapping).host


def _time(inode: Object, name: str) -> int:
    """Return a time of an inode in nanoseconds.

    Discrete integers since 3aa63a569c64 "fs: switch timespec64 fields in inode to discrete integers" (6.11); before,
    ``__i_ctime`` and ``__i_mtime`` since 13bc24457850 and 12cd44023651 (6.6, 6.7).
    """
    members = {member.name for member in inode.prog_.type("struct inode").members or ()}
    if f"i_{name}_sec" in members:
        seconds, nanoseconds = inode.member_(f"i_{name}_sec"), inode.member_(f"i_{name}_nsec")
    else:
        found = inode.member_(f"__i_{name}" if f"__i_{name}" in members else f"i_{name}")
        seconds, nanoseconds = found.tv_sec, found.tv_nsec
    return int(seconds.value_()) * 1_000_000_000 + (int(nanoseconds.value_()) & _NSEC_MASK)


def _is_elf(descriptor: int) -> bool:
    with suppress(OSError):
        return read_at(descriptor, len(_ELF), 0) == _ELF
    return False


def _judge(descriptor: int, ours: Identity, mapped: _Mapped) -> str:
    """Return why a file is not proven to be the mapped one, as a predicate; "" if it is proven.

    :raises OSError: a read that the proof needs fails.
    """
    size, page_size = mapped.file.size, mapped.page_size
    if ours.size != size:
        return f"is not the file that was mapped: it has {ours.size} bytes, not {size}"
    wanted = build_id(mapped.read)
    same_id = False
    trouble: OSError | None = None  # a bad sector costs its own bytes, not the file
    if wanted is not None:
        try:
            found = build_id(lambda at, count: read_at(descriptor, count, at) if at < size else None)
        except OSError as error:
            trouble = error
        else:
            if found != wanted:
                having = f"is {found.hex()}" if found else "is absent"
                return f"is not the file that was mapped: its build id {having}, not {wanted.hex()}"
            same_id = True
    told = False  # whether a significant page was compared
    bad = 0
    for page in mapped.pages(0, -(-size // page_size)):
        data: bytes | None = None
        with suppress(OSError):
            data = read_at(descriptor, len(page.data), page.at)
        for done in range(0, len(page.data), page_size):
            other = page.data[done : done + page_size]
            try:
                one = read_at(descriptor, len(other), page.at + done) if data is None else data[done : done + page_size]
            except OSError as error:
                trouble = error
                if (bad := bad + 1) > _MOST_BAD:
                    raise
                continue
            if one != other:
                return f"is not the file that was mapped: its page at offset {page.at + done:#x} differs"
            told = told or (len(one) == page_size and one != bytes(page_size))
    theirs = mapped.identity()
    if theirs == ours and _is_elf(descriptor):
        return ""
    if not (same_id or told):
        if trouble is not None:
            raise trouble
        return (
            "is not proven to be the file that was mapped: the dump holds no page to compare (the file system "
            "of that very machine, mounted, would be proof)"
        )
    if mapped.writable() and (theirs is None or theirs.mtime != ours.mtime):
        return "is not proven to be the file that was mapped: that was open for writing, and the times of change differ"
    return ""


# Files beneath a directory


class _RootFile(Reader):
    """A file that is proven to be the mapped one.

    It is opened for each read, since a process may map more files than kgcore may have open at a time.
    """

    def __init__(self, root: int, path: bytes, shown: str, known: Identity) -> None:
        self._root = root
        self._path = path
        self._shown = shown
        self._known = known

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`.

        Beyond the file's end there are zeros, as in memory.
        """
        try:
            descriptor = open_in_root(self._root, self._path)
            try:
                if identity(descriptor) != self._known:
                    raise FaultError(f"{self._shown} changed during the run", at)
                inside = max(0, min(len(view), self._known.size - at))
                data = read_at(descriptor, inside, at)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FaultError(f"cannot read {self._shown}: {error.strerror}", at) from error
        if len(data) < inside:
            raise FaultError(f"{self._shown} shrank", at)
        view[:] = data + bytes(len(view) - inside)


def _may_be_given(named: MappedFile, file: CachedFile) -> bool:
    """Tell whether a file's missing pages can be in a file system of the crashed machine at all."""
    return bool(
        named.path
        and named.path.startswith(b"/")
        and not named.deleted
        and stat.S_ISREG(named.mode)
        and not named.dax
        and not file.in_memory
        and file.shift == 0
    )


def _part(extent: Extent, low: int, high: int) -> Extent:
    """Return the part of an extent between two addresses."""
    run, place, slot = extent
    if place is not None:
        place = Place(place.reader, place.at + low - run.address)
    return Extent(run._replace(address=low, length=high - low), place, slot)
