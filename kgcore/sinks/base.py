# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sink is: it takes a core, strictly forward, except that other processes may write parts in their places.

::

    with FileSink("core.1234") as sink:
        report = write_core(plan, memory, sink)
        sink.commit()

Leaving the block without :meth:`Sink.commit` discards the output.
"""

from types import TracebackType
from typing import Protocol, Self

__all__ = ("BaseSink", "Item", "PartOutput", "Sink")

_ZEROS = bytes(1 << 20)

Item = bytes | int
"""A piece of output: bytes, or how many zeros."""


class PartOutput(Protocol):
    """Takes a part of a core in a different process than the sink's."""

    def write(self, data: bytes | memoryview) -> None:
        """Write all of these bytes."""

    def skip(self, length: int) -> None:
        """Write zeros."""

    def items(self) -> list[Item]:
        """Return the items for :meth:`Sink.take`."""


class Sink(Protocol):
    """Takes a core. Methods other than ``abort`` raise OutputError.

    :ivar path: the file that will hold the core; None if it is not a file.
    :ivar used: bytes of output so far that take space, so without holes.
    :ivar packs: its output may take much less space than :meth:`most` says.
    """

    path: str | None
    used: int
    packs: bool

    def write(self, data: bytes | memoryview) -> None:
        """Write all of these bytes."""

    def skip(self, length: int) -> None:
        """Write ``length`` zeros, as a hole if possible."""

    def part(self, offset: int) -> PartOutput:
        """Return an output for a part that another process makes.

        :param offset: of its first byte in the core.
        """

    def take(self, items: list[Item], size: int, stored: int) -> None:
        """Take the items of a part. Parts must come in order.

        :param size: bytes of the part.
        :param stored: those of them that are not holes.
        """

    def most(self, data: int, size: int) -> int:
        """Return how many bytes of output a part takes at most, if ``data`` of its bytes are not holes."""

    def settle(self) -> None:
        """Make :attr:`used` exact; before, it may be an estimate, which is never too low."""

    def restart(self) -> bool:
        """Discard the output so that another core can be written instead; say whether that is possible."""

    def commit(self) -> None:
        """Finish the output and make it durable."""

    def abort(self) -> None:
        """Remove the output, so that nobody takes it for a core. Harmless after ``commit``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Items:
    """A part as it is."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def write(self, data: bytes | memoryview) -> None:
        self._items.append(bytes(data))

    def skip(self, length: int) -> None:
        self._items.append(length)

    def items(self) -> list[Item]:
        return self._items


class BaseSink:
    """The base class of sinks. Those without positions get parts as items."""

    packs = False

    def __init__(self) -> None:
        self.used = 0

    def write(self, data: bytes | memoryview) -> None:
        """See :meth:`Sink.write`."""
        raise NotImplementedError

    def skip(self, length: int) -> None:
        """See :meth:`Sink.skip`. This sink has no holes: it writes zeros."""
        while length:
            count = min(length, len(_ZEROS))
            self.write(memoryview(_ZEROS)[:count])
            length -= count

    def part(self, offset: int) -> PartOutput:
        """See :meth:`Sink.part`."""
        return _Items()

    def take(self, items: list[Item], size: int, stored: int) -> None:
        """See :meth:`Sink.take`."""
        for item in items:
            if isinstance(item, int):
                self.skip(item)
            else:
                self.write(item)

    def most(self, data: int, size: int) -> int:
        """See :meth:`Sink.most`."""
        return size  # holes are written as zeros

    def settle(self) -> None:
        """See :meth:`Sink.settle`."""

    def restart(self) -> bool:
        """See :meth:`Sink.restart`. This sink cannot restart."""
        return False

    def abort(self) -> None:
        """See :meth:`Sink.abort`. This sink has nothing to clean up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
