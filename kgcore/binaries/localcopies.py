# SPDX-License-Identifier: LGPL-2.1-or-later
"""Complete a sysroot from the user's directory, if the memory of the process proves that a file is the same.

The source fills in pages of files itself if it finds their page cache. If that is damaged, or excluded from the dump,
the page with the build id may still exist, since the process maps it.
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
    """Return the name of a mapped file in a sysroot."""
    return path.removesuffix(_DELETED)


def mapped_build_id(memory: Memory, vma: Vma) -> str | None:
    """Return the build id of the file mapped from its start at an address, from process memory; None: missing."""

    def read(at: int, size: int) -> bytes | None:
        return peek(memory, vma, vma.start + at, size) if at + size <= vma.end - vma.start else None

    found = build_id(read)
    return None if found is None else found.hex()


def mapped_build_ids(image: ProcessImage, memory: Memory) -> dict[bytes, str]:
    """Return build ids by the file's name in a sysroot. As there, the first mapping of a name counts."""
    found: dict[bytes, str] = {}
    for vma in image.vmas:
        if vma.pgoff == 0 and vma.file is not None and vma.file.path and file_name(vma.file.path) not in found:
            known = mapped_build_id(memory, vma)
            if known is not None:
                found[file_name(vma.file.path)] = known
    return found


def completed(report: SysrootReport, root: str | None, build_ids: Mapping[bytes, str]) -> SysrootReport:
    """Complete files from files under ``root`` with the same size and build id.

    :param root: None: do nothing.
    :param build_ids: those that the memory of the process holds.
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
