# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the notes of a finished core, for :mod:`kgcore.check.core`.

A core may be hostile: its headers may name the same hole in a sparse file a thousand times. So notes are read in place,
unknown ones are skipped, and the sum is limited.
"""

import errno
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from kgcore.text import human_size, plain

__all__ = ("AUXV", "FILE", "KGCORE", "PRFPREG", "PRPSINFO", "PRSTATUS", "SIGINFO", "CoreNote", "parsed", "read_notes")

PRSTATUS, PRFPREG, PRPSINFO, AUXV, FILE, SIGINFO = (("CORE", number) for number in (1, 2, 3, 6, 0x46494C45, 0x53494749))
KGCORE = ("KGCORE", 0x4B474352)

_FRAME = struct.Struct("<III")
_MAX_NOTES = 1 << 20  # 32 000 threads have about six each
_MAX_OWNER = 64  # bytes of a name; CORE, LINUX, KGCORE are looked at
_WINDOW = 1 << 16
# Bytes of those whose contents matter. fs/binfmt_elf.c: MAX_FILE_NOTE_SIZE, 4 MiB, can be raised to 16.
_MAX_DESC = {PRSTATUS: 512, AUXV: 1 << 16, FILE: 1 << 26, KGCORE: 1 << 26}
_MAX_ALL = 1 << 27  # bytes of all of these together
_MAX_VALUES = 1 << 22  # in the KGCORE note: 70 000 mappings have 1.3 million


class CoreNote(NamedTuple):
    """A note of a core.

    :ivar kind: owner and type.
    :ivar size: of the description.
    :ivar desc: empty for kinds that the check ignores.
    """

    kind: tuple[str, int]
    size: int
    desc: bytes


def read_notes(
    file: BinaryIO, segments: list[tuple[int, int]], end: int, problem: Callable[[str], None]
) -> Iterator[CoreNote]:
    """Yield all notes.

    :param segments: offset and size of each PT_NOTE; within the file.
    :param end: of the file.
    :param problem: called with each problem found.
    """
    left, count = _MAX_ALL, 0
    kinds: dict[tuple[str, int], tuple[str, int]] = {}  # one object each
    for offset, size in segments:
        at, stop = offset, offset + size
        reader = _Reader(file, min(stop, end))
        while at + _FRAME.size <= stop:
            count += 1
            if count > _MAX_NOTES:
                problem(f"more than {_MAX_NOTES} notes: those from {at:#x} on were not checked")
                return
            # pyelftools would also interpret descriptions, by type without owner, and trust their sizes.
            name_size, desc_size, number = _FRAME.unpack(reader.read(at, _FRAME.size))
            name_at = at + _FRAME.size
            desc_at = name_at + (name_size + 3 & ~3)
            if desc_at + desc_size > stop:
                problem(f"the note at {at:#x} is larger than its segment")
                break
            owner = plain(reader.read(name_at, min(name_size, _MAX_OWNER)).rstrip(b"\0"))
            kind, desc = kinds.setdefault((owner, number), (owner, number)), b""
            if (limit := _MAX_DESC.get(kind)) is not None:
                if desc_size > limit or desc_size > left:
                    problem(
                        f"the note at {at:#x}, {owner} {number:#x}, has an implausible size: {human_size(desc_size)}"
                    )
                else:
                    left -= desc_size
                    desc = reader.read(desc_at, desc_size)
            yield CoreNote(kind, desc_size, desc)
            at = desc_at + (desc_size + 3 & ~3)
        else:
            if at < stop:
                problem(f"{stop - at} stray bytes after the last note")


class _Reader:
    """Reads small pieces of a file in sequence."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file = file
        self._end = end
        self._at = 0
        self._window = b""

    def read(self, at: int, size: int) -> bytes:
        start = at - self._at
        if start < 0 or start + size > len(self._window):
            self._file.seek(at)
            self._window = self._file.read(min(max(size, _WINDOW), self._end - at))
            self._at, start = at, 0
            if len(self._window) < size:
                raise OSError(errno.EIO, "the file shrank while it was read")
        return self._window[start : start + size]


def parsed(desc: bytes) -> Any:
    """Return the content of a KGCORE note.

    :raises ValueError, RecursionError: it is not JSON, or too large for memory.
    """
    if desc.count(b",") + desc.count(b"[") + desc.count(b"{") > _MAX_VALUES:
        raise ValueError(f"it has more than {_MAX_VALUES} values")
    return json.loads(desc)
