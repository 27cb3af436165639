# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read numbers that no type shows out of the instructions that use them.

Macros (a thread flag's number, the padding of a program header) leave no trace in types, and distributions backport
their changes: a release number does not tell them. The kernel's own code does, and every dump has it.

The instructions are those of the kernel's inline assembly (arch/x86/include/asm/bitops.h), which no compiler changes,
and of stores of constants.
"""

import re
from collections.abc import Iterator

from drgn import FaultError

from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.opening.target import Target

__all__ = ("cleared_bit", "function", "stored_words", "tested_bit")

_MOST = 1 << 16  # bytes of a function; elf_core_dump() has 4 to 6 KiB
_LOCK = rb"[\xf0\x3e]"  # 3e: a kernel that found a single CPU has replaced the lock prefix by one without effect
# ModRM and SIB of a base register with a displacement of 8 bits, by the opcode's extension
_WITH_OFFSET = {4: rb"(?:[\x60-\x63\x65-\x67]|\x64\x24)", 0: rb"(?:[\x40-\x43\x45-\x47]|\x44\x24)"}
_CLEAR = rb"\x41?\x80" + _WITH_OFFSET[4] + rb"(.)(.)"  # andb $MASK, OFFSET(REGISTER)
_TEST_AND_CLEAR = rb"[\x48\x49\x41]?\x0f\xba[\x30-\x33\x36\x37](.)"  # btr $BIT, (REGISTER)


def function(target: Target, name: str) -> bytes:
    """Return a function's instructions; b"" if the kernel does not have it, or the dump lacks them."""
    try:
        symbol = target.prog.symbol(name)
        return kernel_bytes(target.prog, symbol.address, min(symbol.size or 512, _MOST))
    except (LookupError, FaultError):
        return b""


def cleared_bit(code: bytes, at: int) -> int | None:
    """Return the one bit above 7 of a word that code clears atomically; None if there is no such bit, or several.

    :param at: the word's offset in its structure.
    """
    found = set()
    for offset, mask in _matches(_CLEAR, code):
        bit = ~mask & 0xFF
        if bit and bit & bit - 1 == 0 and at < offset < at + 8:
            found.add(8 * (offset - at) + bit.bit_length() - 1)
    return found.pop() if len(found) == 1 else None


def tested_bit(code: bytes) -> int | None:
    """Return the one bit of a structure's first word that code tests and clears atomically; else None."""
    found = {bit for (bit,) in _matches(_TEST_AND_CLEAR, code)}
    return found.pop() if len(found) == 1 else None


def stored_words(code: bytes, offset: int, word_size: int) -> set[int]:
    """Return the constants that code stores in a structure's member.

    :param offset: of the member.
    :param word_size: its size: 4 or 8 bytes.
    """
    wide = rb"[\x48\x49]" if word_size == 8 else b""
    pattern = wide + rb"\xc7" + _WITH_OFFSET[0] + re.escape(bytes([offset])) + rb"(....)"
    return {int.from_bytes(match[1], "little") for match in re.finditer(pattern, code, re.DOTALL)}


def _matches(pattern: bytes, code: bytes) -> Iterator[bytes]:
    """Yield the numbers in each atomic instruction; a kernel for a single CPU has no lock prefixes at all."""
    found = list(re.finditer(_LOCK + pattern, code, re.DOTALL)) or re.finditer(pattern, code, re.DOTALL)
    yield from (b"".join(match.groups()) for match in found)
