# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of further kernels, one each, with a little of everything: real-time, and the newest that Debian has."""

from __future__ import annotations

from dataclasses import replace

from .recipes import DYNAMIC, MEMORY, SPIN, THREADS, Recipe, Victim, simple
from .swap_guests import SWAP_STATES, ZRAM_MODULES, ZSWAP_MODULES, ZSWAP_POOLS, swap_guest, swapper

# Real-time kernels have no transparent huge pages, without which guest/swapfirst.c does not work. So the first pages of
# a victim may go to an earlier device; which pages those are is in what it says.
PREFER = """
prefer() {
    swapon_with "$1" $((priority + 1)) || die "swapon $1"
    priority=$((priority + 1))
}
"""


def kernel_guest(name: str, suite: str, flavour: str, note: str) -> Recipe:
    """A guest with the victims that say most about a kernel: memory of all kinds, threads, shared libraries, a thread
    in user mode, pages in zram and in zswap."""
    victims: list[Victim] = [*MEMORY[:1], *THREADS, *DYNAMIC, simple("identity", "0x33")]
    victims += [
        swapper(f"zram_{algorithm.replace('-', '_')}", "content", "gaps", before=f"zram {algorithm}")
        for algorithm in ("lz4", "zstd", *(("lzo-rle",) if suite in ("bullseye", "bookworm") else ()))
    ]
    huge = flavour != "rt"
    victims.append(swapper("zram_states", *(state for state in SWAP_STATES if huge or "thp" not in state)))
    victims.append(swapper("swap_disk", "content:200", before="swap_disk"))
    for pool in ZSWAP_POOLS.get(suite, ("zsmalloc",)):
        victims.append(swapper(f"zswap_{pool}_zstd", "content", "gaps", before=f"zswap {pool} zstd"))
    victims += SPIN
    recipe = swap_guest(
        name,
        suite,
        victims,
        flavour=flavour,
        append="isolcpus=1",
        modules=tuple(dict.fromkeys((*ZRAM_MODULES, *ZSWAP_MODULES))),
        swap_mib=256,
        note=f"{note}; a few victims; swap: zram, and a disk with zswap",
    )
    return recipe if huge else replace(recipe, setup=recipe.setup + PREFER)


RECIPES = (
    kernel_guest("k510-rt", "bullseye", "rt", "real-time"),
    kernel_guest("k61-rt", "bookworm", "rt", "real-time"),
    kernel_guest("k612-rt", "trixie", "rt", "real-time"),
    kernel_guest("k510-full", "bullseye", "full", "not the cloud flavour"),
    kernel_guest("k61-full", "bookworm", "full", "not the cloud flavour"),
    kernel_guest("k612-full", "trixie", "full", "not the cloud flavour"),
    kernel_guest("k72-full", "sid", "full", "not the cloud flavour"),
    kernel_guest("k-backports", "trixie-backports", "cloud", "the newest kernel for a stable release"),
    kernel_guest("k-experimental", "experimental", "full", "the newest kernel, not the cloud flavour"),
)
