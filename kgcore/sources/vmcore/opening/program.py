# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn Program for whatever the user has, before it has types and symbols.

drgn takes memory from functions of ours (:mod:`kgcore.sources.vmcore.opening.drgnmemory`), and is told VMCOREINFO and
what machine the dump comes from, which are found here where its headers do not say so.

All of drgn's exceptions end here: it raises FileNotFoundError,
PermissionError, ValueError, LookupError and plain Exception.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program, ProgramFlags

from kgcore.errors import TargetError
from kgcore.sources.plugins import without_plugins
from kgcore.sources.vmcore.dumpfile import DumpFile
from kgcore.sources.vmcore.opening.drgnmemory import assemble, memory_of
from kgcore.sources.vmcore.opening.kernelcheck import architecture_of
from kgcore.sources.vmcore.opening.lowmem import LowMemory
from kgcore.sources.vmcore.opening.qemu import PausedGuest
from kgcore.sources.vmcore.opening.translation import KernelMemory
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.system.regular import reading

__all__ = (
    "is_live",
    "machine_of",
    "open_core",
    "open_live",
    "open_qemu",
    "open_through",
    "read_vmcoreinfo_file",
    "refuse_others",
)

_I386 = "i386"
_NT_PRPSINFO = 3  # in every core of a process, in no vmcore
_USER_END = 1 << 47  # the kernel has nothing below
_MAX_VMCOREINFO_FILE = 1 << 20
_KERNEL_START, _END = 1 << 63, 1 << 64  # of addresses; of physical ones, more than there can be
_LIVE = "kgcore_live"

# Enough VMCOREINFO for drgn to open a dump and read physical memory out of it; everything virtual is wrong.
_STUB = b"""OSRELEASE=5.10.0
PAGESIZE=4096
KERNELOFFSET=0
SYMBOL(swapper_pg_dir)=ffffffff82000000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""


def read_vmcoreinfo_file(path: str) -> bytes:
    """The text of a file for ``--vmcoreinfo``.

    :raises TargetError: it cannot be read, or is something else.
    """
    try:
        with reading(path) as file:
            text = file.read(_MAX_VMCOREINFO_FILE)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from error
    if "OSRELEASE" not in vmcoreinfo.parse(text):
        raise TargetError(f"{path} is no VMCOREINFO: it has no line OSRELEASE=...")
    return text


def refuse_others(path: str, dump: DumpFile, architecture: str | None) -> None:
    """:raises TargetError: it is a core of a process, or the dump of a machine that is not ours."""
    if any(note.name == b"CORE" and note.type == _NT_PRPSINFO for note in dump.notes):
        raise TargetError(f"{path} is the core of a process, not a vmcore", hint="kgcore check looks into such cores")
    _way(architecture or _machine(dump))


def open_core(path: str, dump: DumpFile, text: bytes, architecture: str | None) -> Program:
    """Open a dump file.

    :param dump: its own tables.
    :param text: the VMCOREINFO to go by. What machine it is of counts more than what the header says: kexec makes ELF32
        ones on request, which say i386.
    :param architecture: drgn's name of one, in lower case, if the user gave it.
    :raises TargetError: drgn cannot open it, or it is not the dump of a Linux kernel.
    """
    machine = architecture_of(vmcoreinfo.parse(text)) or architecture or _machine(dump)
    return _way(machine).open(path, dump, text)


def _open_64(path: str, dump: DumpFile, text: bytes) -> Program:
    return _open(path, _connector(dump), _WAYS["x86_64"].platform, text)


def _open_32(path: str, dump: DumpFile, text: bytes) -> Program:
    """The dump of a 32-bit kernel, see :mod:`kgcore.sources.vmcore.opening.lowmem`."""
    physical = _open(path, _connector(dump), _WAYS[_I386].platform, _STUB)
    low = LowMemory.find(physical, vmcoreinfo.parse(text))

    def virtual(prog: Program) -> None:
        assemble(prog, dump.notes, ())
        low.give(prog)

    return _open(path, virtual, Platform(Architecture.I386), text)


class _Way(NamedTuple):
    """How dumps of an architecture are opened.

    :ivar platform: of the Program that reads physical memory: always one with 64-bit addresses.
    :ivar open: with path, dump, VMCOREINFO.
    """

    platform: Platform
    open: Callable[[str, DumpFile, bytes], Program]


_WAYS = {
    "x86_64": _Way(Platform(Architecture.X86_64), _open_64),
    _I386: _Way(Platform(Architecture.I386, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN), _open_32),
}


def _way(architecture: str) -> _Way:
    if architecture not in _WAYS:
        raise TargetError(
            f"the dump is of architecture {architecture}",
            hint="kgcore reads dumps of x86_64 and i386; if this one's header is wrong, say --architecture x86_64",
        )
    return _WAYS[architecture]


def machine_of(prog: Program) -> str:
    """The architecture of a Program, by its name on the command line; "" if it has none."""
    return prog.platform.arch.name.lower() if prog.platform else ""


def open_live(text: bytes | None) -> Program:
    """The running kernel. :raises TargetError: drgn cannot open it."""
    try:
        return _open("/proc/kcore", lambda prog: prog.set_kernel(), None, text)
    except TargetError as error:
        hint = error.hint or "it takes a kernel with CONFIG_PROC_KCORE, and a place outside of containers"
        raise TargetError(f"the running kernel: {error.message}", hint=hint) from error


def open_qemu(guest: PausedGuest, text: bytes | None, architecture: str | None) -> Program:
    """A QEMU guest, which is paused from now on. :raises TargetError: drgn cannot use it."""
    try:
        if architecture not in (None, guest.architecture):
            raise TargetError(
                f"running guests are read of {guest.architecture} only",
                hint="dump it: dump-guest-memory in QEMU's monitor",
            )
        return _open(guest.address, guest.connect, _way(guest.architecture).platform, text)
    except TargetError as error:
        if text or "not the dump of" not in error.message:
            raise
        raise TargetError(
            f"the guest at {guest.address} does not tell where its kernel is",
            hint="run QEMU with -device vmcoreinfo and load the module qemu_fw_cfg in the guest, or give --vmcoreinfo",
        ) from error


def open_through(other: Program, text: bytes | None) -> Program:
    """A Program that reads what another one can read, for types and symbols that the other one is not to have.

    :raises TargetError: drgn cannot open it.
    """

    def physical(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        data: bytes = other.read(address, size, physical=True)
        return data

    def virtual(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        data: bytes = other.read(address, size)
        return data

    def connect(prog: Program) -> None:
        assemble(prog, (), ())
        prog.add_memory_segment(0, _END - 1, physical, True)
        prog.add_memory_segment(_KERNEL_START, _END - _KERNEL_START, virtual, False)

    prog = _open("the program's memory", connect, other.platform, text)
    prog.cache[_LIVE] = is_live(other)
    return prog


def is_live(prog: Program) -> bool:
    """Whether the kernel is running while it is read."""
    return ProgramFlags.IS_LIVE in prog.flags or bool(prog.cache.get(_LIVE))


def _open(name: str, connect: Callable[[Program], None], platform: Platform | None, text: bytes | None) -> Program:
    try:
        prog = Program(platform, vmcoreinfo=text and vmcoreinfo.ascii_only(text))
        with without_plugins():
            connect(prog)
    except TargetError:
        raise
    except FileNotFoundError as error:
        raise TargetError(f"there is no {name}") from error
    except PermissionError as error:
        raise TargetError(f"{name} cannot be read: {error.strerror}", hint="try it as root") from error
    except MemoryError:
        raise
    except Exception as error:  # drgn has no error of its own for this and raises Exception itself
        raise TargetError(f"drgn cannot open {name}: {error}") from error
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError(f"{name} is not the dump of a Linux kernel")
    if LowMemory.of(prog) is not None:
        return prog
    # QEMU's ELF dumps say of physical memory that it lies at virtual address 0: a null pointer would lead to the BIOS.
    prog.add_memory_segment(0, _USER_END, _no_kernel_memory, False)
    return prog


def _no_kernel_memory(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("no memory of the kernel", address)


def _connector(dump: DumpFile) -> Callable[[Program], None]:
    """What makes a Program one of this dump."""

    def connect(prog: Program) -> None:
        assemble(prog, dump.notes, (memory_of(dump),))
        KernelMemory.give(prog, dump.frames)

    return connect


def _machine(dump: DumpFile) -> str:
    """The architecture of the dump's header."""
    return _I386 if re.fullmatch("i[3-6]86", dump.architecture) else dump.architecture or "x86_64"
