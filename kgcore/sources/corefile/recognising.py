# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell a core of a process from a vmcore, which has the same ELF header."""

from kgcore.elf.layout import NT_AUXV, NT_FILE, NT_PRPSINFO
from kgcore.errors import KgcoreError
from kgcore.sources.corefile.head import read_head
from kgcore.sources.corefile.inputs import CoreFileInput
from kgcore.system.regular import reading

__all__ = ("is_process_core",)

# What no kernel says of itself: its vmcores have NT_PRSTATUS, too
_OF_PROCESSES = {(b"CORE", NT_PRPSINFO), (b"CORE", NT_AUXV), (b"CORE", NT_FILE)}


def is_process_core(path: str) -> bool:
    """Return whether a file is a core of a process."""
    try:
        with reading(path) as file:
            head = read_head(CoreFileInput(file.fileno()), path)
    except (OSError, KgcoreError):
        return False
    return any((note.owner, note.type) in _OF_PROCESSES for note in head.notes)
