# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading where a dump says to, which may be nowhere."""

from drgn import FaultError, Program

__all__ = ("kernel_bytes",)


def kernel_bytes(prog: Program, address: int, size: int) -> bytes:
    """Kernel memory at an address that was worked out from what the dump says.

    :raises FaultError: it is not in the dump, or no address at all, of which drgn says OverflowError and ValueError.
    """
    try:
        data: bytes = prog.read(address, size)
    except (OverflowError, ValueError) as error:
        raise FaultError("no address of the kernel's", address) from error
    return data
