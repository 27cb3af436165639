# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show open files to people and programs, and write their contents."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from kgcore.binaries.contents import FileGap, Trace
from kgcore.errors import KgcoreError
from kgcore.model.memory import Piece
from kgcore.model.process import OpenFile, Socket
from kgcore.sinks.base import Sink
from kgcore.sinks.outputs import named
from kgcore.sinks.streams import StreamSink
from kgcore.sources.base import Contents, HasOpenFiles, OpenFiles, Process, Source, TaskRef
from kgcore.text import human_size, plain, printable

__all__ = (
    "ContentAccount",
    "OpenFileRow",
    "OpenFileTable",
    "account",
    "content_name",
    "extract",
    "extract_file",
    "flag_words",
    "having_open_files",
    "list_lines",
    "open_files",
    "shown_name",
    "table_of",
    "write_contents",
)

_VERSION = 1

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
    """How much of a file's content there is.

    :ivar size: of the file, in bytes.
    :ivar sources: bytes by source: value of the provenance to bytes.
    :ivar missing: the ranges that are not there, ascending.
    """

    size: int
    sources: Mapping[str, int]
    missing: tuple[FileGap, ...]

    @property
    def missing_bytes(self) -> int:
        """How many bytes are not there."""
        return sum(gap.end - gap.start for gap in self.missing)

    def words(self) -> str:
        """Return it as a cell of a table."""
        if not self.missing:
            return "all"
        held = self.size - self.missing_bytes
        return f"{human_size(held)} of {human_size(self.size)}" if held else "none"

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``."""
        return {
            "size": self.size,
            "missing_bytes": self.missing_bytes,
            "sources": dict(self.sources),
            "missing": [[gap.start, gap.end, gap.reason, plain(gap.detail)] for gap in self.missing],
        }


class OpenFileRow(NamedTuple):
    """An open file and its content.

    :ivar file: the open file.
    :ivar content: how much of it there is; None: that was not looked at.
    :ivar unwritten: bytes that were changed in memory and are not on the disk yet; None: it lives in memory alone, or
        that is not known.
    """

    file: OpenFile
    content: ContentAccount | None = None
    unwritten: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Give it for ``json.dumps``, as a file of ``kgcore files --json``."""
        file, content, unwritten = self
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFileTable:
    """The open files of a process and their contents.

    :ivar tgid: of the process.
    :ivar rows: by descriptor, ascending.
    :ivar lost: what could not be found out of the table itself, as sentences.
    :ivar remarks: contents that cannot be looked at, as sentences.
    :ivar source: where the process comes from (:meth:`kgcore.Source.describe`).
    """

    tgid: int
    rows: tuple[OpenFileRow, ...]
    lost: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    source: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``, as ``kgcore files --json`` prints it."""
        return {
            "version": _VERSION,
            "source": dict(self.source),
            "pid": self.tgid,
            "files": [row.to_json() for row in self.rows],
            "lost": list(self.lost),
        }


def open_files(source: Source, ref: TaskRef | int | str, *, contents: bool = True) -> OpenFileTable:
    """List the open files of a process, and how much of their contents there is.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param contents: look at the contents of regular files, too: of those that are nowhere else (deleted, or in memory
        alone) how much there is, of the others only how much is newer in memory than on the disk.
    :return: what ``kgcore files`` shows.
    :raises KgcoreError: there is no such process, or its table of open files cannot be read.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    with source.process(ref) as process:
        has = having_open_files(process)
        return table_of(has, has.open_files(), source.describe(), contents=contents)


def having_open_files(process: Process) -> HasOpenFiles:
    """Tell whether there is a table of open files.

    :raises KgcoreError: the source of the process has none.
    """
    if not isinstance(process, HasOpenFiles):
        raise KgcoreError(f"the source of process {process.image.tgid} has no open files", hint="a vmcore has them")
    return process


def table_of(process: HasOpenFiles, found: OpenFiles, source: Mapping[str, str], *, contents: bool) -> OpenFileTable:
    """Look at what open files hold."""
    known: dict[int, OpenFileRow] = {}  # several descriptors may be of one file
    rows: list[OpenFileRow] = []
    remarks: list[str] = []
    for file in found.files:
        if contents and file.type == "regular" and file.file not in known:
            known[file.file] = _looked_at(process, file, remarks)
        rows.append(known[file.file]._replace(file=file) if file.file in known else OpenFileRow(file))
    return OpenFileTable(
        tgid=found.tgid, rows=tuple(rows), lost=found.lost, remarks=tuple(remarks), source=dict(source)
    )


def _looked_at(process: HasOpenFiles, file: OpenFile, remarks: list[str]) -> OpenFileRow:
    """Examine the content of a file; for one that is also on disk, only how much is newer in memory."""
    try:
        contents = process.contents(file)
        return OpenFileRow(file, account(contents) if file.unsaved else None, contents.unwritten())
    except KgcoreError as error:
        if file.unsaved:
            remarks.append(str(error))
        return OpenFileRow(file)


def extract_file(
    source: Source,
    ref: TaskRef | int | str,
    fd: int,
    output: str | os.PathLike[str] | BinaryIO | None = None,
    *,
    force: bool = False,
) -> OpenFileRow:
    """Write the content of an open file of a process; missing parts become holes.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process, as in :func:`kgcore.open_files`.
    :param fd: number of the descriptor.
    :param output: a file name, or a file object open for writing bytes; None: ``fd.<tgid>.<fd>``.
    :param force: overwrite an existing file.
    :return: the file, and how much of its content was there.
    :raises KgcoreError: there is no such process or descriptor, it has no content, or it cannot be written.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    with source.process(ref) as process:
        has = having_open_files(process)
        return extract(has, has.open_files(), fd, output, force=force)


def extract(
    process: HasOpenFiles,
    found: OpenFiles,
    fd: int,
    output: str | os.PathLike[str] | BinaryIO | None = None,
    *,
    force: bool = False,
) -> OpenFileRow:
    """Do the same for a process that is open.

    :raises KgcoreError: as :func:`extract_file` does.
    """
    file = next((file for file in found.files if file.fd == fd), None)
    if file is None:
        raise KgcoreError(
            f"process {found.tgid} has no file descriptor {fd}",
            pid=found.tgid,
            hint=f"kgcore files {found.tgid} lists its descriptors",
        )
    contents = process.contents(file)
    path = content_name(found.tgid, fd) if output is None else output
    sink = named(os.fspath(path), force=force) if isinstance(path, str | os.PathLike) else StreamSink(path)
    with sink:
        content = write_contents(contents, sink)
        sink.commit()
    return OpenFileRow(file, content, contents.unwritten())


def content_name(tgid: int, fd: int) -> str:
    """Name the file for a content, if nobody else did."""
    return f"fd.{tgid}.{fd}"


def account(contents: Contents) -> ContentAccount:
    """Return how much of a content the dump holds, without reading it."""
    trace = Trace(contents.size)
    for _ in trace.follow(Piece(run, b"") for run in contents.runs()):
        pass
    return _account_of(trace)


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
    return _account_of(trace)


def _account_of(trace: Trace) -> ContentAccount:
    return ContentAccount(trace.size, trace.sources, tuple(trace.missing))


def flag_words(flags: int) -> str:
    """Return flags of open(2): ``O_RDWR|O_APPEND``. Without O_LARGEFILE, which 64-bit kernels always set."""
    words = [_ACCESS[flags & 3]]
    rest = flags & ~3 & ~_O_LARGEFILE
    for bits, word in _FLAGS.items():
        if rest & bits == bits:
            words.append(word)
            rest &= ~bits
    return "|".join([*words, f"0{rest:o}"] if rest else words)


def shown_name(file: OpenFile) -> bytes:
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
