# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a drgn Program without types and symbols, for any kind of dump or machine.

drgn reads a dump's memory through kgcore (:mod:`kgcore.sources.vmcore.opening.drgnmemory`). kgcore also gives it
VMCOREINFO and the dump's machine; if the headers do not state the machine, this module finds it.
"""

from drgn import Program, ProgramFlags

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile import DumpFile
from kgcore.sources.vmcore.opening.connect import open_program, without_user_pages
from kgcore.sources.vmcore.opening.drgnmemory import assemble
from kgcore.sources.vmcore.opening.qemu import PausedGuest
from kgcore.sources.vmcore.opening.spaces import (
    OPENINGS,
    KernelOpening,
    architecture_of,
    named,
    opening_of,
    opening_of_machine,
    read_by_drgn,
)
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.system.regular import reading

__all__ = (
    "is_live",
    "open_core",
    "open_live",
    "open_qemu",
    "open_through",
    "read_vmcoreinfo_file",
    "refuse_others",
)

_NT_PRPSINFO = 3  # in every core of a process, in no vmcore
_MAX_VMCOREINFO_FILE = 1 << 20
_END = 1 << 64  # of addresses; above all physical addresses
_LIVE = "kgcore_live"


def read_vmcoreinfo_file(path: str) -> bytes:
    """Read the file of ``--vmcoreinfo`` and return its text.

    :raises TargetError: it cannot be read, or is not VMCOREINFO.
    """
    try:
        with reading(path) as file:
            text = file.read(_MAX_VMCOREINFO_FILE)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    if "OSRELEASE" not in vmcoreinfo.parse(text):
        raise TargetError(f"{path} is not VMCOREINFO: it has no line OSRELEASE=...")
    return text


def refuse_others(path: str, dump: DumpFile, architecture: str | None) -> None:
    """Refuse a file that is not a vmcore of a supported architecture.

    :raises TargetError: it is the core of a process, or the dump of an unsupported machine.
    """
    if any(note.name == b"CORE" and note.type == _NT_PRPSINFO for note in dump.notes):
        raise TargetError(
            f"{path} is the core of a process, not a vmcore",
            hint="kgcore check reads cores of processes, kgcore filter writes them anew",
        )
    _opening(dump, architecture)


def open_core(path: str, dump: DumpFile, text: bytes, architecture: str | None) -> Program:
    """Open a dump file.

    :param dump: the file's tables.
    :param text: the VMCOREINFO to use. Its machine overrides the header's: on request, kexec writes ELF32 headers,
        which say i386.
    :param architecture: drgn's name of the architecture, in lower case, if the user gave one.
    :raises TargetError: drgn cannot open it, or it is not the dump of a Linux kernel.
    """
    own = architecture_of(vmcoreinfo.parse(text))
    return (OPENINGS[own] if own else _opening(dump, architecture)).open(path, dump, text)


def _opening(dump: DumpFile, architecture: str | None) -> KernelOpening:
    """Return the opener for a dump's architecture.

    :param architecture: the one that the user gave, instead of the header's.
    :raises TargetError: kgcore does not support this architecture.
    """
    return named(architecture) if architecture else opening_of_machine(dump.architecture)


def open_live(text: bytes | None) -> Program:
    """Open the running kernel.

    :raises TargetError: drgn cannot open it.
    """
    try:
        prog = open_program("/proc/kcore", lambda prog: prog.set_kernel(), None, text)
        return without_user_pages(prog, opening_of(prog).architecture)
    except TargetError as error:
        hint = error.hint or "it needs a kernel with CONFIG_PROC_KCORE, and to run outside of containers"
        raise TargetError(f"the running kernel: {error.message}", hint=hint) from error


def open_qemu(guest: PausedGuest, text: bytes | None, architecture: str | None) -> Program:
    """Open a QEMU guest and pause it.

    :raises TargetError: drgn cannot read it.
    """
    try:
        opening = named(architecture or guest.architecture)
        if not opening.drgn_reads:
            raise TargetError(
                f"running guests are read of {read_by_drgn()} only",
                hint="dump the guest with dump-guest-memory in QEMU's monitor",
            )
        prog = open_program(guest.address, guest.connect, opening.platform, text)
        return without_user_pages(prog, opening.architecture)
    except TargetError as error:
        if text or "not the dump of" not in error.message:
            raise
        raise TargetError(
            f"the guest at {guest.address} does not say where its kernel is",
            hint="run QEMU with -device vmcoreinfo and load the module qemu_fw_cfg in the guest, or give --vmcoreinfo",
        ) from error


def open_through(other: Program, text: bytes | None) -> Program:
    """Make a Program that reads memory through another one, to add types and symbols without changing the other.

    :raises TargetError: drgn cannot open it.
    """
    architecture = opening_of(other).architecture

    def physical(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        data: bytes = other.read(address, size, physical=True)
        return data

    def virtual(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        data: bytes = other.read(address, size)
        return data

    def connect(prog: Program) -> None:
        assemble(prog, (), ())
        prog.add_memory_segment(0, _END - 1, physical, True)
        prog.add_memory_segment(architecture.user_pages, _END - architecture.user_pages, virtual, False)

    prog = open_program("the program's memory", connect, other.platform, text)
    without_user_pages(prog, architecture)
    prog.cache[_LIVE] = is_live(other)
    return prog


def is_live(prog: Program) -> bool:
    """Tell whether the kernel runs while kgcore reads it."""
    return ProgramFlags.IS_LIVE in prog.flags or bool(prog.cache.get(_LIVE))
