# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the daemon: its socket, its imports, its end."""

import grp
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module

from kgcore.coredump.workers import available
from kgcore.daemon.listening import listening
from kgcore.daemon.log import Level, say
from kgcore.daemon.notify import inherited
from kgcore.daemon.protocol import socket_path
from kgcore.daemon.server import Server
from kgcore.daemon.session import Settings
from kgcore.errors import KgcoreError

__all__ = ("DaemonOptions", "run")

_LEAST_WORKERS = 2
# What the first dump would import, and then each of its children again.
_IMPORTED: Sequence[str] = ("kgcore.sources.live.source",)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """How the daemon serves, and whom.

    :ivar socket: where it listens; None: ``$KGCORE_SOCKET``, or the default.
    :ivar group: name of the group that may connect; None: everybody.
    :ivar max_workers: how many dumps there may be at once; None: as many as there are CPUs, but two.
    :ivar max_time: seconds that a dump may take.
    :ivar allow_foreign: who may connect may have any process.
    :ivar idle_exit: seconds without a client after which it ends; None: never.
    """

    socket: str | None
    group: str | None
    max_workers: int | None
    max_time: float
    allow_foreign: bool
    idle_exit: float | None


def run(options: DaemonOptions) -> None:
    """Serve clients, until a signal ends it.

    :raises KgcoreError: it cannot listen.
    """
    with ExitStack() as end:
        listeners = inherited()
        for listener in listeners:
            end.callback(listener.close)
        if listeners and (options.socket or options.group):
            raise KgcoreError("the sockets are systemd's (LISTEN_FDS), so there is no --socket and no --group")
        if not listeners:
            path = socket_path(options.socket)
            listeners = [end.enter_context(listening(path, _group(options.group)))]
            say(Level.INFO, f"listens on {path}")
        for name in _IMPORTED:
            import_module(name)
        settings = Settings(daemon=os.getpid(), max_time=options.max_time, foreign=options.allow_foreign)
        workers = options.max_workers or max(available(), _LEAST_WORKERS)
        Server(listeners, settings, workers=workers, idle_exit=options.idle_exit).run()


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise KgcoreError(f"there is no group {name!r}", hint="groupadd, or getent group lists them") from None
