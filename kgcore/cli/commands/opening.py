# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open what the command line names: the library's way, with remarks on the console."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kgcore import library
from kgcore.cli.console import Console
from kgcore.cli.librarylog import routed
from kgcore.cli.request import Channel
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles
from kgcore.sources.location import DumpLocation, Location

if TYPE_CHECKING:
    from kgcore.sources.vmcore.opening.target import Target

__all__ = ("opened", "opened_target")


@contextlib.contextmanager
def opened(place: Location, show: Channel, console: Console, user_files: UserFiles = NO_USER_FILES) -> Iterator[Source]:
    """Open the dump or machine that the command line names, and give its processes."""
    with routed(show, console), library.open_source(place, user_files, console.remark) as source:
        yield source


@contextlib.contextmanager
def opened_target(place: DumpLocation, show: Channel, console: Console) -> Iterator["Target"]:
    """Open a vmcore."""
    with routed(show, console), library.open_target(place, console.remark) as target:
        yield target
