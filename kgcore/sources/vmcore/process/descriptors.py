# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in the descriptors that are no files: eventfds, timerfds, signalfds, epoll sets, pipes; and seals of memfds.

The types are those of fs/eventfd.c, fs/timerfd.c, fs/signalfd.c, fs/eventpoll.c and include/linux/pipe_fs_i.h, whose
members have had the same names in every kernel since 5.5 (8cefc107ca54 "pipe: Use head and tail pointers for the ring,
not cursor and length").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from drgn import FaultError, offsetof

from kgcore.model.process import OpenFile
from kgcore.model.state import Descriptor, EpollItem, EventFd, Pipe, SignalFd, TimerFd, TimerValue
from kgcore.sources.insides import Insides
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import why_lost
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.task.clock import CLOCK_BOOTTIME_ALARM, CLOCK_REALTIME_ALARM, Clock

__all__ = ("descriptors",)

_SIGNALS = (1 << 64) - 1
_EFD_SEMAPHORE = 1
_HUGETLBFS = 0x958458F6  # include/uapi/linux/magic.h
_MAX_ITEMS = 1 << 16  # of all epoll sets of a process
_MAX_RING = 1 << 20  # buffers of a pipe; fs.pipe-max-size allows root more than anybody has
_MAX_CONTENT = 1 << 20  # bytes of all pipes of a process


def descriptors(backing: Backing, clock: Clock, files: Sequence[OpenFile]) -> tuple[Descriptor, ...]:
    """Return descriptors with what is in them."""
    return _Reader(backing, clock, files).all()


class _Reader(Insides[int]):
    def __init__(self, backing: Backing, clock: Clock, files: Sequence[OpenFile]) -> None:
        super().__init__(files)
        self._backing = backing
        self._kernel = backing.kernel
        self._clock = clock
        self._files = self._kernel.structs("struct file", "private_data", "f_inode")
        self._pipes: dict[int, int] = {}  # a pipe to the descriptor that has its content
        self._content = _MAX_CONTENT
        self._items = _MAX_ITEMS

    def _inside(self, file: OpenFile, member: str) -> tuple[Any, Mapping[str, str]]:
        try:
            found = self._files.read(file.file)
            return self._read(member, found["f_inode" if member == "seals" else "private_data"]), {}
        except (FaultError, LookupError) as error:
            return None, {member: why_lost(error)}

    def _eventfd(self, context: int) -> EventFd:
        found = self._kernel.structs("struct eventfd_ctx", "count", "flags").read(context)
        return EventFd(count=int(found["count"]), semaphore=bool(found["flags"] & _EFD_SEMAPHORE))

    def _timerfd(self, context: int) -> TimerFd:
        names = "tintv", "ticks", "clockid", "settime_flags"
        found = self._kernel.structs("struct timerfd_ctx", *names).read(context)
        clock, timer = int(found["clockid"]), context + self._at("struct timerfd_ctx", "t")
        if clock in (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM):
            left, _ = self._clock.left_of_alarm(timer, clock)
        else:
            left, _ = self._clock.left(timer)
        value = TimerValue(value=max(left, 0), interval=int(found["tintv"]))
        return TimerFd(clock=clock, timer=value, ticks=int(found["ticks"]), flags=int(found["settime_flags"]))

    def _signalfd(self, context: int) -> SignalFd:
        found = self._kernel.structs("struct signalfd_ctx", "sigmask").read(context)
        return SignalFd(mask=~int.from_bytes(found["sigmask"], "little") & _SIGNALS)  # it is kept the other way round

    # Epoll sets: a red-black tree

    def _epoll(self, context: int) -> tuple[EpollItem, ...]:
        root = self._kernel.structs("struct eventpoll", "rbr.rb_root.rb_node").read(context)["rbr.rb_root.rb_node"]
        items = self._kernel.structs(
            "struct epitem", "rbn.rb_left", "rbn.rb_right", "ffd.file", "ffd.fd", "event.events", "event.data"
        )
        at = self._at("struct epitem", "rbn")
        found: list[EpollItem] = []
        seen: set[int] = set()
        waiting = [root] if root else []
        while waiting:
            node = waiting.pop()
            if node in seen:
                raise FaultError("the tree of its items is circular", node)
            if not self._items:
                raise LookupError(f"the process's epoll sets have more than {_MAX_ITEMS} items")
            seen.add(node)
            self._items -= 1
            item = items.read(node - at)
            found.append(_item(item, self._lowest))
            waiting += [child for child in (item["rbn.rb_left"], item["rbn.rb_right"]) if child]
        return tuple(sorted(found, key=lambda item: (item.fd, item.target, item.data)))

    # Pipes: a ring of buffers

    def _pipe(self, pipe: int) -> Pipe:
        names = "head", "tail", "max_usage", "ring_size", "bufs"
        found = self._kernel.structs("struct pipe_inode_info", *names).read(pipe)
        fd = self._pipes.get(pipe)
        ring, used = int(found["ring_size"]), found["head"] - found["tail"] & 0xFFFF_FFFF
        if not 0 < ring <= _MAX_RING or ring & ring - 1 or used > ring:
            raise LookupError(f"an implausible ring: {used} of {ring} buffers")
        buffers = self._kernel.structs("struct pipe_buffer", "page", "offset", "len")
        step = self._kernel.prog.type("struct pipe_buffer").size or 0
        parts = [buffers.read(found["bufs"] + (found["tail"] + at & ring - 1) * step) for at in range(used)]
        unread = sum(part["len"] for part in parts)
        size = int(found["max_usage"]) << self._kernel.page_shift
        content, unknown = None, {}
        try:
            if fd is not None:
                raise LookupError(f"descriptor {fd} has it")
            content = self._bytes(parts, unread)
            self._pipes[pipe] = self._lowest_of(pipe)
        except (FaultError, LookupError) as error:
            unknown["content"] = why_lost(error)
        return Pipe(size=size, unread=unread, content=content, unknown=unknown)

    def _lowest_of(self, pipe: int) -> int:
        """Return the lowest descriptor of a pipe: the one that was asked for first."""
        return next(
            (file.fd for file in self._open if file.type == "fifo" and self._is(file, pipe)),
            -1,
        )

    def _is(self, file: OpenFile, pipe: int) -> bool:
        try:
            return bool(self._files.read(file.file)["private_data"] == pipe)
        except FaultError:
            return False

    def _bytes(self, parts: Sequence[Members], size: int) -> bytes:
        if size > self._content:
            raise LookupError(f"the process's pipes hold more than {_MAX_CONTENT >> 20} MiB")
        self._content -= size
        found = bytearray()
        for part in parts:
            if part["offset"] + part["len"] > self._kernel.page_size:
                raise LookupError("a buffer is larger than a page")
            physical = self._kernel.machine.page_to_phys(part["page"]) + part["offset"]
            data = self._backing.physical.stored(physical, part["len"])
            if data is None:
                raise FaultError("the page of a buffer", physical)
            found += data
        return bytes(found)

    # Memfds

    def _seals(self, inode: int) -> int:
        superblock = self._kernel.structs("struct inode", "i_sb").read(inode)["i_sb"]
        magic = self._kernel.structs("struct super_block", "s_magic").read(superblock)["s_magic"]
        kind = "struct hugetlbfs_inode_info" if magic == _HUGETLBFS else "struct shmem_inode_info"
        around = inode - self._at(kind, "vfs_inode")
        return int(self._kernel.structs(kind, "seals").read(around)["seals"])

    def _at(self, type_name: str, member: str) -> int:
        return int(offsetof(self._kernel.prog.type(type_name), member))


def _item(item: Members, lowest: Mapping[int, int]) -> EpollItem:
    return EpollItem(
        fd=int(item["ffd.fd"]),
        target=lowest.get(item["ffd.file"], -1),
        events=int(item["event.events"]),
        data=int(item["event.data"]),
    )
