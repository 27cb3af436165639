# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the dump that the command line names."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kgcore.cli.console import Console
from kgcore.cli.librarylog import routed
from kgcore.cli.request import Channel, DumpLocation
from kgcore.sources import drgnversion
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles

if TYPE_CHECKING:
    from kgcore.sources.vmcore.opening.target import Target

__all__ = ("opened", "opened_target")


@contextlib.contextmanager
def opened(
    place: DumpLocation, show: Channel, console: Console, user_files: UserFiles = NO_USER_FILES
) -> Iterator[Source]:
    """Open a vmcore and give its processes."""
    with opened_target(place, show, console) as target:
        from kgcore.sources.vmcore.source import VmcoreSource

        yield VmcoreSource(target, user_files)


@contextlib.contextmanager
def opened_target(place: DumpLocation, show: Channel, console: Console) -> Iterator["Target"]:
    """Open a vmcore. This is the first place that needs drgn, so it is imported here."""
    drgnversion.ensure()
    from kgcore.sources.vmcore.opening.target import TargetOptions, open_target

    with routed(show, console), open_target(TargetOptions(**dataclasses.asdict(place))) as target:
        for message in target.messages:
            console.remark(message)
        yield target
