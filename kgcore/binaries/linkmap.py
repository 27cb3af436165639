# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the names that a process itself uses for its program, its interpreter and its libraries.

Debuggers look for these names. They may be symbolic links to the names that the kernel knows: ``/lib`` often is a link
to ``/usr/lib``.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kgcore.arch.linker import Linker
from kgcore.model.memory import Memory
from kgcore.model.process import ProcessImage

__all__ = ("LinkName", "link_names")

_AT_BASE, _AT_ENTRY, _AT_EXECFN = 7, 9, 31


class LinkName(NamedTuple):
    """A name of a mapped file.

    :ivar name: as the process has it, raw.
    :ivar address: an address in a mapping of the file.
    """

    name: bytes
    address: int


def link_names(image: ProcessImage, memory: Memory) -> Iterator[LinkName]:
    """Return the names that the dump holds. Missing and invalid ones are left out."""
    linker, auxv = Linker(image, memory), dict(image.auxv)
    if program := linker.string(auxv.get(_AT_EXECFN, 0)):
        yield LinkName(program, auxv.get(_AT_ENTRY, 0))
    if interpreter := linker.string(linker.interpreter):
        yield LinkName(interpreter, auxv.get(_AT_BASE, 0))
    for loaded in linker.maps():
        if library := linker.string(loaded.name):
            yield LinkName(library, loaded.dynamic)
