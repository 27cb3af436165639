# SPDX-License-Identifier: LGPL-2.1-or-later
"""The socket that the daemon listens on, when systemd does not give it one."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kgcore.errors import KgcoreError

__all__ = ("BACKLOG", "listening")

BACKLOG = 128
_EVERYBODY, _GROUP = 0o666, 0o660


@contextmanager
def listening(path: str, group: int | None) -> Iterator[socket.socket]:
    """Listen at a path, which is gone after the block.

    :param group: who may connect besides root; None: everybody.
    :raises KgcoreError: that is not possible, or another daemon listens there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        try:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path) or ".", 0o755)
            _remove_stale(path)
            mask = os.umask(0o777 & ~(_EVERYBODY if group is None else _GROUP))
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            mine = os.lstat(path)
            if group is not None:
                os.chown(path, -1, group)
            listener.listen(BACKLOG)
        except OSError as error:
            raise KgcoreError(
                f"cannot listen on {path}: {error.strerror or error}", hint="--socket PATH names another place"
            ) from error
        try:
            yield listener
        finally:
            with suppress(OSError):
                if os.path.samestat(os.lstat(path), mine):
                    os.unlink(path)
    finally:
        listener.close()


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that is no more.

    :raises KgcoreError: it is there, or the file is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise KgcoreError(f"cannot listen on {path}: a file of that name exists", hint="--socket PATH")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:  # its queue is full
            pass
    raise KgcoreError(f"cannot listen on {path}: another program does")
