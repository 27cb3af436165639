# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plan the descriptors: how each is had again."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kgcore.model.process import DELETED
from kgcore.model.state import Descriptor, ProcessState
from kgcore.restore.paths import Paths
from kgcore.restore.words import Refusal
from kgcore.system.regular import open_regular
from kgcore.text import printable

__all__ = ("DescriptorsPlan", "Instead", "PlannedDescriptor", "plan_descriptors")

Kind = Literal[
    "same", "ours", "file", "directory", "device", "memfd", "pipe", "eventfd", "timerfd", "signalfd", "epoll"
]
"""How a descriptor is had: ``same`` as a lower one, ``ours``, or anew."""

_STANDARD = range(3)
_DEVICES = frozenset((b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom"))
_TERMINALS = (b"/dev/pts/", b"/dev/tty", b"/dev/console", b"/dev/ptmx")
_OF_THE_KERNEL = (b"/proc/", b"/sys/")
_MEMFD = b"/memfd:"
_MOST = 1 << 20  # fs.nr_open where nobody raised it
# What a new open() must not do again, and what the kernel sets itself (O_LARGEFILE), and FMODE_NONOTIFY
_ONCE = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | 0x8000 | 0x4000000
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_O_PATH, _O_TMPFILE = 0o10000000, 0o20000000
_ANONYMOUS = {
    b"anon_inode:[io_uring]": "an io_uring",
    b"anon_inode:[userfaultfd]": "a userfaultfd",
    b"anon_inode:inotify": "an inotify queue",
    b"anon_inode:[fanotify]": "a fanotify queue",
    b"anon_inode:[perf_event]": "a perf event",
    b"anon_inode:[pidfd]": "a pidfd",
    b"anon_inode:kvm-vm": "a virtual machine of KVM",
    b"anon_inode:kvm-vcpu": "a CPU of KVM",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instead:
    """What the user wants a descriptor to be.

    :ivar path: a file; ``ours``: one of this program's descriptors. Without both it is closed.
    """

    path: bytes | None = None
    ours: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDescriptor:
    """A descriptor of the new process.

    :ivar fd: its number.
    :ivar kind: how it is had.
    :ivar close_on_exec: FD_CLOEXEC.
    :ivar of: ``same``: as which descriptor; ``ours``: our own number; ``pipe``: the lowest descriptor of the pipe.
    :ivar path: to be opened, with ``flags`` and at ``offset``.
    :ivar was: what it was; None: the user wants it to be something else.
    """

    fd: int
    kind: Kind
    close_on_exec: bool = False
    of: int = -1
    path: bytes = b""
    flags: int = 0
    offset: int = 0
    was: Descriptor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorsPlan:
    """All descriptors that the new process has."""

    planned: tuple[PlannedDescriptor, ...] = ()
    refused: tuple[Refusal, ...] = ()
    different: tuple[str, ...] = ()


def plan_descriptors(state: ProcessState, instead: Mapping[int, Instead], paths: Paths) -> DescriptorsPlan:
    """Plan them.

    :param instead: by number, what the user wants some to be.
    :param paths: where files are here.
    """
    rows = (replace(row, path=_path_now(row, paths)) for row in state.descriptors or ())
    maker = _Maker(tuple(rows), instead)
    return maker.plan()


def _path_now(row: Descriptor, paths: Paths) -> bytes:
    """A memfd is made anew, under its name."""
    return row.path if row.path.startswith(_MEMFD) else paths.of_descriptor(row.shares, row.path)


class _Maker:
    def __init__(self, rows: Sequence[Descriptor], instead: Mapping[int, Instead]) -> None:
        self._rows = sorted(rows, key=lambda row: row.fd)
        self._instead = instead
        self._planned: dict[int, PlannedDescriptor] = {}
        self._refused: list[Refusal] = []
        self._different: list[str] = []
        # The ends that each pipe has here: which descriptors, and whether they read
        self._ends: dict[int, list[Descriptor]] = {}
        for row in self._rows:
            if row.pipe is not None and row.shares == row.fd and row.fd not in instead:
                self._ends.setdefault(row.inode, []).append(row)

    def plan(self) -> DescriptorsPlan:
        for fd, wanted in self._instead.items():
            self._wanted(fd, wanted)
        for row in self._rows:
            if row.fd in self._instead:
                continue
            if not 0 <= row.shares <= row.fd < _MOST:
                self._refuse(row, "descriptors", "has a number that it cannot have")
            elif row.shares != row.fd and row.shares not in self._instead:
                if row.shares in self._planned:
                    self._add(row, "same", of=row.shares)
            else:
                self._own(row)
        return DescriptorsPlan(
            planned=tuple(self._planned[fd] for fd in sorted(self._planned)),
            refused=tuple(self._refused),
            different=tuple(self._different),
        )

    def _wanted(self, fd: int, wanted: Instead) -> None:
        row = next((row for row in self._rows if row.fd == fd), None)
        flags, offset, close = (row.flags, row.offset, row.close_on_exec) if row is not None else (os.O_RDWR, 0, False)
        self._different.append(f"descriptor {fd} is what --fd says")
        if wanted.ours is not None:
            self._planned[fd] = PlannedDescriptor(fd=fd, kind="ours", of=wanted.ours, close_on_exec=close)
        elif wanted.path is not None:
            self._planned[fd] = PlannedDescriptor(
                fd=fd, kind="file", path=wanted.path, flags=flags & ~_ONCE, offset=max(offset, 0), close_on_exec=close
            )

    def _add(self, row: Descriptor, kind: Kind, of: int = -1) -> None:
        self._planned[row.fd] = PlannedDescriptor(
            fd=row.fd,
            kind=kind,
            close_on_exec=row.close_on_exec,
            of=of,
            path=row.path,
            flags=row.flags & ~_ONCE,
            offset=row.offset,
            was=row,
        )

    def _refuse(self, row: Descriptor, word: str, why: str, hint: str = "") -> None:
        what = f"descriptor {row.fd} {why}"
        offer = f"--fd {row.fd}=closed or --fd {row.fd}=PATH has it closed, or another file"
        self._refused.append(Refusal(word=word, what=what, hint=hint or offer))

    def _own(self, row: Descriptor) -> None:
        """Plan a descriptor with an open file of its own."""
        if row.unknown:
            name, why = next(iter(row.unknown.items()))
            self._refuse(row, "descriptors", f"is not known well enough: {name}: {why}")
        elif row.type == "fifo":
            self._pipe(row)
        elif row.type == "socket":
            self._refuse(row, "sockets", f"is a socket ({printable(row.path)})")
        elif row.eventfd is not None:
            if row.eventfd.semaphore is None:
                self._refuse(row, "descriptors", "is an eventfd of which it is not known whether it is a semaphore")
            self._add(row, "eventfd")
        elif row.timerfd is not None:
            self._add(row, "timerfd")
        elif row.signalfd is not None:
            self._add(row, "signalfd")
        elif row.epoll is not None:
            self._epoll(row)
        elif row.type == "regular" and row.path.startswith(_MEMFD):
            self._add(row, "memfd")
        elif row.type in ("regular", "directory"):
            self._named(row)
        elif row.type == "character":
            self._device(row)
        else:
            kind = _ANONYMOUS.get(row.path, f"a file of kind {printable(row.path)}")
            self._refuse(row, "descriptors", f"is {kind}")

    def _epoll(self, row: Descriptor) -> None:
        known = {other.fd: other for other in self._rows}
        for item in row.epoll or ():
            target = known.get(item.target)
            if target is None or target.shares != target.fd or item.target in self._instead or not 0 <= item.fd < _MOST:
                self._refuse(row, "descriptors", f"watches a file that no descriptor is any more (once {item.fd})")
                return
            if item.target == row.fd:
                self._refuse(row, "descriptors", "watches itself")
                return
        self._add(row, "epoll")

    def _pipe(self, row: Descriptor) -> None:
        pipe = row.pipe
        if not row.path.startswith(b"pipe:"):
            self._refuse(row, "fifo", f"is a FIFO ({printable(row.path)}), which others may have open")
            return
        ends = self._ends.get(row.inode, [row])
        both = {os.O_RDONLY, os.O_WRONLY} <= {end.flags & _ACCESS for end in ends}
        if not both:
            if row.fd in _STANDARD:
                self._ours(row)
            else:
                self._refuse(row, "pipes", f"is one end of a pipe ({printable(row.path)}), whose other end others have")
            return
        if len(ends) > 2 or pipe is None or pipe.size is None:
            self._refuse(row, "pipes", "is a pipe that was opened more than once")
            return
        first = min(end.fd for end in ends)
        content = next((end.pipe.content for end in ends if end.fd == first and end.pipe is not None), None)
        if content is None:
            self._refuse(row, "pipes", f"is a pipe with {pipe.unread} unread bytes that the core lacks")
            return
        self._add(row, "pipe", of=first)

    def _ours(self, row: Descriptor) -> None:
        try:
            os.fstat(row.fd)
        except OSError:
            self._refuse(row, "descriptors", "is to be kgcore's own, which is closed")
            return
        self._different.append(f"descriptor {row.fd} was {printable(row.path)}: it is kgcore's own")
        self._add(row, "ours", of=row.fd)

    def _device(self, row: Descriptor) -> None:
        if row.path in _DEVICES:
            self._add(row, "device")
        elif row.path.startswith(_TERMINALS):
            if row.fd in _STANDARD:
                self._ours(row)
            else:
                self._refuse(row, "terminals", f"is a terminal ({printable(row.path)})")
        else:
            self._refuse(row, "devices", f"is a device ({printable(row.path)})")

    def _named(self, row: Descriptor) -> None:
        name = printable(row.path)
        if row.path.startswith(_OF_THE_KERNEL):
            self._refuse(row, "kernel-files", f"is {name}, which the kernel makes up")
        elif row.path.endswith(DELETED):
            self._refuse(row, "deleted", f"is a file that has no name any more ({name})")
        elif row.flags & (_O_PATH | _O_TMPFILE & ~os.O_DIRECTORY) or not row.path.startswith(b"/"):
            self._refuse(row, "descriptors", f"is a file that cannot be opened by its name ({name})")
        elif row.type == "directory":
            if not os.path.isdir(row.path):
                self._refuse(row, "files", f"is the directory {name}, which is not here")
            self._add(row, "directory")
        else:
            self._file(row, name)

    def _file(self, row: Descriptor, name: str) -> None:
        try:
            descriptor = open_regular(row.path)
        except PermissionError:
            size = os.stat(row.path).st_size if os.path.isfile(row.path) else -1
        except OSError as error:
            self._refuse(row, "files-missing", f"was {name}, which cannot be opened: {error.strerror or error}")
            return
        else:
            size = os.fstat(descriptor).st_size
            os.close(descriptor)
        if row.flags & _ACCESS != os.O_RDONLY and not os.access(row.path, os.W_OK):
            self._refuse(row, "files-missing", f"was {name}, which cannot be written here")
        elif size != row.size:
            twice = "; what it appends may be there twice" if row.flags & os.O_APPEND and size > row.size else ""
            what = f"was {name} of {row.size} bytes, which has {size} now{twice}"
            self._refuse(row, "files", what, hint="--allow files takes it as it is")
        self._add(row, "file")
