# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write cores under their names: plan, choose the sink, compress and write each core, and write the sysroot.

The command line, drgn's ``%gcore``, ``gcore()`` and users of the library all save cores through this module.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from kgcore.binaries.sysroot import Sysroot, SysrootReport
from kgcore.coredump.limits import LimitRule, Limits
from kgcore.coredump.loads import FileOrder
from kgcore.coredump.pipeline import Options, Prepared, prepare, write
from kgcore.coredump.report import Report
from kgcore.coredump.workers import available
from kgcore.coredump.writer import Progress
from kgcore.sinks.base import Sink
from kgcore.sinks.choosing import Compressor, compressing, suffix_of
from kgcore.sinks.compressed import SUFFIXES, Compression, require
from kgcore.sinks.files import FileSink
from kgcore.sinks.outputs import named
from kgcore.sinks.streams import StreamSink
from kgcore.sources.base import Source, TaskRef

__all__ = ("CoreWriter", "destination", "save")

_ORDERS: dict[LimitRule, FileOrder] = {"priority": "importance", "largest-first": "size", "truncate": "address"}


def save(
    source: Source,
    ref: TaskRef | int | str,
    output: str | os.PathLike[str] | BinaryIO = ".",
    options: Options | None = None,
    *,
    force: bool = False,
    compress: Compression | None = None,
    sysroot: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write a process as a core file, under the name that the command line gives it.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param output: a directory for ``core.<tgid>``, a file name, or a file object open for writing bytes; it need not be
        seekable.
    :param options: what to write of it; None: what ``kgcore`` writes without options.
    :param force: overwrite existing files.
    :param compress: ``"zstd"`` or ``"gzip"``; in a directory the core is then ``core.<tgid>.zst`` or
        ``core.<tgid>.gz``.
    :param sysroot: a directory for the program, its interpreter and its libraries, too, as
        :func:`kgcore.write_sysroot` writes them.
    :param jobs: how many processes may be forked to read and compress side by side; None: as many as there are CPUs to
        use. Where forking is not safe, it is done one by one.
    :param limits: bytes and seconds that it may take, and what they cost first. None: no limits.
    :param progress: is called now and then with the bytes of memory that are written and that are to be.
    :return: what the core holds, and what is missing and why.
    :raises KgcoreError: the process cannot be found or has no memory, or the output cannot be written.
    :raises TypeError, ValueError: a parameter makes no sense.
    """
    directory, file = destination(output)
    writer = CoreWriter(
        options or Options(),
        directory=directory,
        output=file,
        force=force,
        compress=compress,
        sysroot=sysroot,
        jobs=jobs,
        limits=limits,
    )
    return writer.save(source, ref, progress)


def destination(output: str | os.PathLike[str] | BinaryIO) -> tuple[str, str | BinaryIO | None]:
    """Tell a directory from a file name and a file object.

    :return: the ``directory`` and the ``output`` of a :class:`CoreWriter`.
    """
    if not isinstance(output, str | os.PathLike):
        return "", output
    path = os.fspath(output)
    return (path, None) if os.path.isdir(path) else ("", path)


class CoreWriter:
    """Writes the cores of one run, one after the other, each under its own name.

    :param options: what to write of a process.
    :param directory: for ``core.<tgid>``.
    :param output: a file name, or a file object open for writing bytes, for one core; None: ``core.<tgid>``.
    :param opened: makes the sink for that name, and takes ``force``; so the command line has a name for its standard
        output.
    :param force: overwrite existing files. Files that this writer wrote itself it always overwrites: a process may be
        named twice.
    :param sysroot: directory for programs and libraries; None: do not write them.
    :param jobs: None: as many as there are CPUs to use.
    :raises KgcoreError: the compression library is not installed.
    :raises ValueError: ``compress`` or ``jobs`` makes no sense.
    """

    def __init__(
        self,
        options: Options,
        *,
        directory: str = "",
        output: str | BinaryIO | None = None,
        opened: Callable[..., Sink] = named,
        force: bool = False,
        compress: Compressor = None,
        sysroot: str | os.PathLike[str] | None = None,
        jobs: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        if isinstance(compress, str):
            if compress not in SUFFIXES:
                raise ValueError(f"compress is {compress!r}: expected {' or '.join(SUFFIXES)}")
            require(compress)
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs is {jobs}: expected 1 or more")
        self._limits = limits or Limits()
        if self._limits.any:
            options = replace(options, order=_ORDERS[self._limits.rule], limit=self._limits.describe())
        self._options = options
        self._directory = directory
        self._output = output
        self._opened = opened
        self._force = force
        self._compress = compress
        self._jobs = jobs or available()
        self._sysroot = None if sysroot is None else Sysroot(os.fspath(sysroot), force=force)
        self._own: set[str] = set()

    def save(self, source: Source, ref: TaskRef | int | str, progress: Progress | None = None) -> Report:
        """Prepare a process, and write its core, its program and its libraries.

        :raises KgcoreError, TypeError, ValueError: as :func:`kgcore.save` does.
        """
        with self.prepare(source, ref) as prepared:
            report = self.write(prepared, progress)
            if (files := self.write_files(prepared)) is not None:
                files.raise_problems()
        return report

    def prepare(self, source: Source, ref: TaskRef | int | str) -> Prepared:
        """Find a process and plan its core.

        :raises KgcoreError, TypeError, ValueError: as :func:`kgcore.prepare` does.
        """
        return prepare(source, ref, self._options)

    def name(self, prepared: Prepared) -> str:
        """Return the name of a core, without its directory: ``core.118.zst``."""
        return f"core.{prepared.image.tgid}" + suffix_of(self._compress)

    def path(self, prepared: Prepared) -> str:
        """Return the path of a core: ``/tmp/core.118.zst``; "" if it goes to a file object."""
        if self._output is None:
            return os.path.join(self._directory, self.name(prepared))
        return self._output if isinstance(self._output, str) else ""

    def write(self, prepared: Prepared, progress: Progress | None = None) -> Report:
        """Write the core of a prepared process.

        :raises KgcoreError: as :func:`kgcore.write` does.
        """
        report = write(prepared, self._sink(prepared), progress, jobs=self._jobs, limits=self._limits)
        self._own.add(self.path(prepared))
        return report

    def write_files(self, prepared: Prepared) -> SysrootReport | None:
        """Write the program and the libraries of a process, if this writer has a sysroot directory.

        :raises OutputError: kgcore cannot write there at all. The report has the problems of single files.
        """
        if self._sysroot is None:
            return None
        return self._sysroot.add(prepared.process, prepared.image.warnings)

    def _sink(self, prepared: Prepared) -> Sink:
        path = self.path(prepared)
        force = self._force or path in self._own
        sink: Sink
        if self._output is None:
            # A core that we name is a new file: never write into a pipe that happens to have that name.
            sink = FileSink(path, force=force)
        else:
            sink = self._opened(path, force=force) if isinstance(self._output, str) else StreamSink(self._output)
        return compressing(sink, self._compress)
