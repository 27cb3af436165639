# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests that swap, and what with."""

from __future__ import annotations

from typing import Any

from .recipes import FULL, HUGE_PAGES, Derived, Recipe, Victim, derived_31, simple

ZRAM_MODULES = ("zram", "lzo", "lzo_rle", "lz4", "lz4hc", "zstd", "deflate", "loop")
ZRAM_ALGORITHMS = {
    "bullseye": ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate"),
    "bookworm": ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate"),
    "trixie": ("lz4", "lz4hc", "zstd", "deflate"),
    "sid": ("lz4", "lz4hc", "zstd", "deflate"),
}
# Large folios of 64 KiB, and huge ones in shared memory, for those that ask.
SWAP_HUGE = """
for sizes in shmem_enabled hugepages-64kB/enabled; do
    file=/sys/kernel/mm/transparent_hugepage/$sizes
    case $sizes in shmem*) word=advise ;; *) word=madvise ;; esac
    [ -e $file ] && echo $word > $file
done
"""
# What of memory can be swapped out in which way; what is shared apart, because getting it out takes all else along.
SWAP_STATES = ("forked", "moved", "cow", "thp", "mthp")
SWAP_SHARED = ("uffd", "thp_shared", "shared")


def swapper(name: str, *scenarios: str, before: str = "") -> Victim:
    """A victim whose memory is swapped out in the ways named; with "forked" it has a child."""
    names = (name, f"{name}_child") if "forked" in scenarios else (name,)
    return Victim(names, "swap", (name, FULL, *scenarios), before=(before,) if before else ())


def swap_guest(name: str, suite: str, victims: list[Victim], **more: Any) -> Recipe:
    """What they have in common."""
    return Recipe(
        name,
        suite,
        tuple(victims),
        (Derived("vmcore.d1-zlib", 1, "zlib"), derived_31(suite)),
        ram=512,
        setup=HUGE_PAGES + SWAP_HUGE,
        qemu_kdump=False,
        **more,
    )


def zram_guest(name: str, suite: str) -> Recipe:
    """A guest with a zram device for each compressor, each with a victim of its own; a swap disk; a swap file."""
    algorithms = ZRAM_ALGORITHMS[suite]
    victims = [
        swapper(f"zram_{algorithm.replace('-', '_')}", "content", "gaps", before=f"zram {algorithm}")
        for algorithm in algorithms
    ]
    victims += [
        swapper("zram_states", *SWAP_STATES, before=f"zram {algorithms[0]}"),
        swapper("zram_shared", *SWAP_SHARED),
        swapper("zram_everything", "gaps", "everything"),
        swapper("zram_writeback", "writeback", "gaps", before="loop_device; zram zstd backing_dev=/dev/loop0"),
        swapper("swap_disk", "forked", "moved", "cow", "content:200", "cached", before="swap_disk"),
        swapper("swap_disk_shared", "uffd", "shared"),
        swapper("swap_disk_everything", "gaps", "everything"),
        swapper("swap_file", "cached", "content:200", "gaps", before="swap_file"),
    ]
    if suite == "sid":  # the cloud kernel has zswap too (in front of zram it would be in the way)
        victims.append(swapper("zswap_zsmalloc_zstd", "content", "gaps", before="zswap zsmalloc zstd"))
    if suite in ("trixie", "sid"):  # since 6.12
        victims += [
            swapper(
                f"zram_{algorithm}_dictionary",
                "stock",
                "gaps",
                before=f"zswap_off; zram {algorithm} 'algorithm_params=algo={algorithm} dict=/recipe/stock'",
            )
            for algorithm in ("zstd", "lz4")
        ]
    return swap_guest(
        name,
        suite,
        victims,
        modules=ZRAM_MODULES,
        swap_mib=32,
        note="swap: zram of every compressor, a disk, a file",
    )


ZSWAP_MODULES = ("crc32c_generic", "lzo", "lzo_rle", "lz4", "lz4hc", "zstd", "deflate", "zsmalloc", "z3fold", "zbud")
ZSWAP_ALGORITHMS = ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate")
ZSWAP_POOLS = {
    "bullseye": ("zbud", "z3fold", "zsmalloc"),
    "bookworm": ("zbud", "z3fold", "zsmalloc"),
    "trixie": ("zbud", "zsmalloc"),
    "sid": ("zsmalloc",),
}


def zswap_guest(name: str, suite: str) -> Recipe:
    """A guest that swaps to a disk with zswap in front of it: every pool, every compressor. The cloud kernels have none
    (up to 6.12), and of the others there is no vmlinux."""
    victims = [swapper("swap_disk", "content:200", before="swap_disk")]
    for pool in ZSWAP_POOLS[suite]:
        for algorithm in ZSWAP_ALGORITHMS if pool == "zsmalloc" else ("lzo", "zstd"):
            label = f"zswap_{pool}_{algorithm.replace('-', '_')}"
            victims.append(swapper(label, "content", "gaps", before=f"zswap {pool} {algorithm}"))
    victims += [
        swapper("zswap_states", *SWAP_STATES, "cached"),
        swapper("zswap_shared", *SWAP_SHARED),
        swapper("zswap_everything", "gaps", "everything"),
    ]
    if suite in ("bullseye", "bookworm"):  # later there is no such choice
        parameter = "/sys/module/zswap/parameters/same_filled_pages_enabled"
        victims.append(swapper("zswap_unsame", "content", before=f"echo N > {parameter}"))
    victims.append(simple("hwpoison"))
    return swap_guest(
        name,
        suite,
        victims,
        flavour="full",
        modules=ZSWAP_MODULES,
        swap_mib=256,  # half of it must remain free: else pages that are read leave the swap cache
        note="swap: zswap of every pool and compressor over a disk; no vmlinux",
    )
