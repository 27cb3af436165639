# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be dumped and how, as a value that goes to the helper program."""

from dataclasses import dataclass

from kgcore.coredump.limits import LimitRule
from kgcore.coredump.pipeline import Options
from kgcore.sinks.choosing import Compressor
from kgcore.sources.location import LiveLocation

__all__ = ("Wish",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A dump that a program wants.

    :ivar tid: id of the thread whose process it is; it comes first.
    :ivar location: how to take it.
    :ivar options: what the core holds.
    :ivar path: where it goes; None: to the descriptor.
    :ivar descriptor: of a pipe, or of a new, empty file.
    :ivar compress: how it is compressed.
    :ivar force: overwrite a file.
    :ivar max_size: bytes, and ``max_time`` seconds that it may take; ``limit`` what these cost.
    :ivar jobs: processes that read and compress; None: as many as there are CPUs.
    :ivar progress: whether anybody wants to hear of it.
    """

    tid: int
    location: LiveLocation
    options: Options
    path: str | None
    descriptor: int | None
    compress: Compressor
    force: bool
    max_size: int | None
    max_time: float | None
    limit: LimitRule
    jobs: int | None
    progress: bool
