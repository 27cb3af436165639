# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user asked for, as plain values: the border between the command line and the work."""

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

from kgcore.sources.base import NO_SUPPLIES, Supplies, TaskRef

__all__ = ("STDOUT", "DumpRequest", "Place", "Show")

STDOUT = "-"
"""The name of standard output on the command line."""


class Show(IntFlag):
    """The channels of ``-v``, crash gcore's numbers."""

    PROGRESS = 1
    LIBRARY = 2
    FAULTS = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Which kernel to look into, and where its types and symbols are. None and (): find out by yourself.

    :ivar parts: the other files, if ``core`` is one of a split set.
    """

    core: str | None
    symbols: tuple[str, ...] = ()
    symbols_from: Literal["auto", "dwarf", "btf"] = "auto"
    debug_directories: tuple[str, ...] = ()
    kernel_directories: tuple[str, ...] = ()
    vmcoreinfo: str | None = None
    architecture: str | None = None
    qemu: str | None = None
    live: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """What to write of which processes, and where to.

    :ivar tasks: in the order given; never empty.
    :ivar mask: sum of the coredump_filter bits; None: each process's own.
    :ivar output: a file name, "-" for standard output, or None for ``core.<tgid>`` in ``directory``.
    :ivar supplies: what else memory may be taken from.
    :ivar sysroot: directory for the processes' programs and libraries; None: do not write them.
    """

    tasks: tuple[TaskRef, ...]
    mask: int | None = 0x33
    dontdump: bool = False
    dax: bool = False
    missing: Literal["omit", "zero"] = "omit"
    note: bool = True
    directory: str = ""
    output: str | None = None
    force: bool = False
    dry_run: bool = False
    report: str | None = None
    show: Show = Show.FAULTS
    supplies: Supplies = NO_SUPPLIES
    sysroot: str | None = None
