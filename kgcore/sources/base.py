# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a source of processes offers: processes, each with its image and memory; and what only some can do besides.

A vmcore can do most of it; live processes and cores have less.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from operator import index
from os import PathLike, fspath
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from kgcore.errors import KgcoreError
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory, Piece, Provenance, Run
from kgcore.model.process import OpenFile, ProcessImage, Thread, Vma
from kgcore.model.traces import KernelStack

if TYPE_CHECKING:
    from kgcore.model.freeze import Freeze
    from kgcore.model.layouts import Layout  # every start of drgn imports this module
    from kgcore.model.state import ProcessState
    from kgcore.model.summary import ProcessSummary

__all__ = (
    "NO_USER_FILES",
    "Contents",
    "CoreLayout",
    "FileContents",
    "HasKernelStacks",
    "HasMappedFiles",
    "HasOpenFiles",
    "HasState",
    "IsCore",
    "KnowsCrash",
    "KnowsLayouts",
    "OpenFiles",
    "Process",
    "Source",
    "StandsStill",
    "TaskRef",
    "UserFiles",
)


@dataclass(frozen=True, slots=True)
class UserFiles:
    """Files of the user that complete the dump.

    :ivar swap: path of a swap device or file, as /proc/swaps has it, to path of its image.
    :ivar root: directory with the files of the crashed machine.
    """

    swap: Mapping[str, str] = field(default_factory=dict)
    root: str | None = None

    @classmethod
    def of(
        cls, swap: Mapping[str, str | PathLike[str]] | None = None, root: str | PathLike[str] | None = None
    ) -> "UserFiles":
        """Take them as a program has them.

        :raises TypeError: ``swap`` is no mapping, or a name is no path.
        """
        if swap is not None and not isinstance(swap, Mapping):
            raise TypeError(
                f"swap is {swap!r}: it takes a mapping, of the path of a swap device or file, as /proc/swaps has it, "
                "to the path of its image"
            )
        images = {fspath(device): fspath(image) for device, image in (swap or {}).items()}
        return cls(images, None if root is None else fspath(root))


NO_USER_FILES = UserFiles()

_NUMBERS = 1 << 64  # of addresses


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A process as a user names it: :meth:`of` a number or text, :meth:`parse` text, or the :meth:`current` one.

    :ivar text: as typed, for messages.
    :ivar pid: id of any of its threads in the initial pid namespace; tried first.
    :ivar address: address of a ``struct task_struct``; tried if no thread has that pid.
    :ivar is_current: the task on the CPU that crashed; there is no pid or address then.
    :raises TypeError, ValueError: it does not name a process. Nothing else than ``is_current`` means the current one.
    """

    text: str
    _: KW_ONLY
    pid: int | None = None
    address: int | None = None
    is_current: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"text is {self.text!r}: expected a string")
        members: tuple[tuple[str, object], ...] = ("pid", self.pid), ("address", self.address)
        for name, number in members:
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"{name} is {number!r}: expected an integer")
            if not 0 <= number < _NUMBERS:
                raise ValueError(f"{name} is {number}: expected 0 to 2**64 - 1")
        named = self.pid is not None or self.address is not None
        if named and self.is_current:
            raise ValueError("a TaskRef of the current task takes no pid and no address: use TaskRef.current()")
        if not named and not self.is_current:
            raise ValueError(
                f"TaskRef({self.text!r}) names no process: set pid or address, or use TaskRef.of(), "
                "or TaskRef.current() for the task that was on the CPU that crashed"
            )

    @classmethod
    def current(cls) -> "TaskRef":
        """Name the task that was on the CPU that crashed."""
        return cls("current", is_current=True)

    @classmethod
    def of(cls, task: "TaskRef | int | str") -> "TaskRef":
        """Convert a PID or the address of a task.

        :param task: id of any thread of the process in the initial pid namespace or, if no thread has that id, address
            of a ``struct task_struct``; as a number, or as text for :meth:`parse`.
        :raises TypeError, ValueError: it is not a number, a text or a TaskRef, or out of range.
        :raises KgcoreError: it is text that is neither.
        """
        if isinstance(task, TaskRef):
            return task
        if isinstance(task, str):
            return cls.parse(task)
        try:
            number = index(task)  # what numpy and the like take for an integer, too
        except TypeError:
            number = None
        if number is None or isinstance(task, bool):
            raise TypeError(f"expected a PID or the address of a task_struct, not {type(task).__name__}")
        if not 0 <= number < _NUMBERS:
            raise ValueError(f"{number} is neither a PID nor the address of a task_struct")
        return cls(str(number), pid=number, address=number)

    @classmethod
    def parse(cls, text: str) -> "TaskRef":
        """Parse an operand of the command line.

        A decimal number is a pid or, if no thread has it, an address; with ``0x`` or hexadecimal letters it is an
        address.

        :raises KgcoreError: it is neither.
        """
        if re.fullmatch(r"[0-9]{1,20}", text) and int(text) < _NUMBERS:
            return cls(text, pid=int(text), address=int(text))
        if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", text):
            return cls(text, address=int(text, 16))
        raise KgcoreError(
            f"{text!r} is neither a PID nor the address of a task_struct",
            hint="expected a decimal thread id (12345) or a hexadecimal address (ffff880136d72040)",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContents:
    """A program or library that a process has mapped, as far as the dump holds it.

    :ivar path: its name, relative to the process's root; raw, and without the kernel's `` (deleted)``.
    :ivar size: bytes.
    :ivar mode: ``i_mode``.
    :ivar deleted: its name was deleted.
    :ivar key: the same for the same file.
    :ivar read: yields all of it, ascending and without gaps, in whole pages: the addresses of the pieces are offsets in
        the file. Missing pieces say so, as in :meth:`kgcore.model.memory.Memory.read`.
    """

    path: bytes
    size: int
    mode: int
    deleted: bool
    key: Hashable
    read: Callable[[], Iterator[Piece]]


class Contents(Protocol):
    """The content of an open file. Both methods cover all of it, ascending and without gaps, in whole pages: addresses
    are offsets in the file."""

    size: int

    def runs(self) -> Iterator[Run]:
        """Yield where its bytes are, or why they are missing."""

    def read(self) -> Iterator[Piece]:
        """Yield its bytes, as :meth:`kgcore.model.memory.Memory.read` does."""

    def unwritten(self) -> int | None:
        """Count the bytes that are newer in memory than on disk; None: it is only in memory, or unknown."""
        return None


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """The open files of a process.

    :ivar tgid: of the process.
    :ivar files: by descriptor, ascending.
    :ivar lost: what could not be determined, as sentences.
    """

    tgid: int
    files: tuple[OpenFile, ...]
    lost: tuple[str, ...] = ()


# What every source and every process has: the line needs no more


class Process(Protocol):
    """A process of a source, from its image to the last read; a context manager, like a file.

    While it is open a source may hold the process still (a live one), or keep what it knows of it. A vmcore has nothing
    to do when it is closed.
    """

    @property
    def image(self) -> ProcessImage:
        """The process as plain values, the thread that was asked for first. Read when it is first asked for.

        :raises BrokenDump: the source's own records of the process are damaged or missing.
        """

    @property
    def memory(self) -> Memory:
        """Its memory.

        :raises BrokenDump: what would lead to it is damaged or missing.
        """

    def remarks(self, missing: frozenset[Provenance] = frozenset()) -> Iterator[str]:
        """Say what was found out about the process while its memory was looked at, as sentences.

        :param missing: why memory that was wanted is missing, if anybody wants to hear more of that.
        """
        yield from ()

    def close(self) -> None:
        """Let the process go. Its image stays valid; nothing more can be read. Closing again does nothing."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Source(Protocol):
    """The interface of a source of processes."""

    def processes(self) -> "Iterator[ProcessSummary]":
        """List every process (thread group), ordered by pid; needs no user memory."""

    def process(self, ref: TaskRef | int | str) -> Process:
        """Find the process that a thread belongs to. Use it in a ``with`` block, which lets it go at the end.

        :param ref: as for :meth:`TaskRef.of`.
        :raises NoSuchTask, BadTask, KernelThread, NoUserMemory, NoCurrentTask: see their docstrings.
        """

    def describe(self) -> dict[str, str]:
        """Describe the source for the report and the vendor note: dump file, format, kernel release ..."""


# What some have besides. Who needs it asks with isinstance(), and says what is lacking


@runtime_checkable
class HasMappedFiles(Protocol):
    """A process whose mapped programs and libraries can be had as files."""

    def files(self) -> Iterator[FileContents | Lost]:
        """Give its executable, its interpreter and its libraries: every regular file that is mapped and is an ELF file,
        or may be one. Where one is lost, a word about that. Those that still have their names come first."""


@runtime_checkable
class HasOpenFiles(Protocol):
    """A process whose open files are known."""

    def open_files(self) -> OpenFiles:
        """List the open files of the thread that was asked for, and so, but for rare ones, of the process.

        :raises BrokenDump: the table of open files is damaged or missing.
        """

    def contents(self, file: OpenFile) -> Contents:
        """Give the content of a regular file that :meth:`open_files` gave.

        :raises KgcoreError: it has none, or what would lead to it is missing.
        """


@runtime_checkable
class HasState(Protocol):
    """A process of which it is known what it has of its kernel besides memory, registers and files."""

    def state(self) -> "ProcessState":
        """Return its signal actions, timers, limits and the rest. What is not known is None, with a reason.

        :raises BrokenDump: the source's own records of the process are damaged or missing.
        """


@runtime_checkable
class StandsStill(Protocol):
    """A process that lives, and stands still for as long as it must."""

    def capture(self, wanted: Sequence[tuple[Vma, int]]) -> None:
        """Make sure of the memory that will be read, so that it may go on. Without this it stands still until it is
        closed.

        :param wanted: mappings, or parts of them, and how many bytes of each, from its start.
        :raises KgcoreError: it stood still for too long, or may not be copied as the user wants.
        """

    def freeze(self) -> "Freeze | None":
        """Say how it was held still so far; None: it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLayout:
    """A core as it stands in its file.

    :ivar head: everything before the first segment's bytes.
    :ivar segments: address, bytes and offset in the file of each segment that has bytes, one behind the other.
    :ivar tail: everything behind them.
    :ivar policy: what it does with missing memory (``omit``, ``zero``); None: it does not say.
    :ivar noted: it has a KGCORE note, and ``has_state``: that says what the process had of its kernel.
    """

    head: bytes
    segments: tuple[tuple[int, int, int], ...]
    tail: bytes
    policy: str | None
    noted: bool
    has_state: bool


@runtime_checkable
class IsCore(Protocol):
    """A process that is a core already. If nothing of it is left out, it is given back as it is."""

    def layout(self) -> CoreLayout | None:
        """Return it as it stands in its file; None: it cannot be given back like that."""


@runtime_checkable
class HasKernelStacks(Protocol):
    """A process of which it is known what its threads were doing in the kernel."""

    def kernel_stack(self, thread: Thread) -> KernelStack:
        """Say what a thread of the process's image was doing in the kernel."""


@runtime_checkable
class KnowsLayouts(Protocol):
    """A source that reads a kernel's structures, and knows which of what it needs this kernel has."""

    def layouts(self) -> tuple["Layout", ...]:
        """Return all that is needed of kernels, each thing with how this kernel has it."""


@runtime_checkable
class KnowsCrash(Protocol):
    """A source that knows in which thread the kernel crashed."""

    def crashed(self) -> int | None:
        """Return the id of the thread that the kernel crashed in, in the initial pid namespace; None: no crash, or
        unknown."""
