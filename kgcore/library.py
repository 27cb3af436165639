# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a program needs that uses kgcore without drgn's prompt and without the command line."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from kgcore.sources import drgnversion
from kgcore.sources.base import Source, UserFiles

__all__ = ("open_vmcore",)

_Path = str | os.PathLike[str]


def _files(given: _Path | Iterable[_Path]) -> tuple[str, ...]:
    """Names of files; a string is one, too."""
    files = (given,) if isinstance(given, str | os.PathLike) else given
    return tuple(os.fspath(file) for file in files)


@contextmanager
def open_vmcore(
    core: _Path,
    *parts: _Path,
    symbols: _Path | Iterable[_Path] = (),
    vmcoreinfo: _Path | None = None,
    architecture: str | None = None,
    swap: Mapping[str, _Path] | None = None,
    root: _Path | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> Iterator[Source]:
    """Open a vmcore and give its processes, for as long as a ``with`` block lasts.

    :param core: path of the dump; of a split set that of one file.
    :param parts: paths of the others.
    :param symbols: a file, or several, with debug information (vmlinux, modules), or one with raw BTF and a System.map;
        as ``-s`` on the command line. Mostly not needed: kernels describe their types themselves.
    :param vmcoreinfo: a file with VMCOREINFO to use instead of the dump's, or the physical address of one in the dump's
        memory (``"0x1234000"``).
    :param architecture: of a dump that does not tell it (``x86_64``, ``i386``).
    :param swap: path of a swap device or file as /proc/swaps had it, to path of its image.
    :param root: a directory with the files of the crashed machine.
    :param tell: is called with each sentence about the dump that one should know before trusting what comes out of it.
    :return: a context manager, which gives a :class:`kgcore.Source`.
    :raises KgcoreError: it cannot be opened, or its kernel not be understood; or there is no drgn that will do.
    """
    drgnversion.ensure()
    # Here, since this module has to load where there is no drgn.
    from kgcore.sources.vmcore.opening.target import TargetOptions, open_target
    from kgcore.sources.vmcore.source import VmcoreSource

    options = TargetOptions(
        core=os.fspath(core),
        parts=_files(parts),
        symbols=_files(symbols),
        vmcoreinfo=None if vmcoreinfo is None else os.fspath(vmcoreinfo),
        architecture=architecture,
    )
    images = {device: os.fspath(image) for device, image in (swap or {}).items()}
    with open_target(options) as target:
        for message in target.messages:
            tell(message)
        yield VmcoreSource(target, UserFiles(images, None if root is None else os.fspath(root)))
