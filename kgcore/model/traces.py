# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define stack traces as plain values, for any unwinder.

docs/bt.md and bt.schema.json in kgcore/schemas describe their JSON.
"""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

from kgcore.text import plain

__all__ = ("End", "Frame", "KernelStack", "ThreadTrace", "grouped", "ranges")

EndKind = Literal["outermost", "memory", "unwind-information", "no-code", "registers", "limit", "failed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A call in a stack.

    :ivar ip: the instruction pointer; of a caller the return address.
    :ivar function: its name in the debug information, else in the symbol table; raw. None: unknown.
    :ivar offset: of ``ip`` from the start of the symbol.
    :ivar source: source file, as the compiler was given it, and line.
    :ivar module: path of the mapped file that the code is in, or what the kernel calls the mapping (``[vdso]``); raw.
    :ivar module_offset: of ``ip`` from where that file is loaded.
    :ivar build_id: that file's, as hexadecimal digits.
    :ivar inline: it has no frame of its own in memory: its code is in the function of the next frame.
    """

    ip: int
    _: KW_ONLY
    function: str | None = None
    offset: int | None = None
    source: tuple[str, int] | None = None
    module: bytes | None = None
    module_offset: int | None = None
    build_id: str | None = None
    inline: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {
            "ip": self.ip,
            "function": None if self.function is None else plain(self.function),
            "offset": self.offset,
            "file": None if self.source is None else plain(self.source[0]),
            "line": None if self.source is None else self.source[1],
            "module": None if self.module is None else plain(self.module),
            "module_offset": self.module_offset,
            "build_id": self.build_id,
            "inline": self.inline,
        }


class End(NamedTuple):
    """Why a trace ends where it does.

    :ivar kind: ``outermost``: no more calls; ``memory``: the stack is missing there; ``unwind-information``: no unwind
        information for the frame; ``no-code``: the return address is not in code; ``registers``: the registers to start
        from are missing; ``limit``: there are more frames than shown; ``failed``: the unwinder gave up.
    :ivar text: the same for people; empty for ``outermost``.
    """

    kind: EndKind
    text: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {"kind": self.kind, "text": plain(self.text)}


OUTERMOST = End("outermost")


class KernelStack(NamedTuple):
    """The kernel stack of a thread.

    :ivar frames: its calls in the kernel, the innermost first; empty: it was in user mode.
    :ivar end: why the trace ends.
    """

    frames: tuple[Frame, ...]
    end: End


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTrace:
    """The trace of a thread.

    :ivar tid: its id in the initial pid namespace.
    :ivar comm: its name, raw.
    :ivar cpu: the CPU that it was running on.
    :ivar crashed: the kernel crashed in it.
    :ivar frames: its calls in user mode, the innermost first.
    :ivar end: why there are no more.
    :ivar kernel: its kernel stack; None: not requested.
    """

    tid: int
    comm: bytes
    cpu: int | None
    crashed: bool
    frames: tuple[Frame, ...]
    end: End
    kernel: KernelStack | None = None

    @property
    def complete(self) -> bool:
        """Whether the trace reaches the outermost call."""
        return self.end.kind == "outermost" and (self.kernel is None or self.kernel.end.kind == "outermost")

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``."""
        kernel = self.kernel
        return {
            "tid": self.tid,
            "comm": plain(self.comm),
            "cpu": self.cpu,
            "crashed": self.crashed,
            "frames": [frame.to_json() for frame in self.frames],
            "end": self.end.to_json(),
            "kernel": None
            if kernel is None
            else {"frames": [frame.to_json() for frame in kernel.frames], "end": kernel.end.to_json()},
        }


def grouped(threads: Iterable[ThreadTrace]) -> list[tuple[ThreadTrace, ...]]:
    """Group threads with the same stack, in the order of their first ones. A running or crashed thread stays alone: it
    is what people look for."""
    groups: dict[object, list[ThreadTrace]] = {}
    for thread in threads:
        alone = thread.tid if thread.cpu is not None or thread.crashed else None
        groups.setdefault((alone, thread.frames, thread.end, thread.kernel), []).append(thread)
    return [tuple(group) for group in groups.values()]


def ranges(numbers: Iterable[int]) -> list[str]:
    """Return ranges as text: ``12-19``, ``25``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
