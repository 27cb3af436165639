# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say how long a living process stood still for its core, and how."""

from dataclasses import dataclass
from typing import Literal

__all__ = ("Freeze",)


@dataclass(frozen=True, slots=True)
class Freeze:
    """How a process was held still.

    :ivar how: ``fork``: it went on while a copy of it was read; ``stop``: its threads stood still until the last byte
        was read.
    :ivar seconds: how long they stood still, at most; with ``stop``, until the report was made.
    :ivar window: seconds of these in which one thread had registers that are not its own, to make the copy.
    :ivar why: why there was no copy, though one was allowed; "": nothing was against it, or none was wanted.
    """

    how: Literal["fork", "stop"]
    seconds: float
    window: float = 0.0
    why: str = ""

    def words(self) -> str:
        """Return it for people, as a sentence without its subject."""
        text = f"stood still for {_duration(self.seconds)}"
        if self.how == "fork":
            return f"{text}, while it was copied"
        return f"{text}, until it was read" + (f": no copy, since {self.why}" if self.why else "")

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {"how": self.how, "seconds": self.seconds, "window": self.window, "why": self.why or None}


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
