# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do what a Wish says."""

import fcntl
import os
import stat

from kgcore.coredump.limits import Limits
from kgcore.coredump.report import Report
from kgcore.coredump.writer import Progress
from kgcore.coredumper.wish import Wish
from kgcore.library import open_source
from kgcore.saving import CoreWriter
from kgcore.sinks.base import Sink
from kgcore.sinks.outputs import named
from kgcore.sinks.streams import SparseSink, StreamSink
from kgcore.sources.base import NO_USER_FILES, TaskRef

__all__ = ("make",)


def make(wish: Wish, progress: Progress) -> tuple[Report, int]:
    """Write the core that is wanted.

    :param progress: called now and then, and at the end; what it raises ends the dump.
    :return: the report, and bytes of output.
    :raises KgcoreError: as :func:`kgcore.save` does.
    """
    sinks: list[Sink] = []

    def opened(path: str, *, force: bool = False) -> Sink:
        sinks.append(named(path, force=force) if wish.descriptor is None else _sink(wish.descriptor))
        return sinks[-1]

    writer = CoreWriter(
        wish.options,
        output="" if wish.path is None else wish.path,
        opened=opened,
        force=wish.force,
        compress=wish.compress,
        jobs=wish.jobs,
        limits=Limits(wish.max_size, wish.max_time, rule=wish.limit),
    )
    with open_source(wish.location, NO_USER_FILES, lambda message: None) as source:
        report = writer.save(source, TaskRef.of(wish.tid), progress)
    return report, report.size if wish.compress is None else sinks[-1].used


def _sink(descriptor: int) -> Sink:
    """The sink for a pipe, or for a new, empty file. (One that appends has no holes: it does not seek.)"""
    file = os.fdopen(descriptor, "wb", buffering=0)
    sparse = stat.S_ISREG(os.fstat(descriptor).st_mode) and not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return SparseSink(file) if sparse else StreamSink(file)
