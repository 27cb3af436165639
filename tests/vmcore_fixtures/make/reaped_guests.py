# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes whose memory the OOM reaper and process_mrelease() took, and huge pages without any access."""

from __future__ import annotations

from .recipes import FULL, HUGE_PAGES, Recipe, Victim

_GONE = "the kernel has taken its memory"


def reaped_guest(name: str, suite: str) -> Recipe:
    """A guest with these."""
    names = ("reaped", "released", "protected")[:: 2 if suite == "bullseye" else 1]  # process_mrelease() is 5.15's
    victim = Victim(
        names,
        "reaped",
        ("reaped", FULL),
        cores=("/victims/reaped thaw", "core protected"),
        without_core={name: _GONE for name in names if name != "protected"},
    )
    return Recipe(
        name,
        suite,
        (victim,),
        ram=256,
        setup=HUGE_PAGES,
        qemu_kdump=False,
        note="memory that the OOM reaper took; huge pages without any access",
    )
