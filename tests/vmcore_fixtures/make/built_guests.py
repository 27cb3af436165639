# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests whose kernels the fixtures build themselves (built_kernels.py), with the ordinary victims and those that
the configuration is about."""

from __future__ import annotations

from typing import Any

from .built_configs import CONFIGURATIONS
from .built_kernels import PREFIX
from .recipes import DYNAMIC, FULL, HUGE_PAGES, MEMORY, THREADS, Derived, Recipe, Victim, simple
from .swap_guests import SWAP_HUGE, ZRAM_MODULES, swapper

ORDINARY = (MEMORY[0], *THREADS, *DYNAMIC)
SPINS = simple("spin", FULL, "1")
# With one CPU it shares that with all else, and is what runs while the machine is stopped: everybody else sleeps.
SPINS_HERE = simple("spin", FULL, "0")
DISK_STATES = ("forked", "moved", "cow", "content:200", "cached")


def built_guest(name: str, kernel: str, *victims: Victim, **more: Any) -> Recipe:
    """A guest on a kernel of CONFIGURATIONS."""
    options: dict[str, Any] = {"append": "isolcpus=1", "setup": HUGE_PAGES + SWAP_HUGE, "ram": 512} | more
    return Recipe(
        name,
        CONFIGURATIONS[kernel].suite,
        (*ORDINARY, *victims),
        (Derived("vmcore.d1-zlib", 1, "zlib"),),
        qemu_kdump=False,
        flavour=PREFIX + kernel,
        **options,
    )


# Swapfirst asks for no huge pages, and kernels without them take that for a mistake. With one swap space it has nothing
# to do.
ONE_SPACE = "swapfirst() { :; }"
SWAP_DISK = (
    swapper("swap_disk", *DISK_STATES, before="swap_disk"),
    swapper("swap_disk_shared", "uffd", "shared"),
)
# Compressed anew, all of it, when the next victim comes.
RECOMPRESS = "echo all > $ZRAM/idle; echo type=idle > $ZRAM/recompress"


def zram_victims(algorithms: tuple[str, ...]) -> tuple[Victim, ...]:
    """A device for each compressor, one that compresses twice, one that writes back."""
    return (
        *(swapper(f"zram_{name.replace('-', '_')}", "content", "gaps", before=f"zram {name}") for name in algorithms),
        swapper("zram_twice", "content", "gaps", before="zram lz4 'recomp_algorithm=algo=zstd priority=1'"),
        swapper("zram_states", "forked", "moved", "cow", "thp", before=f"{RECOMPRESS}; zram zstd"),
        swapper("zram_writeback", "writeback", "gaps", before="loop_device; zram lz4 backing_dev=/dev/loop0"),
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        built_guest(
            "b510-up",
            "up",
            SWAP_DISK[0],
            SPINS_HERE,
            append="",
            setup=HUGE_PAGES + ONE_SPACE,
            swap_mib=32,
            note="SMP=n: no KASLR, no modules, no huge pages, page descriptors in sections",
        ),
        built_guest(
            "b61-markers",
            "markers",
            *SWAP_DISK,
            simple("hwpoison"),
            SPINS,
            swap_mib=256,
            note="no PTE markers, device memory: other numbers of swap entries",
        ),
        built_guest(
            "b61-nomigration",
            "nomigration",
            *SWAP_DISK,
            SPINS,
            setup=HUGE_PAGES + ONE_SPACE,
            swap_mib=256,
            note="no migration, no memory errors: no swap entries but of swap and markers",
        ),
        built_guest("b61-nobtf", "nobtf", SPINS, note="no BTF"),
        built_guest("b61-fewsyms", "fewsyms", SPINS, note="BTF; kallsyms of functions only"),
        built_guest("b61-nokallsyms", "nokallsyms", SPINS, note="BTF; no kallsyms"),
        built_guest(
            "b612-debug",
            "debug",
            *SWAP_DISK,
            SPINS,
            swap_mib=256,
            ram=1024,
            boot_timeout=1200,
            note="KASAN, lockdep, poisoned pages, owners of pages",
        ),
        built_guest("b612-thinlto", "thinlto", *SWAP_DISK, SPINS, swap_mib=256, note="clang, ThinLTO, CFI, RANDSTRUCT"),
        built_guest(
            "b72-flags",
            "flags",
            simple("named"),
            *SWAP_DISK,
            SPINS,
            cpu="max,-cx16",
            swap_mib=256,
            note="5-level page tables, soft-dirty, names of anonymous memory, IBT, FRED, MGLRU, ...",
        ),
        built_guest(
            "b612-swap4",
            "swap4",
            *zram_victims(("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842")),
            SPINS,
            modules=ZRAM_MODULES,
            swap_mib=32,
            note="zram as a compressed module, with every compressor; objects of up to 4 pages",
        ),
        built_guest(
            "b72-swap16",
            "swap16",
            *zram_victims(("lzo", "lz4", "zstd", "842")),
            SPINS,
            swap_mib=32,
            note="zram in the kernel itself; objects of up to 16 pages",
        ),
    )
}
