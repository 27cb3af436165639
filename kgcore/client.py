# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask the daemon (``kgcore daemon``) for the core of this program, or of another one. ::

    from kgcore import client
    client.dump("core")                 # of this very program, which goes on
    client.dump("core", 4711)           # of another one of the same user; root may ask for any

It imports only the standard library, little of it, and this program needs no rights: the daemon has them.
"""

import errno
import os
import socket as sockets
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

from kgcore.daemon import protocol
from kgcore.daemon.protocol import BadMessage, Kind

__all__ = ("Dumped", "dump")

_MODE = 0o600
_LISTS = ("exclude", "only", "redact")
_OPTIONS = ("filter", "freeze", "shared", "max_freeze", "max_size", "max_time", "limit", "profile", "compress")


class Dumped(NamedTuple):
    """A core that the daemon has written.

    :ivar complete: nothing is missing.
    :ivar size: bytes written.
    :ivar report: as JSON (docs/report.md), if it was asked for and is not too long.
    """

    complete: bool
    size: int
    report: str | None


def dump(
    path_or_file: Any,
    pid: int | None = None,
    *,
    socket: str | None = None,
    progress: Callable[[int, int], object] | None = None,
    report: bool = False,
    **options: Any,
) -> Dumped:
    """Have the daemon write the core of this program, or of another one, which goes on.

    :param path_or_file: name of a new file, which is private (0600) and gone again if there is no core; or a file
        object or a descriptor, of an empty file or a pipe that is open for writing. Who reads a pipe must not wait for
        this call.
    :param pid: id of the process; None: this one, whose core begins with the calling thread.
    :param socket: where the daemon listens; None: ``$KGCORE_SOCKET``, or /run/kgcore/socket.
    :param progress: called now and then with the bytes of memory written so far, and in all.
    :param report: have the report, too.
    :param options: ``filter``, ``freeze``, ``shared``, ``max_freeze``, ``max_size``, ``max_time``, ``limit``,
        ``profile``, ``compress``, and lists of rules ``exclude``, ``only``, ``redact``, as those of
        :func:`kgcore.write_core_dump`.
    :raises OSError: there is no core; its ``errno`` and ``strerror`` say why (docs/daemon.md lists them).
        ConnectionRefusedError, FileNotFoundError: there is no daemon.
    :raises TypeError, ValueError: options make no sense.
    """
    from kgcore.coredumper.permission import dumpable

    body = protocol.options(_words(pid, options, progress is not None, report))
    with (
        dumpable() if pid is None else nullcontext(),
        sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET | sockets.SOCK_CLOEXEC) as connection,
    ):
        where = protocol.socket_path(socket)
        try:
            connection.connect(where)
        except OSError as error:
            raise OSError(error.errno, f"no daemon listens: {os.strerror(error.errno or 0)}", where) from None
        if not isinstance(path_or_file, str | os.PathLike):
            descriptor = path_or_file if isinstance(path_or_file, int) else path_or_file.fileno()
            return _ask(connection, body, descriptor, progress)
        descriptor = os.open(path_or_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            return _ask(connection, body, descriptor, progress)
        except BaseException:
            with suppress(OSError):
                if os.path.samestat(os.lstat(path_or_file), os.fstat(descriptor)):
                    os.unlink(path_or_file)
            raise
        finally:
            os.close(descriptor)


def _words(pid: int | None, options: dict[str, Any], progress: bool, report: bool) -> list[tuple[str, str]]:
    words = [("tid", str(threading.get_native_id()))] if pid is None else [("pid", str(int(pid)))]
    for name, value in options.items():
        if name in _LISTS:
            if isinstance(value, str):
                raise TypeError(f"{name} is a string: expected a list of rules")
            words += ((name, rule) for rule in value)
        elif name not in _OPTIONS:
            raise TypeError(f"unexpected option: {name}")
        elif value is not None:
            words.append((name.replace("_", "-"), f"{value:f}" if isinstance(value, float) else str(value)))
        elif name == "filter":
            words.append((name, "process"))
    return [*words, *((name, "1") for name, wanted in (("progress", progress), ("report", report)) if wanted)]


def _ask(
    connection: sockets.socket, body: bytes, descriptor: int, progress: Callable[[int, int], object] | None
) -> Dumped:
    with suppress(BrokenPipeError):  # it may have said why
        sockets.send_fds(connection, [protocol.pack(Kind.DUMP, 1, body)], [descriptor])
    try:
        while True:
            packet = connection.recv(protocol.MAX_ANSWER)
            if not packet:
                raise OSError(errno.EPIPE, "the daemon has ended without an answer")
            message = protocol.unpack(packet)
            if message.kind == Kind.PROGRESS and progress is not None:
                progress(*protocol.read_progress(message.body))
            elif message.kind == Kind.ERROR:
                raise OSError(*protocol.read_error(message.body))
            elif message.kind == Kind.DONE:
                done = protocol.read_done(message.body)
                return Dumped(done.status == 0, done.size, done.report.decode() or None)
    except ConnectionResetError:
        raise OSError(errno.EPIPE, "the daemon has ended without an answer") from None
    except (BadMessage, UnicodeDecodeError) as error:
        raise OSError(errno.EBADMSG, f"the daemon's answer cannot be read: {error}") from None
