# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of all that kgcore relies on in kernels: types, members, symbols, enumerators, lines of VMCOREINFO.

What only one architecture has stands with its machine (:class:`kgcore.sources.vmcore.kernel.machine.base.Machine`).
"""

from kgcore.sources.vmcore.kernel.layouts import cpus, files, memory, opening, state, swap, tasks
from kgcore.sources.vmcore.kernel.layouts.base import Kind, Name, Row, Use, Way

__all__ = ("ROWS", "Kind", "Name", "Row", "Use", "Way")

ROWS: tuple[Row, ...] = (
    *opening.ROWS,
    *tasks.ROWS,
    *cpus.ROWS,
    *memory.ROWS,
    *swap.ROWS,
    *files.ROWS,
    *state.ROWS,
)
"""The rows of all architectures."""
