# SPDX-License-Identifier: LGPL-2.1-or-later
"""How kgcore talks: results to one stream, remarks to the other, each a harmless line; and the exit statuses."""

from contextlib import suppress
from typing import Any, TextIO, cast

from kgcore.errors import KgcoreError, is_for_memory, no_memory
from kgcore.text import printable

__all__ = ("Console", "OutputLost", "Status", "reason")


class Status:
    """Exit status."""

    COMPLETE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3


class OutputLost(Exception):
    """The result cannot be written: nobody reads it any more, or there is no room for it."""

    def __init__(self, error: OSError | ValueError) -> None:
        if isinstance(error, BrokenPipeError):
            super().__init__("standard output was closed by its reader")
        else:
            super().__init__(f"standard output: {reason(error)}")


class _Stream:
    """A text stream whose errors are those of the console. All else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    """Raises OutputLost, which nobody takes for an error of a dump or a core."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            raise OutputLost(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise OutputLost(error) from error


class _Remarks(_Stream):
    """Raises nothing: that a remark cannot be shown is no reason to give up the work."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class Console:
    """Where results and remarks go; both are shown at once, so that they stand in order in a shared log.

    :ivar out: what was asked for. It raises OutputLost.
    :ivar err: diagnostics and progress. It raises nothing.
    :ivar lost: a line of the result could not be shown.
    """

    def __init__(self, out: TextIO, err: TextIO, name: str = "kgcore") -> None:
        self.out = cast(TextIO, _Results(out))
        self.err = cast(TextIO, _Remarks(err))
        self.name = name
        self.lost: OutputLost | None = None

    def say(self, line: str) -> None:
        """A line of the result; the work goes on though it cannot be shown."""
        try:
            print(printable(line), file=self.out, flush=True)
        except OutputLost as error:
            self.lost = self.lost or error

    def remark(self, line: str) -> None:
        """A line about the result."""
        print(f"{self.name}: {printable(line)}", file=self.err, flush=True)

    def fail(self, line: str) -> None:
        """Why one process could not be dumped."""
        self.remark(line)


def reason(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, KgcoreError | OutputLost):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_for_memory(error):
        return str(no_memory())
    return f"unexpected {type(error).__name__}: {error} (-v 2 shows where it happened; please report it)"
