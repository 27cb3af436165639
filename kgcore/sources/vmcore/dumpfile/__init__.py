# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what a dump file holds apart from drgn: its notes, and which page frames it has.

A format is a class in its own module with the attributes of :class:`DumpFile`, and a line in :func:`_reader`.
:mod:`kgcore.sources.vmcore.dumpfile.unsupported` names other formats.
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
    """A dump file's own tables.

    :ivar format: ``ELF64``, ``ELF32``, ``kdump``, ``LiME``, ``raw memory``.
    :ivar compression: of the pages: ``zlib``, ``lzo``, ``snappy``, ``zstd``, ``none``.
    :ivar architecture: of the machine, as the header has it; "" if it has none.
    :ivar page_shift: a page frame has ``1 << page_shift`` bytes.
    :ivar dump_level: makedumpfile's ``-d``, if the file tells.
    :ivar release: of the kernel, "" if the header does not tell.
    :ivar needs_platform: drgn cannot tell the architecture from this header.
    :ivar vmcoreinfo: the text, if the header points to one; there may be a note with it besides.
    :ivar flattened: it is in the format for pipes.
    :ivar missing_bytes: how many bytes the file is shorter than its headers promise.
    :ivar incomplete: that, or its writer did not get to its end: page tables that are needed may be missing.
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
        :param view: a page for each.
        :raises ShortFile, BrokenDump, OSError: one of them cannot be read. What the view holds then is undefined.
        """

    def close(self) -> None: ...


def open_dump(
    path: str | os.PathLike[str], *parts: str | os.PathLike[str], architecture: str | None = None
) -> DumpFile:
    """Read the headers and tables of a dump file of any format.

    :param parts: the other files, if it is a split set.
    :param architecture: of the dump, by its name on the command line, if the user says so: a file of no known format is
        raw memory then.
    :raises TargetError: it cannot be read, or is no dump file, or the files are not one whole set.
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
    """Open a regular file that is not empty."""
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
    """Choose by the first bytes."""
    try:
        head = bytes(source.read(0, min(source.size, HEAD_SIZE)))
    except OSError:
        if architecture is None:
            raise
        head = b""  # of raw memory it is a page like any other; of another format what follows makes no sense
    flattened = FlattenedFile(source) if head.startswith(FLATTENED) else None
    if flattened is not None:
        source = flattened
        head = bytes(source.read(0, min(source.size, _MAGIC_SIZE)))  # of a cut-off file not more may be there
    shift = usual_page_shift(architecture or "")  # where nothing in the file tells
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
