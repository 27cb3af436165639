# SPDX-License-Identifier: LGPL-2.1-or-later
"""How programs of this machine make system calls, for :mod:`kgcore.ptrace`, which knows no architecture."""

from kgcore.arch import Arch
from kgcore.ptrace.injection import Convention
from kgcore.sources.live.image import architecture_here

__all__ = ("convention_of",)


def convention_of(arch: Arch) -> Convention:
    """Return how threads of a view make system calls.

    :raises KeyError: threads of that view do not run on this machine.
    """
    # By the registers that a thread has: an x32 program makes the system calls of 64-bit programs.
    known = architecture_here().system_calls[arch.greg_size]

    def at(name: str) -> int:
        return arch.greg_names.index(name) * arch.greg_size

    return Convention(
        size=len(arch.greg_names) * arch.greg_size,
        word=arch.greg_size,
        ip=at(arch.ip),
        sp=at(arch.sp),
        number=at(known.number),
        request=at(known.request),
        result=at(known.result),
        arguments=tuple(map(at, known.arguments)),
        instruction=known.instruction.hex(),
        clone=known.injected["clone"],
        wait4=known.injected["wait4"],
        close_range=known.injected["close_range"],
    )
