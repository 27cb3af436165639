# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a source of processes offers. A vmcore is one; a live process or a core on standard input may follow."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kgcore.errors import KgcoreError
from kgcore.memory import Memory
from kgcore.model import ProcessImage, ProcessSummary

__all__ = ("Source", "TaskRef")


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A process as a user names it.

    :ivar text: as typed, for messages.
    :ivar pid: id of any of its threads in the initial pid namespace; tried first.
    :ivar address: address of a ``struct task_struct``; tried when there is no such pid. With both None: the current
        task, the one on the CPU that crashed.
    """

    text: str
    pid: int | None = None
    address: int | None = None

    @classmethod
    def parse(cls, text: str) -> "TaskRef":
        """Understand an operand of the command line.

        A decimal number is a pid or, if there is no such pid, an address; with ``0x`` or hexadecimal letters it is
        an address.

        :raises KgcoreError: it is neither.
        """
        if re.fullmatch(r"[0-9]{1,20}", text):
            return cls(text, pid=int(text), address=int(text))
        if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", text):
            return cls(text, address=int(text, 16))
        raise KgcoreError(
            f"{text!r} is neither a PID nor the address of a task_struct",
            hint="give a decimal thread id such as 12345, or a hexadecimal address such as ffff880136d72040",
        )


class Source(Protocol):
    """Where processes come from."""

    def processes(self) -> Iterator[ProcessSummary]:
        """Every process (thread group), ordered by pid; needs no user memory."""

    def image(self, ref: TaskRef) -> ProcessImage:
        """The process that a thread belongs to, that thread first.

        :raises NoSuchTask, BadTask, KernelThread, NoUserMemory, NoCurrentTask: see their docstrings.
        """

    def memory(self, image: ProcessImage) -> Memory:
        """The memory of a process that :meth:`image` gave."""

    def describe(self) -> dict[str, str]:
        """Where this comes from, for the report and the vendor note: dump file, format, kernel release ..."""
