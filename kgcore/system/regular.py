# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening files whose names the user gave, or whoever may write to their directory."""

import os
import stat
from typing import BinaryIO

__all__ = ("open_regular", "read_at", "reading")


def open_regular(name: str | bytes | os.PathLike[str], *, directory: int | None = None, links: bool = True) -> int:
    """A descriptor to read a regular file by. Nothing else is waited for, nor becomes our terminal.

    :param directory: descriptor that ``name`` is relative to.
    :param links: the name may be that of a symbolic link.
    :raises OSError: it cannot be opened, or is something else: a directory, a FIFO, a socket, a device.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "it is no regular file")
    return descriptor


def read_at(descriptor: int, size: int, at: int) -> bytes:
    """All of these bytes, but for what lies beyond the end of the file: a file system may give fewer at a time.

    :raises OSError: some of them cannot be read.
    """
    data = os.pread(descriptor, size, at)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), at + len(data))):
        data += more
    return data


def reading(name: str | os.PathLike[str]) -> BinaryIO:
    """The same as a file object.

    :raises OSError: as :func:`open_regular` does.
    """
    return os.fdopen(open_regular(name), "rb")
