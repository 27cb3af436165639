# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turning what a dump says into what a person may see."""

__all__ = ("counted", "human_size", "plain", "printable")


def plain(name: bytes | str) -> str:
    """Bytes of a dump, or a file name of this system, as a string that any encoder takes: no surrogates, but ``\\xNN``
    for bytes that are not UTF-8. For JSON, which escapes control characters itself."""
    if isinstance(name, str):
        name = name.encode("utf-8", "surrogateescape" if _from_bytes(name) else "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def printable(name: bytes | str) -> str:
    """The same, safe for a terminal too: control characters, line breaks, odd spaces and bidirectional marks become
    escape sequences. Text that has been through it stays as it is."""
    # str.isprintable() is false for exactly those: Unicode's "Other" and "Separator" classes, but for the space.
    text = plain(name)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, noun: str) -> str:
    """``1 thread``, ``2 threads``"""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _from_bytes(text: str) -> bool:
    """Whether the surrogates in a string, if any, are those that os.fsdecode() makes."""
    return all(not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff" for char in text)


def human_size(size: int) -> str:
    """Bytes in binary units, with three significant digits: ``512 B``, ``4.00 KiB``, ``12.3 MiB``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.5 or unit == "PiB":
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
