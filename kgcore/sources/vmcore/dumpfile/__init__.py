# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump file holds, apart from what drgn reads out of it: its notes, and which page frames are in it.

A format is a class in a module of its own with the attributes of :class:`DumpFile`, and a line in :func:`_reader`.
LiME, raw memory and split sets would come here.
"""

import os
import stat
from pathlib import Path
from typing import Protocol

from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.elf import ElfDump
from kgcore.sources.vmcore.dumpfile.flattened import SIGNATURE as FLATTENED
from kgcore.sources.vmcore.dumpfile.flattened import FlattenedFile
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, Frames, FrameState, everything
from kgcore.sources.vmcore.dumpfile.kdump import SIGNATURE as KDUMP
from kgcore.sources.vmcore.dumpfile.kdump import KdumpDump
from kgcore.sources.vmcore.dumpfile.notes import DumpNote, parse_notes
from kgcore.sources.vmcore.dumpfile.source import ByteSource, PlainFile, ShortFile

__all__ = ("DumpFile", "DumpNote", "FrameRun", "FrameState", "Frames", "everything", "open_dump", "parse_notes")

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gzip -dk"),
    b"\xfd7zXZ\0": ("xz", "xz -dk"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dk"),
    b"BZh": ("bzip2", "bzip2 -dk"),
}
_UNSUPPORTED = {  # known by name, so that nobody has to wonder
    b"EMiL": "a LiME memory image",
    b"LibvirtQemudSave": "a libvirt save image (virsh save, or virsh dump without --memory-only)",
    b"QEVM": "a QEMU migration stream",
    b"\xd2\xbe\xd2\xbe": "a VMware snapshot",
    b"\xd1\xbe\xd1\xbe": "a VMware snapshot",
    b"DISKDUMP": "a diskdump file (2.4 and early 2.6 kernels)",
    b"SQLite format 3\0": "an SQLite database",
}
_HEAD = 16  # bytes that tell a format


class DumpFile(Protocol):
    """A dump file's own tables.

    :ivar format: ``ELF64``, ``ELF32``, ``kdump``.
    :ivar compression: of the pages: ``zlib``, ``lzo``, ``snappy``, ``zstd``, ``none``.
    :ivar architecture: of the machine as the header has it, ``x86_64`` for the one that matters.
    :ivar dump_level: makedumpfile's ``-d``, if the file tells.
    :ivar release: of the kernel, "" if the header does not tell.
    :ivar needs_platform: drgn cannot tell the architecture from this header.
    :ivar vmcoreinfo: the text, if the header points to one; there may be a note with it besides.
    :ivar flattened: it is in the format for pipes.
    :ivar missing_bytes: how many bytes the file is shorter than its headers promise.
    :ivar notices: what else the user should know, as sentences.
    """

    format: str
    compression: str
    architecture: str
    dump_level: int | None
    release: str
    needs_platform: bool
    notes: tuple[DumpNote, ...]
    vmcoreinfo: bytes | None
    frames: Frames
    missing_bytes: int
    notices: tuple[str, ...]
    flattened: bool

    def close(self) -> None: ...


def open_dump(path: str | os.PathLike[str]) -> DumpFile:
    """Read the headers and tables of a dump file of any format.

    :raises TargetError: it cannot be read, or is no dump file.
    """
    name = Path(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TargetError(f"there is no file {name}", hint="name the vmcore with -c") from None
    except OSError as error:
        hint = "vmcores are often readable by root only" if isinstance(error, PermissionError) else ""
        raise TargetError(f"{name} cannot be opened: {error.strerror}", hint=hint) from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise TargetError(f"{name} is a directory", hint="name the vmcore in it with -c")
        if not stat.S_ISREG(status.st_mode):
            raise TargetError(f"{name} is not a regular file", hint="copy the dump to a file first")
        if status.st_size == 0:
            raise TargetError(f"{name} is empty")
        try:
            return _reader(PlainFile(descriptor))
        except TargetError as error:
            raise TargetError(f"{name} is not a vmcore that can be read: {error.message}", hint=error.hint) from error
        except ShortFile as error:
            raise TargetError(f"{name} is cut off within its headers: {error}") from error
        except OSError as error:
            raise TargetError(f"{name} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _reader(source: ByteSource) -> DumpFile:
    """Choose by the first bytes."""
    head = bytes(source.read(0, min(source.size, _HEAD)))
    flattened = head.startswith(FLATTENED)
    if flattened:
        source = FlattenedFile(source)
        head = bytes(source.read(0, min(source.size, _HEAD)))
    dump: DumpFile
    if head.startswith(b"\x7fELF"):
        dump = ElfDump(source)
    elif head.startswith(KDUMP):
        dump = KdumpDump(source)
    else:
        raise _unknown(head)
    dump.flattened = flattened
    return dump


def _unknown(head: bytes) -> TargetError:
    for magic, (what, command) in _COMPRESSED.items():
        if head.startswith(magic):
            return TargetError(f"it is compressed with {what}", hint=f"unpack it: {command} FILE")
    for magic, what in _UNSUPPORTED.items():
        if head.startswith(magic):
            return TargetError(f"it is {what}, which is not supported", hint="make an ELF or kdump file of it")
    return TargetError("it is neither an ELF core nor a kdump file")
