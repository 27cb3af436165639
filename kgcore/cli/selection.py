# SPDX-License-Identifier: LGPL-2.1-or-later
"""Select processes by pattern and user id."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from kgcore.cli.request import Selection
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import TaskRef
from kgcore.text import printable

__all__ = ("chosen", "described", "select")


def select(processes: Iterable[ProcessSummary], selection: Selection) -> Iterator[TaskRef]:
    """Yield the selected processes that have memory, in their order."""
    for process in processes:
        if process.memory and not process.kernel_thread and chosen(process, selection):
            yield TaskRef(str(process.pid), pid=process.pid)


def chosen(process: ProcessSummary, selection: Selection) -> bool:
    """Say whether a process is selected. Patterns match names as ``kgcore ps`` shows them."""
    if selection.uid and process.uid not in selection.uid:
        return False
    if not selection.match:
        return bool(selection)
    first = (process.args or b"").split(b"\0", 1)[0]
    title, colon, _ = first.partition(b": ")
    if colon and not title.startswith(b"/"):  # of setproctitle(): "nginx: master process /usr/sbin/nginx"
        own: tuple[bytes, ...] = title, first
    else:
        own = (first.rsplit(b"/", 1)[-1],)
    names = [printable(name) for name in (process.comm, *own) if name]
    return any(fnmatchcase(name, pattern) for name in names for pattern in selection.match)


def described(selection: Selection) -> str:
    """Return the options that express a selection."""
    words = ["--all"] if selection.all else []
    words += (f"--match {pattern}" for pattern in selection.match)
    words += (f"--uid {uid}" for uid in selection.uid)
    return " ".join(words)
