# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print results to one stream and remarks to the other, as harmless lines; define the exit statuses."""

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
    """The result cannot be written: its reader is gone, or the disk is full."""

    def __init__(self, error: OSError | ValueError) -> None:
        if isinstance(error, BrokenPipeError):
            super().__init__("the reader of standard output closed it")
        else:
            super().__init__(f"standard output: {reason(error)}")


class _Stream:
    """A text stream whose write errors the console handles."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    """Raises OutputLost, which differs from an error of a dump or a core."""

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
    """Raises nothing: a lost remark must not stop the work."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class Console:
    """Where results and remarks go. Both are flushed at once, so that a shared log keeps their order.

    :ivar out: the stream of results. It raises OutputLost.
    :ivar err: the stream of diagnostics and progress. It raises nothing.
    :ivar lost: why a line of the result could not be printed.
    """

    def __init__(self, out: TextIO, err: TextIO, name: str = "kgcore") -> None:
        self.out = cast(TextIO, _Results(out))
        self.err = cast(TextIO, _Remarks(err))
        self.name = name
        self.lost: OutputLost | None = None

    def say(self, line: str) -> None:
        """Print a line of the result. If that fails, the work continues."""
        try:
            print(printable(line), file=self.out, flush=True)
        except OutputLost as error:
            self.lost = self.lost or error

    def remark(self, line: str) -> None:
        """Print a remark on the result."""
        print(f"{self.name}: {printable(line)}", file=self.err, flush=True)

    def fail(self, line: str) -> None:
        """Print why one process could not be dumped."""
        self.remark(line)


def reason(error: BaseException) -> str:
    """Return an exception as one line."""
    if isinstance(error, KgcoreError | OutputLost):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_for_memory(error):
        return str(no_memory())
    return f"unexpected {type(error).__name__}: {error} (-v 2 shows the traceback; please report it)"
