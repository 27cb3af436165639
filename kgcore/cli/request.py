# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold the user's request as plain values: the border between the command line and the work."""

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

from kgcore.filters.rules import Rule
from kgcore.model.process import DEFAULT_MASK
from kgcore.sources.base import NO_USER_FILES, TaskRef, UserFiles

__all__ = ("NO_SELECTION", "Channel", "DumpRequest", "Selection")


class Channel(IntFlag):
    """The channels of ``-v``, crash gcore's numbers."""

    PROGRESS = 1
    LIBRARY = 2
    FAULTS = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """Processes selected by their properties. False: none.

    :ivar all: every process that has memory.
    :ivar match: patterns, one of which must match the name of the process or its program.
    :ivar uid: real user ids, one of which the process must have.
    """

    all: bool = False
    match: tuple[str, ...] = ()
    uid: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all or self.match or self.uid)


NO_SELECTION = Selection()


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """What to write, of which processes, and where.

    :ivar tasks: in the order given; empty only if ``select`` is not.
    :ivar mask: sum of the coredump_filter bits; None: each process's own.
    :ivar rules: which memory to leave out, or to write as zeros.
    :ivar share_zeros: store long ranges of zeros once in the file.
    :ivar output: a file name, "-" for standard output, or None for ``core.<tgid>`` in ``directory``.
    :ivar user_files: what else memory may be taken from.
    :ivar sysroot: directory for the processes' programs and libraries; None: do not write them.
    :ivar select: further processes, after those in ``tasks``.
    :ivar jobs: worker processes; None: as many as usable CPUs.
    :ivar max_size: bytes of all cores together; None: no limit.
    :ivar max_time: seconds for everything; None: no limit.
    :ivar limit: what these two cost first.
    :ivar profile: all of that memory, or what backtraces need of it.
    :ivar progress: ``auto``: a bar, if ``show`` says so and there is a terminal; ``json``: lines for programs.
    """

    tasks: tuple[TaskRef, ...]
    mask: int | None = DEFAULT_MASK
    dontdump: bool = False
    dax: bool = False
    rules: tuple[Rule, ...] = ()
    missing: Literal["omit", "zero"] = "omit"
    note: bool = True
    state: bool = True
    share_zeros: bool = False
    directory: str = ""
    output: str | None = None
    force: bool = False
    dry_run: bool = False
    report: str | None = None
    show: Channel = Channel.FAULTS
    user_files: UserFiles = NO_USER_FILES
    sysroot: str | None = None
    select: Selection = NO_SELECTION
    jobs: int | None = None
    compress: Literal["zstd", "gzip"] | None = None
    max_size: int | None = None
    max_time: float | None = None
    limit: Literal["priority", "largest-first", "truncate"] = "priority"
    profile: Literal["full", "mini"] = "full"
    progress: Literal["auto", "never", "json"] = "auto"
