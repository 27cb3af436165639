# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the programs and libraries of processes, as far as the dump holds them, for gdb's ``set sysroot``.

A manifest beside them says what each file lacks: missing parts are zeros in the file, like genuine zeros.
"""

import contextlib
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from kgcore.binaries.contents import FileGap, Trace
from kgcore.binaries.linkmap import link_names
from kgcore.binaries.manifest import MANIFEST, Manifest
from kgcore.elf.buildid import build_id
from kgcore.errors import OutputError
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory
from kgcore.model.process import ProcessImage
from kgcore.sinks.files import FileSink
from kgcore.sources.base import FileContents, HasMappedFiles, Process, Source, TaskRef
from kgcore.system.regular import open_regular, read_at
from kgcore.text import counted, first_names, human_size, plain, printable

__all__ = ("MANIFEST", "Sysroot", "SysrootFile", "SysrootReport", "write_sysroot")

_PATH_MAX = 4096
_REASONS_TOLD = 3
_COMPARED = 1 << 20  # bytes at once


@dataclass(frozen=True, slots=True)
class SysrootFile:
    """A program or library that :func:`kgcore.write_sysroot` wrote.

    :ivar path: relative to the sysroot, but with a leading slash; raw.
    :ivar size: bytes.
    :ivar build_id: as hexadecimal digits; None if it has none, or it is missing.
    :ivar missing: the ranges that are zeros only because they are missing, ascending.
    :ivar sources: where its bytes come from: value of the provenance to bytes.
    :ivar deleted: its name was deleted.
    """

    path: bytes
    size: int
    build_id: str | None
    missing: tuple[FileGap, ...]
    sources: dict[str, int]
    _: KW_ONLY
    deleted: bool = False

    @property
    def whole(self) -> bool:
        """Whether all its bytes are there."""
        return not self.missing

    @property
    def missing_bytes(self) -> int:
        """How many bytes are missing."""
        return sum(gap.end - gap.start for gap in self.missing)

    def line(self) -> str:
        """Return what it lacks, as a line for people."""
        reasons = [f"{gap.reason} ({gap.detail})" if gap.detail else gap.reason for gap in self.missing]
        told = first_names(dict.fromkeys(reasons), _REASONS_TOLD, separator="; ", number=False)
        return printable(
            f"{plain(self.path)}: {human_size(self.missing_bytes)} of {human_size(self.size)} missing: {told}"
        )

    def to_json(self) -> dict[str, object]:
        """Return its entry in the manifest. Invalid UTF-8 becomes surrogates, so that readers can open the file."""
        return {
            "path": os.fsdecode(self.path),
            "size": self.size,
            "build_id": self.build_id,
            "whole": self.whole,
            "deleted": self.deleted,
            "missing": [[gap.start, gap.end, gap.reason, plain(gap.detail)] for gap in self.missing],
            "sources": self.sources,
        }


@dataclass(frozen=True, slots=True)
class SysrootReport:
    """The files of one process: written, incomplete, lost.

    :ivar directory: the sysroot.
    :ivar files: those that are there.
    :ivar remarks: further facts, as sentences.
    :ivar lost: missing files, as sentences.
    :ivar problems: files that could not be written, as sentences.
    :ivar before: paths and sentences that an earlier process of this run shares.
    """

    directory: str
    files: tuple[SysrootFile, ...]
    remarks: tuple[str, ...]
    lost: tuple[str, ...]
    problems: tuple[str, ...]
    _: KW_ONLY
    before: frozenset[bytes | str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether all files exist and are complete."""
        return not (self.lost or self.problems) and all(file.whole for file in self.files)

    def raise_problems(self) -> None:
        """Raise what could not be written.

        :raises OutputError: a file could not be written.
        """
        if self.problems:
            raise OutputError("; ".join(self.problems))

    def to_json(self) -> dict[str, object]:
        """Return the value for ``--report``."""
        return {
            "directory": plain(self.directory),
            "complete": self.complete,
            "whole": sum(file.whole for file in self.files),
            "missing_bytes": sum(file.missing_bytes for file in self.files),
            "files": [{**file.to_json(), "path": plain(file.path)} for file in self.files],
            "remarks": [plain(text) for text in self.remarks],
            "lost": [plain(text) for text in self.lost],
            "problems": [plain(text) for text in self.problems],
        }

    def lines(self, details: bool = True) -> list[str]:
        """Return lines for people, safe for a terminal, without the problems.

        :param details: add a line for each incomplete file.
        """
        files = [file for file in self.files if file.path not in self.before]
        known = len(self.files) - len(files)
        whole = sum(file.whole for file in files)
        missing = sum(file.missing_bytes for file in files)
        state = ", all complete" if whole == len(files) else f", {whole} complete, {human_size(missing)} missing"
        words = counted(len(self.files), "file") + (state if files and not known else "")
        if known == len(self.files) and known:
            words += ", all as before"
        elif known:
            words += f", {known} as before, {len(files)} new{state}"
        lines = [f"sysroot {printable(self.directory)}: {words}"]
        if details:
            lines += (f"  {file.line()}" for file in files if not file.whole)
        lines += (f"  {printable(text)}" for text in (*self.lost, *self.remarks) if text not in self.before)
        return lines


def _files(process: Process) -> Iterator[FileContents | Lost]:
    if isinstance(process, HasMappedFiles):
        yield from process.files()
    else:
        yield Lost(f"the source of process {process.image.tgid} has no programs and libraries")


def write_sysroot(
    source: Source, ref: TaskRef | int | str, directory: str | os.PathLike[str], *, force: bool = False
) -> SysrootReport:
    """Write the program of a process, its interpreter and its libraries to a directory, for gdb's ``set sysroot``.

    What is missing of them is zeros; a list beside them says where, for :func:`kgcore.check_sysroot`. Processes share
    files, and may be written to one directory.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param directory: where to; it is made if need be.
    :param force: overwrite files that are not the same.
    :return: which files are there, and what they lack. Of a file that cannot be written it has a sentence, too:
        :meth:`SysrootReport.raise_problems`.
    :raises KgcoreError: there is no such process, or nothing can be written there.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    with source.process(ref) as process:
        return Sysroot(os.fspath(directory), force=force).add(process, process.image.warnings)


class Sysroot:
    """A directory that one run fills. Processes share files; existing files stay unless ``force``."""

    def __init__(self, directory: str, *, force: bool = False) -> None:
        self._directory = directory
        self._force = force
        self._written: dict[bytes, tuple[Hashable, SysrootFile]] = {}
        self._links: dict[bytes, bytes] = {}
        self._manifest = Manifest(directory, force=force)
        self._begun = False
        self._told: set[bytes | str] = set()

    def add(self, process: Process, told: Sequence[str] = ()) -> SysrootReport:
        """Write the files of a process.

        :param told: remarks that the user has already.
        :raises OutputError: the directory cannot be written.
        """
        if not self._begun:
            with self._within([], self._shown(MANIFEST.encode())) as directory:
                self._manifest.check(directory)
            self._begun = True
        files: list[SysrootFile] = []
        remarks: list[str] = []
        lost: list[str] = []
        problems: list[str] = []
        for contents in _files(process):
            if isinstance(contents, Lost):
                lost.append(contents.reason)
                continue
            try:
                file = self._file(contents)
            except _CannotTake as why:
                lost.append(f"{plain(contents.path)} is not written: {why}")
            except OutputError as error:
                problems.append(str(error))
            else:
                files.append(file)
                if file.deleted:
                    remarks.append(f"{plain(file.path)} was deleted; the sysroot has it under its old name")
        remarks += self._make_links(process.image, process.memory)
        remarks += (text for text in process.remarks() if text not in told)
        with self._within([], self._shown(MANIFEST.encode())) as directory:
            losses = [f"process {process.image.tgid}: {plain(text)}" for text in lost]
            self._manifest.add(directory, {os.fsdecode(file.path): file.to_json() for file in files}, losses)
        has: set[bytes | str] = {*(file.path for file in files), *remarks, *lost}
        before, self._told = frozenset(has & self._told), self._told | has
        return SysrootReport(self._directory, tuple(files), tuple(remarks), tuple(lost), tuple(problems), before=before)

    # Files

    def _file(self, contents: FileContents) -> SysrootFile:
        """
        :raises OutputError: it cannot be written.
        :raises _CannotTake: the name cannot be used.
        """
        path, parts = contents.path, _parts(contents.path)
        key, known = self._written.get(path, (None, None))
        if known is not None and key == contents.key:
            return known
        if path in self._links:
            raise _CannotTake("a different file of another process has this name")
        shown = self._shown(path)
        trace = Trace(contents.size)
        with self._within(parts[:-1], shown) as directory:
            if not self._same(contents, directory, parts[-1], trace):
                if known is not None:
                    raise _CannotTake("a different file has this name already: use a separate directory")
                trace = Trace(contents.size)
                self._write(contents, directory, shown, trace)
            identity = _build_id(directory, parts[-1])
        file = SysrootFile(path, contents.size, identity, tuple(trace.missing), trace.sources, deleted=contents.deleted)
        self._written[path] = contents.key, file
        return file

    def _write(self, contents: FileContents, directory: int, shown: str, trace: Trace) -> None:
        with FileSink(shown, force=self._force, directory=directory) as sink:
            for length, data in trace.follow(contents.read()):
                if data:
                    sink.write(memoryview(data))
                else:
                    sink.skip(length)
            sink.commit()

    def _same(self, contents: FileContents, directory: int, name: bytes, trace: Trace) -> bool:
        """Whether a file of that name exists with the same bytes."""
        try:
            descriptor = open_regular(name, directory=directory, links=False)
        except OSError:
            return False
        try:
            if os.fstat(descriptor).st_size != contents.size:
                return False
            start = 0
            for length, data in trace.follow(contents.read()):
                for at in range(0, length, _COMPARED):
                    part = min(_COMPARED, length - at)
                    if read_at(descriptor, part, start + at) != (data[at : at + part] or bytes(part)):
                        return False
                start += length
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    # Names that lead to them

    def _make_links(self, image: ProcessImage, memory: Memory) -> Iterator[str]:
        for name, address in link_names(image, memory):
            vma = image.vma_at(address)
            target = vma.file.name if vma is not None and vma.file is not None else None
            if target is None or not name.startswith(b"/"):
                continue
            if target in self._written and self._links.get(name) != target:
                try:
                    self._link(name, target)
                except (_CannotTake, OutputError) as error:
                    yield f"cannot link {plain(name)} to {plain(target)}: {error}"

    def _link(self, name: bytes, target: bytes) -> None:
        """Make a relative symbolic link, and the directories that its name passes and leaves with "..": debuggers
        resolve the name in the same way.

        :raises OutputError, _CannotTake: it cannot be made.
        """
        parts: list[bytes] = []
        words = [part for part in name.split(b"/") if part not in (b"", b".")]
        for part in words:
            if part != b"..":
                parts.append(part)
            elif not parts:
                raise _CannotTake("the name leads out of the sysroot")
            else:
                with self._within(_parts(b"/" + b"/".join(parts)), plain(name)):
                    parts.pop()
        path = b"/" + b"/".join(parts)
        parts = _parts(path)
        if path == target:
            return
        if path in self._written:
            raise _CannotTake("a file has this name")
        wanted = b"../" * (len(parts) - 1) + b"/".join(_parts(target))
        with self._within(parts[:-1], self._shown(path)) as directory:
            try:
                if not _is_link(directory, parts[-1], wanted):
                    if self._force and _is_link(directory, parts[-1]):
                        os.unlink(parts[-1], dir_fd=directory)
                    os.symlink(wanted, parts[-1], dir_fd=directory)
            except OSError as error:
                raise OutputError(f"cannot create {self._shown(path)}: {error.strerror}") from error
        self._links[path] = self._links[name] = target

    # The directory

    def _shown(self, path: bytes) -> str:
        return os.path.join(self._directory, os.fsdecode(path).lstrip("/"))

    @contextlib.contextmanager
    def _within(self, parts: list[bytes], shown: str) -> Iterator[int]:
        """Open a directory in the sysroot, or make it. No symbolic link is followed.

        :param shown: the file that needs it, for messages.
        :raises OutputError: it cannot be opened.
        """
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"cannot create {self._directory}: {error.strerror}") from error
        try:
            for part in parts:
                try:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=descriptor)
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    lower = os.open(part, flags, dir_fd=descriptor)
                except OSError as error:
                    raise OutputError(f"cannot create {shown}: {plain(part)}: {error.strerror}") from error
                os.close(descriptor)
                descriptor = lower
            yield descriptor
        finally:
            os.close(descriptor)


class _CannotTake(Exception):
    """A name from the dump is unsafe or taken."""


def _parts(path: bytes) -> list[bytes]:
    """The components of an absolute path.

    :raises _CannotTake: it is not absolute, or leads elsewhere.
    """
    parts = [part for part in path.split(b"/") if part]
    if not path.startswith(b"/") or len(path) > _PATH_MAX or b"\0" in path or {b".", b".."} & set(parts) or not parts:
        raise _CannotTake("the name is invalid")
    if parts == [MANIFEST.encode()]:
        raise _CannotTake("the manifest has this name")
    return parts


def _is_link(directory: int, name: bytes, target: bytes | None = None) -> bool:
    try:
        found = os.readlink(name, dir_fd=directory)
    except OSError:
        return False
    return target is None or found == target


def _build_id(directory: int, name: bytes) -> str | None:
    """The build id of a file that was just written."""
    try:
        descriptor = open_regular(name, directory=directory, links=False)
    except OSError:
        return None
    try:
        found = build_id(lambda at, size: read_at(descriptor, size, at) if at < 1 << 62 else None)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if found is None else found.hex()
