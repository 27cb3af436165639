# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a request asks for, as values, out of the words in its message."""

import errno
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kgcore.coredumper.options import DumpOptions, wish_of
from kgcore.coredumper.wish import Wish
from kgcore.daemon.protocol import BadMessage, pairs
from kgcore.daemon.refusal import Refusal
from kgcore.errors import KgcoreError

__all__ = ("KEYS", "Request", "request_of", "wish")

_MOST_BITS = 0x1FF  # of /proc/PID/coredump_filter
_MOST_PID = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h


def _number(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text) or int(text) > most:
            raise ValueError(f"expected a decimal number, at most {most}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) or not math.isfinite(float(text)) or not float(text):
        raise ValueError("expected seconds, more than 0")
    return float(text)


def _word(*words: str) -> Callable[[str], str]:
    def word(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text

    return word


def _mask(text: str) -> int | None:
    return None if text == "process" else _number(_MOST_BITS)(text)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


_OPTIONS: dict[str, Callable[[str], object]] = {
    "filter": _mask,
    "freeze": _word("auto", "fork", "stop"),
    "shared": _word("copy", "late"),
    "max-freeze": _seconds,
    "max-size": _number(1 << 62),
    "max-time": _seconds,
    "limit": _word("priority", "largest-first", "truncate"),
    "profile": _word("full", "mini"),
    "compress": _word("zstd", "gzip"),
}
_OTHERS: dict[str, Callable[[str], object]] = {
    "pid": _number(_MOST_PID),
    "tid": _number(_MOST_PID),
    "progress": _flag,
    "report": _flag,
}
_LISTS = ("exclude", "only", "redact")
KEYS = frozenset((*_OPTIONS, *_OTHERS, *_LISTS))
"""All keys of a DUMP."""


@dataclass(frozen=True, slots=True)
class Request:
    """A dump that a client asks for.

    :ivar pid: of the process, as the client numbers it; None: the client.
    :ivar tid: of the thread that comes first; None: the leader.
    :ivar progress: the client wants to hear how far it is.
    :ivar report: it wants the report.
    :ivar options: how to dump.
    """

    pid: int | None
    tid: int | None
    progress: bool
    report: bool
    options: DumpOptions


def request_of(body: bytes) -> Request:
    """Return what the body of a DUMP asks for.

    :raises Refusal: it makes no sense.
    """
    found: dict[str, Any] = {}
    try:
        given = pairs(body)
    except BadMessage as error:
        raise Refusal(error.errno, str(error)) from None
    for key, text in given:
        if key not in KEYS:
            raise Refusal(errno.EINVAL, f"there is no option {key[:80]!r}")
        if key in _LISTS:
            found.setdefault(key, []).append(text)
            continue
        if key in found:
            raise Refusal(errno.EINVAL, f"the option {key} is given twice")
        try:
            found[key] = (_OPTIONS.get(key) or _OTHERS[key])(text)
        except ValueError as error:
            raise Refusal(errno.EINVAL, f"{key} is {text[:80]!r}: {error}") from None
    options: Any = {key.replace("-", "_"): value for key, value in found.items() if key not in _OTHERS}
    return Request(
        pid=found.get("pid"),
        tid=found.get("tid"),
        progress=found.get("progress", False),
        report=found.get("report", False),
        options=options,
    )


def wish(request: Request, tid: int, descriptor: int) -> Wish:
    """Return how the dump is made.

    :raises Refusal: its options contradict each other, or this machine cannot do it.
    """
    try:
        return wish_of(tid, request.options, path=None, descriptor=descriptor)
    except (KgcoreError, TypeError, ValueError) as error:
        raise Refusal(errno.EINVAL, str(error)) from None
