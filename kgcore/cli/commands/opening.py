# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opens the dump that the command line names, for the commands that need one."""

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
    """The processes of a vmcore."""
    with opened_target(place, show, console) as target:
        from kgcore.sources.vmcore.source import VmcoreSource

        yield VmcoreSource(target, user_files)


@contextlib.contextmanager
def opened_target(place: DumpLocation, show: Channel, console: Console) -> Iterator["Target"]:
    """An opened vmcore. The first place that needs drgn, which is why it is imported here."""
    drgnversion.ensure()
    from kgcore.sources.vmcore.opening.target import TargetOptions, open_target

    with routed(show, console), open_target(TargetOptions(**dataclasses.asdict(place))) as target:
        for message in target.messages:
            console.remark(message)
        yield target
