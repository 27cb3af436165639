# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose the page size of a dump's machine: the one in the dump if the architecture has it, else the usual one."""

import re
from collections.abc import Iterable

from kgcore.arch import ARCHITECTURES
from kgcore.sources.vmcore.dumpfile.notes import DumpNote

__all__ = ("page_shifts", "told_by_notes", "usual_page_shift")

_PAGESIZE = re.compile(rb"^PAGESIZE=([0-9]{1,9})\r?$", re.MULTILINE)
_ALL = range(12, 17)  # 4 KiB to 64 KiB: what makedumpfile and Linux know


def page_shifts(machine: str) -> tuple[int, ...]:
    """Return the page sizes that a machine may have, as powers of two, the usual one first.

    :param machine: the name in the header of a dump; an unknown machine may have any size.
    """
    known = (each.page_shifts for each in ARCHITECTURES.values() if machine == each.name or machine in each.machines)
    return next(known, tuple(_ALL))


def usual_page_shift(machine: str, told: int | None = None) -> int:
    """Return the page size of a machine, as a power of two.

    :param told: bytes of a page according to the dump; None: it does not say.
    :returns: the told size if the machine may have it, else its usual size.
    """
    shifts = page_shifts(machine)
    return next((shift for shift in shifts if 1 << shift == told), shifts[0])


def told_by_notes(notes: Iterable[DumpNote]) -> int | None:
    """Return PAGESIZE of the VMCOREINFO in a dump's notes, in bytes; None: not there."""
    for note in notes:
        if note.name == b"VMCOREINFO" and (found := _PAGESIZE.search(note.desc)):
            return int(found[1])
    return None
