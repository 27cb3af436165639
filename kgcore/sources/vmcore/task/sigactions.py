# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process does at each signal: the table of ``struct sighand_struct``."""

from drgn import offsetof

from kgcore.model.siginfo import NSIG
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("actions",)


def actions(kernel: Kernel, sighand: int) -> list[bytes]:
    """Return the ``struct k_sigaction`` of signals 1 to 64, raw.

    :param sighand: address of a ``struct sighand_struct``.
    :raises FaultError: they are not in the dump.
    """
    prog = kernel.prog
    step = prog.type("struct k_sigaction").size or 0
    start = sighand + int(offsetof(prog.type("struct sighand_struct"), "action"))
    raw = kernel_bytes(prog, start, step * NSIG)
    return [raw[at : at + step] for at in range(0, len(raw), step)]
