# SPDX-License-Identifier: LGPL-2.1-or-later
"""The messages between a client and the daemon, as docs/daemon.md describes them.

It imports only the standard library, little of it: clients do.
"""

import errno
import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

__all__ = (
    "MAX_ANSWER",
    "MAX_REQUEST",
    "MAX_TEXT",
    "VERSION",
    "BadMessage",
    "Done",
    "Kind",
    "Message",
    "done",
    "error",
    "options",
    "pack",
    "pairs",
    "progress",
    "read_done",
    "read_error",
    "read_progress",
    "socket_path",
    "unpack",
)

VERSION = 1
MAX_REQUEST = 4096  # bytes of a packet to the daemon
MAX_ANSWER = 1 << 16  # bytes of a packet to a client
MAX_TEXT = 1024  # bytes of the message of an error
_DEFAULT = "/run/kgcore/socket"
_VARIABLE = "KGCORE_SOCKET"

_HEADER = struct.Struct("=IHHQ")  # struct kgcore_message: length, version, type, id
_PROGRESS = struct.Struct("=QQ")  # bytes done, bytes in all
_DONE = struct.Struct("=iIQ")  # status, whether the report was too long, bytes of the core
_ERROR = struct.Struct("=iI")  # errno, 0


class Kind(IntEnum):
    """What a message is."""

    DUMP = 1
    CANCEL = 2
    PROGRESS = 16
    DONE = 17
    ERROR = 18
    STARTED = 19


class BadMessage(Exception):
    """A packet is no message of this protocol.

    :ivar errno: what is wrong with it.
    :ivar id: of the request, if it says one; else 0.
    """

    def __init__(self, number: int, message: str, id: int = 0) -> None:  # noqa: A002  (its name in the protocol)
        super().__init__(message)
        self.errno = number
        self.id = id


class Message(NamedTuple):
    """A message.

    :ivar kind: of this version's :class:`Kind`, or another number.
    :ivar id: of the request, chosen by the client.
    """

    kind: int
    id: int
    body: bytes


class Done(NamedTuple):
    """The answer to a dump.

    :ivar status: 0: complete; 3: something is missing.
    :ivar size: bytes written.
    :ivar report: as JSON, if it was asked for and is short enough.
    :ivar too_long: it is not.
    """

    status: int
    size: int
    report: bytes
    too_long: bool


def socket_path(given: str | None) -> str:
    """Return where the daemon listens: a path that was given, that of ``$KGCORE_SOCKET``, or the default."""
    return given or os.environ.get(_VARIABLE) or _DEFAULT


def pack(kind: Kind, id: int, body: bytes = b"") -> bytes:  # noqa: A002
    """Return a message as a packet."""
    return _HEADER.pack(_HEADER.size + len(body), VERSION, kind, id) + body


def unpack(packet: bytes) -> Message:
    """Return the message in a packet.

    :raises BadMessage: the packet holds no message.
    """
    if len(packet) < _HEADER.size:
        raise BadMessage(errno.EBADMSG, f"a message of {len(packet)} bytes: its header alone has {_HEADER.size}")
    length, version, kind, id_ = _HEADER.unpack_from(packet)
    if version != VERSION:
        raise BadMessage(errno.EPROTONOSUPPORT, f"a message of version {version}: expected {VERSION}", id_)
    if length != len(packet):
        raise BadMessage(errno.EBADMSG, f"a message of {len(packet)} bytes that says it has {length}", id_)
    return Message(kind, id_, packet[_HEADER.size :])


def options(given: Iterable[tuple[str, str]]) -> bytes:
    """Return the body of a DUMP.

    :param given: keys, and a value for each.
    :raises ValueError: one has a NUL byte, or all are too long together.
    """
    body = b""
    for key, value in given:
        word = f"{key}={value}".encode("utf-8", "surrogateescape")
        if b"\0" in word:
            raise ValueError(f"{key} has a NUL byte")
        body += word + b"\0"
    if len(body) > MAX_REQUEST - _HEADER.size:
        raise ValueError(f"the options have {len(body)} bytes: a message has room for {MAX_REQUEST - _HEADER.size}")
    return body


def pairs(body: bytes) -> list[tuple[str, str]]:
    """Return the keys and values in the body of a DUMP.

    :raises BadMessage: it is not made of ``key=value`` in UTF-8, each with a NUL byte behind it.
    """
    if body and not body.endswith(b"\0"):
        raise BadMessage(errno.EINVAL, "the last option has no NUL byte behind it")
    found = []
    for word in body.split(b"\0")[:-1]:
        try:
            key, equals, value = word.decode().partition("=")
        except UnicodeDecodeError:
            raise BadMessage(errno.EINVAL, "an option is not UTF-8") from None
        if not equals:
            raise BadMessage(errno.EINVAL, f"{key[:80]!r} is no option: expected key=value")
        found.append((key, value))
    return found


def progress(id: int, count: int, total: int) -> bytes:  # noqa: A002
    """Return a PROGRESS."""
    return pack(Kind.PROGRESS, id, _PROGRESS.pack(count, total))


def read_progress(body: bytes) -> tuple[int, int]:
    """Return the bytes that are done, and those in all.

    :raises BadMessage: the body is too short.
    """
    count, total = _unpacked(_PROGRESS, body)
    return count, total


def done(id: int, status: int, size: int, report: bytes = b"") -> bytes:  # noqa: A002
    """Return a DONE, without the report if that is too long."""
    too_long = _HEADER.size + _DONE.size + len(report) > MAX_ANSWER
    return pack(Kind.DONE, id, _DONE.pack(status, too_long, size) + (b"" if too_long else report))


def read_done(body: bytes) -> Done:
    """Return what a DONE says.

    :raises BadMessage: the body is too short.
    """
    status, too_long, size = _unpacked(_DONE, body)
    return Done(status, size, body[_DONE.size :], bool(too_long))


def error(id: int, number: int, message: str) -> bytes:  # noqa: A002
    """Return an ERROR."""
    text = message.encode("utf-8", "backslashreplace")[:MAX_TEXT]
    return pack(Kind.ERROR, id, _ERROR.pack(number, 0) + text.decode("utf-8", "ignore").encode())


def read_error(body: bytes) -> tuple[int, str]:
    """Return the errno and the message of an ERROR.

    :raises BadMessage: the body is too short.
    """
    number, _ = _unpacked(_ERROR, body)
    return number, body[_ERROR.size :].decode("utf-8", "replace")


def _unpacked(what: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < what.size:
        raise BadMessage(errno.EBADMSG, f"a message's body has {len(body)} bytes: expected {what.size} or more")
    return what.unpack_from(body)
