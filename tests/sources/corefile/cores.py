# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores that kernels wrote, and what kgcore makes of them."""

import lzma
from pathlib import Path
from typing import BinaryIO

from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.coredump.report import Report
from kgcore.library import open_core
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef

COMMITTED = Path(__file__).parents[2] / "vmcore_fixtures"
KERNELS = {f"{path.parts[-4]}-{path.stem}": path for path in sorted(COMMITTED.glob("*/truth/cores/*.xz"))}
"""Cores that kernels of 5.10 to 7.2 wrote: 64-bit, ia32, x32 and i386."""
FEW = {name: KERNELS[name] for name in ("k61-small-core.128", "k72-small-core.125", "k61-686pae-small-core.117")}

ALL = Options(mask=None)


def content(name: str) -> bytes:
    return lzma.decompress(KERNELS[name].read_bytes())


def filtered(core: Path | BinaryIO, options: Options = ALL) -> tuple[bytes, Report]:
    """What ``kgcore filter`` makes of a core."""
    sink = MemorySink()
    with open_core(core) as source, prepare(source, TaskRef.current(), options) as prepared:
        report = write(prepared, sink)
    return bytes(sink.data), report


class Trickle:
    """A stream that gives a few bytes at a time, and cannot go back."""

    def __init__(self, data: bytes, most: int = 4097) -> None:
        self._data = data
        self._at = 0
        self._most = most

    def read(self, size: int = -1) -> bytes:
        size = self._most if size < 0 else min(size, self._most)
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece
