# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much all processes had swapped out, and to which swap spaces: the content of /proc/swaps."""

import stat
from dataclasses import dataclass
from typing import Literal

from drgn import FaultError, TypeKind

from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace

__all__ = ("SwapUse", "read_swap", "zswap_bytes")

# "mm, swap: use an atomic counter of slots in use" keeps a flag above the count (6.13): SWAP_USAGE_COUNTER_MASK
_COUNT = (1 << 30) - 1


@dataclass(frozen=True, slots=True)
class SwapUse:
    """A swap space in use. Sizes are in bytes.

    :ivar name: as in /proc/swaps, and as ``--swap`` expects it.
    :ivar kind: ``zram`` is in memory, and so in the dump.
    """

    name: str
    kind: Literal["partition", "file", "zram"]
    size: int
    used: int


def read_swap(kernel: Kernel) -> tuple[SwapUse, ...]:
    """Return the swap spaces in use, in the order of /proc/swaps.

    :raises FaultError, LookupError: the dump does not have this information.
    """
    page = kernel.page_size
    return tuple(
        SwapUse(space.name, _kind(space), int(space.info.pages.value_()) * page, _used(space) * page)
        for space in Spaces(kernel).all()
    )


def _used(space: SwapSpace) -> int:
    pages = space.info.inuse_pages
    if pages.type_.unaliased_kind() is TypeKind.STRUCT:
        pages = pages.counter
    return int(pages.value_()) & _COUNT


def _kind(space: SwapSpace) -> Literal["partition", "file", "zram"]:
    info = space.info
    if not stat.S_ISBLK(info.swap_file.f_mapping.host.i_mode.value_()):
        return "file"
    try:
        return "zram" if info.bdev.bd_disk.disk_name.string_().startswith(b"zram") else "partition"
    except (FaultError, LookupError, AttributeError):
        return "partition"


def zswap_bytes(kernel: Kernel) -> int | None:
    """Return how many bytes, before compression, zswap holds in memory; None: no zswap, or unknown."""
    address = kernel.target.symbol_address("zswap_stored_pages")  # an atomic_t, since 6.12 an atomic_long_t
    return None if address is None else int(kernel.prog.read_u32(address)) * kernel.page_size
