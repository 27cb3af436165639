# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architecture-specific parts of reading kernel structures: a module for each architecture, and an entry here."""

from typing import TYPE_CHECKING

from kgcore.sources.vmcore.kernel.machine.base import Machine
from kgcore.sources.vmcore.kernel.machine.i386 import I386
from kgcore.sources.vmcore.kernel.machine.x86_64 import X86_64

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("MACHINES", "Machine", "machine_of")

MACHINES: dict[str, type[Machine]] = {machine.architecture.name: machine for machine in (X86_64, I386)}


def machine_of(kernel: "Kernel") -> Machine:
    """Return the :class:`Machine` of a kernel's architecture."""
    return MACHINES[kernel.target.architecture.name](kernel)
