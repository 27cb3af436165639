# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completes a sysroot from a directory of the user's, where the process's own memory proves that a file is the same.

The source fills in pages of files itself, where it finds the page cache of each. Where that is damaged, or left out of
the dump, there may still be the page with the build id, since the process has it mapped.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kgcore.binaries.sysroot import SysrootFile, SysrootReport
from kgcore.elf.buildid import build_id
from kgcore.model.memory import Memory, Provenance, peek
from kgcore.model.process import ProcessImage, Vma
from kgcore.sources.inroot import open_in_root
from kgcore.system.regular import read_at

__all__ = ("completed", "file_name", "mapped_build_id", "mapped_build_ids")

_DELETED = b" (deleted)"
_PIECE = 1 << 20


def file_name(path: bytes) -> bytes:
    """The name that a mapped file has in a sysroot."""
    return path.removesuffix(_DELETED)


def mapped_build_id(memory: Memory, vma: Vma) -> str | None:
    """That of the file that is mapped there from its beginning on, by what the process sees; None: not to be seen."""

    def read(at: int, size: int) -> bytes | None:
        return peek(memory, vma, vma.start + at, size) if at + size <= vma.end - vma.start else None

    found = build_id(read)
    return None if found is None else found.hex()


def mapped_build_ids(image: ProcessImage, memory: Memory) -> dict[bytes, str]:
    """By the names that the files have in a sysroot. Of two of the same name the first that is mapped counts, as it
    does there."""
    found: dict[bytes, str] = {}
    for vma in image.vmas:
        if vma.pgoff == 0 and vma.file is not None and vma.file.path and file_name(vma.file.path) not in found:
            known = mapped_build_id(memory, vma)
            if known is not None:
                found[file_name(vma.file.path)] = known
    return found


def completed(report: SysrootReport, root: str | None, build_ids: Mapping[bytes, str]) -> SysrootReport:
    """Fill in files that are not whole, of those with the same size and build id beneath ``root``.

    :param root: None: there is none, and nothing is done.
    :param build_ids: what the process says.
    """
    if root is None or all(file.whole for file in report.files):
        return report
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files: Sequence[SysrootFile] = [
            file if file.whole else _completed(file, report.directory, directory, build_ids.get(file.path))
            for file in report.files
        ]
    finally:
        os.close(directory)
    return replace(report, files=tuple(files))


def _completed(file: SysrootFile, sysroot: str, root: int, wanted: str | None) -> SysrootFile:
    if wanted is None or file.deleted or file.build_id not in (None, wanted):
        return file
    try:
        given = open_in_root(root, file.path)
    except OSError:
        return file
    try:
        found = build_id(lambda at, size: read_at(given, size, at) if at < 1 << 62 else None)
        if os.fstat(given).st_size != file.size or found is None or found.hex() != wanted:
            return file
        path = os.path.join(sysroot, os.fsdecode(file.path).lstrip("/"))
        with open(path, "r+b") as ours:
            at = 0
            while data := os.pread(given, _PIECE, at):
                ours.write(data)
                at += len(data)
    except OSError:
        return file
    finally:
        os.close(given)
    return replace(file, build_id=wanted, missing=(), sources={Provenance.ROOT.value: file.size})
