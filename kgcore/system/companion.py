# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start a Python program of kgcore's own beside this one, with a socket between them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ("start",)

_NOTHING: Mapping[str, str] = MappingProxyType({})


def start(
    statement: str, *flags: str, passed: Sequence[int] = (), environment: Mapping[str, str] = _NOTHING, **options: Any
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a program, and return it with this side's end of the socket; the other's descriptor is its argument.

    It is exec'ed, not a copy of this one: a thread of this one could hold a lock at the moment of fork().

    :param statement: what it runs. It imports from where this program does.
    :param flags: of the interpreter.
    :param passed: further descriptors that it has.
    :param environment: what it has besides.
    :param options: of :class:`subprocess.Popen`.
    :raises OSError: it cannot be started.
    """
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (package, *sys.path)))
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            program = subprocess.Popen(
                [sys.executable or "python3", *flags, "-c", statement, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *passed),
                stdin=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                **options,
            )
        except BaseException:
            ours.close()
            raise
    return program, ours
