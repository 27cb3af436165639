# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open dumps and running machines as the command line does with ``-c``, ``-k`` and ``--qemu``."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from kgcore.sources import drgnversion
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles
from kgcore.sources.location import (
    CoreLocation,
    DumpLocation,
    Freezing,
    LiveLocation,
    Location,
    SharedMemory,
    SymbolsFrom,
)

if TYPE_CHECKING:
    from kgcore.sources.vmcore.opening.target import Target

__all__ = (
    "SOURCES",
    "open_core",
    "open_live",
    "open_qemu",
    "open_running_kernel",
    "open_source",
    "open_target",
    "open_vmcore",
)

_Path = str | os.PathLike[str]
_Paths = _Path | Iterable[_Path]
_Tell = Callable[[str], None]


def open_vmcore(
    core: _Path,
    *parts: _Path,
    symbols: _Paths = (),
    symbols_from: SymbolsFrom = "auto",
    debug_directories: _Paths = (),
    kernel_directories: _Paths = (),
    vmcoreinfo: _Path | None = None,
    architecture: str | None = None,
    swap: Mapping[str, _Path] | None = None,
    root: _Path | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> AbstractContextManager[Source]:
    """Open a vmcore for a ``with`` block, and give its processes.

    :param core: path of the dump, or of one file of a split set.
    :param parts: paths of the other files of the set.
    :param symbols: one or several files: debug information (vmlinux, modules), raw BTF, or a System.map; as ``-s`` on
        the command line. Rarely needed: kernels describe their types themselves.
    :param symbols_from: ``"dwarf"``: debug information, and nothing else; ``"btf"``: what the dump itself holds;
        ``"auto"``: debug information where there is some, else the dump.
    :param debug_directories: a directory, or several, where to look for debug information besides drgn's places.
    :param kernel_directories: a directory, or several, where to look for vmlinux and modules besides drgn's places.
    :param vmcoreinfo: a file with VMCOREINFO to use instead of the dump's, or the physical address of one in the dump's
        memory (``"0x1234000"``), which chooses a kernel if the dump holds several.
    :param architecture: if the dump does not say: ``x86_64`` or ``i386``.
    :param swap: paths of swap devices or files, as in /proc/swaps, to paths of their images.
    :param root: a directory with the files of the crashed machine.
    :param tell: called with each remark on the dump that affects how far you can trust its cores.
    :return: a context manager, which gives a :class:`kgcore.Source`.
    :raises KgcoreError: it cannot be opened, its kernel is not supported, or drgn is missing or too old.
    :raises TypeError: a parameter is of the wrong type.
    """
    location = DumpLocation(
        core=os.fspath(core),
        parts=_files(parts),
        symbols=_files(symbols),
        symbols_from=symbols_from,
        debug_directories=_files(debug_directories),
        kernel_directories=_files(kernel_directories),
        vmcoreinfo=_file(vmcoreinfo),
        architecture=architecture,
    )
    return open_source(location, UserFiles.of(swap, root), tell)


def open_running_kernel(
    *,
    symbols: _Paths = (),
    symbols_from: SymbolsFrom = "auto",
    debug_directories: _Paths = (),
    kernel_directories: _Paths = (),
    vmcoreinfo: _Path | None = None,
    swap: Mapping[str, _Path] | None = None,
    root: _Path | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> AbstractContextManager[Source]:
    """Open the running kernel (/proc/kcore) and give its processes, for as long as a ``with`` block lasts.

    The processes keep running, so reads at different times may not be consistent. This needs root.

    :param symbols, symbols_from, debug_directories, kernel_directories: as in :func:`kgcore.open_vmcore`.
    :param vmcoreinfo: a file with VMCOREINFO to use instead of the kernel's own.
    :param swap, root, tell: as in :func:`kgcore.open_vmcore`.
    :return: a context manager, which gives a :class:`kgcore.Source`.
    :raises KgcoreError: it cannot be opened or is not supported, or drgn is missing or too old.
    :raises TypeError: a parameter is of the wrong type.
    """
    location = DumpLocation(
        live=True,
        symbols=_files(symbols),
        symbols_from=symbols_from,
        debug_directories=_files(debug_directories),
        kernel_directories=_files(kernel_directories),
        vmcoreinfo=_file(vmcoreinfo),
    )
    return open_source(location, UserFiles.of(swap, root), tell)


def open_qemu(
    address: _Path,
    *,
    symbols: _Paths = (),
    symbols_from: SymbolsFrom = "auto",
    debug_directories: _Paths = (),
    kernel_directories: _Paths = (),
    vmcoreinfo: _Path | None = None,
    architecture: str | None = None,
    swap: Mapping[str, _Path] | None = None,
    root: _Path | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> AbstractContextManager[Source]:
    """Open a running QEMU guest and give its processes, for as long as a ``with`` block lasts.

    The guest is paused until the end of the block, or the end of this program.

    :param address: its QMP socket: a path, or ``host:port``.
    :param symbols, symbols_from, debug_directories, kernel_directories: as in :func:`kgcore.open_vmcore`.
    :param vmcoreinfo: a file with VMCOREINFO to use instead of the guest's.
    :param architecture: if the guest does not say: ``x86_64`` or ``i386``.
    :param swap, root, tell: as in :func:`kgcore.open_vmcore`.
    :return: a context manager, which gives a :class:`kgcore.Source`.
    :raises KgcoreError: it cannot be opened, its kernel is not supported, or drgn is missing or too old.
    :raises TypeError: a parameter is of the wrong type.
    """
    location = DumpLocation(
        qemu=os.fspath(address),
        symbols=_files(symbols),
        symbols_from=symbols_from,
        debug_directories=_files(debug_directories),
        kernel_directories=_files(kernel_directories),
        vmcoreinfo=_file(vmcoreinfo),
        architecture=architecture,
    )
    return open_source(location, UserFiles.of(swap, root), tell)


def open_live(
    pid: int | None = None,
    *,
    registers: bool = True,
    max_freeze: float | None = None,
    freeze: Freezing = "auto",
    shared: SharedMemory = "copy",
) -> AbstractContextManager[Source]:
    """Give the processes of this machine, or one of them, for as long as a ``with`` block lasts.

    They go on, but for a process that is taken. When a core is prepared, it is copied and goes on as well, if
    ``freeze`` and the process allow that; else all its threads stand still until it is closed.

    :param pid: id of the only process that is wanted; None: all.
    :param registers: False: stop nothing and read no registers.
    :param freeze: ``"fork"``: a copy of the process (fork) is read while it goes on; ``"stop"``: its threads stand
        still until the last byte is read; ``"auto"``: a copy where one is possible and right.
    :param shared: with a copy, when shared memory is read: ``"copy"``: while the threads stand still; ``"late"``: with
        the rest, so that it may be newer.
    :param max_freeze: seconds that a process may stand still; if reading it takes longer, it goes on, and the call that
        reads raises KgcoreError. None: as long as that takes, and 5 for its threads to stop.
    :return: a context manager, which gives a :class:`kgcore.Source`.
    :raises KgcoreError: there is no /proc.
    :raises ValueError: ``freeze`` or ``shared`` is another word.
    """
    location = LiveLocation(pid=pid, registers=registers, max_freeze=max_freeze, freeze=freeze, shared=shared)
    return open_source(location, NO_USER_FILES, warnings.warn)


def open_core(core: _Path | BinaryIO, *, root: _Path = "/") -> AbstractContextManager[Source]:
    """Open a core of a process for a ``with`` block, and give that process.

    It may be the kernel's, kgcore's or of another tool, and be compressed with zstd or gzip. What is compressed, or
    comes out of a pipe, can be read once and in its order, so ``kgcore.prepare()`` and ``kgcore.write()`` can be called
    once.

    :param core: its path, ``"-"`` for standard input, or a file object open for reading bytes.
    :param root: the directory with the programs and libraries that the process had mapped. Those with the build ids
        that the core has are taken.
    :return: a context manager, which gives a :class:`kgcore.Source` with one process.
    :raises KgcoreError: it is no core of a process, or damaged, or cannot be opened.
    """
    location = CoreLocation(os.fspath(core) if isinstance(core, str | os.PathLike) else core)
    return open_source(location, UserFiles.of(root=root), warnings.warn)


@contextmanager
def _open_dump(location: DumpLocation, user_files: UserFiles, tell: _Tell) -> Iterator[Source]:
    with open_target(location, tell) as target:
        from kgcore.sources.vmcore.source import VmcoreSource

        yield VmcoreSource(target, user_files)


@contextmanager
def _open_live(location: LiveLocation, user_files: UserFiles, tell: _Tell) -> Iterator[Source]:
    from kgcore.sources.live.source import LiveSource

    yield LiveSource(location)


@contextmanager
def _open_core(location: CoreLocation, user_files: UserFiles, tell: _Tell) -> Iterator[Source]:
    from kgcore.sources.corefile import inputs
    from kgcore.sources.corefile.source import CoreSource

    core = location.core
    name = "standard input" if core == inputs.STDIN else core if isinstance(core, str) else "the core"
    with inputs.opened(core) as opened:
        yield CoreSource(opened, name, user_files.root or "/")


SOURCES: dict[type, Callable[[Any, UserFiles, _Tell], AbstractContextManager[Source]]] = {
    CoreLocation: _open_core,
    DumpLocation: _open_dump,
    LiveLocation: _open_live,
}
"""How to open each kind of :data:`kgcore.sources.location.Location`."""


def open_source(location: Location, user_files: UserFiles, tell: _Tell) -> AbstractContextManager[Source]:
    """Open the dump or machine at a location and give its processes: what the command line calls.

    :raises KgcoreError: as :func:`open_vmcore` does.
    """
    return SOURCES[type(location)](location, user_files, tell)


@contextmanager
def open_target(location: DumpLocation, tell: _Tell) -> Iterator["Target"]:
    """Open the dump or machine at a location, without its processes.

    :raises KgcoreError: as :func:`open_vmcore` does.
    """
    drgnversion.ensure()
    # Imported here, because this module must load without drgn.
    from kgcore.sources.vmcore.opening import target

    with target.open_target(location) as opened:
        for message in opened.messages:
            tell(message)
        yield opened


def _file(given: _Path | None) -> str | None:
    return None if given is None else os.fspath(given)


def _files(given: _Paths) -> tuple[str, ...]:
    """Return the file names in an argument, which may be a single string."""
    files = (given,) if isinstance(given, str | os.PathLike) else given
    return tuple(os.fspath(file) for file in files)
