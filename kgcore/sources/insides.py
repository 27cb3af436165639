# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors together with what is in them, which each source reads in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kgcore.model.process import OpenFile
from kgcore.model.state import Descriptor

__all__ = ("Insides",)

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


class Insides(ABC):
    """Reads what is in the descriptors of a process.

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
