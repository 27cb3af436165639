# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's swap spaces: ``swap_info``."""

from dataclasses import dataclass

from drgn import FaultError, Object

from kgcore.model.lost import Lost
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.swapnumbers import swapfiles
from kgcore.sources.vmcore.kernelreads import in_words
from kgcore.sources.vmcore.memory.swapentry import SwapTypes
from kgcore.sources.vmcore.task.vmas import Paths
from kgcore.text import plain

__all__ = ("Spaces", "SwapSpace")

_SWP_USED = 1 << 0  # include/linux/swap.h


@dataclass(frozen=True, slots=True)
class SwapSpace:
    """A swap device or file.

    :ivar number: the type of its ``swp_entry_t``.
    :ivar info: ``struct swap_info_struct *``
    :ivar slots: how many pages it has, including the header and holes (``max``).
    :ivar name: its path, as in /proc/swaps.
    """

    number: int
    info: Object
    slots: int
    name: str


class Spaces:
    """Finds swap spaces by number, and reads each once.

    :ivar page_size: bytes of a slot.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.page_size = kernel.page_size
        used = swapfiles(kernel.target)
        count = SwapTypes.of(kernel).max_swapfiles  # as many as swap_info has places for
        self._count = count if used is None else min(used, count)
        self._known: dict[int, SwapSpace | Lost] = {}

    def get(self, number: int) -> SwapSpace | Lost:
        """Return the swap space of a number, or why it is missing."""
        if number not in self._known:
            self._known[number] = self._read(number)
        return self._known[number]

    def all(self) -> tuple[SwapSpace, ...]:
        """Return the swap spaces in use."""
        found = (self.get(number) for number in range(self._count))
        return tuple(space for space in found if isinstance(space, SwapSpace))

    def _read(self, number: int) -> SwapSpace | Lost:
        absent = Lost(f"unknown swap space {number}")
        address = self._kernel.target.symbol_address("swap_info")
        if address is None or not 0 <= number < self._count:
            return absent
        try:
            pointer = self._kernel.prog.read_word(address + self._kernel.word_size * number)
            if not pointer:
                return absent
            info = Object(self._kernel.prog, "struct swap_info_struct *", pointer)
            if not info.flags.value_() & _SWP_USED:
                return absent
            return SwapSpace(number, info, int(info.max.value_()), self._name(number, info))
        except (FaultError, LookupError) as error:
            return Lost(f"swap space {number}: its description is not in the dump: {in_words(error)}")

    def _name(self, number: int, info: Object) -> str:
        try:
            return plain(Paths(self._kernel, None).path(info.swap_file.value_()))
        except (FaultError, ValueError, LookupError):
            return f"swap space {number}"
