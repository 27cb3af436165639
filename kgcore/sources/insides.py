# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors together with what is in them, which each source reads in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from kgcore.model.process import OpenFile
from kgcore.model.state import Descriptor, EpollItem, EventFd, Pipe, SignalFd, TimerFd

__all__ = ("Insides",)

_Handle = TypeVar("_Handle")

_O_CLOEXEC = 0o2000000
_MEMFD = b"/memfd:"
# The member of Descriptor that says what is in a file of a name, as the kernel names files without one.
_MEMBERS = {
    b"anon_inode:[eventfd]": "eventfd",
    b"anon_inode:[timerfd]": "timerfd",
    b"anon_inode:[signalfd]": "signalfd",
    b"anon_inode:[eventpoll]": "epoll",
}


def _member(file: OpenFile) -> str:
    """The member of Descriptor that says what is in a file; "": there is nothing to say."""
    if file.type == "fifo":
        return "pipe"
    if file.type == "regular" and (file.path or b"").startswith(_MEMFD):
        return "seals"
    return _MEMBERS.get(file.path or b"", "")


class Insides(ABC, Generic[_Handle]):
    """Reads what is in the descriptors of a process. A handle is how a source comes to one.

    :param files: its open files, by descriptor.
    """

    def __init__(self, files: Sequence[OpenFile]) -> None:
        self._open = files
        self._lowest: dict[int, int] = {}  # number of an open file to its lowest descriptor
        for file in files:
            self._lowest.setdefault(file.file, file.fd)
        self._known: dict[int, tuple[dict[str, Any], Mapping[str, str]]] = {}

    @abstractmethod
    def _inside(self, file: OpenFile, member: str) -> tuple[Any, Mapping[str, str]]:
        """Return the value of a member of Descriptor, None if it is lost, and what is unknown, with the reasons."""

    @abstractmethod
    def _eventfd(self, handle: _Handle) -> EventFd: ...

    @abstractmethod
    def _timerfd(self, handle: _Handle) -> TimerFd: ...

    @abstractmethod
    def _signalfd(self, handle: _Handle) -> SignalFd: ...

    @abstractmethod
    def _epoll(self, handle: _Handle) -> tuple[EpollItem, ...]: ...

    @abstractmethod
    def _pipe(self, handle: _Handle) -> Pipe: ...

    @abstractmethod
    def _seals(self, handle: _Handle) -> int: ...

    def _read(self, member: str, handle: _Handle) -> object:
        """Read the value of a member of Descriptor."""
        readers = {
            "eventfd": self._eventfd,
            "timerfd": self._timerfd,
            "signalfd": self._signalfd,
            "epoll": self._epoll,
            "pipe": self._pipe,
            "seals": self._seals,
        }
        return readers[member](handle)

    def all(self) -> tuple[Descriptor, ...]:
        """Return the descriptors, in the order of the files."""
        return tuple(self._each())

    def _each(self) -> Iterator[Descriptor]:
        for file in self._open:
            if file.file not in self._known:
                member = _member(file)
                value, unknown = self._inside(file, member) if member else (None, {})
                self._known[file.file] = {} if value is None else {member: value}, unknown
            values, unknown = self._known[file.file]
            yield Descriptor(
                fd=file.fd,
                shares=self._lowest[file.file],
                close_on_exec=bool(file.flags & _O_CLOEXEC),
                path=file.path or b"",
                type=file.type,
                flags=file.flags & ~_O_CLOEXEC,
                offset=file.offset,
                inode=file.inode,
                size=file.size,
                unknown=unknown,
                **values,
            )
