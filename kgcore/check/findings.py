# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the checks of a core find."""

from typing import Any

__all__ = ("Findings", "Stop")

_MAX_PROBLEMS = 1 << 14


class Stop(Exception):
    """The check cannot continue; the problem is noted."""


class Findings:
    """What a :class:`~kgcore.check.verdict.Verdict` is made of.

    :ivar problems: why the core is not ok, as sentences.
    :ivar lacks: why it is not complete, as sentences.
    :ivar facts: what was found in it.
    :ivar cut_off: the file ends too early.
    :ivar cut_short: the problem that tells how much memory is cut off.
    """

    def __init__(self, size: int) -> None:
        """:param size: of the file, in bytes."""
        self.problems: list[str] = []
        self.lacks: list[str] = []
        self.facts: dict[str, Any] = {"size": size}
        self.cut_off = False
        self.cut_short = ""

    def problem(self, text: str) -> None:
        """Note a problem.

        :raises Stop: there are too many.
        """
        self.problems.append(text)
        if len(self.problems) == _MAX_PROBLEMS:
            self.problems.append("too many problems: the check stopped here")
            raise Stop
