# SPDX-License-Identifier: LGPL-2.1-or-later
"""What to open: a dump, with its types and symbols, or this machine. The command line and the library make it."""

from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

__all__ = (
    "CoreLocation",
    "DumpLocation",
    "Expected",
    "Freezing",
    "LiveLocation",
    "Location",
    "SharedMemory",
    "SymbolsFrom",
)

Freezing = Literal["auto", "fork", "stop"]
SharedMemory = Literal["copy", "late"]
SymbolsFrom = Literal["auto", "dwarf", "btf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpLocation:
    """The dump to open, and where its types and symbols are.

    :ivar core: path of the vmcore; None with ``qemu`` or ``live``.
    :ivar parts: paths of the other files, if the vmcore is a split set.
    :ivar symbols: files with debug information, or one with raw BTF, and a System.map.
    :ivar symbols_from: debug information, or what the dump itself holds; ``auto``: the first that there is.
    :ivar debug_directories: where to look for debug information besides drgn's places.
    :ivar kernel_directories: where to look for vmlinux and modules besides drgn's places.
    :ivar vmcoreinfo: path of a file with VMCOREINFO text, to use instead of the dump's; or the physical address of one
        in the dump's memory, as ``0x`` and digits.
    :ivar architecture: of the dump, by drgn's name in lower case, when the dump does not tell. A file of no known
        format is then raw memory.
    :ivar qemu: QMP socket of a running guest: a path, or ``host:port``.
    :ivar live: the running kernel (``/proc/kcore``).
    """

    core: str | None = None
    parts: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    symbols_from: SymbolsFrom = "auto"
    debug_directories: tuple[str, ...] = ()
    kernel_directories: tuple[str, ...] = ()
    vmcoreinfo: str | None = None
    architecture: str | None = None
    qemu: str | None = None
    live: bool = False

    def __post_init__(self) -> None:
        for name in ("symbols", "debug_directories", "kernel_directories", "parts"):
            given = getattr(self, name)  # a string is one name, not as many as it has letters
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))


@dataclass(frozen=True, slots=True)
class Expected:
    """Who a process of this machine must be when it stands still: it may have ended, or executed another program.

    :ivar pidfd: refers to it, for as long as it is to be read.
    :ivar ids: its user and its group, for all purposes (real, effective, saved, file system), when it may be nobody
        else's, nor have more rights than that user; None: anybody's.
    """

    pidfd: int
    ids: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLocation:
    """The processes of this machine, while they run.

    :ivar pid: id of the only process that is wanted; None: all.
    :ivar registers: stop a process while it is read, and read its registers; else it goes on meanwhile.
    :ivar max_freeze: seconds that it may stand still; None: as long as reading takes, and 5 for its threads to stop.
    :ivar freeze: ``stop``: it stands still until all is read; ``fork``: a copy of it is read while it goes on;
        ``auto``: a copy if there can be one.
    :ivar shared: with a copy, when shared memory is read: ``copy``: while it stands still; ``late``: afterwards.
    :ivar expected: who the process must be; None: the one that has the id.
    :ivar forks: this program has but one thread, and may be forked to hold the process: that is quicker.
    """

    pid: int | None = None
    registers: bool = True
    max_freeze: float | None = None
    freeze: Freezing = "stop"
    shared: SharedMemory = "copy"
    expected: Expected | None = None
    forks: bool = False

    def __post_init__(self) -> None:
        """:raises ValueError: ``freeze`` or ``shared`` is another word."""
        for name, words in (("freeze", get_args(Freezing)), ("shared", get_args(SharedMemory))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {', '.join(words[:-1])} or {words[-1]}")


@dataclass(frozen=True, slots=True)
class CoreLocation:
    """A core of a process.

    :ivar core: its path, ``-`` for standard input, or a file object open for reading bytes; it may be compressed.
    """

    core: str | BinaryIO


Location = CoreLocation | DumpLocation | LiveLocation
"""What can be opened: a class for each kind of source (``DumpLocation | ...``). :mod:`kgcore.library` knows the way
from each to its source, and ``cli/arguments.py`` the options that make one."""
