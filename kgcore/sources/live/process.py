# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process of this machine as :class:`kgcore.sources.base.Process` offers it."""

import os
from collections.abc import Iterator
from functools import cached_property
from math import inf
from time import monotonic

from kgcore.errors import KgcoreError
from kgcore.model.lost import Lost
from kgcore.model.memory import Provenance
from kgcore.model.process import OpenFile, ProcessImage
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.base import Contents, FileContents, HasMappedFiles, HasOpenFiles, OpenFiles, Process
from kgcore.sources.live.descriptors import contents_of, open_files
from kgcore.sources.live.image import Reader, states_of
from kgcore.sources.live.mappings import MappedFiles
from kgcore.sources.live.memory import LiveMemory
from kgcore.sources.live.programs import mapped_programs
from kgcore.sources.live.refusals import refused

__all__ = ("LiveProcess",)


class LiveProcess(Process, HasMappedFiles, HasOpenFiles):
    """A process of this machine. All its threads stand still until it is closed, unless ``seconds`` is None.

    :param pid: id of the process.
    :param first: id of the thread that comes first in its image.
    :param seconds: how long to wait for its threads to stop; None: do not stop it, and read no registers.
    :param most: seconds that it may stand still; None: as long as reading takes.
    :raises KgcoreError: it cannot be stopped.
    """

    def __init__(self, pid: int, first: int, seconds: float | None, most: float | None) -> None:
        self._most = most
        self._deadline = inf if most is None else monotonic() + most
        self._pid = pid
        self._first = first
        self._tracee: Tracee | None = None
        self._memory: LiveMemory | None = None
        try:
            self._states = states_of(pid)  # while it is stopped, ptrace's stop is all that shows
            self._view = next(iter(sorted(self._states, key=lambda tid: (tid != pid, tid))), pid)
            self._files = MappedFiles(self._view)
        except OSError as error:
            raise refused(pid, error) from error
        if seconds is not None:
            try:
                self._tracee = Tracee(pid, seconds)
            except OSError as error:
                raise refused(pid, error) from error

    @property
    def image(self) -> ProcessImage:
        """See :attr:`kgcore.sources.base.Process.image`.

        :raises KgcoreError: it has ended, or may not be read.
        """
        return self._image

    @cached_property
    def _image(self) -> ProcessImage:
        try:
            return Reader(self._pid, self._view, self._files, self._states).image(self._first, self._tracee)
        except OSError as error:
            raise refused(self._pid, error) from error
        except (ValueError, KeyError, IndexError) as error:
            raise KgcoreError(f"process {self._pid}: /proc has what kgcore cannot read: {error}") from error

    @property
    def memory(self) -> LiveMemory:
        """See :attr:`kgcore.sources.base.Process.memory`.

        :raises KgcoreError: it has ended, or may not be read.
        """
        if self._memory is None:
            image = self.image  # finds the files behind the mappings
            try:
                self._memory = LiveMemory(self._view, image.page_size, self._files.open, self._go_on)
            except OSError as error:
                raise refused(self._pid, error) from error
        return self._memory

    def _go_on(self) -> None:
        """
        :raises KgcoreError: it has stood still for long enough.
        """
        if self._tracee is not None and monotonic() > self._deadline:
            raise KgcoreError(
                f"process {self._pid} stood still for {self._most:g} s and is not read yet: nothing is written",
                hint="--max-freeze allows more; --exclude, --only and -f leave memory out",
                pid=self._pid,
            )

    def remarks(self, missing: frozenset[Provenance] = frozenset()) -> Iterator[str]:
        """See :meth:`kgcore.sources.base.Process.remarks`."""
        if self._tracee is None:
            yield "the process went on while it was read: what is in one place may be older than what is in another"

    def files(self) -> Iterator[FileContents | Lost]:
        """See :meth:`kgcore.sources.base.HasMappedFiles.files`."""
        yield from mapped_programs(self._pid, self.image, self._files)

    def open_files(self) -> OpenFiles:
        """See :meth:`kgcore.sources.base.HasOpenFiles.open_files`."""
        try:
            return open_files(self._pid, self._view)
        except OSError as error:
            raise refused(self._pid, error) from error

    def contents(self, file: OpenFile) -> Contents:
        """See :meth:`kgcore.sources.base.HasOpenFiles.contents`."""
        return contents_of(self._view, file, os.sysconf("SC_PAGESIZE"))

    def close(self) -> None:
        """Let the process go on. See :meth:`kgcore.sources.base.Process.close`."""
        if self._tracee is not None:
            self._tracee.release()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._files.close()
