# SPDX-License-Identifier: LGPL-2.1-or-later
"""Format text from dumps for people and JSON."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

__all__ = ("counted", "first_lines", "first_names", "human_size", "plain", "printable")

_T = TypeVar("_T")


def plain(name: bytes | str) -> str:
    """Return bytes of a dump, or a file name, as a string without surrogates: invalid UTF-8 becomes ``\\xNN``.

    For JSON, which escapes control characters itself."""
    if isinstance(name, str):
        name = name.encode("utf-8", "surrogateescape" if _from_bytes(name) else "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def printable(name: bytes | str) -> str:
    """Return text that is safe for a terminal, too: control characters, line breaks, odd spaces and bidirectional marks
    become escape sequences. A second pass changes nothing."""
    # str.isprintable() is false for exactly those: Unicode's "Other" and "Separator" classes, but for the space.
    text = plain(name)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: ``1 thread``, ``2 threads``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_names(
    items: Iterable[_T], most: int, name: Callable[[_T], str] = str, *, separator: str = ", ", number: bool = True
) -> str:
    """The first names of a list, and how many more there are: ``a, b and 3 more``; without their number: ``a, b, ...``.

    :param name: makes the name of an item; is called only for those that are shown.
    """
    given = iter(items)
    shown = separator.join(map(name, islice(given, most)))
    if not number:
        return shown if next(given, None) is None else f"{shown}{separator}..."
    rest = sum(1 for _ in given)
    return f"{shown} and {rest} more" if rest else shown


def first_lines(items: Sequence[_T], most: int, line: Callable[[_T], str], more: str) -> Iterator[str]:
    """A line for each of the first items, and one that says how many more there are.

    :param more: that line, with ``{}`` for their number.
    """
    yield from map(line, items[:most])
    if len(items) > most:
        yield more.format(len(items) - most)


def _from_bytes(text: str) -> bool:
    """Whether all surrogates in a string come from os.fsdecode()."""
    return all(not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff" for char in text)


def human_size(size: int) -> str:
    """Return a size in binary units with three significant digits: ``512 B``, ``4.00 KiB``, ``12.3 MiB``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.5 or unit == "PiB":
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
