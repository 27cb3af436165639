# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mapped programs and libraries of a core: files of this machine that its memory proves to be the same."""

import os
from collections.abc import Iterator
from functools import partial

from kgcore.elf.buildid import build_id
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory, Piece, Provenance, peek
from kgcore.model.process import VM_EXEC, ProcessImage, Vma
from kgcore.sources.base import FileContents
from kgcore.sources.filepieces import file_pieces, whole_pages
from kgcore.sources.inroot import open_in_root
from kgcore.system.regular import read_at
from kgcore.text import plain

__all__ = ("mapped_programs",)

_ELF = b"\x7fELF"


def mapped_programs(image: ProcessImage, memory: Memory, root: str) -> Iterator[FileContents | Lost]:
    """See :meth:`kgcore.sources.base.HasMappedFiles.files`.

    :param root: the directory with the files.
    """
    code = {vma.file.path for vma in image.vmas if vma.file is not None and vma.flags & VM_EXEC}
    seen: set[bytes] = set()
    try:
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        yield Lost(f"{root} cannot be opened: {error.strerror}")
        return
    try:
        for vma in image.vmas:
            file = vma.file
            if file is None or file.path is None or vma.pgoff or file.path in seen:
                continue
            seen.add(file.path)
            wanted = _build_id(memory, vma)
            if wanted is None:
                if file.path in code:
                    yield Lost(f"{plain(file.path)}: the core does not have its build id")
                continue
            try:
                descriptor = open_in_root(directory, file.name or b"")
            except OSError as error:
                yield Lost(f"{plain(file.path)} cannot be opened: {error.strerror}")
                continue
            try:
                if build_id(partial(_read, descriptor)) != wanted:
                    yield Lost(f"{plain(file.path)}: the file here has another build id")
                    continue
                yield _contents(os.dup(descriptor), file.name or b"", image.page_size)
            finally:
                os.close(descriptor)
    finally:
        os.close(directory)


def _build_id(memory: Memory, vma: Vma) -> bytes | None:
    """That of the file mapped there, by the core's memory."""

    def read(at: int, size: int) -> bytes | None:
        return peek(memory, vma, vma.start + at, size) if at + size <= vma.end - vma.start else None

    return build_id(read) if read(0, len(_ELF)) == _ELF else None


def _read(descriptor: int, at: int, size: int) -> bytes | None:
    return read_at(descriptor, size, at) if at < 1 << 62 else None


def _contents(descriptor: int, name: bytes, page_size: int) -> FileContents:
    """
    :param descriptor: ours to close.
    """
    found = os.fstat(descriptor)

    def read() -> Iterator[Piece]:
        try:
            for run, data in file_pieces(descriptor, 0, whole_pages(found.st_size, page_size), page_size, 0):
                stored = run.provenance.stored
                yield Piece(run._replace(provenance=Provenance.ROOT) if stored else run, data)
        finally:
            os.close(descriptor)

    return FileContents(
        path=name, size=found.st_size, mode=found.st_mode, deleted=False, key=(found.st_dev, found.st_ino), read=read
    )
