# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in the descriptors of a process of this machine that are no files: fdinfo, and copies of pipes' ends."""

import ctypes
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kgcore.model.process import OpenFile
from kgcore.model.state import Descriptor, EpollItem, EventFd, Pipe, SignalFd, TimerFd, TimerValue
from kgcore.sources.insides import Insides
from kgcore.sources.live.image import architecture_here
from kgcore.sources.live.procfs import read

__all__ = ("descriptors",)

_F_GETPIPE_SZ, _F_SETPIPE_SZ = 1032, 1031
_F_GET_SEALS = 1034
_KCMP_EPOLL_TFD = 7  # include/uapi/linux/kcmp.h
_SPLICE_F_NONBLOCK = 2
_MAX_CONTENT = 1 << 20  # bytes of all pipes of a process
_MAX_LOOKS = 1 << 17  # for the files that items of epoll sets are about
_NS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.tee.restype = ctypes.c_ssize_t
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)


def descriptors(pid: int, view: int, files: Sequence[OpenFile]) -> tuple[Descriptor, ...]:
    """Return descriptors with what is in them.

    :param view: id of a thread of it that has not exited.
    """
    return _Reader(pid, view, files).all()


class _Reader(Insides[OpenFile]):
    def __init__(self, pid: int, view: int, files: Sequence[OpenFile]) -> None:
        super().__init__(files)
        self._pid = pid
        self._view = view
        self._pipes: dict[int, int] = {}  # inode of a pipe to the descriptor that has its content
        self._content = _MAX_CONTENT
        self._looks = _MAX_LOOKS
        self._calls = architecture_here().system_calls[ctypes.sizeof(ctypes.c_long)]

    def _inside(self, file: OpenFile, member: str) -> tuple[Any, Mapping[str, str]]:
        try:
            value = self._read(member, file)
        except OSError as error:
            return None, {member: _why(error)}
        except (ValueError, KeyError, IndexError):
            return None, {member: "fdinfo has it in another form"}
        lacks_kind = isinstance(value, EventFd) and value.semaphore is None
        return value, {"semaphore": "this kernel does not say it"} if lacks_kind else {}

    def _lines(self, file: OpenFile) -> Iterator[tuple[str, str]]:
        for line in read(f"/proc/{self._view}/fdinfo/{file.fd}").decode("ascii", "replace").splitlines():
            key, _, value = line.partition(":")
            yield key, value.strip()

    def _eventfd(self, file: OpenFile) -> EventFd:
        info = dict(self._lines(file))
        semaphore = info.get("eventfd-semaphore")
        return EventFd(count=int(info["eventfd-count"], 16), semaphore=None if semaphore is None else semaphore != "0")

    def _timerfd(self, file: OpenFile) -> TimerFd:
        info = dict(self._lines(file))
        value, interval = (_nanoseconds(info[key]) for key in ("it_value", "it_interval"))
        return TimerFd(
            clock=int(info["clockid"]),
            timer=TimerValue(value=value, interval=interval),
            ticks=int(info["ticks"]),
            flags=int(info["settime flags"], 8),
        )

    def _signalfd(self, file: OpenFile) -> SignalFd:
        return SignalFd(mask=int(dict(self._lines(file))["sigmask"], 16))

    # Epoll sets

    def _epoll(self, file: OpenFile) -> tuple[EpollItem, ...]:
        found = []
        same: dict[int, int] = {}  # how many items there were with a number
        for key, rest in self._lines(file):
            if key != "tfd":
                continue
            words = rest.replace(":", " ").split()
            number, info = int(words[0]), dict(zip(words[1::2], words[2::2], strict=True))
            nth = same[number] = same.get(number, -1) + 1
            found.append(
                EpollItem(
                    fd=number,
                    target=self._target(file.fd, number, nth, int(info["ino"], 16)),
                    events=int(info["events"], 16),
                    data=int(info["data"], 16),
                )
            )
        return tuple(sorted(found, key=lambda item: (item.fd, item.target, item.data)))

    def _target(self, epoll: int, number: int, nth: int, inode: int) -> int:
        """Return the lowest descriptor that an item is about, as kcmp(2) tells it; -1: it has none any more."""
        slot = struct.pack("<III", epoll, number, nth)
        likely = [row for row in self._open if row.fd == number]
        for row in (*likely, *(row for row in self._open if row.inode == inode and row.fd != number)):
            if row.fd != self._lowest[row.file] and row.fd != number:
                continue
            if not self._looks:
                raise OSError(errno.EFBIG, "too many items are about descriptors that were closed")
            self._looks -= 1
            call = self._calls.kcmp, self._pid, self._pid, _KCMP_EPOLL_TFD, ctypes.c_long(row.fd), slot
            result = _libc.syscall(*call)
            if result == 0:
                return self._lowest[row.file]
            if result < 0 and ctypes.get_errno() not in (errno.EBADF, errno.ENOENT):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return -1

    # Pipes, and seals: through a copy of the descriptor, which shares the open file and changes nothing of it

    @contextmanager
    def _copy(self, fd: int) -> Iterator[int]:
        process = os.pidfd_open(self._pid)
        try:
            copy = _libc.syscall(self._calls.pidfd_getfd, process, fd, 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(process)
        try:
            yield copy
        finally:
            os.close(copy)

    def _pipe(self, file: OpenFile) -> Pipe:
        with self._copy(file.fd) as copy:
            size = fcntl.fcntl(copy, _F_GETPIPE_SZ)
            (unread,) = struct.unpack("i", fcntl.ioctl(copy, termios.FIONREAD, bytes(4)))
        content, unknown = None, {}
        if (other := self._pipes.get(file.inode)) is not None:
            unknown["content"] = f"descriptor {other} has it"
        else:
            try:
                content = self._unread(file.inode, size, unread)
                self._pipes[file.inode] = file.fd
            except OSError as error:
                unknown["content"] = _why(error)
        return Pipe(size=size, unread=unread, content=content, unknown=unknown)

    def _unread(self, inode: int, size: int, unread: int) -> bytes:
        """Return what is in a pipe, and leave it there (tee(2)).

        :raises OSError: that is not possible.
        """
        if not unread:
            return b""
        if unread > self._content:
            raise OSError(errno.EFBIG, f"the process's pipes hold more than {_MAX_CONTENT >> 20} MiB")
        reads = (
            row.fd for row in self._open if row.type == "fifo" and row.inode == inode and not row.flags & os.O_WRONLY
        )
        fd = next(reads, None)
        if fd is None:
            raise OSError(errno.EBADF, "no descriptor of the process reads it")
        ends = os.pipe()
        try:
            if size > fcntl.fcntl(ends[1], _F_GETPIPE_SZ):
                fcntl.fcntl(ends[1], _F_SETPIPE_SZ, size)
            with self._copy(fd) as copy:
                count = _libc.tee(copy, ends[1], size, _SPLICE_F_NONBLOCK)
            if count < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            found = bytearray()
            while len(found) < count:
                found += os.read(ends[0], count - len(found))
        finally:
            os.close(ends[0])
            os.close(ends[1])
        if len(found) != unread:
            raise OSError(errno.EAGAIN, f"{len(found)} of {unread} bytes could be read")
        self._content -= len(found)
        return bytes(found)

    def _seals(self, file: OpenFile) -> int:
        with self._copy(file.fd) as copy:
            return fcntl.fcntl(copy, _F_GET_SEALS)


def _nanoseconds(text: str) -> int:
    """Return a time as fdinfo has it: ``(1, 500)``."""
    seconds, nanoseconds = text.strip("()").split(",")
    return int(seconds) * _NS + int(nanoseconds)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
