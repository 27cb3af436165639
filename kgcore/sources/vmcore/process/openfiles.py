# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the open files of a process, and their contents."""

import stat
from collections.abc import Iterator

from drgn import FaultError, Object

from kgcore.errors import BrokenDump, KgcoreError
from kgcore.model.memory import Piece, Run
from kgcore.model.process import MappedFile, OpenFile, Socket, file_type
from kgcore.sources.base import OpenFiles
from kgcore.sources.vmcore.damage import guarding_each
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.extents import Extent
from kgcore.sources.vmcore.memory.pagecache import CachedFile
from kgcore.sources.vmcore.memory.pages import joined, pieces
from kgcore.sources.vmcore.task.sockets import Sockets
from kgcore.sources.vmcore.task.vmas import Paths

__all__ = ("file_contents", "open_files")

_O_CLOEXEC = 0o2000000
_FMODE_WRITE = 2
# fs.nr_open limits descriptors to a million, unless raised; a damaged dump may have any number.
_MAX_FDS = 1 << 24
_MAX_LOST = 4096  # in a table that is all garbage, each entry costs a failed read
_AT_ONCE = 1 << 12  # descriptors
_MAX_SIZE = 1 << 44  # about the largest file of ext4 and XFS
_ANON_INODE = b"anon_inode:"
# include/uapi/linux/magic.h
_OVERLAYFS = 0x794C7630
_HUGETLBFS = 0x958458F6
_IN_MEMORY = 0x01021994, 0x858458F6, _HUGETLBFS  # tmpfs, ramfs
_FILE = "f_mode", "f_flags", "f_pos", "f_inode", "private_data"


def open_files(backing: Backing, task: Object) -> OpenFiles:
    """See :meth:`kgcore.sources.base.Source.open_files`.

    :param task: ``struct task_struct *``
    :raises FaultError: the structures that lead to the table are not in the dump.
    """
    return _Reader(backing, task).all(int(task.tgid.value_()), task.files.value_())


class _Reader:
    """Reads a ``struct files_struct``."""

    def __init__(self, backing: Backing, task: Object) -> None:
        self._backing = backing
        self._kernel = backing.kernel
        self._paths = Paths(backing.kernel, task)
        self._sockets = Sockets(backing.kernel)
        self._files = backing.kernel.structs("struct file", *_FILE)
        self._inodes = backing.kernel.structs("struct inode", "i_ino")
        self._gone: list[tuple[int, int, str]] = []  # descriptors from, to, and why

    def all(self, tgid: int, address: int) -> OpenFiles:
        """Return all open files.

        :param address: of the ``struct files_struct``; 0: it is gone.
        :raises FaultError: the head of the table is not in the dump.
        """
        if not address:
            return OpenFiles(tgid, ())
        structs = self._kernel.structs
        table = structs("struct fdtable", "max_fds", "fd", "close_on_exec", "open_fds").read(
            structs("struct files_struct", "fdt").read(address)["fdt"]
        )
        count = table["max_fds"]
        if count > _MAX_FDS:
            self._gone.append((_MAX_FDS, count, "the size of the table is implausible"))
            count = _MAX_FDS
        files = tuple(
            file
            for first in range(0, count, _AT_ONCE)
            for file in self._some(table, first, min(_AT_ONCE, count - first))
            if len(self._gone) <= _MAX_LOST
        )
        if len(self._gone) > _MAX_LOST:
            self._gone.append((self._gone[-1][1], count, "too many others are lost: the search stopped"))
        return OpenFiles(tgid, files, tuple(self._sentences()))

    def _some(self, table: Members, first: int, count: int) -> Iterator[OpenFile]:
        """Yield the open files of a range of descriptors.

        :param first: descriptor; a multiple of the bits of a word.
        """
        size = self._kernel.word_size
        try:
            is_open = self._bits(table["open_fds"], first, count)
            if not is_open:
                return
            cloexec = self._bits(table["close_on_exec"], first, count)
            pointers = kernel_bytes(self._kernel.prog, table["fd"] + first * size, count * size)
        except FaultError as error:
            self._gone.append((first, first + count, in_words(error)))
            return
        for number in range(count):
            address = self._kernel.word_at(pointers, number * size) if is_open >> number & 1 else 0
            if address and len(self._gone) <= _MAX_LOST:  # 0: taken, but not open yet
                try:
                    yield self._file(first + number, address, bool(cloexec >> number & 1))
                except FaultError as error:
                    self._gone.append((first + number, first + number + 1, in_words(error)))

    def _bits(self, bitmap: int, first: int, count: int) -> int:
        raw = kernel_bytes(self._kernel.prog, bitmap + first // 8, -(-count // 8))
        return int.from_bytes(raw, "little") & (1 << count) - 1

    def _sentences(self) -> Iterator[str]:
        """Yield sentences about lost descriptors, one for all neighbours."""
        pending: tuple[int, int, str] | None = None
        for first, end, why in self._gone:
            if pending is not None and pending[1] == first:
                pending = (pending[0], end, pending[2])
                continue
            if pending is not None:
                yield _sentence(*pending)
            pending = (first, end, why)
        if pending is not None:
            yield _sentence(*pending)

    def _file(self, fd: int, address: int, cloexec: bool) -> OpenFile:
        """Return one open file.

        :raises FaultError: its ``struct file`` is not in the dump.
        """
        file = self._files.read(address)
        flags = file["f_flags"] & ~_O_CLOEXEC | (_O_CLOEXEC if cloexec else 0)
        try:
            named = self._paths.mapped_file(address)
            inode = self._inodes.read(file["f_inode"])["i_ino"]
        except FaultError:
            return OpenFile(
                fd=fd,
                file=address,
                path=None,
                type="unknown",
                flags=flags,
                offset=file["f_pos"],
                mode=0,
                size=0,
                nlink=1,
                inode=0,
            )
        kind = file_type(named.mode)
        if named.path is not None and named.path.startswith(_ANON_INODE):
            kind = "anon_inode"  # some have the mode of a regular file
        return OpenFile(
            fd=fd,
            file=address,
            path=named.path,
            type=kind,
            flags=flags,
            offset=file["f_pos"],
            mode=named.mode,
            size=named.size,
            nlink=named.nlink,
            inode=inode,
            in_memory=kind == "regular" and self._in_memory(address),
            socket=self._socket(file["private_data"]) if kind == "socket" else None,
        )

    def _in_memory(self, address: int) -> bool:
        try:
            return _cached(self._backing, address).in_memory
        except FaultError:
            return False

    def _socket(self, address: int) -> Socket | None:
        try:
            return self._sockets.read(address)
        except FaultError:
            return None


def _sentence(first: int, end: int, why: str) -> str:
    if end == first + 1:
        return f"file descriptor {first} is lost: {why}"
    return f"file descriptors {first} to {end - 1}, if open, are lost: {why}"


def file_contents(backing: Backing, file: OpenFile) -> "_Contents":
    """See :meth:`kgcore.sources.base.Source.contents`."""
    if file.type != "regular":
        raise KgcoreError(f"file descriptor {file.fd} is not a regular file: a dump holds no content of it")
    try:
        cached = _cached(backing, file.file)
    except FaultError as error:
        raise BrokenDump(f"file descriptor {file.fd}: its file is not in the dump: {in_words(error)}") from error
    if cached.size > _MAX_SIZE:
        raise BrokenDump(f"file descriptor {file.fd}: implausible file size: {cached.size} bytes")
    return _Contents(backing, MappedFile(file.path, file.nlink, file.mode, file.size), cached)


def _cached(backing: Backing, address: int) -> CachedFile:
    """Return a file as the page cache knows it.

    :param address: of a ``struct file``
    :raises FaultError: its structures are not in the dump.
    """
    kernel = backing.kernel
    file = kernel.structs("struct file", *_FILE).read(address)
    real = _beneath_overlay(kernel, file) or file
    magic = _magic(kernel, real["f_inode"])
    cached = backing.cache.file(Object(kernel.prog, "struct file *", real.address), hugetlb=magic == _HUGETLBFS)
    # Files of sysfs have the operations of ramfs but no pages: the kernel makes their content on read.
    return cached._replace(in_memory=cached.in_memory and magic in _IN_MEMORY)


def _beneath_overlay(kernel: Kernel, file: Members) -> Members | None:
    """Return the ``struct file`` that has the pages of an overlayfs file, as in containers, which has no pages itself.

    Only for a file that is open for writing: it was copied up before. The content of others may have moved since.
    ``private_data`` has no type in the kernel itself: it points to the real file, or, since 6.13, to a ``struct
    ovl_file`` that begins with its address (18e48d0e2c7b "ovl: store upper real file in ovl_file struct").
    """
    if not file["f_mode"] & _FMODE_WRITE or _magic(kernel, file["f_inode"]) != _OVERLAYFS:
        return None
    files = kernel.structs("struct file", *_FILE)
    sizes = kernel.structs("struct inode", "i_size", "i_mode")
    own = sizes.read(file["f_inode"])
    candidates = [file["private_data"]]
    try:
        candidates.append(int(kernel.prog.read_word(file["private_data"])))
    except FaultError:
        return None
    for address in candidates:
        try:
            other = files.read(address)
            inode = sizes.read(other["f_inode"])
            if (
                stat.S_ISREG(inode["i_mode"])
                and inode["i_size"] == own["i_size"]
                and _magic(kernel, other["f_inode"]) != _OVERLAYFS
            ):
                return other
        except FaultError:
            continue
    return None


def _magic(kernel: Kernel, inode: int) -> int:
    """Return the magic number of an inode's file system."""
    superblock = kernel.structs("struct inode", "i_sb").read(inode)["i_sb"]
    return int(kernel.structs("struct super_block", "s_magic").read(superblock)["s_magic"])


class _Contents:
    """:class:`kgcore.sources.base.Contents` of a file."""

    def __init__(self, backing: Backing, named: MappedFile, cached: CachedFile) -> None:
        self._backing = backing
        self._named = named
        self._cached = cached
        self.size = cached.size
        self._page_shift, self._page_size = backing.kernel.page_shift, backing.kernel.page_size
        self._pages = -(-cached.size >> self._page_shift)

    @guarding_each("cannot read the contents of the file")
    def runs(self) -> Iterator[Run]:
        """See :meth:`kgcore.sources.base.Contents.runs`."""
        return joined(self._extents(), self._page_shift)

    @guarding_each("cannot read the contents of the file")
    def read(self) -> Iterator[Piece]:
        """See :meth:`kgcore.sources.base.Contents.read`."""
        return pieces(self._extents(), self._pages * self._page_size, self._page_size)

    def unwritten(self) -> int | None:
        """See :meth:`kgcore.sources.base.Contents.unwritten`."""
        try:
            return self._backing.cache.unwritten(self._cached)
        except FaultError:
            return None

    def _extents(self) -> Iterator[Extent]:
        """Yield the extents of the file.

        :raises BrokenDump: the structures that lead to its pages in the page cache are not in the dump.
        """
        found = self._backing.cache.extents(self._cached, 0, self._pages, 0)
        root = self._backing.root
        if root is not None and not self._cached.in_memory:
            found = root.fill(self._named, self._cached, 0, found)
        try:
            yield from found
        except FaultError as error:
            raise BrokenDump(f"the page cache is unreadable: {in_words(error)}") from error
