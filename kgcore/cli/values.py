# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turn the texts of options into values; argparse reports what these functions raise."""

import argparse
import re
from collections.abc import Mapping

from kgcore.cli.request import Channel
from kgcore.filters.rules import Action, Rule
from kgcore.sinks.outputs import standard

__all__ = (
    "architecture",
    "duration",
    "file_name",
    "filter_mask",
    "level",
    "number",
    "output_name",
    "rule",
    "size",
    "swap_image",
    "user_id",
    "workers",
)

_ALL_BITS = 0x1FF  # of /proc/PID/coredump_filter


def number(text: str, most: int, meaning: str) -> int:
    """Return the number in a text: 0 to ``most``, decimal or with 0x."""
    if not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: expected {meaning}")
    value = int(text, 16) if text[1:2] in ("x", "X") else int(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"{text} is out of range: expected {meaning}")
    return value


def level(text: str) -> Channel:
    """Return the channels that ``-v`` names."""
    return Channel(number(text, 7, "a sum of 1 progress, 2 library errors and 4 page faults, 0 to 7"))


def filter_mask(text: str) -> int | None:
    """Return a sum of filter bits, or None for each process's own."""
    meaning = "a sum of filter bits, 0 to 127, or 'process'"
    if text != "process" and 127 < (value := number(text, _ALL_BITS, meaning)):
        # What crash's gcore calls 128 the kernel calls 256 and more of: both are options here.
        raise argparse.ArgumentTypeError(
            f"{text} is out of range: expected {meaning}; for crash's 128 use -f {value & 127} --dontdump, "
            f"for the kernel's 128 and 256 use -f {value & 127} --dax"
        )
    return None if text == "process" else number(text, 127, meaning)


def workers(text: str) -> int:
    """Return a number of worker processes."""
    count = number(text, 1024, "a number of processes, 1 to 1024")
    if not count:
        raise argparse.ArgumentTypeError("must be 1 to 1024")
    return count


def user_id(text: str) -> int:
    """Return a user id. Names other than root belong to the crashed machine, which kgcore cannot ask."""
    if text == "root":
        return 0
    meaning = "a numeric user id"
    try:
        import pwd

        meaning += f" (on this machine {text} is {pwd.getpwnam(text).pw_uid})"
    except (KeyError, ValueError, OSError):
        pass
    return number(text, (1 << 32) - 2, meaning)


_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}


def size(text: str) -> int:
    """Return a size in bytes: a number with K, M, G or T."""
    return int(_quantity(text, _SIZES, 1, "size", "bytes, or a number with K, M, G or T (powers of 1024)"))


def duration(text: str) -> float:
    """Return a duration in seconds: a number with ms, s, m or h."""
    return _quantity(text, _SECONDS, 0.001, "duration", "seconds, 0.001 or more, or a number with ms, s, m or h")


def _quantity(text: str, units: Mapping[str, float], least: float, kind: str, meaning: str) -> float:
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z]{0,2})", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}: expected {meaning}")
    value = float(found[1]) * units[found[2]]
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is too small: expected {meaning}")
    return value


def architecture(text: str) -> str:
    """Return the name of an architecture in lower case; drgn spells it in capitals."""
    from kgcore.arch import ARCHITECTURES  # takes a while, and mistakes answer at once

    if text.lower() not in ARCHITECTURES:
        raise argparse.ArgumentTypeError(f"{text!r} is not supported: expected {' or '.join(ARCHITECTURES)}")
    return text.lower()


def file_name(text: str) -> str:
    """Return a file name. An empty one is an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def output_name(text: str) -> str:
    """Return the name of an output; ``-`` is standard output, under any of its names."""
    try:
        return standard(file_name(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error


def rule(action: Action, text: str) -> Rule:
    """Return a rule on memory."""
    try:
        return Rule(action, text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def swap_image(text: str) -> tuple[str, str]:
    """Return a swap device and its image."""
    device, _, image = text.partition("=")
    if not device or not image:
        raise argparse.ArgumentTypeError(f"{text!r} is not DEV=IMAGE (example: /dev/sda2=sda2.img)")
    return device, image
