# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands in the place of a value that is lost."""

from dataclasses import dataclass

__all__ = ("Lost",)


@dataclass(frozen=True, slots=True)
class Lost:
    """Says why there is no value. Functions return it where a caller goes on without that value.

    Where None is possible too, None means that there is nothing, and Lost that there may be something.

    :ivar reason: a sentence without a full stop, or the end of one.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason
