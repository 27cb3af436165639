# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals that were sent and not yet taken: the lists of ``struct sigpending``."""

import struct
from collections.abc import Iterator
from functools import cached_property

from drgn import offsetof

from kgcore.model import siginfo
from kgcore.model.state import PendingSignal, pending_signals
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("SigQueues", "bits_of")

_MAX_QUEUED = 1 << 16


class SigQueues:
    """Reads ``struct sigqueue``, one after the other."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._words = kernel.structs("struct list_head", "next")

    def infos(self, holder: Members, name: str) -> Iterator[bytes]:
        """Yield the ``kernel_siginfo_t`` of each signal in a list.

        :param holder: ``struct task_struct`` or ``struct signal_struct``, with the member.
        :param name: ``pending.list`` or ``shared_pending.list``.
        :raises FaultError: the rest of the list is not in the dump.
        """
        (node,) = struct.unpack_from("<Q" if self._kernel.word_size == 8 else "<I", holder[name])
        struct_name = "struct signal_struct" if name.startswith("shared") else "struct task_struct"
        start = holder.address + int(offsetof(self._kernel.prog.type(struct_name), name))
        at = offsetof(self._kernel.prog.type("struct sigqueue"), "info")
        for _ in range(_MAX_QUEUED):
            if node == start:
                return
            yield kernel_bytes(self._kernel.prog, node + at, self.info_size)
            node = self._words.read(node)["next"]

    def pending(self, holder: Members, name: str) -> tuple[PendingSignal, ...]:
        """Return all signals of a ``struct sigpending``: those in the list, then those that have no place in it.

        :param name: ``pending`` or ``shared_pending``.
        :raises FaultError: they are not in the dump.
        """
        bits = bits_of(holder[f"{name}.signal"])
        if not bits:
            return ()
        return pending_signals(bits, self.infos(holder, f"{name}.list"))

    @cached_property
    def info_size(self) -> int:
        """Bytes of a ``kernel_siginfo_t``."""
        return min(self._kernel.prog.type("struct kernel_siginfo").size or 0, siginfo.SIZE)


def bits_of(raw: bytes) -> int:
    """Return a ``sigset_t`` as a number: signal 1 is bit 0."""
    return int.from_bytes(raw, "little")
