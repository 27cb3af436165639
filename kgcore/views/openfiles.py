# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show open files to people and programs, and write their contents."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kgcore.binaries.contents import Lacking, Trace
from kgcore.model.memory import Piece
from kgcore.model.process import OpenFile, Socket
from kgcore.sinks.files import Sink
from kgcore.sources.base import Contents
from kgcore.text import human_size, plain, printable

__all__ = ("ContentAccount", "Row", "account", "flag_words", "list_lines", "named", "open_file_json", "write_contents")

_ACCESS = "O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"
# include/uapi/asm-generic/fcntl.h. O_SYNC is two bits, O_TMPFILE has that of O_DIRECTORY.
_FLAGS = {
    0o4010000: "O_SYNC",
    0o20200000: "O_TMPFILE",
    0o100: "O_CREAT",
    0o200: "O_EXCL",
    0o400: "O_NOCTTY",
    0o1000: "O_TRUNC",
    0o2000: "O_APPEND",
    0o4000: "O_NONBLOCK",
    0o10000: "O_DSYNC",
    0o20000: "O_ASYNC",
    0o40000: "O_DIRECT",
    0o200000: "O_DIRECTORY",
    0o400000: "O_NOFOLLOW",
    0o1000000: "O_NOATIME",
    0o2000000: "O_CLOEXEC",
    0o10000000: "O_PATH",
}
_O_LARGEFILE = 0o100000


@dataclass(frozen=True, slots=True)
class ContentAccount:
    """How much of a file's content the dump holds.

    :ivar sources: bytes by source: value of the provenance to bytes.
    """

    size: int
    sources: Mapping[str, int]
    missing: tuple[Lacking, ...]

    @classmethod
    def of(cls, trace: Trace) -> "ContentAccount":
        return cls(trace.size, trace.sources, tuple(trace.missing))

    @property
    def missing_bytes(self) -> int:
        return sum(gap.end - gap.start for gap in self.missing)

    def words(self) -> str:
        """Return it as a cell of a table."""
        if not self.missing:
            return "all"
        held = self.size - self.missing_bytes
        return f"{human_size(held)} of {human_size(self.size)}" if held else "none"

    def to_json(self) -> dict[str, object]:
        return {
            "size": self.size,
            "missing_bytes": self.missing_bytes,
            "sources": dict(self.sources),
            "missing": [[gap.start, gap.end, gap.reason, plain(gap.detail)] for gap in self.missing],
        }


class Row(NamedTuple):
    """An open file and its content.

    :ivar content: None: not examined.
    :ivar unwritten: see :meth:`kgcore.sources.base.Contents.unwritten`.
    """

    file: OpenFile
    content: ContentAccount | None = None
    unwritten: int | None = None


def account(contents: Contents) -> ContentAccount:
    """Return how much of a content the dump holds, without reading it."""
    trace = Trace(contents.size)
    for _ in trace.follow(Piece(run, b"") for run in contents.runs()):
        pass
    return ContentAccount.of(trace)


def write_contents(contents: Contents, sink: Sink) -> ContentAccount:
    """Write a content; zeros and missing parts become holes.

    :raises OutputError: it cannot be written.
    """
    trace = Trace(contents.size)
    for length, data in trace.follow(contents.read()):
        if data:
            sink.write(memoryview(data))
        else:
            sink.skip(length)
    return ContentAccount.of(trace)


def flag_words(flags: int) -> str:
    """Return flags of open(2): ``O_RDWR|O_APPEND``. Without O_LARGEFILE, which 64-bit kernels always set."""
    words = [_ACCESS[flags & 3]]
    rest = flags & ~3 & ~_O_LARGEFILE
    for bits, word in _FLAGS.items():
        if rest & bits == bits:
            words.append(word)
            rest &= ~bits
    return "|".join([*words, f"0{rest:o}"] if rest else words)


def named(file: OpenFile) -> bytes:
    """Return the path of a file, and the endpoints of a socket."""
    path = b"?" if file.path is None else file.path
    return path if file.socket is None else b"%b %b" % (path, _socket_words(file.socket))


def _socket_words(socket: Socket) -> bytes:
    ends = b" -> ".join(end for end in (socket.local, socket.remote) if end)
    return b" ".join(word for word in (socket.family.encode(), socket.type.encode(), ends) if word)


def list_lines(files: Iterable[OpenFile]) -> Iterator[str]:
    """Return the lines of ``--list``: ``fd : name : offset``, names escaped."""
    for file in files:
        yield f"{file.fd} : {printable(b'?' if file.path is None else file.path)} : {file.offset}\n"


def open_file_json(row: Row) -> dict[str, Any]:
    """Return a row of ``kgcore files --json``."""
    file, content, unwritten = row
    socket = file.socket
    return {
        "fd": file.fd,
        "path": None if file.path is None else plain(file.path),
        "type": file.type,
        "flags": f"0{file.flags:o}",
        "offset": file.offset,
        "mode": f"0{file.mode:o}",
        "size": file.size,
        "inode": file.inode,
        "deleted": file.deleted,
        "in_memory": file.in_memory,
        "file": f"{file.file:#x}",
        "socket": None
        if socket is None
        else {
            "family": socket.family,
            "type": socket.type,
            "local": plain(socket.local) or None,
            "remote": plain(socket.remote) or None,
        },
        "content": None if content is None else content.to_json(),
        "unwritten": unwritten,
    }
