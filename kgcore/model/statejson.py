# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a :class:`kgcore.model.state.ProcessState` as values for ``json.dumps``, and read it back.

Members that are None are absent. Addresses, masks and opaque numbers are strings such as ``"0x7f00"``, bytes that are
no text are hexadecimal digits, and in paths each byte that is not UTF-8 is ``\\xNN``, and a backslash two.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from kgcore.model.state import ProcessState

__all__ = ("bytes_of", "from_json", "text_of", "to_json")

_Coder = Callable[[Any], Any]
_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


class _Member(NamedTuple):
    """How a member of a dataclass is written and read."""

    name: str
    write: _Coder
    read: _Coder
    needed: bool


def to_json(state: ProcessState) -> dict[str, Any]:
    """Return a state for ``json.dumps``."""
    found: dict[str, Any] = _write(state)
    return found


def from_json(value: Any) -> ProcessState:
    """Return the state that :func:`to_json` wrote.

    :raises ValueError: it has not that form. Keys that are not known are ignored: a later kgcore may have written them.
    """
    found: ProcessState = _read(ProcessState, value)
    return found


def _write(value: Any) -> dict[str, Any]:
    found = {}
    kind: Any = type(value)
    for name, write, _, _ in _members(kind):
        member = getattr(value, name)
        if member is not None:
            found[name] = write(member)
    return found


def _read(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not an object")
    members: dict[str, Any] = {}
    for name, _, read, needed in _members(kind):
        if name in value:
            members[name] = read(value[name])
        elif needed:
            raise ValueError(f"{name} is missing")
    return kind(**members)


@cache
def _members(kind: Any) -> tuple[_Member, ...]:
    hints = get_type_hints(kind)
    return tuple(
        _Member(one.name, *_coders(hints[one.name], one.metadata.get("form", "")), needed=_is_needed(one))
        for one in fields(kind)
    )


def _is_needed(member: Field[Any]) -> bool:
    return member.default is MISSING and member.default_factory is MISSING


def _coders(hint: Any, form: str) -> tuple[_Coder, _Coder]:
    """Return how values of a type are written and read."""
    origin = get_origin(hint)
    if origin is UnionType:  # X | None; None is not written
        (hint,) = (one for one in get_args(hint) if one is not type(None))
        return _coders(hint, form)
    if origin is tuple:
        write, read = _coders(get_args(hint)[0], form)
        return lambda value: [write(one) for one in value], lambda value: tuple(map(read, _a(list, value)))
    if origin is Literal:
        return _same, lambda value: _one_of(get_args(hint), value)
    if is_dataclass(hint):
        return _write, lambda value: _read(hint, value)
    if hint is int and form == "hex":
        return hex, _number
    if hint is bytes:
        return (bytes.hex, _raw) if form == "raw" else (text_of, bytes_of)
    if hint in (int, bool):
        return _same, lambda value: _a(hint, value)
    return dict, _reasons  # Mapping[str, str]


def _same(value: Any) -> Any:
    return value


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _one_of(words: tuple[Any, ...], value: Any) -> Any:
    if value not in words:
        raise ValueError(f"{value!r} is not one of {', '.join(words)}")
    return value


def _number(value: Any) -> int:
    if not re.fullmatch("-?0x[0-9a-f]+", _a(str, value)):
        raise ValueError(f"{value!r} is not a number such as 0x7f00")
    return int(value, 16)


def _raw(value: Any) -> bytes:
    if not re.fullmatch("(?:[0-9a-f]{2})*", _a(str, value)):
        raise ValueError("bytes are not hexadecimal digits")
    return bytes.fromhex(value)


def text_of(value: bytes) -> str:
    """Return raw bytes as text: each that is not UTF-8 as ``\\xNN``, a backslash as two."""
    return value.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def bytes_of(value: Any) -> bytes:
    """Return the bytes of which :func:`text_of` made text.

    :raises ValueError: it is no text.
    """
    try:
        raw: bytes = _a(str, value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{value!r} is not a path") from None
    return _ESCAPE.sub(lambda match: b"\\" if match[1] is None else bytes((int(match[1], 16),)), raw)


def _reasons(value: Any) -> Mapping[str, str]:
    for reason in _a(dict, value).values():
        _a(str, reason)
    return dict(value)
