# SPDX-License-Identifier: LGPL-2.1-or-later
"""All places where a process's memory may lie, set up once per dump."""

from kgcore.sources.base import UserFiles
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.pagecache import PageCache
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.rootfiles import RootFiles
from kgcore.sources.vmcore.memory.swap import SwapSpaces
from kgcore.sources.vmcore.memory.swap.cache import ZeroMap, swap_cache
from kgcore.sources.vmcore.memory.swap.images import SwapImages
from kgcore.sources.vmcore.memory.swap.layers import Layer
from kgcore.sources.vmcore.memory.swap.spaces import Spaces
from kgcore.sources.vmcore.memory.swap.zram import Zram
from kgcore.sources.vmcore.memory.swap.zswap import Zswap
from kgcore.sources.vmcore.memory.swapentry import SwapTypes

__all__ = ("Backing", "UserFiles")


class Backing:
    """The places where a process's memory may lie; each is searched in its own way.

    :ivar physical: page frames.
    :ivar swap_types: the meaning of page-table entries that point to no page frame.
    :ivar cache: files and shared memory.
    :ivar swap: swapped-out memory.
    :ivar images: images of swap spaces, from the user.
    :ivar root: files of the crashed machine, from the user; None if not given.
    """

    def __init__(self, kernel: Kernel, user_files: UserFiles) -> None:
        self.kernel = kernel
        self.physical = PhysicalMemory(kernel)
        self.swap_types = SwapTypes.of(kernel)
        types = ModuleTypes(kernel.target)
        layers: list[Layer] = [
            swap_cache(kernel, self.physical),
            ZeroMap(kernel),
            Zswap(kernel, self.physical, types),
            Zram(kernel, self.physical, types),
        ]
        spaces = Spaces(kernel)
        self.images = SwapImages(spaces, user_files.swap)
        layers.append(self.images)  # last: a swap space is written after all those
        self.swap = SwapSpaces(spaces, layers)
        self.cache = PageCache(kernel, self.physical, self.swap)
        self.root = RootFiles(kernel, self.physical, self.cache, user_files.root) if user_files.root else None
