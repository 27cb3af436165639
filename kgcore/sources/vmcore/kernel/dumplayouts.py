# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an opened kernel has of all that kgcore relies on."""

from functools import partial
from operator import attrgetter

from drgn import Type

from kgcore.model.layouts import Layout
from kgcore.sources.vmcore.damage import DAMAGE
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.layouts import ROWS
from kgcore.sources.vmcore.kernel.layouts.audit import KernelNames, audit
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.opening.target import Target

__all__ = ("layouts_of",)


def layouts_of(target: Target) -> tuple[Layout, ...]:
    """Compare the whole table of layouts with a kernel."""
    kernel = Kernel(target)
    names = KernelNames(target.prog, info=target.vmcoreinfo, modules=_Modules(target))
    return audit((*ROWS, *kernel.machine.layouts), names, partial(_decided, kernel))


def _decided(kernel: Kernel, attribute: str) -> str:
    """Return what kgcore decided, in words; "": the dump does not say.

    :param attribute: of :class:`Kernel`.
    """
    try:
        value = attrgetter(attribute)(kernel)
    except DAMAGE:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value < 1 << 20 else hex(value)


class _Modules:
    """The types of modules, and whether they are there to be described."""

    def __init__(self, target: Target) -> None:
        self._types = ModuleTypes(target)

    def loaded(self, module: str) -> bool:
        return self._types.loaded(module)

    def type(self, module: str, name: str) -> Type | None:
        return self._types.find(module, name)

    def enumerator(self, module: str, name: str) -> int | None:
        return self._types.enumerator(module, name)
