# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests with 32-bit kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .moments import Moment
from .recipes import FULL, HUGE_PAGES, INTERRUPTED, MEMORY, Recipe, Victim, simple
from .swap_guests import ZRAM_MODULES


def i386_victims() -> tuple[Victim, ...]:
    """The ordinary victims for 32-bit kernels."""
    return (
        *(replace(victim, program="memory-ia32") for victim in MEMORY),
        simple("abi_ia32", FULL, program="abi-ia32"),
        simple("dynamic", "0x33", program="dynamic-ia32"),
        simple("stopped", FULL, program="stopped-ia32"),
        simple("zleader", FULL, program="zleader-ia32"),
        simple("nspid", FULL, program="nspid-ia32"),
        simple("identity", "0x33", program="identity-ia32"),
        Victim(
            ("zombie_parent", "zombie"),
            "zombie-ia32",
            ("zombie_parent", FULL),
            without_core={"zombie": "a zombie has no memory"},
        ),
        Victim(("swapped",), "swapped-ia32", ("swapped", FULL), before=("swap_disk",)),
        # Pages that compress, and such as do not.
        Victim(("swapped_zram",), "swapped-ia32", ("swapped_zram", FULL, "256"), before=("zram lzo-rle",)),
        Victim(("swapped_huge",), "swapped-ia32", ("swapped_huge", FULL)),
        simple("spin", FULL, "1", program="abi-ia32"),
    )


def i386_guest(name: str, suite: str, flavour: str, ram: int = 640, **more: Any) -> Recipe:
    """A 32-bit kernel."""
    return Recipe(
        name,
        suite,
        i386_victims(),
        ram=ram,
        append="isolcpus=1",
        setup=HUGE_PAGES,
        moments=(Moment(), INTERRUPTED),
        flavour=flavour,
        modules=("crc32c_generic", *ZRAM_MODULES),
        swap_mib=32,
        **more,
    )


def i386_fpu_guest(name: str, suite: str, victims: tuple[Victim, ...], **more: Any) -> Recipe:
    """A 32-bit kernel that saves less of the floating-point state."""
    return Recipe(
        name,
        suite,
        victims,
        ram=256,
        setup=HUGE_PAGES,
        flavour="686",
        modules=("crc32c_generic",),
        qemu_kdump=False,
        **more,
    )


I386_SMALL = Recipe(
    "k61-686pae-small",
    "bookworm",
    (
        simple("memory", "0x33", "4096", program="memory-ia32"),
        simple("abi_ia32", "0x33", program="abi-ia32"),
        simple("spin", "0x33", "1", program="abi-ia32"),
    ),
    ram=512,
    append="isolcpus=1",
    setup=HUGE_PAGES,
    flavour="686-pae",
    modules=("crc32c_generic",),
    note="committed, reduced",
)
