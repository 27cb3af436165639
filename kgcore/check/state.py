# SPDX-License-Identifier: LGPL-2.1-or-later
"""The key ``state`` of the KGCORE note: whether it is as docs/vendor-note.md says, and agrees with the rest."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kgcore.check.spans import Spans, merged

__all__ = ("check_state",)

_SIGNALS, _LIMITS = 64, 16
_WIDE = 1 << 64
_NEEDED = "!"  # before the name of a kind: it may not be absent, even with a reason
_OPTIONAL = "?"  # it may be absent without a reason

_TIMER = {"value": "!count", "interval": "!count"}
_PENDING = [{"signal": "!count", "info": "!raw"}]
_FORM: dict[str, Any] = {
    "actions": [{"handler": "!hex", "flags": "!hex", "restorer": "!hex", "mask": "!hex"}],
    "pending": _PENDING,
    "itimer_real": _TIMER,
    "itimer_virtual": _TIMER,
    "itimer_prof": _TIMER,
    "posix_timers": [
        {
            **dict.fromkeys(("id", "clock", "notify", "signal", "thread"), "!int"),
            "sigval": "!hex",
            "timer": _TIMER,
        }
    ],
    "cwd": "text",
    "root": "text",
    "umask": "count",
    "limits": [["int"]],
    "oom_score_adj": "int",
    "dumpable": "count",
    "subreaper": "bool",
    "start_brk": "hex",
    "brk": "hex",
    "clocks": [_OPTIONAL, {"monotonic": "!count", "boottime": "!count"}],
    "threads": [
        {
            "tid": "!count",
            "name": "?text",
            "blocked": "?hex",
            "alternate_stack": {"address": "!hex", "size": "!count", "flags": "!hex"},
            "pending": _PENDING,
            **dict.fromkeys(("nice", "policy", "priority", "pdeath_signal", "seccomp"), "int"),
            **dict.fromkeys(("affinity", "robust_list", "clear_child_tid", "personality", "securebits"), "hex"),
            "rseq": {"address": "!hex", "size": "!count", "signature": "!hex"},
            "no_new_privs": "bool",
        }
    ],
    "shared": [{"start": "!hex", "end": "!hex", "device": ["count"], "inode": "!count"}],
    "descriptors": [
        {
            **dict.fromkeys(("fd", "shares", "inode", "size"), "!count"),
            "offset": "!int",
            "close_on_exec": "!bool",
            "path": "!text",
            "type": "!text",
            "flags": "!hex",
            "eventfd": [_OPTIONAL, {"count": "!count", "semaphore": "?bool"}],
            "timerfd": [_OPTIONAL, {"clock": "!int", "timer": _TIMER, "ticks": "!count", "flags": "!count"}],
            "signalfd": [_OPTIONAL, {"mask": "!hex"}],
            "epoll": [_OPTIONAL, [{"fd": "!count", "target": "!int", "events": "!hex", "data": "!hex"}]],
            "pipe": [_OPTIONAL, {"size": "count", "unread": "count", "content": "raw"}],
            "seals": "?hex",
        }
    ],
}  # fmt: skip
_KINDS: dict[str, Any] = {"int": int, "count": int, "bool": bool, "hex": str, "raw": str, "text": str}
_PATTERNS = {"hex": re.compile("0x[0-9a-f]{1,2048}"), "raw": re.compile("([0-9a-f]{2})*")}


def check_state(state: Any, tids: Sequence[Any], mapped: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Yield what contradicts the rest of the note, as sentences.

    :param tids: of the note's threads.
    :param mapped: the mappings that the note names.
    :raises ValueError: it has not the form that it should have.
    """
    _object(state, _FORM, "state")
    for name, length in (("actions", _SIGNALS), ("limits", _LIMITS)):
        if name in state and len(state[name]) != length:
            yield f"state.{name} has {len(state[name])} entries, not {length}"
    if "threads" in state and [thread["tid"] for thread in state["threads"]] != list(tids):
        yield "state.threads are not the threads of the note"
    spans = Spans(merged(mapped))
    for row in state.get("shared", ()):
        start, end = int(row["start"], 16), int(row["end"], 16)
        if not start < end or spans.within(start, end) != end - start:
            yield f"state.shared has {start:#x}-{end:#x}, which is not mapped"
    yield from _contradictions(state.get("descriptors", ()))


def _contradictions(descriptors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    numbers = [row["fd"] for row in descriptors]
    if numbers != sorted(set(numbers)):
        yield "state.descriptors are not in order"
    alone = {row["fd"] for row in descriptors if row["shares"] == row["fd"]}
    for row in descriptors:
        if row["shares"] > row["fd"] or row["shares"] not in alone:
            yield f"state.descriptors: {row['fd']} shares with {row['shares']}, which is not the lowest of its file"
        for item in row.get("epoll", ()):
            if item["target"] != -1 and item["target"] not in alone:
                yield f"state.descriptors: {row['fd']} watches {item['target']}, which is not the lowest of its file"
        pipe = row.get("pipe", {})
        if "content" in pipe and len(pipe["content"]) != 2 * pipe.get("unread", -1):
            yield f"state.descriptors: {row['fd']} has {pipe.get('unread')} unread bytes, but others as its content"


def _fits(value: Any, kind: Any, where: str) -> None:
    """:raises ValueError: a value is not of a kind."""
    if isinstance(kind, dict):
        _object(value, kind, where)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is not an array")
        for one in value:
            _fits(one, kind[0], where)
    else:
        name = kind.lstrip(_NEEDED + _OPTIONAL)
        right: bool = type(value) is _KINDS[name]
        if not right:
            raise ValueError(f"{where} is {type(value).__name__}, not {name}")
        if (name == "count" and not 0 <= value < _WIDE) or (name == "int" and not -_WIDE < value < _WIDE):
            raise ValueError(f"{where} is {value}")
        if name in _PATTERNS and not _PATTERNS[name].fullmatch(value):
            raise ValueError(f"{where} is not {name}")


def _object(value: Any, form: Mapping[str, Any], where: str) -> None:
    """:raises ValueError: it is no object of that form, or lacks a member without saying why."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    unknown = value.get("unknown", {})
    if not isinstance(unknown, dict) or not all(isinstance(reason, str) for reason in unknown.values()):
        raise ValueError(f"{where}.unknown does not say why")
    for name, kind in form.items():
        place = f"{where}.{name}"
        optional = (isinstance(kind, str) and kind[0] == _OPTIONAL) or (isinstance(kind, list) and kind[0] == _OPTIONAL)
        if name in value:
            _fits(value[name], kind[1] if optional and isinstance(kind, list) else kind, place)
        elif isinstance(kind, str) and kind[0] == _NEEDED:
            raise ValueError(f"{place} is missing")
        elif name not in unknown and not optional:
            raise ValueError(f"{place} is missing, and nothing says why")
