# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read dump files without drgn: their notes, and which page frames they hold.

To add a format, write a class with the attributes of :class:`DumpFile` in a module of its own, and add a line to
:func:`_reader`. :mod:`kgcore.sources.vmcore.dumpfile.unsupported` names the formats that kgcore does not read.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kgcore.arch import ARCHITECTURES
from kgcore.errors import TargetError
from kgcore.sources.vmcore.dumpfile.elf import ElfDump
from kgcore.sources.vmcore.dumpfile.flattened import SIGNATURE as FLATTENED
from kgcore.sources.vmcore.dumpfile.flattened import FlattenedFile
from kgcore.sources.vmcore.dumpfile.frames import FrameRun, Frames, FrameState, everything
from kgcore.sources.vmcore.dumpfile.kdump import SIGNATURE as KDUMP
from kgcore.sources.vmcore.dumpfile.kdump import KdumpDump
from kgcore.sources.vmcore.dumpfile.linear import LIME, LinearDump
from kgcore.sources.vmcore.dumpfile.notes import DumpNote, parse_notes, unreadable
from kgcore.sources.vmcore.dumpfile.pagesize import usual_page_shift
from kgcore.sources.vmcore.dumpfile.source import ByteSource, PlainFile, ShortFile
from kgcore.sources.vmcore.dumpfile.split import SplitSet
from kgcore.sources.vmcore.dumpfile.unsupported import HEAD_SIZE, refusal

__all__ = (
    "DumpFile",
    "DumpNote",
    "ElfDump",
    "FrameRun",
    "FrameState",
    "Frames",
    "KdumpDump",
    "LinearDump",
    "SplitSet",
    "everything",
    "open_dump",
    "parse_notes",
)


_MAGIC_SIZE = 8  # bytes


class DumpFile(Protocol):
    """The tables of a dump file.

    :ivar format: ``ELF64``, ``ELF32``, ``kdump``, ``LiME``, ``raw memory``.
    :ivar compression: of the pages: ``zlib``, ``lzo``, ``snappy``, ``zstd``, ``none``.
    :ivar architecture: of the machine, as the header names it; "" if the header does not name it.
    :ivar page_shift: a page frame has ``1 << page_shift`` bytes.
    :ivar dump_level: makedumpfile's ``-d``; None: the file does not tell.
    :ivar release: of the kernel; "" if the header does not tell.
    :ivar needs_platform: drgn cannot tell the architecture from this header.
    :ivar vmcoreinfo: the text, if the header points to one; a note may have it too.
    :ivar flattened: the file is in the format for pipes.
    :ivar missing_bytes: how many bytes the file is shorter than its headers promise.
    :ivar incomplete: the file is too short, or its writer did not finish: page tables may be missing.
    :ivar notices: what else the user should know, as sentences.
    """

    format: str
    compression: str
    architecture: str
    page_shift: int
    dump_level: int | None
    release: str
    needs_platform: bool
    notes: tuple[DumpNote, ...]
    vmcoreinfo: bytes | None
    frames: Frames
    missing_bytes: int
    incomplete: bool
    notices: tuple[str, ...]
    flattened: bool

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """Copy page frames that are STORED.

        :param pages: the physical address of each, in any order.
        :param view: room for as many pages.
        :raises ShortFile, BrokenDump, OSError: a page cannot be read. The contents of the view are then undefined.
        """

    def close(self) -> None: ...


def open_dump(
    path: str | os.PathLike[str], *parts: str | os.PathLike[str], architecture: str | None = None
) -> DumpFile:
    """Read the headers and tables of a dump file of any format.

    :param parts: the other files, if it is a split set.
    :param architecture: the architecture that the user named on the command line. With it, kgcore takes a file of
        unknown format as raw memory.
    :raises TargetError: a file cannot be read or is no dump file, or the files are not one complete set.
    """
    dump = _open_file(Path(path), architecture)
    if not parts and not (isinstance(dump, KdumpDump) and dump.split):
        return dump
    files = [(str(path), dump)]
    try:
        files += [(str(part), _open_file(Path(part), None)) for part in parts]
        return SplitSet(files)
    except BaseException:
        for _, opened in files:
            opened.close()
        raise


def _open_file(name: Path, architecture: str | None) -> DumpFile:
    descriptor = _descriptor(name)
    try:
        source = PlainFile(descriptor)
    finally:
        os.close(descriptor)
    try:
        return _reader(source, str(name), architecture)
    except BaseException as error:
        source.close()
        if isinstance(error, TargetError):
            raise TargetError(f"{name} is not a supported vmcore: {error.message}", hint=error.hint) from error
        if isinstance(error, ShortFile):
            raise TargetError(f"{name} is cut off within its headers: {error}") from error
        if isinstance(error, OSError):
            raise TargetError(f"cannot read {name}: {error.strerror}") from error
        raise


def _descriptor(name: Path) -> int:
    """Open a file, which must be regular and not empty, and return its descriptor."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TargetError(f"{name} does not exist", hint="name the vmcore with -c") from None
    except OSError as error:
        hint = "often only root can read vmcores" if isinstance(error, PermissionError) else ""
        raise TargetError(f"cannot open {name}: {error.strerror}", hint=hint) from error
    status = os.fstat(descriptor)
    wrong = None
    if stat.S_ISDIR(status.st_mode):
        wrong = TargetError(f"{name} is a directory", hint="name the vmcore in it with -c")
    elif not stat.S_ISREG(status.st_mode):
        wrong = TargetError(f"{name} is not a regular file", hint="copy the dump to a file first")
    elif status.st_size == 0:
        wrong = TargetError(f"{name} is empty", hint="the disk may have been full when it was written")
    if wrong is not None:
        os.close(descriptor)
        raise wrong
    return descriptor


def _reader(source: ByteSource, name: str, architecture: str | None) -> DumpFile:
    """Return the reader for the format that the first bytes of the file show."""
    try:
        head = bytes(source.read(0, min(source.size, HEAD_SIZE)))
    except OSError:
        if architecture is None:
            raise
        head = b""  # raw memory can do without this page; another format is unreadable without its header
    flattened = FlattenedFile(source) if head.startswith(FLATTENED) else None
    if flattened is not None:
        source = flattened
        head = bytes(source.read(0, min(source.size, _MAGIC_SIZE)))  # a cut-off file may have no more
    shift = usual_page_shift(architecture or "")  # if nothing in the file tells
    dump: DumpFile
    if head.startswith(b"\x7fELF"):
        dump = ElfDump(source)
    elif head.startswith(KDUMP):
        dump = KdumpDump(source)
    elif head.startswith(LIME):
        dump = LinearDump(source, raw=False, page_shift=shift)
    elif known := refusal(name, head):
        raise known
    elif architecture is not None and flattened is None:
        dump = LinearDump(source, raw=True, page_shift=shift)
    else:
        raise TargetError(
            "it is not an ELF core, a kdump file or a LiME image",
            hint=f"if it is raw memory, say so with --architecture {next(iter(ARCHITECTURES))}",
        )
    if not head:
        dump.notices += ("its first page is unreadable (a disk error?): read as raw memory",)
    dump.flattened = flattened is not None
    if flattened is not None and flattened.damaged:
        dump.notices += unreadable(["flattened records"])
    return dump
