# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read parts of files as memory is read: in whole pages, what cannot be read as such."""

import errno
import os
from collections.abc import Iterator

from kgcore.model.memory import Piece, Provenance, Run

__all__ = ("CHUNK", "file_pieces", "whole_pages")

CHUNK = 4 << 20  # bytes of a piece


def whole_pages(size: int, page_size: int) -> int:
    """Return a size, rounded up to whole pages."""
    return -(-size // page_size) * page_size


def file_pieces(descriptor: int, offset: int, length: int, page_size: int, address: int) -> Iterator[Piece]:
    """Yield a part of a file in pieces, the last page filled with zeros.

    :param length: bytes, whole pages.
    :param address: of the first byte, in the pieces.
    """
    for at in range(0, length, CHUNK):
        data = bytearray(min(CHUNK, length - at))
        count, failed = 0, "the file has become shorter"
        try:
            count = os.preadv(descriptor, [data], offset + at)
        except OSError as error:
            failed = os.strerror(error.errno or errno.EIO)
        got = whole_pages(count, page_size)
        if got:
            yield Piece(Run(address + at, got, Provenance.PAGE_CACHE), memoryview(data)[:got])
        if got < len(data):
            yield Piece(Run(address + at + got, len(data) - got, Provenance.UNREADABLE, failed), b"")
