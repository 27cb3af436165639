# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a finished core and say what is wrong with it and what it lacks.

It reads any Linux core of x86, also the kernel's own; only cores by kgcore say what they lack. Layouts come from
pyelftools and from the numbers below, not from the code that writes cores, so that no mistake is made twice.
"""

import errno
import os
import struct
import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple, cast

from elftools.elf.elffile import ELFFile

from kgcore.check.notes import AUXV, FILE, KGCORE, PRFPREG, PRPSINFO, PRSTATUS, SIGINFO, CoreNote, parsed, read_notes
from kgcore.check.unpack import Unpacked, compression_of
from kgcore.errors import KgcoreError
from kgcore.system.regular import reading
from kgcore.text import counted, first_lines, human_size, plain, printable

__all__ = ("Verdict", "check_core")

_KGCORE_FORMAT = 1
_MAX_SEGMENTS = 1 << 20  # vm.max_map_count is 65530 to 1048576
_MAX_PROBLEMS = 1 << 14
_AT_ONCE = 1 << 12  # program headers
_PIECE = 1 << 20

# What people call them; the last one is a 64-bit program whose dumping thread was in 32-bit code.
_MACHINES = {("EM_X86_64", 64): "x86_64", ("EM_X86_64", 32): "x32", ("EM_386", 32): "i386", ("EM_386", 64): "i386"}
# (machine, class): sizes of elf_prstatus and elf_prpsinfo, offsets of pr_pid and pr_fpvalid
_SIZES = {
    ("EM_X86_64", 64): (336, 136, 32, 328),
    ("EM_386", 32): (144, 124, 24, 140),
    ("EM_X86_64", 32): (296, 124, 24, 288),
    ("EM_386", 64): (336, 136, 32, 328),
}
_SHARED_ORDER = (PRPSINFO, SIGINFO, AUXV, FILE)
_PT_LOAD, _PT_NOTE = 1, 4
_PHDR = {32: struct.Struct("<III4xII8x"), 64: struct.Struct("<I4xQQ8xQQ8x")}  # what _Phdr has
_AT_PHDR, _AT_PAGESZ = 3, 6
_PAGE_SIZES = tuple(1 << shift for shift in range(12, 21))  # of all architectures, the usual one first
_ADDRESSES = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on a core.

    :ivar path: of the file, as given.
    :ivar ok: it is well-formed and not cut off.
    :ivar complete: it lacks nothing, and nothing in it is doubtful; None: unknown, since it has no KGCORE note and
        shows no gap.
    :ivar problems: why it is not ok, as sentences.
    :ivar lacks: why it is not complete, as sentences.
    :ivar facts: contents: ``size``, ``class``, ``machine``, ``threads`` (ids), ``segments``, ``data`` (bytes),
        ``notes``, ``files``, ``kgcore`` (the KGCORE note), ``recovered`` (bytes by source, if the note has an account
        of them), ``shared_zeros`` (bytes of memory that share one range of zeros in the file). Unreadable facts are
        absent.
    :ivar cut_short: its only problem is that the file ends before the end of its memory.
    """

    path: str
    ok: bool
    complete: bool | None
    problems: tuple[str, ...]
    lacks: tuple[str, ...]
    facts: dict[str, Any]
    cut_short: bool = False

    def to_json(self) -> dict[str, object]:
        """Return all of it for ``json.dumps``."""
        return {
            "version": 1,
            "path": plain(self.path),
            "ok": self.ok,
            "complete": self.complete,
            "cut_short": self.cut_short,
            "problems": list(self.problems),
            "lacks": list(self.lacks),
            "facts": self.facts,
        }

    def lines(self, limit: int = 40) -> list[str]:
        """Return lines for people, safe for a terminal.

        :param limit: how many problems, and how many lacks, to list at most.
        """
        state = {True: "complete", False: "INCOMPLETE", None: "completeness unknown"}[self.complete]
        health = "ok" if self.ok else "CUT SHORT" if self.cut_short else "DAMAGED"
        lines = [f"{printable(self.path)}: {health}, {state}"]
        facts = self.facts
        if "threads" in facts:
            lines.append(
                f"{facts['machine']}, {counted(len(facts['threads']), 'thread')}, "
                f"{counted(facts['segments'], 'segment')}, {human_size(facts['data'])} of memory, "
                f"{counted(facts.get('files', 0), 'mapped file')}"
            )
        if facts.get("recovered"):
            found = ", ".join(f"{human_size(size)} {printable(where)}" for where, size in facts["recovered"].items())
            lines.append(f"recovered: {found}")
        for title, texts in (("problem", self.problems), ("lacks", self.lacks)):
            lines += (f"{title}: {line}" for line in first_lines(texts, limit, printable, "... and {} more"))
        return lines


def check_core(path: str | os.PathLike[str]) -> Verdict:
    """Check that a core is well-formed, and say what it lacks.

    It needs neither drgn nor the dump, and reads cores of others, too.

    :param path: of an ELF core, which may be compressed with zstd or gzip.
    :return: its problems, what it lacks, and what it contains.
    :raises KgcoreError: the file cannot be opened or read. Problems in it are in the verdict.
    """
    name = os.fspath(path)
    try:
        with reading(name) as file:
            packed = compression_of(file.read(4))
            unpacked = None if packed is None else Unpacked(file, name, packed, b"\x7fELF")
            if unpacked is None:
                checker = _Checker(file, os.fstat(file.fileno()).st_size)
            else:
                checker = _Checker(cast(BinaryIO, unpacked), unpacked.size)
            if unpacked is None or unpacked.size or not unpacked.trouble:
                checker.run()
    except OSError as error:
        raise KgcoreError(f"cannot read {name}: {error.strerror or error}") from error
    cut_short = checker.problems == [checker.cut_short]
    if unpacked is not None and unpacked.trouble:
        cut_short &= unpacked.cut_off
        checker.problems.insert(0, unpacked.trouble)
        checker.cut_off = True
    ok = not checker.problems
    lacking = checker.cut_off or bool(checker.lacks)
    complete = None if checker.kgcore is None and not lacking else not lacking
    return Verdict(
        path=name,
        ok=ok,
        complete=complete,
        problems=tuple(checker.problems),
        lacks=tuple(checker.lacks),
        facts=checker.facts,
        cut_short=cut_short,
    )


class _Phdr(NamedTuple):
    """The checked members of a program header."""

    type: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class _Load(NamedTuple):
    start: int
    end: int
    offset: int
    filesz: int


class _Account(NamedTuple):
    """An account in the KGCORE note, of a mapping or of the process."""

    parts: dict[str, int]  # "zero", "missing.swapped"; all of them add up
    missing: dict[str, int]
    recovered: dict[str, int]

    @classmethod
    def read(cls, content: Any) -> "_Account":
        """:raises ValueError, TypeError, AttributeError: it is not an account."""
        parts: dict[str, int] = {}
        for key, value in content.items():
            sizes = {f"{key}.{name}": size for name, size in value.items()} if isinstance(value, dict) else {key: value}
            for name, size in sizes.items():
                if type(size) is not int or not 0 <= size <= _ADDRESSES:
                    raise ValueError(f"account has invalid {name}: {size!r}")
            parts |= sizes
        return cls(parts, dict(content.get("missing", {})), dict(content.get("recovered", {})))


class _Mapping(NamedTuple):
    """A row of ``vmas`` in the KGCORE note, with its account."""

    start: int
    end: int
    kept: int
    account: _Account


class _Stop(Exception):
    """The check cannot continue; the problem is noted."""


class _Checker:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.problems: list[str] = []
        self.lacks: list[str] = []
        self.facts: dict[str, Any] = {"size": self.size}
        self.cut_off = False
        self.cut_short = ""  # the problem that tells how much memory is cut off
        self.kgcore: dict[str, Any] | None = None
        self.kgcore_threads = 0
        self.mapped: list[tuple[int, int]] = []  # the mappings that the KGCORE note names
        self.warned = False  # it has warnings
        self.loads: list[_Load] = []
        self.missing: list[tuple[int, int]] = []
        self.sharing: list[tuple[_Load, _Load]] = []  # segments whose bytes in the file are another one's, too
        self.known: list[tuple[int, int]] | None = None  # loads and missing ranges, when all are read

    def run(self) -> None:
        try:
            elf = self.header()
            note_segments = self.program_headers(elf)
            self.check_loads()
            notes = list(self.notes(note_segments))
            self.facts["notes"] = len(notes)
            self.check_kgcore(notes)
            self.check_shared()
            kernel_notes = [note for note in notes if note.kind != KGCORE]
            self.check_threads(kernel_notes)
            self.check_auxv(kernel_notes)
            self.check_files(kernel_notes)
            self.check_pages(kernel_notes)
        except _Stop:
            pass

    def problem(self, text: str) -> None:
        self.problems.append(text)
        if len(self.problems) == _MAX_PROBLEMS:
            self.problems.append("too many problems: the check stopped here")
            raise _Stop

    def header(self) -> ELFFile:
        try:
            elf = ELFFile(self.file)
            header = elf.header
        except Exception as error:
            self.problem(f"not an ELF file: {error}" if self.size else "the file is empty")
            raise _Stop from error
        self.machine, self.elf_class = str(header["e_machine"]), int(elf.elfclass)
        self.facts["class"] = self.elf_class
        self.facts["machine"] = _MACHINES.get((self.machine, self.elf_class), plain(self.machine))
        if header["e_type"] != "ET_CORE":
            self.problem(f"not a core: e_type is {header['e_type']}")
            raise _Stop
        if not elf.little_endian or (self.machine, self.elf_class) not in _SIZES:
            self.problem(f"not an x86 core: {self.machine}, class {self.elf_class}")
            raise _Stop
        self.word = self.elf_class // 8
        if header["e_phentsize"] != elf.structs.Elf_Phdr.sizeof():
            self.problem(f"e_phentsize is {header['e_phentsize']}, not {elf.structs.Elf_Phdr.sizeof()}")
            raise _Stop
        return elf

    def program_headers(self, elf: ELFFile) -> list[tuple[int, int]]:
        """Fill in :attr:`loads` and return the offsets and sizes of the PT_NOTEs."""
        try:
            count = int(elf.num_segments())
            if elf.header["e_phnum"] == 0xFFFF and not elf.header["e_shoff"]:
                raise ValueError("section 0 must hold it, but is missing")
        except Exception as error:
            self.problem(f"the number of program headers cannot be read ({error}): is the file cut off?")
            self.cut_off = True
            raise _Stop from error
        entry, offset = elf.structs.Elf_Phdr.sizeof(), int(elf.header["e_phoff"])
        present = max(0, min(count, (self.size - offset) // entry))
        if present > _MAX_SEGMENTS:
            self.problem(f"implausible number of program headers ({count}): checked the first {_MAX_SEGMENTS}")
            present = _MAX_SEGMENTS
        elif present < count:
            self.problem(f"the file ends within the program headers: it has {present} of {count}")
            self.cut_off = True
        notes: list[tuple[int, int]] = []
        for first in range(0, present, _AT_ONCE):
            self.file.seek(offset + first * entry)
            table = self.file.read(min(_AT_ONCE, present - first) * entry)
            for fields in _PHDR[self.elf_class].iter_unpack(table[: len(table) // entry * entry]):
                header = _Phdr(*fields)
                if header.type == _PT_NOTE:
                    notes.append((header.offset, header.filesz))
                elif header.type == _PT_LOAD:
                    start = header.vaddr
                    self.loads.append(_Load(start, start + header.memsz, header.offset, header.filesz))
        if not notes:
            self.problem("no PT_NOTE: the core has no threads")
        self.facts["segments"] = len(self.loads)
        self.facts["data"] = sum(load.filesz for load in self.loads)
        return notes

    def check_loads(self) -> None:
        address_end = 0
        for load in self.loads:
            where = f"the PT_LOAD at {load.start:#x}"
            if load.start < address_end:
                self.problem(f"{where} overlaps the one before it, or is out of order")
            if load.filesz > load.end - load.start:
                self.problem(f"{where} has more bytes in the file than in memory")
            address_end = max(address_end, load.end)
        # The data may stand in another order.
        in_file = [load for load in self.loads if load.filesz]
        ascending = sorted(in_file, key=lambda load: (load.offset, -load.filesz))
        last: _Load | None = None
        for load in ascending:
            if last is not None and load.offset < last.offset + last.filesz:
                self.sharing.append((load, last))
            if last is None or load.offset + load.filesz > last.offset + last.filesz:
                last = load
        beyond = [
            min(load.filesz, end - self.size) for load in in_file if (end := load.offset + load.filesz) > self.size
        ]
        if beyond:
            self.cut_off = True
            by_limit = " (the least important ones, as with --max-size or --max-time)" if ascending != in_file else ""
            self.cut_short = (
                f"the file is cut off: it lacks {human_size(sum(beyond))} of memory, of {len(beyond)} of "
                f"{len(self.loads)} segments{by_limit}"
            )
            self.problem(self.cut_short)

    def check_shared(self) -> None:
        """Check that segments share bytes of the file only if these are all zeros."""
        shared, rest = 0, []
        hosts = {host for _, host in self.sharing}
        zeros = len(hosts) == 1 and all(self.is_zero(host.offset, host.filesz) for host in hosts)
        for load, host in self.sharing:
            if zeros and load.offset == host.offset:
                shared += load.filesz
            else:
                rest.append(load)
        for load in rest:
            self.problem(f"the PT_LOAD at {load.start:#x} shares bytes of the file with another segment")
        if shared:
            shared += sum(host.filesz for host in hosts)
            self.facts["shared_zeros"] = shared
        if self.kgcore is not None and not rest and self.kgcore.get("shared_zeros", 0) != shared:
            self.problem(f"{shared} bytes of zeros share one range of the file; the KGCORE note does not say so")

    def is_zero(self, offset: int, size: int) -> bool:
        """Say whether a range holds only zeros, up to the end of the file; holes are not read."""
        at, end = offset, min(offset + size, self.size)
        while at < end:
            with suppress(OSError, AttributeError):  # a file system that knows no holes
                try:
                    at = os.lseek(self.file.fileno(), at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # nothing but a hole is left
                        return True
                    raise
            if at >= end:
                return True
            self.file.seek(at)
            data = self.file.read(min(_PIECE, end - at))
            if not data or data.count(0) != len(data):
                return False
            at += len(data)
        return True

    def notes(self, segments: list[tuple[int, int]]) -> Iterator[CoreNote]:
        present = []
        for offset, size in segments:
            if offset + size > self.size:
                self.problem("the file is cut off within the notes")
                self.cut_off = True
            present.append((offset, max(0, min(size, self.size - offset))))
        if sum(size for _, size in present) > self.size:
            self.problem("the PT_NOTEs have more bytes than the file")
            return iter(())
        return read_notes(self.file, present, self.size, self.problem)

    def check_threads(self, notes: list[CoreNote]) -> None:
        prstatus_size, prpsinfo_size, pid_at, fpvalid_at = _SIZES[self.machine, self.elf_class]
        tids: list[int] = []
        fpvalid = has_fp = False

        def end_of_thread() -> None:
            if tids and fpvalid != has_fp:
                self.problem(f"thread {tids[-1]}: fpvalid is {int(fpvalid)}, PRFPREG notes: {int(has_fp)}")

        if notes and notes[0].kind != PRSTATUS:
            self.problem("the first note is not NT_PRSTATUS")
        for kind, size, desc in notes:
            if kind == PRSTATUS:
                end_of_thread()
                if len(desc) != prstatus_size:
                    self.problem(f"an NT_PRSTATUS has {size} bytes, not {prstatus_size}")
                    continue
                tids.append(struct.unpack_from("<i", desc, pid_at)[0])
                fpvalid, has_fp = bool(struct.unpack_from("<i", desc, fpvalid_at)[0]), False
            elif kind == PRFPREG:
                has_fp = True
            elif kind == PRPSINFO and size != prpsinfo_size:
                self.problem(f"NT_PRPSINFO has {size} bytes, not {prpsinfo_size}")
            elif kind == SIGINFO and size != 128:
                self.problem(f"NT_SIGINFO has {size} bytes, not 128")
        end_of_thread()
        self.facts["threads"] = tids
        if not tids:
            self.problem("the core has no threads")
        if len(set(tids) - {0}) != len([tid for tid in tids if tid]):
            self.problem("two threads have the same id")
        if self.kgcore is not None and self.kgcore_threads != len(tids):
            self.problem(f"the KGCORE note names {self.kgcore_threads} threads, the core has {len(tids)}")
        shared = [note.kind for note in notes if note.kind in _SHARED_ORDER]
        if shared not in (list(_SHARED_ORDER), list(_SHARED_ORDER[:3])):
            self.problem("PRPSINFO, SIGINFO, AUXV and FILE must exist once each, in this order")

    def check_auxv(self, notes: list[CoreNote]) -> None:
        desc = next((note.desc for note in notes if note.kind == AUXV), b"")
        words = self.words(desc)
        auxv = dict(zip(words[::2], words[1::2], strict=False))
        if words and not (len(words) > 1 and words[-2] == 0):
            self.problem("NT_AUXV does not end with AT_NULL")
        if _AT_PHDR in auxv and not self.covered(auxv[_AT_PHDR], auxv[_AT_PHDR] + 1):
            where = f"AT_PHDR {auxv[_AT_PHDR]:#x}"
            inside = any(start <= auxv[_AT_PHDR] < end for start, end in self.mapped)
            self.uncovered(f"{where} lies in no segment", in_a_mapping=inside)

    def check_files(self, notes: list[CoreNote]) -> None:
        desc = next((note.desc for note in notes if note.kind == FILE), None)
        if desc is None:
            return
        words = self.words(desc[: 2 * self.word])
        if len(words) < 2 or (2 + 3 * words[0]) * self.word > len(desc):
            self.problem("NT_FILE ends within its table")
            return
        count = words[0]
        self.facts["files"] = count
        table = self.words(desc[2 * self.word : (2 + 3 * count) * self.word])
        if desc.count(b"\0", (2 + 3 * count) * self.word) != count:
            self.problem("NT_FILE has fewer or more names than entries")
        for start, end in zip(table[::3], table[1::3], strict=True):
            if not self.covered(start, end):
                self.uncovered(f"a mapped file at {start:#x}-{end:#x} lies in no segment")

    def check_pages(self, notes: list[CoreNote]) -> None:
        """Segments by kgcore are whole pages, in memory and in the file."""
        if self.kgcore is None:
            return
        page = self.page_size(notes)
        broken = [load for load in self.loads if (load.start | load.end | load.offset | load.filesz) % page]
        if broken:
            self.problem(
                f"{len(broken)} of {counted(len(self.loads), 'PT_LOAD')} are not made of whole pages of {page} bytes, "
                f"the first of them at {broken[0].start:#x}"
            )

    def page_size(self, notes: list[CoreNote]) -> int:
        """What NT_FILE counts offsets in (in gdb's cores that is 1 byte), else AT_PAGESZ, else the usual one."""
        file, auxv = (
            next((self.words(note.desc[:limit]) for note in notes if note.kind == kind), array("Q"))
            for kind, limit in ((FILE, 2 * self.word), (AUXV, None))
        )
        told = [*file[1:], *(value for key, value in zip(auxv[::2], auxv[1::2], strict=False) if key == _AT_PAGESZ)]
        return next((size for size in told if size in _PAGE_SIZES), _PAGE_SIZES[0])

    def check_kgcore(self, notes: list[CoreNote]) -> None:
        desc = next((note.desc for note in notes if note.kind == KGCORE), None)
        if desc is None:
            return
        try:
            content = parsed(desc)
            if content["format"] != _KGCORE_FORMAT:
                self.problem(f"the KGCORE note has format {content['format']!r}; this kgcore reads {_KGCORE_FORMAT}")
                return
            missing = [(*_span(start, end), str(why), str(detail)) for start, end, why, detail in content["missing"]]
            omitted = content["missing_policy"] == "omit"
            self.kgcore_threads = len(content["threads"])
            warnings = [str(text) for text in content["warnings"]]
            mappings, account = _accounts(content)
            self.mapped = [_span(start, end) for start, end, *_ in content["vmas"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.problem(f"the KGCORE note cannot be read: {type(error).__name__}: {error}")
            return
        self.kgcore = self.facts["kgcore"] = content
        self.missing = _merged((start, end) for start, end, _, _ in missing)
        for start, end, why, detail in missing:
            self.lacks.append(
                f"{start:#x}-{end:#x}, {human_size(end - start)}: {why}{f' ({detail})' if detail else ''}"
            )
        in_file = _merged((load.start, load.start + load.filesz) for load in self.loads)
        for start, end in self.missing:
            if omitted and _overlaps(in_file, start, end):
                self.problem(f"{start:#x}-{end:#x} is listed as missing, but a segment holds it")
        self.lacks += warnings
        self.warned = bool(warnings)
        if account is not None:
            self.facts["recovered"] = account.recovered
            self.check_accounts(mappings, account, omitted)
            self.check_missing(mappings, [(start, end, why) for start, end, why, _ in missing])

    def check_accounts(self, mappings: list[_Mapping], whole: _Account, omitted: bool) -> None:
        """Check that the accounts of the note add up and match the program headers."""
        sums: Counter[str] = Counter()
        in_file = _Spans(_merged((load.start, load.start + load.filesz) for load in self.loads))
        in_core = _Spans(_merged((load.start, load.end) for load in self.loads))
        for start, end, kept, account in mappings:
            where = f"{start:#x}-{end:#x}"
            sums.update(account.parts)
            total, missing = sum(account.parts.values()), sum(account.missing.values())
            if total != end - start:
                self.problem(f"the account of {where} adds up to {total} bytes, not to {end - start}")
            if total - account.parts.get("filtered", 0) != kept:
                self.problem(f"the account of {where} does not match the {kept} bytes to keep")
            omitted_bytes = missing if omitted else 0
            if (size := in_file.within(start, end)) != kept - omitted_bytes:
                self.problem(f"{where} has {size} bytes in the file, but {kept - omitted_bytes} by its account")
            if (size := in_core.within(start, end)) != end - start - omitted_bytes:
                self.problem(f"{where} has {size} bytes in segments, but {end - start - omitted_bytes} by its account")
        if +sums != +Counter(whole.parts):
            self.problem("the account of the process is not the sum of the accounts of its mappings")

    def check_missing(self, mappings: list[_Mapping], missing: list[tuple[int, int, str]]) -> None:
        """Check that the missing ranges add up to the missing bytes of the accounts."""
        rows = sorted(mappings, key=lambda row: row.start)
        found: list[Counter[str]] = [Counter() for _ in rows]
        for start, end, why in missing:
            index = bisect_right(rows, start, key=lambda row: row.start) - 1
            if index < 0 or not rows[index].start <= start < end <= rows[index].end:
                self.problem(f"{start:#x}-{end:#x} is listed as missing, but is in no mapping")
            else:
                found[index][why] += end - start
        for row, sizes in zip(rows, found, strict=True):
            if sizes != +Counter(row.account.missing):
                self.problem(f"the missing ranges of {row.start:#x}-{row.end:#x} do not match its account")

    def words(self, data: bytes) -> "array[int]":
        words = array("Q" if self.word == 8 else "I", data[: len(data) // self.word * self.word])
        if sys.byteorder != "little":
            words.byteswap()
        return words

    def uncovered(self, text: str, *, in_a_mapping: bool = True) -> None:
        """Find ranges without a segment. A core by kgcore lists them; in another one they are what it lacks.

        :param in_a_mapping: of the note. A range in no mapping may belong to a lost mapping, which a warning names.
        """
        told = self.kgcore is None or (self.warned and not in_a_mapping)
        (self.lacks if told else self.problems).append(text)

    def covered(self, start: int, end: int) -> bool:
        """Say whether segments and missing ranges cover a range."""
        if self.known is None:
            self.known = _merged([*((load.start, load.end) for load in self.loads), *self.missing])
        index = bisect_right(self.known, start, key=lambda span: span[0]) - 1
        return index >= 0 and end <= self.known[index][1]


def _accounts(content: Any) -> tuple[list[_Mapping], _Account | None]:
    """The accounts in a KGCORE note. The first versions had none.

    :raises ValueError, TypeError, KeyError, AttributeError: they cannot be read.
    """
    if "accounts" not in content:
        return [], None
    mappings = [
        _Mapping(*_span(start, end), kept, _Account.read(account))
        for (start, end, _, _, kept), account in zip(content["vmas"], content["accounts"], strict=True)
    ]
    if not all(type(mapping.kept) is int for mapping in mappings):
        raise TypeError("the kept bytes of a mapping are not a number")
    return mappings, _Account.read(content["account"])


def _span(start: str, end: str) -> tuple[int, int]:
    low, high = int(start, 16), int(end, 16)
    if not 0 <= low < high <= _ADDRESSES:
        raise ValueError(f"{plain(start)}-{plain(end)} is not an address range")
    return low, high


class _Spans:
    """Disjoint, ascending ranges."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.spans = spans
        self.before = [0, *accumulate(end - start for start, end in spans)]

    def within(self, start: int, end: int) -> int:
        """Return how many of their bytes are in a range."""
        return self._below(end) - self._below(start)

    def _below(self, address: int) -> int:
        index = bisect_right(self.spans, address, key=lambda span: span[0]) - 1
        if index < 0:
            return 0
        start, end = self.spans[index]
        return self.before[index] + min(address, end) - start


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, disjoint and ascending, adjacent ones joined, without empty ones."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _overlaps(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    index = bisect_right(spans, start, key=lambda span: span[1])
    return index < len(spans) and spans[index][0] < end
