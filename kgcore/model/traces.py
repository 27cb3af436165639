# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stack traces as plain values: what unwinding gives, whoever did it.

As JSON they are documented in docs/bt.md and described by bt.schema.json in kgcore/schemas.
"""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

from kgcore.text import plain

__all__ = ("End", "Frame", "KernelStack", "ThreadTrace", "grouped", "ranges")

EndKind = Literal["outermost", "memory", "unwind-information", "no-code", "registers", "limit", "failed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A call.

    :ivar ip: the instruction pointer; of a caller the return address.
    :ivar function: as the debug information, else the symbol table, calls it; raw. None: nobody knows.
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
        """Give all of it for ``json.dumps``."""
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

    :ivar kind: ``outermost``: there are no more calls; ``memory``: the stack is not to be had there;
        ``unwind-information``: nobody says where the caller is; ``no-code``: what should be a return address leads to
        no code; ``registers``: those to begin with are not to be had; ``limit``: there is more than is shown;
        ``failed``: the unwinder gave up.
    :ivar text: the same for people; empty for ``outermost``.
    """

    kind: EndKind
    text: str = ""

    def to_json(self) -> dict[str, object]:
        """Give both for ``json.dumps``."""
        return {"kind": self.kind, "text": plain(self.text)}


OUTERMOST = End("outermost")


class KernelStack(NamedTuple):
    """What a thread is doing in the kernel.

    :ivar frames: its calls there, the innermost first; none: it was in user mode.
    :ivar end: why there are no more.
    """

    frames: tuple[Frame, ...]
    end: End


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTrace:
    """A thread.

    :ivar comm: its name, raw.
    :ivar cpu: the CPU that it was running on.
    :ivar crashed: it is the one that the kernel crashed in.
    :ivar kernel: None: nobody asked for it.
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
        """Whether all calls are there."""
        return self.end.kind == "outermost" and (self.kernel is None or self.kernel.end.kind == "outermost")

    def to_json(self) -> dict[str, object]:
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
    """Threads with the same stack together, in the order of their first ones. One that was running or crashed stands
    alone: it is what people look for."""
    groups: dict[object, list[ThreadTrace]] = {}
    for thread in threads:
        alone = thread.tid if thread.cpu is not None or thread.crashed else None
        groups.setdefault((alone, thread.frames, thread.end, thread.kernel), []).append(thread)
    return [tuple(group) for group in groups.values()]


def ranges(numbers: Iterable[int]) -> list[str]:
    """``12-19``, ``25``"""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
