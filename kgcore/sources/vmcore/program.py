# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn Program for whatever the user has, before it has types and symbols.

drgn opens ELF cores and kdump files by itself if they carry VMCOREINFO and say what machine they come from. Where they
do not, the facts are found here and given to it. All of drgn's exceptions end here: it raises FileNotFoundError,
PermissionError, ValueError, LookupError and plain Exception.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from drgn import Architecture, FaultError, Platform, Program, ProgramFlags

from kgcore.errors import TargetError
from kgcore.sources.vmcore import vmcoreinfo
from kgcore.sources.vmcore.dumpfile import DumpFile, FrameState
from kgcore.sources.vmcore.dumpfile.frames import PAGE_SHIFT

__all__ = ("open_core", "open_live", "open_qemu", "read_vmcoreinfo_file")

_NT_PRPSINFO = 3  # in every core of a process, in no vmcore
_SCAN_PIECE = 4 << 20
_MAX_VMCOREINFO_FILE = 1 << 20
_UTS_NAMESPACE = 400  # bytes of struct uts_namespace: all six names, wherever they start

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
        with Path(path).open("rb") as file:
            text = file.read(_MAX_VMCOREINFO_FILE)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from error
    if "OSRELEASE" not in vmcoreinfo.parse(text):
        raise TargetError(f"{path} is no VMCOREINFO: it has no line OSRELEASE=...")
    return text


def open_core(path: str, dump: DumpFile, text: bytes | None, architecture: str | None) -> Program:
    """Open a dump file.

    :param dump: its own tables.
    :param text: VMCOREINFO to use instead of the dump's.
    :param architecture: drgn's name of one, in lower case, if the user gave it.
    :raises TargetError: drgn cannot open it, or it is not the dump of a Linux kernel.
    """
    if any(note.name == b"CORE" and note.type == _NT_PRPSINFO for note in dump.notes):
        raise TargetError(f"{path} is the core of a process, not a vmcore", hint="kgcore check looks into such cores")
    platform = _platform(architecture)
    if platform is None and (dump.needs_platform or dump.architecture != "x86_64"):
        platform = _platform(dump.architecture or "x86_64")
    if text is None and not _has_vmcoreinfo(dump):
        text = _find_vmcoreinfo(path, dump, platform)
    return _open(path, lambda prog: prog.set_core_dump(path), platform, text)


def open_live(text: bytes | None) -> Program:
    """The running kernel. :raises TargetError: drgn cannot open it."""
    return _open("/proc/kcore", lambda prog: prog.set_kernel(), None, text)


def open_qemu(address: str, text: bytes | None, architecture: str | None) -> Program:
    """A QEMU guest by its QMP socket. :raises TargetError: drgn cannot connect to it."""
    return _open(address, lambda prog: prog.set_qemu_qmp(address), _platform(architecture or "x86_64"), text)


def _platform(architecture: str | None) -> Platform | None:
    if architecture is None:
        return None
    if architecture != "x86_64":
        raise TargetError(f"the dump is of architecture {architecture}", hint="kgcore reads dumps of x86_64")
    return Platform(Architecture.X86_64)


def _open(name: str, connect: Callable[[Program], None], platform: Platform | None, text: bytes | None) -> Program:
    try:
        prog = Program(platform, vmcoreinfo=text)
        connect(prog)
    except FileNotFoundError as error:
        raise TargetError(f"there is no {name}") from error
    except PermissionError as error:
        raise TargetError(f"{name} cannot be read: {error.strerror}", hint="try it as root") from error
    except Exception as error:  # drgn has no error of its own for this and raises Exception itself
        raise TargetError(f"drgn cannot open {name}: {error}") from error
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError(f"{name} is not the dump of a Linux kernel")
    return prog


def _has_vmcoreinfo(dump: DumpFile) -> bool:
    return bool(dump.vmcoreinfo) or any(note.name == b"VMCOREINFO" and note.desc for note in dump.notes)


def _find_vmcoreinfo(path: str, dump: DumpFile, platform: Platform | None) -> bytes:
    """Look for VMCOREINFO in the memory that was dumped.

    Memory may hold several: copies, those of a kernel that was there before kexec, of a guest inside. The one is taken
    by which the kernel's page tables lead to a kernel of that release.

    :raises TargetError: there is none.
    """
    platform = platform or Platform(Architecture.X86_64)
    reader = _open(path, lambda prog: prog.set_core_dump(path), platform, _STUB)
    seen: set[bytes] = set()
    for text in vmcoreinfo.candidates(_stored_memory(reader, dump), lambda at, size: _read(reader, at, size)):
        if text not in seen and _describes(path, platform, text):
            return text
        seen.add(text)
    raise TargetError(
        f"{path} has no VMCOREINFO, neither as a note nor in its memory",
        hint="give it with --vmcoreinfo; for QEMU, dump guests that have -device vmcoreinfo and the module qemu_fw_cfg",
    )


def _stored_memory(prog: Program, dump: DumpFile) -> Iterator[tuple[int, bytes]]:
    """All memory in the file: physical address and bytes of pieces, each page-aligned."""
    for start, end, state in dump.frames.runs(0, 1 << (52 - PAGE_SHIFT)):
        if state is FrameState.STORED:
            for address in range(start << PAGE_SHIFT, end << PAGE_SHIFT, _SCAN_PIECE):
                yield address, _read(prog, address, min(_SCAN_PIECE, (end << PAGE_SHIFT) - address))


def _read(prog: Program, address: int, size: int) -> bytes:
    try:
        data: bytes = prog.read(address, size, physical=True)
    except FaultError:
        return b""
    return data


def _describes(path: str, platform: Platform, text: bytes) -> bool:
    """Whether a VMCOREINFO is that of the kernel in the dump: ``init_uts_ns`` must hold the release it states."""
    info = vmcoreinfo.parse(text)
    namespace, release = vmcoreinfo.symbol(info, "init_uts_ns"), info.get("OSRELEASE", "").encode()
    if namespace is None:
        return False
    try:
        prog = _open(path, lambda prog: prog.set_core_dump(path), platform, text)
        names: bytes = prog.read(namespace, _UTS_NAMESPACE)
    except (TargetError, FaultError):
        return False
    return b"\0" + release + b"\0" in names
