# SPDX-License-Identifier: LGPL-2.1-or-later
"""All fixtures, by name."""

from __future__ import annotations

from .file_guests import files_guest
from .guests import ABI_SMALL, SPECIAL, abi_guest, disk_guest, main_guest, numa_guest, small_guest
from .i386_guests import I386_SMALL, i386_fpu_guest, i386_guest
from .kernel_guests import RECIPES as KERNELS
from .recipes import DERIVED_61, FULL, PYTHON, derived, simple
from .swap_guests import zram_guest, zswap_guest

RECIPES = {
    recipe.name: recipe
    for recipe in (
        main_guest("k61", "bookworm", DERIVED_61, *PYTHON),
        main_guest("k510", "bullseye", derived("trixie")),
        main_guest("k612", "trixie", derived("trixie")),
        main_guest("k72", "sid", derived("sid")),
        small_guest("k61-small", "bookworm"),
        small_guest("k510-small", "bullseye"),
        small_guest("k612-small", "trixie"),
        small_guest("k72-small", "sid"),
        zram_guest("k61-zram", "bookworm"),
        zram_guest("k510-zram", "bullseye"),
        zram_guest("k612-zram", "trixie"),
        zram_guest("k72-zram", "sid"),
        zswap_guest("k61-zswap", "bookworm"),
        zswap_guest("k510-zswap", "bullseye"),
        zswap_guest("k612-zswap", "trixie"),
        zswap_guest("k72-zswap", "sid"),
        disk_guest("k61-disk", "bookworm"),
        disk_guest("k510-disk", "bullseye"),
        disk_guest("k612-disk", "trixie"),
        disk_guest("k72-disk", "sid"),
        numa_guest("k61-numa", "bookworm"),
        numa_guest("k510-numa", "bullseye"),
        numa_guest("k612-numa", "trixie"),
        numa_guest("k72-numa", "sid"),
        abi_guest("k61-abi", "bookworm", derived("trixie"), "ia32"),
        abi_guest("k510-abi", "bullseye", derived("trixie"), "x32"),
        abi_guest("k612-abi", "trixie", derived("trixie"), "ia32"),
        abi_guest("k72-abi", "sid", derived("sid"), "x32"),
        ABI_SMALL,
        I386_SMALL,
        i386_guest("k61-686pae", "bookworm", "686-pae", 5120, note="32-bit kernel, PAE, RAM above 4 GiB"),
        i386_guest("k61-686", "bookworm", "686", note="32-bit kernel without PAE"),
        i386_guest("k510-686pae", "bullseye", "686-pae", note="32-bit kernel, PAE"),
        i386_fpu_guest(
            "k61-686-fsave",
            "bookworm",
            (simple("x87", FULL, program="x87-i686"),),
            cpu="pentium2,-fxsr",
            note="a CPU with an x87 only, without FXSAVE",
        ),
        i386_fpu_guest(
            "k61-686-fxsave",
            "bookworm",
            (simple("abi_ia32", FULL, program="abi-ia32"),),
            append="noxsave",
            note="no XSAVE",
        ),
        files_guest("k61-files", "bookworm"),
        files_guest("k510-files", "bullseye"),
        files_guest("k612-files", "trixie"),
        files_guest("k72-files", "sid"),
        files_guest("k61-686pae-files", "bookworm", "686-pae", "-ia32"),
        *SPECIAL,
        *KERNELS,
    )
}
