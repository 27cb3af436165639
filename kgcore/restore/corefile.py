# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a core as bytes at addresses, and its notes. The core may be hostile: all is bounded, nothing is believed."""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

from kgcore.elf.headers import EHDR, PHDR64, SHDR, Ehdr, Phdr64
from kgcore.elf.layout import PN_XNUM, PT_LOAD, PT_NOTE
from kgcore.errors import TargetError
from kgcore.restore.unpacking import unpacked
from kgcore.system.regular import open_regular, read_at

__all__ = ("CoreNote", "FinishedCore", "Segment")

_ET_CORE = 4
_MOST_SEGMENTS = 1 << 17  # vm.max_map_count is 65530 where nobody raised it
_MOST_NOTES = 1 << 28  # bytes
_FRAME = struct.Struct("<III")


class CoreNote(NamedTuple):
    """A note: its owner, its type, and its description."""

    owner: str
    kind: int
    desc: bytes


class Segment(NamedTuple):
    """A PT_LOAD: its addresses, and where in the file its bytes begin.

    :ivar stored: how many of its bytes the file has.
    """

    start: int
    end: int
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class FinishedCore:
    """A core that is open.

    :ivar path: its name, for messages.
    :ivar machine: ``e_machine``.
    :ivar segments: by address; none overlaps another.
    :ivar notes: all of them, in their order.
    """

    path: str
    _descriptor: int
    machine: int
    segments: tuple[Segment, ...]
    notes: tuple[CoreNote, ...]
    _starts: tuple[int, ...]
    _modified: float

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a core; it may be compressed by zstd or gzip.

        :raises TargetError: it cannot be read, is no core, or is damaged.
        """
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise TargetError(f"cannot open {path}: {error.strerror or error}") from error
        try:
            modified = os.fstat(descriptor).st_mtime
            descriptor = unpacked(path, descriptor)
            machine, segments, notes = _read(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, machine, segments, notes, tuple(segment.start for segment in segments), modified)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def modified(self) -> float:
        """Return when the core was last written, in seconds."""
        return self._modified

    def stored(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges within this one whose bytes the core has, ascending."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for segment in self.segments[at:]:
            if segment.start >= end:
                break
            first, last = max(start, segment.start), min(end, segment.start + segment.stored)
            if first < last:
                yield first, last

    def read(self, address: int, size: int) -> bytes | None:
        """Return bytes of memory; None: the core lacks some of them.

        :raises OSError: the file cannot be read.
        """
        data = b""
        while len(data) < size:
            at = address + len(data)
            index = bisect_right(self._starts, at) - 1
            if index < 0:
                return None
            segment = self.segments[index]
            count = min(size - len(data), segment.start + segment.stored - at)
            if count <= 0:
                return None
            part = read_at(self._descriptor, count, segment.offset + at - segment.start)
            if len(part) < count:
                return None
            data += part
        return data


def _read(path: str, descriptor: int) -> tuple[int, tuple[Segment, ...], tuple[CoreNote, ...]]:
    size = os.fstat(descriptor).st_size
    raw = read_at(descriptor, EHDR[64].size, 0)
    if raw[:4] != b"\x7fELF" or len(raw) < 52:
        raise TargetError(f"{path} is no core: it does not begin like an ELF file", hint="kgcore live PID writes one")
    if raw[4:6] != b"\x02\x01" or len(raw) < EHDR[64].size:
        raise TargetError(f"{path} is of a 32-bit program, or not of this machine: it cannot go on")
    header = EHDR[64].unpack(raw)
    if header.e_type != _ET_CORE:
        raise TargetError(f"{path} is no core, but another kind of ELF file")
    entries = _program_headers(path, descriptor, header)
    loads, notes = [], []
    for entry in entries:
        if entry.p_type == PT_LOAD:
            if entry.p_filesz > entry.p_memsz or entry.p_vaddr + entry.p_memsz > 1 << 64:
                raise TargetError(f"{path}: the segment at {entry.p_vaddr:#x} is damaged")
            if entry.p_offset + entry.p_filesz > size:
                raise TargetError(f"{path} is cut off: it lacks memory at {entry.p_vaddr:#x}")
            loads.append(Segment(entry.p_vaddr, entry.p_vaddr + entry.p_memsz, entry.p_offset, entry.p_filesz))
        elif entry.p_type == PT_NOTE:
            if entry.p_offset + entry.p_filesz > size:
                raise TargetError(f"{path} is cut off: it lacks its notes")
            notes.append((entry.p_offset, entry.p_filesz))
    if sum(length for _, length in notes) > _MOST_NOTES:
        raise TargetError(f"{path}: its notes are larger than is plausible")
    loads.sort()
    for one, other in pairwise(loads):
        if one.end > other.start:
            raise TargetError(f"{path}: two segments overlap at {other.start:#x}")
    return (
        header.e_machine,
        tuple(loads),
        tuple(note for offset, length in notes for note in _notes(path, read_at(descriptor, length, offset))),
    )


def _program_headers(path: str, descriptor: int, header: Ehdr) -> list[Phdr64]:
    count = header.e_phnum
    if count == PN_XNUM:
        first = read_at(descriptor, SHDR[64].size, header.e_shoff)
        count = SHDR[64].unpack(first).sh_info if len(first) == SHDR[64].size else 0
    if not 0 < count <= _MOST_SEGMENTS or header.e_phentsize != PHDR64.size:
        raise TargetError(f"{path}: its program headers are damaged")
    raw = read_at(descriptor, count * PHDR64.size, header.e_phoff)
    if len(raw) < count * PHDR64.size:
        raise TargetError(f"{path} is cut off: it lacks its program headers")
    return list(PHDR64.unpack_all(raw))


def _notes(path: str, raw: bytes) -> Iterator[CoreNote]:
    at = 0
    while at + _FRAME.size <= len(raw):
        namesz, descsz, kind = _FRAME.unpack_from(raw, at)
        name = at + _FRAME.size
        desc = name + (namesz + 3 & ~3)
        if desc + descsz > len(raw):
            raise TargetError(f"{path}: a note is larger than its segment")
        owner = raw[name : name + namesz].rstrip(b"\0").decode("ascii", "replace")
        yield CoreNote(owner, kind, raw[desc : desc + descsz])
        at = desc + (descsz + 3 & ~3)
