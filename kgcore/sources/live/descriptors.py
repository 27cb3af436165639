# SPDX-License-Identifier: LGPL-2.1-or-later
"""The open files of a process of this machine: /proc/PID/fd and fdinfo."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress

from kgcore.errors import KgcoreError
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import DELETED, OpenFile, Socket, file_type
from kgcore.sources.base import Contents, OpenFiles
from kgcore.sources.filepieces import file_pieces, whole_pages
from kgcore.sources.live.image import architecture_here
from kgcore.sources.live.procfs import read
from kgcore.sources.live.sockets import Sockets
from kgcore.system.regular import open_regular

__all__ = ("contents_of", "open_files")

_KCMP_FILE = 0  # include/uapi/linux/kcmp.h
_EQUAL, _GREATER = 0, 2  # what kcmp(2) returns
_IN_MEMORY = (b"tmpfs", b"ramfs", b"hugetlbfs", b"devtmpfs")
_MEMORY_NAMES = (b"/memfd:", b"/SYSV", b"/dev/zero" + DELETED, b"/anon_hugepage")  # of mounts that no namespace shows
_ANON_INODE = b"anon_inode:"


def open_files(pid: int, view: int) -> OpenFiles:
    """List the open files of a process.

    :param view: id of a thread of it that has not exited.
    :raises OSError: they may not be read, or it has ended.
    """
    numbers = sorted(int(name) for name in os.listdir(f"/proc/{view}/fd"))
    memory = _in_memory(view)
    sockets = Sockets(view)
    same = _Same(view)
    found: list[OpenFile] = []
    lost: list[str] = []
    for number in numbers:
        try:
            found.append(_open_file(view, number, memory, sockets, same))
        except FileNotFoundError:
            continue  # closed meanwhile, by a process that goes on
        except (OSError, ValueError, KeyError) as error:
            lost.append(f"file descriptor {number} cannot be read: {error}")
    return OpenFiles(pid, tuple(found), tuple(lost))


def _open_file(pid: int, number: int, memory: frozenset[int], sockets: Sockets, same: "_Same") -> OpenFile:
    link = f"/proc/{pid}/fd/{number}"
    path = os.readlink(os.fsencode(link))
    info = dict(line.split(b":\t", 1) for line in read(f"/proc/{pid}/fdinfo/{number}").splitlines() if b":\t" in line)
    held = os.stat(link)
    kind = "anon_inode" if path.startswith(_ANON_INODE) else file_type(held.st_mode)
    offset, flags = int(info[b"pos"]), int(info[b"flags"], 8)
    socket: Socket | None = sockets.of(held.st_ino) if kind == "socket" else None
    return OpenFile(
        fd=number,
        file=same.number(number, (held.st_dev, held.st_ino, offset)),
        path=path,
        type=kind,
        flags=flags,
        offset=offset,
        mode=held.st_mode if kind != "anon_inode" else held.st_mode & 0o7777,
        size=held.st_size,
        nlink=held.st_nlink,
        inode=held.st_ino,
        in_memory=kind == "regular" and (int(info.get(b"mnt_id", b"0")) in memory or path.startswith(_MEMORY_NAMES)),
        socket=socket,
    )


def _in_memory(pid: int) -> frozenset[int]:
    """The ids of mounts whose files are only in memory."""
    found = set()
    with suppress(OSError):
        for line in read(f"/proc/{pid}/mountinfo").splitlines():
            before, _, after = line.partition(b" - ")
            if after.split(b" ", 1)[0] in _IN_MEMORY:
                found.add(int(before.split(b" ", 1)[0]))
    return frozenset(found)


class _Same:
    """Numbers open files: descriptors that share an offset get the same number (kcmp(2))."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._alike: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        self._count = 0
        here = architecture_here()
        self._call = here.system_calls[ctypes.sizeof(ctypes.c_long)].kcmp
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall

    def number(self, descriptor: int, key: tuple[int, int, int]) -> int:
        """Return the number of a descriptor's open file.

        :param key: what descriptors of one open file have in common.
        """
        # In kcmp's order, since there may be thousands: what has no file of its own (eventfds) has one inode.
        alike = self._alike.setdefault(key, [])
        low, high = 0, len(alike)
        while low < high:
            middle = (low + high) // 2
            other, number = alike[middle]
            order = self._syscall(self._call, self._pid, self._pid, _KCMP_FILE, descriptor, other)
            if order == _EQUAL:
                return number
            if order == _GREATER:
                low = middle + 1
            else:  # less; or an error: then it is taken for another file
                high = middle
        self._count += 1
        alike.insert(low, (descriptor, self._count))
        return self._count


def contents_of(pid: int, file: OpenFile, page_size: int) -> "_FileContents":
    """Give the content of a regular file that a process has open.

    :raises KgcoreError: it is not a regular file, or cannot be opened.
    """
    if file.type != "regular":
        raise KgcoreError(f"file descriptor {file.fd} is not a regular file: it has no content")
    try:
        descriptor = open_regular(f"/proc/{pid}/fd/{file.fd}")
    except OSError as error:
        raise KgcoreError(f"file descriptor {file.fd} cannot be opened: {error.strerror}") from error
    return _FileContents(descriptor, page_size)


class _FileContents(Contents):
    """A file, read now."""

    def __init__(self, descriptor: int, page_size: int) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._page_size = page_size
        self.size = os.fstat(descriptor).st_size

    def runs(self) -> Iterator[Run]:
        """See :meth:`kgcore.sources.base.Contents.runs`."""
        if self.size:
            yield Run(0, whole_pages(self.size, self._page_size), Provenance.PAGE_CACHE)

    def read(self) -> Iterator[Piece]:
        """See :meth:`kgcore.sources.base.Contents.read`."""
        length = whole_pages(self.size, self._page_size)
        yield from file_pieces(self._file.fileno(), 0, length, self._page_size, 0)
