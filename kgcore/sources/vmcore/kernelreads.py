# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read kernel memory at addresses that come from the dump and may be invalid."""

import logging

from drgn import FaultError, Program, Thread

from kgcore.arch import SMALLEST_PAGE

__all__ = ("crashed_thread", "in_words", "kernel_bytes", "kernel_string", "why_lost")

"""Bytes of a page where pages are smallest: what lies within this block never crosses the end of a page."""
_LIBRARIES = logging.getLogger("kgcore.libraries")
_LIBRARIES.propagate = False
_LIBRARIES.addHandler(logging.NullHandler())
_WORDS = (  # messages of drgn and libkdumpfile, and kgcore's words for them
    ("Excluded page", "page frame excluded"),
    ("read memory from kdump", "page frame unreadable"),
    ("find memory segment", "no memory of the kernel"),
    ("find physical memory segment", "no memory of the machine"),
    ("short read from memory file", "page frame cut off"),
)


def in_words(error: BaseException | str) -> str:
    """Return why a read failed, in kgcore's words. The libraries' words go to the log, for ``-v 2``."""
    text = str(error)
    if not isinstance(error, FaultError):
        return text
    words = next((words for sign, words in _WORDS if sign in text), None)
    if words is None:
        return text
    _LIBRARIES.warning("%s", text)
    return f"{words}: {error.address:#x}"


def why_lost(error: Exception) -> str:
    """Return why a value of the kernel's is not known, as a sentence without its end."""
    text = in_words(error)
    return f"not in the dump: {text}" if isinstance(error, FaultError) and "kernel has no" not in text else text


def kernel_bytes(prog: Program, address: int, size: int) -> bytes:
    """Return kernel memory at an address computed from values in the dump.

    :raises FaultError: the memory is not in the dump, or the address is invalid (drgn: OverflowError, ValueError).
    """
    try:
        data: bytes = prog.read(address, size)
    except (OverflowError, ValueError) as error:
        raise FaultError("not a kernel address", address) from error
    return data


def kernel_string(prog: Program, address: int, limit: int) -> bytes:
    """Return a C string without its NUL, ``limit`` bytes at most. (``Program.read_c_string`` came with drgn 0.0.33.)

    :raises FaultError: as :func:`kernel_bytes`; pages behind the one with the NUL may be missing.
    """
    found = b""
    while len(found) < limit:
        at = address + len(found)
        piece, end, _ = kernel_bytes(prog, at, min(limit - len(found), SMALLEST_PAGE - at % SMALLEST_PAGE)).partition(
            b"\0"
        )
        found += piece
        if end:
            break
    return found


def crashed_thread(prog: Program) -> Thread:
    """Return the thread on the CPU that crashed.

    :raises LookupError: nothing crashed, or the dump does not tell. (drgn before 0.0.33 raises plain Exception.)
    """
    try:
        return prog.crashed_thread()
    except Exception as error:
        raise LookupError(str(error)) from error
