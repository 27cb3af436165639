# SPDX-License-Identifier: LGPL-2.1-or-later
"""The moment of a dump: what a fixture promises of it is seen to before anything is taken, never left to luck."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .common import BuildError
from .gdbstub import GdbStub
from .qemu import Guest

TRIES = 600
PAUSE = 0.02
# One line of "info registers" has it all, of 64-bit code and of 32-bit code.
CPU = re.compile(r"^[RE]IP=(\w+) .* CPL=(\d) .*HLT=(\d)", re.MULTILINE)


@dataclass(frozen=True)
class Moment:
    """When to take a dump.

    If nothing is said, no CPU is in the kernel: those with a thread that spins are in user mode, the others idle.

    :ivar at: functions of the kernel, of which the first that it has is meant: a CPU is just entering it.
    :ivar cpu: which it has to be.
    :ivar skip: so many calls later.
    :ivar after: a function that has to be entered before, from where on they count.
    """

    at: tuple[str, ...] = ()
    cpu: int | None = None
    skip: int = 0
    after: str = ""

    @property
    def functions(self) -> tuple[str, ...]:
        """All functions of which it has to be known where they are."""
        return (self.after, *self.at) if self.after else self.at


def states(guest: Guest) -> list[str]:
    """What each CPU of a stopped guest does: it is idle, or runs code of a program (user), or the kernel's."""
    found = CPU.findall(guest.monitor("info registers -a"))
    return ["user" if level == "3" else "idle" if halted == "1" else "kernel" for _, level, halted in found]


@contextmanager
def stopped(guest: Guest, moment: Moment) -> Iterator[None]:
    """Stop a running guest at such a moment; it runs on behind the block."""
    if moment.at:
        guest.qmp("stop")  # else the server has a word to say of its own when it stops it
        with GdbStub(guest.gdb) as stub:
            if moment.after:
                stub.run_to(_address(guest, (moment.after,)))
            stub.run_to(_address(guest, moment.at), moment.skip, moment.cpu)
            yield
        return
    _stop(guest)
    yield
    guest.qmp("cont")


def _stop(guest: Guest) -> None:
    seen: list[str] = []
    for _ in range(TRIES):
        guest.qmp("stop")
        seen = states(guest)
        if seen and "kernel" not in seen:
            return
        guest.qmp("cont")
        time.sleep(PAUSE)
    raise BuildError(f"after {TRIES} tries a CPU is still in the kernel: {', '.join(seen) or 'unknown'}")


def _address(guest: Guest, names: tuple[str, ...]) -> int:
    """The guest has told where the functions are that its recipe names (/recipe/symbols)."""
    told = dict(re.findall(r"@@AT (\w+) ([0-9a-f]+)@@", guest.text))
    for name in names:
        if name in told:
            return int(told[name], 16)
    raise BuildError(f"this kernel has none of the functions {', '.join(names)}")
