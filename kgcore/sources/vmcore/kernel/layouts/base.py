# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say what a row of the table of layouts is: a thing that kgcore needs of a kernel, and how kernels have it.

The table only declares; the probes that decide are where they are used. A test runs whole commands on real dumps and
compares what is asked of the kernel with the table, in both directions (tests/vmcore/test_layout_table.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ("EVERYWHERE", "Kind", "Name", "Row", "Use", "Way", "constants", "lines", "members", "symbols", "types")

EVERYWHERE = "4.18 and later"
"""Since when, for what has not changed in any kernel that kgcore is meant for."""


class Kind(StrEnum):
    """What a name in a kernel stands for."""

    TYPE = "type"
    MEMBER = "member"
    SYMBOL = "symbol"
    CONSTANT = "constant"
    LINE = "line"


class Use(StrEnum):
    """What a user loses without a thing: the sentence that begins with "without it"."""

    OPENING = "opening the dump"
    OWN_TYPES = "opening without vmlinux"
    PROCESSES = "finding processes"
    CORES = "cores"
    REGISTERS = "registers"
    STACKS = "kernel stacks"
    MEMORY = "memory of processes"
    SWAP = "swapped-out memory"
    NAMES = "names of mappings and files"
    FILES = "open files"
    STATE = "state of processes"
    FACTS = "facts about the dump"


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a kernel has or lacks.

    :ivar name: of a type (``struct folio``, ``mm_flags_t``), symbol, enumerator, or line of VMCOREINFO; for a member,
        the type that has it.
    :ivar member: for a member: its name, or its path through members (``thread.fpu``).
    """

    kind: Kind
    name: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.name}.{self.member}" if self.member else self.name


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which kernels have a thing.

    :ivar since: the release in which this way came, and the commit: ``5.14 (2f064a59a11f)``.
    :ivar names: all that a kernel of this way has.
    :ivar lacks: what a kernel of this way lacks, for ways that only an absence tells.
    :ivar how: how kgcore finds the thing, where the names do not say it.
    """

    since: str
    names: tuple[Name, ...] = ()
    lacks: tuple[Name, ...] = ()
    how: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A thing that kgcore needs of a kernel.

    :ivar what: the thing, in the user's words.
    :ivar use: what it is for.
    :ivar ways: the newest first; the first that a kernel has counts.
    :ivar without: what does not work in a kernel that has none of the ways; "": nothing is lost, since a kernel
        without it lacks the feature.
    :ivar needed: without it, the use does not work at all.
    :ivar also: names that each count for themselves, and of which a kernel may have any.
    :ivar module: the kernel module that may define the types in ``also``; it need not be loaded.
    :ivar value: what is decided, as an attribute of :class:`kgcore.sources.vmcore.kernel.kernel.Kernel`
        (``machine.vmemmap``): for a dump, the auditor shows it.
    """

    what: str
    use: Use
    ways: tuple[Way, ...] = ()
    without: str = ""
    needed: bool = False
    also: tuple[Name, ...] = ()
    module: str = ""
    value: str = ""

    @property
    def names(self) -> Iterator[Name]:
        """Yield all names of the row."""
        for way in self.ways:
            yield from (*way.names, *way.lacks)
        yield from self.also


def types(*names: str) -> tuple[Name, ...]:
    """Return the names of types: ``struct folio``."""
    return tuple(Name(Kind.TYPE, name) for name in names)


def members(type_name: str, names: str) -> tuple[Name, ...]:
    """Return the names of members of a type.

    :param names: separated by spaces.
    """
    return tuple(Name(Kind.MEMBER, type_name, name) for name in names.split())


def symbols(names: str) -> tuple[Name, ...]:
    """Return the names of symbols: variables and functions.

    :param names: separated by spaces.
    """
    return tuple(Name(Kind.SYMBOL, name) for name in names.split())


def constants(names: str) -> tuple[Name, ...]:
    """Return the names of enumerators.

    :param names: separated by spaces.
    """
    return tuple(Name(Kind.CONSTANT, name) for name in names.split())


def lines(names: str) -> tuple[Name, ...]:
    """Return the names of lines of VMCOREINFO.

    :param names: separated by spaces.
    """
    return tuple(Name(Kind.LINE, name) for name in names.split())
