# SPDX-License-Identifier: LGPL-2.1-or-later
"""Report progress as JSON lines for programs (docs/progress.md). For people: :func:`kgcore.cli.render.progress`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from kgcore.coredump.writer import Progress
from kgcore.system import stopping
from kgcore.text import plain

__all__ = ("Subject", "json_lines")

_VERSION = 1
_INTERVAL = 0.25  # seconds between two lines
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """The core that is being written.

    :ivar index: which of the processes of this run it is, from 1.
    :ivar count: how many there are.
    :ivar total: bytes of memory to write.
    """

    tgid: int
    comm: bytes
    index: int
    count: int
    total: int


@contextmanager
def json_lines(subject: Subject, err: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Print a line when the block begins, when it ends, and now and then between. A write error stops the lines."""
    started = shown = clock()
    done = 0
    open_ = True

    def show(event: str, **more: object) -> None:
        nonlocal open_, shown
        shown = clock()
        seconds = shown - started
        rate = done / seconds if done and seconds > 0 else None
        line = {
            "version": _VERSION,
            "event": event,
            "tgid": subject.tgid,
            "comm": plain(subject.comm),
            "index": subject.index,
            "count": subject.count,
            "done": done,
            "total": subject.total,
            "seconds": round(seconds, _DIGITS),
            "rate": None if rate is None else round(rate),
            "eta": None if rate is None else round((subject.total - done) / rate, _DIGITS),
            **more,
        }
        try:
            if open_:
                print(json.dumps(line), file=err, flush=True)
        except OSError:
            open_ = False

    def update(now: int, total: int) -> None:
        nonlocal done
        done = now
        if clock() - shown >= _INTERVAL:
            show("progress")

    show("start")
    forget = stopping.last_words(lambda: show("end", written=False))
    written = False
    try:
        yield update
        written = True
    finally:
        forget()
        show("end", written=written)
