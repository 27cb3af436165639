# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests in a state that is seldom met, each for a fault that kgcore once had.

A guest that differs by its recipe alone is made as all others are; one that differs in a step has a maker in MAKERS.
"""

from __future__ import annotations

import dataclasses

from . import fixture, qemu
from .dumps import Dump, make_sparse
from .dying_guests import dying_guest
from .guests import kexec_guest
from .kernels import Kernel
from .reaped_guests import reaped_guest
from .recipes import CRASHED_SMALL, FULL, HUGE_PAGES, SPIN, THREADS, Recipe, simple
from .server_guests import server_guest


class _CaptureKernelRuns(fixture._Maker):
    """A crash; and while the capture kernel runs, also all of RAM, which two kernels are in then."""

    def _crash(self, guest: qemu.Guest) -> None:
        wait_for = guest.wait_for

        def dumping(marker: str, timeout: float) -> str:
            found = wait_for(marker, timeout)
            if marker == "CAPTURE":
                guest.qmp("stop")
                guest.dump(self.target / "vmcore.elf", "elf")
                guest.qmp("cont")
            return found

        guest.wait_for = dumping  # type: ignore[method-assign]
        super()._crash(guest)
        make_sparse(self.target / "vmcore.elf")
        self.dumps.append(Dump("vmcore.elf", "qemu-elf", 0))


MAKERS: dict[str, type[fixture._Maker]] = {
    "k61-capture": _CaptureKernelRuns,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        dataclasses.replace(
            kexec_guest("k61-capture", "bookworm", CRASHED_SMALL, ()),
            ram=512,
            note="all RAM while the capture kernel runs, and its /proc/vmcore",
        ),
        Recipe(
            "k61-epyc",
            "bookworm",
            (simple("memory", FULL, "512"), *THREADS, *SPIN),
            cpu="EPYC",
            ram=3700,
            append="isolcpus=1",
            setup=HUGE_PAGES,
            qemu_kdump=False,
            note="an AMD CPU, RAM above 4 GiB",
        ),
        dying_guest("k510-dying", "bullseye"),
        dying_guest("k61-dying", "bookworm"),
        dying_guest("k612-dying", "trixie"),
        dying_guest("k72-dying", "sid"),
        server_guest("k61-server", "bookworm"),
        server_guest("k72-server", "sid"),
        reaped_guest("k510-reaped", "bullseye"),
        reaped_guest("k61-reaped", "bookworm"),
        reaped_guest("k612-reaped", "trixie"),
        reaped_guest("k72-reaped", "sid"),
    )
}


def up_to_date(wanted: Recipe, kernel: Kernel) -> bool:
    """Whether the cache holds just this."""
    return fixture.up_to_date(wanted, kernel)


def make(wanted: Recipe, kernel: Kernel) -> None:
    """Make it and put it in its place; see :func:`fixture.make`."""
    fixture.make(wanted, kernel, MAKERS.get(wanted.name))
