# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mapped programs and libraries of a process of this machine, as the files that they are."""

import os
import stat
from collections.abc import Iterator
from functools import partial

from kgcore.model.lost import Lost
from kgcore.model.process import VM_EXEC, VM_HUGETLB, ProcessImage, Vma
from kgcore.sources.base import FileContents
from kgcore.sources.filepieces import file_pieces, whole_pages
from kgcore.sources.live.mappings import MappedFiles

__all__ = ("mapped_programs",)

_ELF = b"\x7fELF"


def mapped_programs(pid: int, image: ProcessImage, files: MappedFiles) -> Iterator[FileContents | Lost]:
    """See :meth:`kgcore.sources.base.HasMappedFiles.files`."""
    found: dict[bytes, Vma] = {}
    for vma in image.vmas:
        if vma.file is None or vma.file.path is None or not stat.S_ISREG(vma.file.mode) or vma.flags & VM_HUGETLB:
            continue
        known = found.get(vma.file.path)
        if known is None or (vma.flags & VM_EXEC and not known.flags & VM_EXEC):
            found[vma.file.path] = vma
    for vma in sorted(found.values(), key=lambda one: one.file is not None and one.file.deleted):
        file = vma.file
        assert file is not None
        opened = files.open(vma)
        if opened is None:
            if vma.flags & VM_EXEC:
                yield Lost(f"{(file.path or b'').decode(errors='replace')} cannot be opened")
            continue
        descriptor, size = opened
        try:
            if os.pread(descriptor, len(_ELF), 0) != _ELF:
                continue
        except OSError as error:
            yield Lost(f"{(file.path or b'').decode(errors='replace')} cannot be read: {error.strerror}")
            continue
        yield FileContents(
            path=file.name or b"",
            size=size,
            mode=file.mode,
            deleted=file.deleted,
            key=(pid, file.path),
            read=partial(file_pieces, descriptor, 0, whole_pages(size, image.page_size), image.page_size, 0),
        )
