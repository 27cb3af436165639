# SPDX-License-Identifier: LGPL-2.1-or-later
"""The open files of a core: those that its KGCORE note names."""

import os
import stat
from collections.abc import Mapping

from kgcore.errors import KgcoreError
from kgcore.model.process import DELETED, FileType, OpenFile
from kgcore.model.state import Descriptor, ProcessState
from kgcore.sources.base import Contents, OpenFiles

__all__ = ("contents_of", "open_files")

_MODES: Mapping[FileType, int] = {
    "regular": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "symlink": stat.S_IFLNK,
}


def open_files(tgid: int, state: ProcessState) -> OpenFiles:
    """See :meth:`kgcore.sources.base.HasOpenFiles.open_files`."""
    lost = tuple(f"descriptors: {reason}" for name, reason in state.unknown.items() if name == "descriptors")
    return OpenFiles(tgid, tuple(map(_file, state.descriptors or ())), lost)


def _file(one: Descriptor) -> OpenFile:
    return OpenFile(
        fd=one.fd,
        file=one.shares,
        path=one.path or None,
        type=one.type,
        flags=one.flags | (os.O_CLOEXEC if one.close_on_exec else 0),
        offset=one.offset,
        mode=_MODES.get(one.type, 0),
        size=one.size,
        nlink=0 if one.path.endswith(DELETED) else 1,
        inode=one.inode,
    )


def contents_of(file: OpenFile) -> Contents:
    """See :meth:`kgcore.sources.base.HasOpenFiles.contents`.

    :raises KgcoreError: always.
    """
    raise KgcoreError(
        f"file descriptor {file.fd}: a core does not have what is in files", hint="the dump that it is of may have it"
    )
