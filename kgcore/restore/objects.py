# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open and make what the new process gets: files, pipes, shared memory and the like, before there is a process."""

import ctypes
import errno
import fcntl
import os
import resource
import select
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from kgcore.arch import RESUMING
from kgcore.model.state import TimerFd
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.descriptors import PlannedDescriptor
from kgcore.restore.mapped import ObjectNeeded
from kgcore.restore.plan import Plan
from kgcore.restore.stub import failed
from kgcore.system.regular import open_regular, read_at

__all__ = ("Objects", "opened")

_SECOND = 1_000_000_000  # ns
_PIECE = 1 << 20
_SIGSET = 128  # bytes of the C library's sigset_t
_F_SEAL_WRITE = 8
_TFD_IOC_SET_TICKS = 0x40085400  # _IOW('T', 0, __u64)
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_SET_LATER = os.O_NONBLOCK | os.O_APPEND | getattr(os, "O_DIRECT", 0) | os.O_NOATIME

_libc = ctypes.CDLL(None, use_errno=True)


class Objects:
    """What the new process gets, as descriptors of ours.

    :ivar above: all of them have this number or a higher one.
    :ivar placed: our descriptors, and the number that each has there.
    :ivar watched: as :class:`kgcore.restore.stub.Launch` has it.
    :ivar files: of :attr:`kgcore.restore.mapped.MemoryPlan.files`, and ``objects`` of its objects.
    """

    def __init__(self, plan: Plan, core: FinishedCore) -> None:
        self._plan = plan
        self._core = core
        self._opened: list[int] = []
        self._own: dict[int, int] = {}  # number there to descriptor here
        self._late: list[tuple[int, TimerFd]] = []
        numbers = [row.fd for row in plan.descriptors.planned]
        epolls = [item.fd for row in plan.descriptors.planned if row.was for item in row.was.epoll or ()]
        self.above = max((*numbers, *epolls, 63)) + 1
        self.files: list[int] = []
        self.objects: list[int] = []
        self.watched: list[tuple[int, int, int, bytes]] = []

    @property
    def placed(self) -> tuple[tuple[int, int], ...]:
        return tuple((here, there) for there, here in self._own.items())

    @property
    def kept(self) -> tuple[int, ...]:
        """Those that are mapped."""
        return (*self.files, *self.objects)

    def open(self) -> None:
        """Open and make all of them.

        :raises NotRestarted: something cannot be had.
        """
        for number, file in enumerate(self._plan.memory.files):
            self.files.append(self._step(f"map {os.fsdecode(file.path)}", "open", partial(self._mapped, number)))
        for needed in self._plan.memory.objects:
            self.objects.append(self._step("make shared memory", "memfd_create", partial(self._memory, needed)))
        for row in self._plan.descriptors.planned:
            if row.fd not in self._own:
                self._step(f"have descriptor {row.fd} again", row.kind, partial(self._make, row))
        for row in self._plan.descriptors.planned:
            if row.kind == "same":
                self._own[row.fd] = self._own[row.of]
        form = RESUMING[self._plan.need.view].epoll_event
        for row in self._plan.descriptors.planned:
            for item in (row.was.epoll or ()) if row.kind == "epoll" and row.was is not None else ():
                event = struct.pack(form, item.events & 0xFFFFFFFF, item.data)
                self.watched.append((row.fd, item.target, item.fd, event))

    def _step(self, step: str, call: str, do: Callable[[], object]) -> int:
        try:
            found = do()
        except OSError as error:
            raise failed(step, call, error) from error
        return found if isinstance(found, int) else -1

    def _keep(self, descriptor: int) -> int:
        """Move a descriptor out of the way of those of the new process."""
        try:
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self.above)
        finally:
            os.close(descriptor)
        self._opened.append(moved)
        return moved

    def _mapped(self, number: int) -> int:
        file = self._plan.memory.files[number]
        access = os.O_RDWR if file.writable else os.O_RDONLY
        descriptor = self._keep(os.open(file.path, access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (file.device, file.inode):
            raise OSError(errno.ESTALE, "it is another file than a moment ago")
        return descriptor

    def _memory(self, needed: ObjectNeeded) -> int:
        name = os.fsdecode(needed.name)
        descriptor = self._keep(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(descriptor, needed.size)
        if needed.content:
            _copy(needed.content, descriptor, needed.size)
        for address, size, offset in needed.parts:
            for at in range(0, size, _PIECE):
                data = self._core.read(address + at, min(_PIECE, size - at)) or b""
                # What was mapped beyond its end is not in it.
                data = data[: max(needed.size - offset - at, 0)]
                if data.count(0) != len(data):
                    _write_all(descriptor, data, offset + at)
        if self._seals(needed) & _F_SEAL_WRITE:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, self._seals(needed))
        return descriptor

    def _seals(self, needed: ObjectNeeded) -> int:
        rows = (row.was for row in self._plan.descriptors.planned if row.fd == needed.fd)
        return next((row.seals or 0 for row in rows if row is not None), 0)

    def seal(self) -> None:
        """Seal shared memory, which is mapped now.

        :raises NotRestarted: that failed.
        """
        for descriptor, needed in zip(self.objects, self._plan.memory.objects, strict=True):
            seals = self._seals(needed)
            if seals and not seals & _F_SEAL_WRITE:
                self._step("seal shared memory", "fcntl", partial(fcntl.fcntl, descriptor, fcntl.F_ADD_SEALS, seals))

    # Descriptors

    def _make(self, row: PlannedDescriptor) -> None:
        match row.kind:
            case "ours":
                self._own[row.fd] = self._keep(os.dup(row.of))
            case "file" | "directory" | "device":
                self._own[row.fd] = self._named(row)
            case "memfd":
                self._own[row.fd] = self._memfd(row)
            case "pipe":
                self._pipe(row)
            case "eventfd" | "timerfd" | "signalfd" | "epoll":
                self._own[row.fd] = self._anonymous(row)

    def _named(self, row: PlannedDescriptor) -> int:
        flags = row.flags & ~os.O_DIRECTORY
        if row.kind == "directory":
            flags |= os.O_DIRECTORY
        descriptor = self._keep(os.open(row.path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        mode = os.fstat(descriptor).st_mode
        right = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "device": stat.S_ISCHR}[row.kind]
        if not right(mode):
            raise OSError(errno.EINVAL, f"{os.fsdecode(row.path)} is of another kind")
        if not flags & os.O_NONBLOCK:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & _SET_LATER)
        if row.offset and row.kind != "device":
            os.lseek(descriptor, row.offset, os.SEEK_SET)
        return descriptor

    def _memfd(self, row: PlannedDescriptor) -> int:
        number = next(at for at, needed in enumerate(self._plan.memory.objects) if self._is(needed, row))
        access = row.flags & (os.O_RDWR | os.O_WRONLY)
        # A description of its own, with an offset of its own.
        path = f"/proc/self/fd/{self.objects[number]}"
        descriptor = self._keep(os.open(path, access | row.flags & _SET_LATER | os.O_CLOEXEC))
        if row.offset:
            os.lseek(descriptor, row.offset, os.SEEK_SET)
        return descriptor

    def _is(self, needed: ObjectNeeded, row: PlannedDescriptor) -> bool:
        if needed.fd == row.fd:
            return True
        first = next((one.was for one in self._plan.descriptors.planned if one.fd == needed.fd), None)
        return first is not None and row.was is not None and first.inode == row.was.inode

    def _pipe(self, row: PlannedDescriptor) -> None:
        ends = [one for one in self._plan.descriptors.planned if one.kind == "pipe" and one.of == row.of]
        reading, writing = map(self._keep, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        pipes = [one.was.pipe for one in ends if one.was is not None and one.was.pipe is not None]
        for pipe in pipes:
            if pipe.size:
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, pipe.size)
            content = pipe.content or b""
            if content and os.write(writing, content) != len(content):
                raise OSError(errno.ENOSPC, "it does not take its unread bytes")
        for end in ends:
            descriptor = reading if end.flags & (os.O_WRONLY | os.O_RDWR) == os.O_RDONLY else writing
            fcntl.fcntl(descriptor, fcntl.F_SETFL, end.flags & _SET_LATER)
            self._own[end.fd] = descriptor

    def _anonymous(self, row: PlannedDescriptor) -> int:
        was = row.was
        assert was is not None
        wait = row.flags & os.O_NONBLOCK
        if was.eventfd is not None:
            kind = os.EFD_SEMAPHORE if was.eventfd.semaphore else 0
            descriptor = self._keep(os.eventfd(0, kind | os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            if was.eventfd.count:
                os.eventfd_write(descriptor, was.eventfd.count)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, wait)
            return descriptor
        if was.timerfd is not None:
            descriptor = self._keep(_checked(_libc.timerfd_create(was.timerfd.clock, wait | os.O_CLOEXEC)))
            self._late.append((descriptor, was.timerfd))
            return descriptor
        if was.signalfd is not None:
            mask = ctypes.create_string_buffer(was.signalfd.mask.to_bytes(8, "little"), _SIGSET)
            return self._keep(_checked(_libc.signalfd(-1, mask, wait | os.O_CLOEXEC)))
        epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        try:
            return self._keep(os.dup(epoll.fileno()))
        finally:
            epoll.close()

    def start_timers(self) -> None:
        """Start the timerfds: from now on time passes for them.

        :raises NotRestarted: that failed.
        """
        for descriptor, was in self._late:
            self._step("start a timer", "timerfd_settime", partial(_start, descriptor, was))

    def close(self) -> None:
        """Close all: the new process has its own, and an end of a pipe that we keep would keep the pipe."""
        while self._opened:
            os.close(self._opened.pop())


def _start(descriptor: int, was: TimerFd) -> None:
    flags, value = 0, was.timer.value
    if was.flags & _TFD_TIMER_CANCEL_ON_SET and value:
        import time

        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        value += time.clock_gettime_ns(time.CLOCK_REALTIME)
    if value or was.timer.interval:
        words = (*divmod(was.timer.interval, _SECOND), *divmod(value, _SECOND))
        content = ctypes.create_string_buffer(struct.pack("=4q", *words))
        _checked(_libc.timerfd_settime(descriptor, flags, content, None))
    if was.ticks:
        fcntl.ioctl(descriptor, _TFD_IOC_SET_TICKS, struct.pack("=Q", was.ticks))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _copy(path: bytes, descriptor: int, size: int) -> None:
    """Copy a file. What are zeros in it is not written: it would take memory."""
    source = open_regular(path)
    try:
        for at in range(0, size, _PIECE):
            data = read_at(source, min(_PIECE, size - at), at)
            if data.count(0) != len(data):
                _write_all(descriptor, data, at)
    finally:
        os.close(source)


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)


@contextmanager
def opened(plan: Plan, core: FinishedCore) -> Iterator[Objects]:
    """Open and make all; at the end of the block they are closed.

    :raises NotRestarted: something cannot be had.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    objects = Objects(plan, core)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        objects.open()
        yield objects
    finally:
        objects.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
