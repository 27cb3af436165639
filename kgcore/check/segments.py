# SPDX-License-Identifier: LGPL-2.1-or-later
"""The headers of a core: its machine, its PT_LOADs and the places of its notes."""

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from elftools.elf.elffile import ELFFile

from kgcore.check.findings import Findings, Stop
from kgcore.text import human_size, plain

__all__ = ("Headers", "Load", "check_loads", "check_shared", "read_headers")

_MAX_SEGMENTS = 1 << 20  # vm.max_map_count is 65530 to 1048576
_AT_ONCE = 1 << 12  # program headers
_PIECE = 1 << 20

# What people call them; the last one is a 64-bit program whose dumping thread was in 32-bit code.
_MACHINES = {("EM_X86_64", 64): "x86_64", ("EM_X86_64", 32): "x32", ("EM_386", 32): "i386", ("EM_386", 64): "i386"}
_PT_LOAD, _PT_NOTE = 1, 4
_PHDR = {32: struct.Struct("<III4xII8x"), 64: struct.Struct("<I4xQQ8xQQ8x")}  # what _Phdr has


class _Phdr(NamedTuple):
    """The checked members of a program header."""

    type: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class Load(NamedTuple):
    """A PT_LOAD: its addresses, [start, end), and its bytes in the file."""

    start: int
    end: int
    offset: int
    filesz: int


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of a core say.

    :ivar machine: ``e_machine``, by pyelftools' name.
    :ivar elf_class: 32 or 64.
    :ivar loads: the PT_LOADs, in the order of their headers.
    :ivar notes: offset and size of each PT_NOTE.
    """

    machine: str
    elf_class: int
    loads: tuple[Load, ...]
    notes: tuple[tuple[int, int], ...]

    @property
    def word_size(self) -> int:
        """Bytes of a ``long`` of the process."""
        return self.elf_class // 8


def read_headers(file: BinaryIO, size: int, findings: Findings) -> Headers:
    """Read the file header and all program headers.

    :param size: of the file, in bytes.
    :raises Stop: it is no core, or none that kgcore can check.
    """
    elf = _file_header(file, findings)
    loads: list[Load] = []
    notes: list[tuple[int, int]] = []
    for kind, offset, start, filesz, memsz in _program_headers(file, size, elf, findings):
        if kind == _PT_LOAD:
            loads.append(Load(start, start + memsz, offset, filesz))
        elif kind == _PT_NOTE:
            notes.append((offset, filesz))
    if not notes:
        findings.problem("no PT_NOTE: the core has no threads")
    findings.facts["segments"] = len(loads)
    findings.facts["data"] = sum(load.filesz for load in loads)
    return Headers(str(elf.header["e_machine"]), int(elf.elfclass), tuple(loads), tuple(notes))


def _file_header(file: BinaryIO, findings: Findings) -> ELFFile:
    try:
        elf = ELFFile(file)
        header = elf.header
    except Exception as error:
        findings.problem(f"not an ELF file: {error}" if findings.facts["size"] else "the file is empty")
        raise Stop from error
    machine, elf_class = str(header["e_machine"]), int(elf.elfclass)
    findings.facts["class"] = elf_class
    findings.facts["machine"] = _MACHINES.get((machine, elf_class), plain(machine))
    if header["e_type"] != "ET_CORE":
        findings.problem(f"not a core: e_type is {header['e_type']}")
        raise Stop
    if not elf.little_endian or (machine, elf_class) not in _MACHINES:
        findings.problem(f"not an x86 core: {machine}, class {elf_class}")
        raise Stop
    if header["e_phentsize"] != elf.structs.Elf_Phdr.sizeof():
        findings.problem(f"e_phentsize is {header['e_phentsize']}, not {elf.structs.Elf_Phdr.sizeof()}")
        raise Stop
    return elf


def _program_headers(file: BinaryIO, size: int, elf: ELFFile, findings: Findings) -> Iterator[_Phdr]:
    """Those that are there."""
    try:
        count = int(elf.num_segments())
        if elf.header["e_phnum"] == 0xFFFF and not elf.header["e_shoff"]:
            raise ValueError("section 0 must hold it, but is missing")
    except Exception as error:
        findings.problem(f"the number of program headers cannot be read ({error}): is the file cut off?")
        findings.cut_off = True
        raise Stop from error
    entry, offset = elf.structs.Elf_Phdr.sizeof(), int(elf.header["e_phoff"])
    present = max(0, min(count, (size - offset) // entry))
    if present > _MAX_SEGMENTS:
        findings.problem(f"implausible number of program headers ({count}): checked the first {_MAX_SEGMENTS}")
        present = _MAX_SEGMENTS
    elif present < count:
        findings.problem(f"the file ends within the program headers: it has {present} of {count}")
        findings.cut_off = True
    for first in range(0, present, _AT_ONCE):
        file.seek(offset + first * entry)
        table = file.read(min(_AT_ONCE, present - first) * entry)
        yield from map(_Phdr._make, _PHDR[int(elf.elfclass)].iter_unpack(table[: len(table) // entry * entry]))


def check_loads(loads: Sequence[Load], size: int, findings: Findings) -> list[tuple[Load, Load]]:
    """Check where the PT_LOADs lie, in memory and in the file.

    :param size: of the file, in bytes.
    :return: those whose bytes in the file are also another one's, each with that other one.
    """
    address_end = 0
    for load in loads:
        where = f"the PT_LOAD at {load.start:#x}"
        if load.start < address_end:
            findings.problem(f"{where} overlaps the one before it, or is out of order")
        if load.filesz > load.end - load.start:
            findings.problem(f"{where} has more bytes in the file than in memory")
        address_end = max(address_end, load.end)
    # The data may stand in another order.
    in_file = [load for load in loads if load.filesz]
    ascending = sorted(in_file, key=lambda load: (load.offset, -load.filesz))
    beyond = [min(load.filesz, end - size) for load in in_file if (end := load.offset + load.filesz) > size]
    if beyond:
        findings.cut_off = True
        by_limit = " (the least important ones, as with --max-size or --max-time)" if ascending != in_file else ""
        findings.cut_short = (
            f"the file is cut off: it lacks {human_size(sum(beyond))} of memory, of {len(beyond)} of "
            f"{len(loads)} segments{by_limit}"
        )
        findings.problem(findings.cut_short)
    return _sharing(ascending)


def _sharing(ascending: Sequence[Load]) -> list[tuple[Load, Load]]:
    """:param ascending: in the order of the file, the longest first where several begin."""
    found: list[tuple[Load, Load]] = []
    last: Load | None = None
    for load in ascending:
        if last is not None and load.offset < last.offset + last.filesz:
            found.append((load, last))
        if last is None or load.offset + load.filesz > last.offset + last.filesz:
            last = load
    return found


def check_shared(
    file: BinaryIO, size: int, sharing: Sequence[tuple[Load, Load]], told: int | None, findings: Findings
) -> None:
    """Check that segments share bytes of the file only if these are all zeros.

    :param size: of the file, in bytes.
    :param sharing: what :func:`check_loads` gave.
    :param told: how many bytes they share by the KGCORE note; None: no note.
    """
    shared, rest = 0, []
    hosts = {host for _, host in sharing}
    zeros = len(hosts) == 1 and all(_is_zero(file, host.offset, min(host.offset + host.filesz, size)) for host in hosts)
    for load, host in sharing:
        if zeros and load.offset == host.offset:
            shared += load.filesz
        else:
            rest.append(load)
    for load in rest:
        findings.problem(f"the PT_LOAD at {load.start:#x} shares bytes of the file with another segment")
    if shared:
        shared += sum(host.filesz for host in hosts)
        findings.facts["shared_zeros"] = shared
    if told is not None and not rest and told != shared:
        findings.problem(f"{shared} bytes of zeros share one range of the file; the KGCORE note does not say so")


def _is_zero(file: BinaryIO, at: int, end: int) -> bool:
    """Say whether a range of the file holds only zeros; holes are not read."""
    while at < end:
        with suppress(OSError, AttributeError):  # a file system that knows no holes
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    return True
                raise
        if at >= end:
            return True
        file.seek(at)
        data = file.read(min(_PIECE, end - at))
        if not data or data.count(0) != len(data):
            return False
        at += len(data)
    return True
