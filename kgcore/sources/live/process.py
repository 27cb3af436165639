# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process of this machine as :class:`kgcore.sources.base.Process` offers it."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import inf
from time import monotonic

from kgcore.arch import ARCHES
from kgcore.errors import KgcoreError, StoodStillTooLong
from kgcore.model.freeze import Freeze
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory, Provenance
from kgcore.model.process import VM_MAYSHARE, OpenFile, ProcessImage, Vma
from kgcore.model.state import ProcessState
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.base import (
    Contents,
    FileContents,
    HasMappedFiles,
    HasOpenFiles,
    HasState,
    OpenFiles,
    Process,
    StandsStill,
)
from kgcore.sources.live.calling import convention_of
from kgcore.sources.live.copying import Captured, no_copy_words, not_copied, why_no_copy
from kgcore.sources.live.descriptors import contents_of, open_files
from kgcore.sources.live.identity import verify
from kgcore.sources.live.image import Reader, states_of
from kgcore.sources.live.mappings import MappedFiles
from kgcore.sources.live.memory import LiveMemory
from kgcore.sources.live.programs import mapped_programs
from kgcore.sources.live.refusals import busy, refused
from kgcore.sources.live.state import StateReader
from kgcore.sources.location import Expected, LiveLocation

__all__ = ("LiveProcess",)


_PATIENCE = 5.0  # seconds for all threads to stop, if the user sets no limit


class LiveProcess(Process, HasMappedFiles, HasOpenFiles, HasState, StandsStill):
    """A process of this machine. All its threads stand still until it is closed or captured, if registers are wanted.

    :param pid: id of the process.
    :param first: id of the thread that comes first in its image.
    :param location: how to take it.
    :raises KgcoreError: it cannot be stopped, or is not the one that is expected.
    """

    def __init__(self, pid: int, first: int, location: LiveLocation) -> None:
        self._location = location
        self._deadline = inf
        self._pid = pid
        self._first = first
        self._tracee: Tracee | None = None
        self._memory: LiveMemory | Captured | None = None
        self._opened: list[LiveMemory] = []
        self._thawed: Freeze | None = None
        self._why = ""
        self._shares = False
        self._locked = -1
        try:
            self._states = states_of(pid)  # while it is stopped, ptrace's stop is all that shows
            self._view = next(iter(sorted(self._states, key=lambda tid: (tid != pid, tid))), pid)
            self._files = MappedFiles(self._view)
            self._reader = Reader(pid, self._view, self._files, self._states)
        except OSError as error:
            raise refused(pid, error) from error
        if location.registers:
            self._lock()
            try:
                patience = _PATIENCE if location.max_freeze is None else location.max_freeze
                self._tracee = Tracee(pid, patience, fork=location.forks)
            except BaseException as error:
                self.close()
                if isinstance(error, OSError):
                    raise refused(pid, error) from error
                raise
            if location.expected is not None:
                self._verify(location.expected)
            if location.max_freeze is not None:
                self._deadline = self._tracee.since + location.max_freeze

    def _lock(self) -> None:
        """Be the only kgcore that takes it: by a lock that needs the permission to read its memory.

        :raises Busy: another one does.
        """
        try:
            self._locked = os.open(f"/proc/{self._view}/mem", os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise busy(self._pid) from None
            raise refused(self._pid, error) from error

    def _verify(self, expected: Expected) -> None:
        try:
            verify(self._pid, self._view, expected)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise refused(self._pid, error) from error
            raise

    @property
    def image(self) -> ProcessImage:
        """See :attr:`kgcore.sources.base.Process.image`.

        :raises KgcoreError: it has ended, or may not be read.
        """
        return self._image

    @cached_property
    def _image(self) -> ProcessImage:
        try:
            return self._reader.image(self._first, self._tracee)
        except OSError as error:
            raise refused(self._pid, error) from error
        except (ValueError, KeyError, IndexError) as error:
            raise KgcoreError(f"process {self._pid}: /proc has what kgcore cannot read: {error}") from error

    def capture(self, wanted: Sequence[tuple[Vma, int]]) -> None:
        """Make a copy of the process and let it go on, if that is wanted and possible. See
        :meth:`kgcore.sources.base.StandsStill.capture`."""
        tracee = self._tracee
        if tracee is None or self._location.freeze == "stop" or self._thawed is not None:
            return
        image = self.image
        self._why = why_no_copy(image.vmas, self._reader.forking)
        if not self._why:
            try:
                copy, window = tracee.snapshot(convention_of(ARCHES[image.arch]))
                self._capture(copy, wanted)
            except OSError as error:
                self._why = no_copy_words(error)
            except MemoryError:
                self._why = "what a copy lacks does not fit into memory (--shared late reads shared memory afterwards)"
            else:
                self._go_on()
                end = tracee.thaw()
                self._deadline = inf
                self._files.follow(copy)
                self._thawed = Freeze("fork", end - tracee.since, window / 1e9)
                return
        if self._location.freeze == "fork":
            raise KgcoreError(
                f"process {self._pid} cannot be copied: {self._why}",
                hint="--freeze stop reads it while it stands still",
                pid=self._pid,
            )
        tracee.drop()

    def _capture(self, copy: int, wanted: Sequence[tuple[Vma, int]]) -> None:
        """Use the memory of a copy, and what that lacks of the process's own.

        :raises MemoryError: that is too much.
        """
        shared = self._location.shared == "copy"
        self._shares = any(length and vma.flags & VM_MAYSHARE for vma, length in wanted)
        lacking = not_copied(wanted, self._reader.forking, copy, shared=shared)
        memory = self._open(copy)
        if not lacking:
            self._memory = memory
            return
        self._memory = Captured(memory, self._open(self._view), lacking)

    def _open(self, pid: int) -> LiveMemory:
        memory = LiveMemory(pid, self.image.page_size, self._files.open, self._go_on)
        self._opened.append(memory)
        return memory

    def freeze(self) -> Freeze | None:
        """See :meth:`kgcore.sources.base.StandsStill.freeze`."""
        if self._tracee is None:
            return None
        return self._thawed or Freeze("stop", monotonic() - self._tracee.since, why=self._why)

    @property
    def memory(self) -> Memory:
        """See :attr:`kgcore.sources.base.Process.memory`.

        :raises KgcoreError: it has ended, or may not be read.
        """
        if self._memory is None:
            try:
                self._memory = self._open(self._view)
            except OSError as error:
                raise refused(self._pid, error) from error
        return self._memory

    def _go_on(self) -> None:
        """
        :raises KgcoreError: it has stood still for long enough.
        """
        if self._tracee is not None and monotonic() > self._deadline:
            raise StoodStillTooLong(
                f"process {self._pid} stood still for {self._location.max_freeze:g} s and is not read yet: "
                "nothing is written",
                hint="--max-freeze allows more; --exclude, --only and -f leave memory out",
                pid=self._pid,
            )

    def remarks(self, missing: frozenset[Provenance] = frozenset()) -> Iterator[str]:
        """See :meth:`kgcore.sources.base.Process.remarks`."""
        if self._tracee is None:
            yield "the process went on while it was read: what is in one place may be older than what is in another"
        elif self._thawed is not None and self._location.shared == "late" and self._shares:
            yield "shared memory was read while the process went on: it may be newer than the rest"

    def files(self) -> Iterator[FileContents | Lost]:
        """See :meth:`kgcore.sources.base.HasMappedFiles.files`."""
        yield from mapped_programs(self._pid, self.image, self._files)

    def open_files(self) -> OpenFiles:
        """See :meth:`kgcore.sources.base.HasOpenFiles.open_files`."""
        try:
            return open_files(self._pid, self._view)
        except OSError as error:
            raise refused(self._pid, error) from error

    def state(self) -> ProcessState:
        """See :meth:`kgcore.sources.base.HasState.state`."""
        return StateReader(self.image, self._view, self._tracee, self.open_files).read()

    def contents(self, file: OpenFile) -> Contents:
        """See :meth:`kgcore.sources.base.HasOpenFiles.contents`."""
        return contents_of(self._view, file, os.sysconf("SC_PAGESIZE"))

    def close(self) -> None:
        """Let the process go on. See :meth:`kgcore.sources.base.Process.close`."""
        if self._tracee is not None:
            self._tracee.release()
        while self._opened:
            self._opened.pop().close()
        self._files.close()
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1
