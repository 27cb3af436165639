# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check the programs and libraries that ``--sysroot`` wrote: which are complete, and what the others lack.

It reads the files with pyelftools, and takes from the manifest only what the files cannot say: which zeros are gaps.
"""

import json
import os
from bisect import bisect_right
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

from elftools.elf.elffile import ELFFile

from kgcore.errors import KgcoreError
from kgcore.system.regular import open_regular, reading
from kgcore.text import first_names, human_size, plain, printable

__all__ = ("CheckedFile", "SysrootVerdict", "check_sysroot")

_MANIFEST = "kgcore-sysroot.json"
_FORMAT, _VERSION = "kgcore-sysroot", 1
_MOST_BYTES, _MOST_VALUES = 64 << 20, 1 << 21
_SECTIONS_TOLD = 8
_REASONS_TOLD = 3
_NOT_IN_FILE = ("SHT_NULL", "SHT_NOBITS")
_DEBUG = (".debug_info", ".zdebug_info")


class _Gap(NamedTuple):
    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What :func:`kgcore.check_sysroot` found of a program or library.

    :ivar path: relative to the directory.
    :ivar size: bytes, as the list has it.
    :ivar whole: nothing is missing.
    :ivar missing_bytes: how many bytes are missing.
    :ivar reasons: why they are missing.
    :ivar sections: names of the incomplete sections; None: the section headers themselves are missing.
    :ivar symbols: ``symtab``, ``dynsym`` or ``none``: the best complete symbol table.
    :ivar debug: it has complete debug information (.debug_info).
    :ivar build_id: identifies the complete file elsewhere; None: unknown.
    :ivar problems: how it differs from the manifest, as predicates.
    """

    path: str
    size: int
    whole: bool
    _: KW_ONLY
    missing_bytes: int = 0
    reasons: tuple[str, ...] = ()
    sections: tuple[str, ...] | None = ()
    symbols: str = "none"
    debug: bool = False
    build_id: str | None = None
    problems: tuple[str, ...] = ()

    def line(self) -> str:
        """Return what it has or lacks, as a line for people."""
        having = {"symtab": "symbols", "dynsym": "dynamic symbols only", "none": "no symbols"}[self.symbols]
        having += ", debug information" if self.debug else ""
        if self.whole:
            return f"complete: {self.path}: {human_size(self.size)}, {having}"
        told = first_names(self.reasons, _REASONS_TOLD, number=False)
        line = f"lacks: {self.path}: {human_size(self.missing_bytes)} of {human_size(self.size)} missing ({told})"
        if self.sections is None:
            line += ", including the section headers"
        else:
            where = f" in {first_names(self.sections, _SECTIONS_TOLD, number=False)}" if self.sections else ""
            line += f"{where}; {having}"
        return f"{line}; build id {self.build_id}" if self.build_id else line

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {
            "path": plain(self.path),
            "size": self.size,
            "whole": self.whole,
            "missing_bytes": self.missing_bytes,
            "reasons": [plain(reason) for reason in self.reasons],
            "sections": None if self.sections is None else [plain(name) for name in self.sections],
            "symbols": self.symbols,
            "debug": self.debug,
            "build_id": self.build_id,
            "problems": [plain(problem) for problem in self.problems],
        }


@dataclass(frozen=True, slots=True)
class SysrootVerdict:
    """What :func:`kgcore.check_sysroot` found.

    :ivar path: the directory.
    :ivar files: those that the list names.
    :ivar lost: files that were mapped but are missing, as sentences.
    """

    path: str
    files: tuple[CheckedFile, ...]
    lost: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the files are those that the list names."""
        return not any(file.problems for file in self.files)

    @property
    def complete(self) -> bool:
        """Whether they are whole, and none is lost."""
        return not self.lost and all(file.whole for file in self.files)

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {
            "version": 1,
            "path": plain(self.path),
            "ok": self.ok,
            "complete": self.complete,
            "files": [file.to_json() for file in self.files],
            "lost": [plain(text) for text in self.lost],
        }

    def lines(self) -> list[str]:
        """Return lines for people, safe for a terminal."""
        whole = sum(file.whole for file in self.files)
        count = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
        lines = [
            f"{self.path}: {'ok' if self.ok else 'DAMAGED'}, {'complete' if self.complete else 'INCOMPLETE'}",
            f"{count}, {whole} complete",
        ]
        lines += (f"problem: {file.path} {problem}" for file in self.files for problem in file.problems)
        lines += (file.line() for file in self.files if not file.problems)
        lines += (f"lacks: {text}" for text in self.lost)
        return [printable(line) for line in lines]


def check_sysroot(path: str | os.PathLike[str]) -> SysrootVerdict:
    """Read a sysroot back and say whether its files are what they should be, and what they lack.

    It needs neither drgn nor the dump.

    :param path: of a directory that ``--sysroot`` or :func:`kgcore.write_sysroot` wrote.
    :return: what is wrong with the files, and what they lack.
    :raises KgcoreError: it is not a sysroot, or its manifest cannot be read.
    """
    directory = os.fspath(path)
    entries, lost = _manifest(directory)
    return SysrootVerdict(directory, tuple(_check(directory, entry) for entry in entries), lost)


class _Entry(NamedTuple):
    path: str
    size: int
    build_id: str | None
    missing: tuple[_Gap, ...]


def _manifest(directory: str) -> tuple[list[_Entry], tuple[str, ...]]:
    """The files of the manifest, and the sentences about lost ones."""
    name = os.path.join(directory, _MANIFEST)
    try:
        with reading(name) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES or sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise KgcoreError(f"{name} is too large for a manifest of --sysroot")
        content = json.loads(text)
        if (content["format"], content["version"]) != (_FORMAT, _VERSION):
            raise KgcoreError(f"{name} has an unknown kind or version")
        return [_entry(row) for row in content["files"]], tuple(str(text) for text in content["lost"])
    except FileNotFoundError as error:
        raise KgcoreError(
            f"{directory} is not a sysroot: it has no {_MANIFEST}",
            hint="kgcore check takes a core, or a directory that --sysroot wrote",
        ) from error
    except OSError as error:
        raise KgcoreError(f"cannot read {name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KgcoreError(f"the manifest {name} is invalid: {type(error).__name__}: {error}") from error


def _entry(row: dict[str, Any]) -> _Entry:
    path = str(row["path"])
    if not path.startswith("/") or {".", ".."} & set(path.split("/")) or "\0" in path:
        raise ValueError(f"{path!r} is not the name of a file in the sysroot")
    gaps = tuple(_Gap(int(start), int(end), str(why)) for start, end, why, _ in row["missing"])
    if any(one.start >= one.end for one in gaps) or any(one.end > two.start for one, two in pairwise(gaps)):
        raise ValueError(f"the missing ranges of {path!r} are out of order")
    identity = row["build_id"]
    return _Entry(path, int(row["size"]), None if identity is None else str(identity), gaps)


def _check(directory: str, entry: _Entry) -> CheckedFile:
    path, size, identity, missing = entry
    problems: list[str] = []
    found = _Elf(())
    try:
        with os.fdopen(open_regular(os.path.join(directory, path.lstrip("/")), links=False), "rb") as file:
            there = os.fstat(file.fileno()).st_size
            if there != size:
                problems.append(f"has {there} bytes, not {size}")
            else:
                found = _look(file, size, missing)
    except FileNotFoundError:
        problems.append("does not exist")
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
    except _Unreadable as error:
        problems.append(f"is damaged (not readable as an ELF file): {error}")
    lost = sum(gap.end - gap.start for gap in missing)
    reasons = tuple(dict.fromkeys(gap.reason for gap in missing))
    whole = not missing and not problems
    return CheckedFile(
        path,
        size,
        whole,
        missing_bytes=lost,
        reasons=reasons,
        sections=found.lacking,
        symbols=found.symbols,
        debug=found.debug,
        build_id=identity,
        problems=tuple(problems),
    )


class _Unreadable(Exception):
    """The file is damaged: a part that is not missing is wrong."""


class _Elf(NamedTuple):
    """
    :ivar lacking: see :attr:`CheckedFile.sections`.
    """

    lacking: tuple[str, ...] | None
    symbols: str = "none"
    debug: bool = False


class _Section(NamedTuple):
    """A section header.

    :ivar there: its content is complete.
    """

    name: str
    type: str
    link: int
    there: bool


def _look(file: BinaryIO, size: int, missing: tuple[_Gap, ...]) -> _Elf:
    """
    :raises _Unreadable: it is not a valid ELF file.
    """

    def there(start: int, length: int) -> bool:
        index = bisect_right(missing, start, key=lambda gap: gap.end)
        if start + length > size:
            raise _Unreadable("the file ends before its sections do")
        return not (index < len(missing) and missing[index].start < start + length)

    try:
        if not there(0, 52):
            return _Elf(None)
        elf = ELFFile(file)
        table, entry = int(elf.header["e_shoff"]), elf.structs.Elf_Shdr.sizeof()
        if not table:
            return _Elf(())
        if not there(table, entry) or not there(table, entry * elf.num_sections()):
            return _Elf(None)
        file.seek(table)
        raw = file.read(entry * elf.num_sections())
        headers = [elf.structs.Elf_Shdr.parse(raw[at : at + entry]) for at in range(0, len(raw), entry)]
        sections = []
        names = b""
        if headers:
            strings = headers[elf.get_shstrndx()]
            if there(strings["sh_offset"], strings["sh_size"]):
                file.seek(strings["sh_offset"])
                names = file.read(strings["sh_size"])
        for number, header in enumerate(headers):
            name = names[header["sh_name"] :].partition(b"\0")[0]
            kind = str(header["sh_type"])
            held = kind in _NOT_IN_FILE or there(header["sh_offset"], header["sh_size"])
            sections.append(_Section(plain(name) if names else f"section {number}", kind, int(header["sh_link"]), held))
    except _Unreadable:
        raise
    except Exception as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
    lacking = tuple(section.name for section in sections if not section.there)
    debug = any(section.name in _DEBUG and section.there for section in sections)
    return _Elf(lacking, _symbols(sections), debug)


def _symbols(sections: list[_Section]) -> str:
    """The best symbol table that is complete, with its names."""
    for kind, word in (("SHT_SYMTAB", "symtab"), ("SHT_DYNSYM", "dynsym")):
        for section in sections:
            linked = sections[section.link : section.link + 1]
            if section.type == kind and section.there and linked and linked[0].there:
                return word
    return "none"
