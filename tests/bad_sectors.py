# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk with bad sectors, and files that others cut off, for this process: what reads them gets what the kernel gives.

For other processes: tests/vmcore/interposer.py.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def bad(path: Path, *ranges: tuple[int, int]) -> Iterator[None]:
    """:param ranges: bytes [start, end) of the file that cannot be read."""
    status = path.stat()
    pread, preadv = os.pread, os.preadv

    def limit(descriptor: int, offset: int, size: int) -> int:
        """How many bytes can be read there."""
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (status.st_dev, status.st_ino):
            return size
        for start, end in ranges:
            if start <= offset < end:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if offset < start < offset + size:
                size = start - offset
        return size

    def bad_pread(descriptor: int, size: int, offset: int) -> bytes:
        return pread(descriptor, limit(descriptor, offset, size), offset)

    def bad_preadv(descriptor: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        (buffer,) = buffers
        view = memoryview(buffer)
        size = limit(descriptor, offset, len(view)) if view else 0
        return preadv(descriptor, [view[:size]], offset, flags)

    with mock.patch("os.pread", bad_pread), mock.patch("os.preadv", bad_preadv):
        yield
