# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the notes of a core, in the kernel's order.

::

    first thread    PRSTATUS, PRPSINFO, SIGINFO, AUXV, FILE, its other register sets in the view's order
    other threads   PRSTATUS, its other register sets
    at the end      XSAVE_LAYOUT (6.12)

Register sets that a kernel handed over as notes (:attr:`kgcore.model.process.Thread.regsets`) come first, as they are;
the others are made by the architecture.

Kernel: write_note_info, fill_thread_core_info in fs/binfmt_elf.c.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kgcore.arch.base import Arch, auxv_note, file_note, prpsinfo_note, prstatus_note, siginfo_note
from kgcore.elf.layout import NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO, Note
from kgcore.model.process import ProcessImage, RegisterSource, Thread

__all__ = ("NT_PRFPREG", "Remark", "has_fpu_note", "process_notes", "remarks")

NT_PRFPREG = 2


def process_notes(image: ProcessImage, arch: Arch) -> Iterator[Note]:
    """Return all notes that the kernel would write of a process, if they have to be made."""
    for number, thread in enumerate(image.threads):
        prstatus, *regsets = _thread_notes(image, arch, thread)
        yield prstatus
        if number == 0:
            yield from _shared_notes(image, arch)
        yield from regsets
    for extra in arch.extra:
        desc = extra.build(image)
        if desc is not None:
            yield Note(extra.owner, extra.type, desc)


def _thread_notes(image: ProcessImage, arch: Arch, thread: Thread) -> list[Note]:
    regsets = [Note(given.owner, given.type, given.desc) for given in thread.regsets]
    known = {(note.name, note.type) for note in regsets}
    for row in arch.regsets:  # plain loops: there may be 20 000 threads
        if (row.owner, row.type) not in known and (desc := row.build(image, thread)) is not None:
            regsets.append(Note(row.owner, row.type, desc))
    fpvalid = any(note.type == NT_PRFPREG for note in regsets)
    signal = image.dying.signal if image.dying is not None else 0
    return [Note(b"CORE", NT_PRSTATUS, prstatus_note(arch, thread, fpvalid, signal)), *regsets]


def _shared_notes(image: ProcessImage, arch: Arch) -> Iterator[Note]:
    yield Note(b"CORE", NT_PRPSINFO, prpsinfo_note(arch, image.psinfo))
    yield Note(b"CORE", NT_SIGINFO, siginfo_note(arch, image.dying))
    yield Note(b"CORE", NT_AUXV, auxv_note(arch, image.auxv))
    if image.vmas:
        yield Note(b"CORE", NT_FILE, file_note(arch, image))


class Remark(NamedTuple):
    """A statement on what a thread's notes lack, or where they are outdated.

    :ivar tid: the thread, as the initial pid namespace numbers it.
    :ivar text: a sentence on the thread ("its registers ...").
    """

    tid: int
    text: str


def remarks(image: ProcessImage, arch: Arch) -> Iterator[Remark]:
    """Return the remarks on the threads' registers, thread by thread."""
    for thread in image.threads:
        if thread.regs.source is RegisterSource.UNAVAILABLE:
            yield Remark(thread.tid, f"its registers are not {thread.regs.where}: all of them are zeros")
        elif thread.regs.unknown:
            names = ", ".join(sorted(thread.regs.unknown))
            yield Remark(thread.tid, f"these registers were not found and are zeros: {names}")
        if thread.fpu is not None and thread.fpu.stale:
            yield Remark(
                thread.tid,
                "it was running: its floating-point and vector registers were in the CPU, not in memory; "
                "the core has older values",
            )
        if not has_fpu_note(thread):
            for text in arch.remarks(image, thread):
                yield Remark(thread.tid, text)


def has_fpu_note(thread: Thread) -> bool:
    """Whether a kernel handed over the thread's floating-point registers: then nothing about them is in doubt."""
    return any((given.owner, given.type) == (b"CORE", NT_PRFPREG) for given in thread.regsets)
