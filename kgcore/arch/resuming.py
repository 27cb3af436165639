# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an architecture contributes to a process that goes on from its core: the checklist."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kgcore.model.process import XsaveLayout

__all__ = ("Resuming", "Vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """The vector registers of a thread, in the form of NT_X86_XSTATE, and how they are laid out.

    :ivar desc: the register set.
    :ivar layout: None: not known.
    """

    desc: bytes
    layout: XsaveLayout | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resuming:
    """How processes of a view (:class:`kgcore.arch.base.Arch`) go on.

    :ivar top: no page of theirs lies at or above this address.
    :ivar calls: the numbers of the system calls that make them anew, by name.
    :ivar waits: names of the calls that threads usually wait in, or write by, by number.
    :ivar request: the register with the number of a call that is about to be made.
    :ivar arguments: the registers with the arguments of a call, in order.
    :ivar epoll_event: the form of ``struct epoll_event``: events and data.
    :ivar again: registers with which a system call that was interrupted starts again; None: the thread was in no call,
        or its call had ended.
    :ivar foreign: why registers are not those of a program of this view in user mode; "": they are.
    :ivar vdso_function: code that does by a system call what a function of a vdso does; of one that is not known, code
        that says that the kernel lacks it.
    :ivar vector: the register set that holds the vector registers (NT_*), and ``layout_note`` the note with its layout.
    :ivar layout_of: reads that note.
    :ivar merged: a thread's vector registers in the layout of this machine.
    :ivar here: the layout of this machine; None: it has no such registers.
    :ivar lacks: what this machine's CPU lacks of what a core's threads may use, in words; "": nothing.
    """

    top: int
    calls: Mapping[str, int]
    waits: Mapping[int, str]
    request: str
    arguments: tuple[str, ...]
    epoll_event: str
    again: Callable[[Mapping[str, int]], Mapping[str, int] | None]
    foreign: Callable[[Mapping[str, int]], str]
    vdso_function: Callable[[str], bytes]
    vector: int
    layout_note: int
    layout_of: Callable[[bytes, bytes | None], XsaveLayout | None]
    merged: Callable[[Vector, Vector], bytes]
    here: Callable[[], XsaveLayout | None]
    lacks: Callable[[Vector, XsaveLayout], str]
