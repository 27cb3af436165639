# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files whose names come from the user, or from anyone who can write to their directory."""

import os
import stat
from typing import BinaryIO

__all__ = ("open_regular", "read_at", "reading")


def open_regular(name: str | bytes | os.PathLike[str], *, directory: int | None = None, links: bool = True) -> int:
    """Open a regular file for reading and return its descriptor. It neither waits for pipes nor opens a terminal.

    :param directory: descriptor that ``name`` is relative to.
    :param links: follow a symbolic link.
    :raises OSError: it cannot be opened, or is not a regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "not a regular file")
    return descriptor


def read_at(descriptor: int, size: int, at: int) -> bytes:
    """Read all of these bytes up to the end of the file, even if the file system returns fewer at a time.

    :raises OSError: some of them cannot be read.
    """
    data = os.pread(descriptor, size, at)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), at + len(data))):
        data += more
    return data


def reading(name: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading and return a file object.

    :raises OSError: as :func:`open_regular` does.
    """
    return os.fdopen(open_regular(name), "rb")
