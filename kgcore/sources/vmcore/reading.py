# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading where a dump says to, which may be nowhere."""

from drgn import FaultError, Program, Thread

__all__ = ("crashed_thread", "kernel_bytes", "kernel_string")

_PAGE = 4096


def kernel_bytes(prog: Program, address: int, size: int) -> bytes:
    """Kernel memory at an address that was worked out from what the dump says.

    :raises FaultError: it is not in the dump, or no address at all, of which drgn says OverflowError and ValueError.
    """
    try:
        data: bytes = prog.read(address, size)
    except (OverflowError, ValueError) as error:
        raise FaultError("no address of the kernel's", address) from error
    return data


def kernel_string(prog: Program, address: int, limit: int) -> bytes:
    """A C string without its NUL, ``limit`` bytes at most. (``Program.read_c_string`` came with drgn 0.0.33.)

    :raises FaultError: as :func:`kernel_bytes` does; not for what is behind the page with the NUL.
    """
    found = b""
    while len(found) < limit:
        at = address + len(found)
        piece, end, _ = kernel_bytes(prog, at, min(limit - len(found), _PAGE - at % _PAGE)).partition(b"\0")
        found += piece
        if end:
            break
    return found


def crashed_thread(prog: Program) -> Thread:
    """The one on the CPU that crashed.

    :raises LookupError: nothing crashed, or the dump does not tell. (drgn before 0.0.33 raises Exception itself.)
    """
    try:
        return prog.crashed_thread()
    except Exception as error:
        raise LookupError(str(error)) from error
