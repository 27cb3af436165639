# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take out of a dump all that a process needs to go on: its core, its programs, and files that only the dump has."""

import filecmp
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from kgcore.coredump.pipeline import Options, Prepared
from kgcore.coredump.writer import Progress
from kgcore.errors import KgcoreError, OutputError
from kgcore.model.process import DELETED, OpenFile
from kgcore.model.state import ProcessState
from kgcore.restore.paths import Paths
from kgcore.restore.words import Refusal
from kgcore.saving import CoreWriter
from kgcore.sources.base import HasOpenFiles, OpenFiles, Source, TaskRef
from kgcore.system.privatedir import PrivateDirectory
from kgcore.text import human_size, printable
from kgcore.views.openfiles import extract

__all__ = ("FILTER", "TakenOut", "directory_for", "take_out", "with_directories")

FILTER = 127
"""All memory that a core can hold."""

_MEMFD = b"/memfd:"
_FILES, _NAMELESS, _PROGRAMS = "files", "nameless", "sysroot"
_PERMISSIONS = 0o777
_WRITABLE = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOut:
    """What was taken out of a dump.

    :ivar directory: that has it all.
    :ivar core: path of the core.
    :ivar names, nameless: as :class:`kgcore.restore.paths.Paths` has them.
    :ivar files: names of then of the open files among ``names``.
    :ivar kept: the directory stays.
    :ivar refused: what could not be taken out, or would be lost.
    :ivar different: what was taken out, in sentences.
    """

    directory: str
    core: str
    names: Mapping[bytes, bytes]
    nameless: Mapping[int, bytes]
    files: tuple[bytes, ...]
    kept: bool
    refused: tuple[Refusal, ...]
    different: tuple[str, ...]


@contextmanager
def directory_for(keep: str | None) -> Iterator[str]:
    """Make the directory for what is taken out: a private one, which is removed afterwards, or the user's.

    :param keep: that of the user: a new or an empty one.
    :raises OutputError: it cannot be made, or something is in it.
    """
    if keep is None:
        with PrivateDirectory() as private:
            yield private.path
        return
    path = os.path.abspath(keep)
    try:
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        occupied = bool(os.listdir(path))
    except OSError as error:
        raise OutputError(f"cannot make the directory {keep}: {error.strerror}") from error
    if occupied:
        raise OutputError(f"--keep: {keep} is not empty", hint="give a directory that does not exist yet")
    yield path


def take_out(
    source: Source,
    ref: TaskRef,
    directory: str,
    *,
    kept: bool,
    paths: Paths,
    instead: frozenset[int],
    progress: Callable[[str, int], AbstractContextManager[Progress | None]] = lambda name, size: nullcontext(),
) -> TakenOut:
    """Write all of it to a directory.

    :param kept: the directory stays.
    :param paths: where the user says that files are.
    :param instead: descriptors of which the user says what they are to be.
    :param progress: shows how much of a core of some name and size is written.
    :raises KgcoreError: the process does not exist, or there is no room.
    """
    options = Options(mask=FILTER, dontdump=True, dax=True)
    writer = CoreWriter(options, directory=directory, sysroot=os.path.join(directory, _PROGRAMS))
    with writer.prepare(source, ref) as prepared:
        try:
            # Files first: what is newer than the core may be something else.
            names = dict(_programs(writer, prepared, paths))
            files = _Files(directory, kept, paths, instead)
            if isinstance(prepared.process, HasOpenFiles):
                files.take(prepared.process)
        except OSError as error:
            raise OutputError(f"cannot write to {directory}: {error.strerror}") from error
        with progress(writer.name(prepared), prepared.plan.data) as shown:
            writer.write(prepared, shown)
    return TakenOut(
        directory=directory,
        core=writer.path(prepared),
        names=names | files.names,
        nameless=files.nameless,
        files=tuple(files.names),
        kept=kept,
        refused=tuple(files.refused),
        different=tuple(files.different),
    )


def _programs(writer: CoreWriter, prepared: Prepared, paths: Paths) -> Iterator[tuple[bytes, bytes]]:
    """Yield the programs and libraries that the dump has whole, and that are not the same here: names then and now."""
    found = writer.write_files(prepared)
    assert found is not None
    found.raise_problems()
    for file in found.files:
        now = os.path.join(os.fsencode(found.directory), file.path.lstrip(b"/"))
        name = file.path + DELETED if file.deleted else file.path
        if file.whole and paths.of(name) == name and not _is_same(name, now):
            os.chmod(now, 0o700)
            yield name, now


def _is_same(one: bytes, other: bytes) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


@dataclass
class _Files:
    """Writes the contents of open files that nothing but the dump has."""

    directory: str
    kept: bool
    paths: Paths
    instead: frozenset[int]
    names: dict[bytes, bytes] = field(default_factory=dict)
    nameless: dict[int, bytes] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def take(self, process: HasOpenFiles) -> None:
        found = process.open_files()
        done: set[int] = set()  # structs file: descriptors may share one
        inodes: dict[tuple[bytes, int], bytes] = {}
        os.mkdir(os.path.join(self.directory, _NAMELESS), 0o700)
        for file in found.files:
            if file.type != "regular" or file.path is None or file.fd in self.instead or file.file in done:
                continue
            done.add(file.file)
            if not file.deleted and self.paths.of(file.path) != file.path:
                continue  # the user says where it is
            if not file.unsaved:
                self._look_at(process, file)
                continue
            key = file.path, file.inode
            if key not in inodes and (written := self._write(process, found, file)):
                inodes[key] = written
            if key in inodes:
                self._use(file, inodes[key])

    def _look_at(self, process: HasOpenFiles, file: OpenFile) -> None:
        """Say what the disk of that machine may lack."""
        try:
            unwritten = process.contents(file).unwritten()
        except KgcoreError:
            return
        if unwritten:
            what = f"{_named(file)}, of which {human_size(unwritten)} may not have come to its disk"
            hint = f"kgcore files --extract {file.fd} has its content; --allow files takes the file as it is"
            self.refused.append(Refusal(word="files", what=what, hint=hint))

    def _write(self, process: HasOpenFiles, found: OpenFiles, file: OpenFile) -> bytes | None:
        path = file.path or b""
        if file.deleted:
            target = os.path.join(os.fsencode(self.directory), _NAMELESS.encode(), b"fd.%d" % file.fd)
        else:
            if not path.startswith(b"/") or b".." in path.split(b"/") or path in self.names:
                self.refused.append(Refusal(word="files-missing", what=f"{_named(file)}, as was another file"))
                return None
            target = self._place(path)
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        try:
            content = extract(process, found, file.fd, os.fsdecode(target)).content
        except KgcoreError as error:
            if isinstance(error, OutputError):
                raise
            self.refused.append(Refusal(word="missing", what=f"{_named(file)}: {error.message}"))
            return None
        if content is None or content.missing:
            os.unlink(target)
            if not path.startswith(_MEMFD):  # all that is missing may be mapped
                lost = human_size(content.missing_bytes if content else file.size)
                self.refused.append(Refusal(word="missing", what=f"{_named(file)}, of which the dump lacks {lost}"))
            return None
        os.chmod(target, file.mode & _PERMISSIONS | 0o600)
        return target

    def _place(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.directory), _FILES.encode(), path.lstrip(b"/"))

    def _use(self, file: OpenFile, written: bytes) -> None:
        path = file.path or b""
        if file.deleted:
            self.nameless[file.fd] = written
        else:
            self.names[path] = written
            if file.flags & _WRITABLE and not self.kept:
                what = f"{_named(file)}, which it writes to, and which only that machine's memory had"
                self.refused.append(Refusal(word="keep", what=what, hint="--keep DIR keeps it there"))
        if not path.startswith(_MEMFD):
            self.different.append(f"{_named(file)}: it is {printable(written)}, out of the dump")


def _named(file: OpenFile) -> str:
    return f"descriptor {file.fd} was {printable(file.path or b'')}"


def with_directories(taken: TakenOut, state: ProcessState, paths: Paths) -> TakenOut:
    """Add directories of the process that are not here, if files beside or above them are out of the dump.

    They were on the file system that those were on, and are empty but for those.

    :param paths: where the user says that files are.
    :raises OutputError: they cannot be made.
    """
    names, refused, different = dict(taken.names), list(taken.refused), list(taken.different)
    above = {os.path.dirname(name) for name in taken.files} - {b"/"}
    wanted = {row.path for row in state.descriptors or () if row.type == "directory"} | {state.cwd or b"/"}
    for path in sorted(wanted):
        beneath = any(path == one or path.startswith(one + b"/") for one in above)
        if not beneath or paths.of(path) != path or os.path.isdir(path) or b".." in path.split(b"/"):
            continue
        now = os.path.join(os.fsencode(taken.directory), _FILES.encode(), path.lstrip(b"/"))
        try:
            os.makedirs(now, 0o700, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {taken.directory}: {error.strerror}") from error
        names[path] = now
        different.append(f"the directory {printable(path)} is {printable(now)}, with open files out of the dump alone")
        if not taken.kept:
            what = f"the directory {printable(path)} is not here, and only that machine's memory had it"
            refused.append(Refusal(word="keep", what=what, hint="--keep DIR keeps it there"))
    return replace(taken, names=names, refused=tuple(refused), different=tuple(different))
