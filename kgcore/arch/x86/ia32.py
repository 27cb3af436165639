# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe tasks in 32-bit mode: ``user_x86_32_view`` in arch/x86/kernel/ptrace.c.

NT_PRFPREG: ``__convert_from_fxsr`` in arch/x86/kernel/fpu/regset.c; NT_386_TLS: ``fill_user_desc`` in
arch/x86/kernel/tls.c.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

from kgcore.arch.base import Arch, RegSet
from kgcore.arch.x86.common import IOPERM, NT_PRFPREG, XSAVE_LAYOUT, XSTATE, fxsave, remarks, user_regs
from kgcore.arch.x86.x86_64 import GREGS as GREGS_64
from kgcore.arch.x86.xsave import FSAVE_SIZE, is_fsave
from kgcore.elf.layout import EM_386
from kgcore.model.process import ProcessImage, Thread

__all__ = ("GREGS", "I386", "IA32", "IA32_IN_64")

NT_386_TLS = 0x200
NT_PRXFPREG = 0x46E62B7F

# struct user_regs_struct32, by the names of struct pt_regs
GREGS = tuple("bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss".split())

# struct fxregs_state: cwd, swd, twd, fop, and two pointers of 8 bytes each, or of an offset and a selector
_FX_HEAD = struct.Struct("<HHBxH4I")
_FX_ST, _FX_ST_SIZE, _ST_SIZE = 32, 16, 10
_TAG_VALID, _TAG_ZERO, _TAG_SPECIAL, _TAG_EMPTY = range(4)


def _gregs(thread: Thread) -> tuple[int, ...]:
    return user_regs(thread, GREGS, 4)


def _tag(st: bytes) -> int:
    """The x87 tag of a register that is not empty."""
    significand, exponent = struct.unpack("<QH", st)
    exponent &= 0x7FFF
    if exponent == 0 and significand == 0:
        return _TAG_ZERO
    return _TAG_VALID if 0 < exponent < 0x7FFF and significand >> 63 else _TAG_SPECIAL


def _tag_word(abridged: int, swd: int, stack: list[bytes]) -> int:
    """FSAVE's tag word, two bits for each physical register, from FXSAVE's one bit each.

    :param stack: ST(0) first.
    """
    top = swd >> 11 & 7
    word = 0
    for number in range(8):
        tag = _tag(stack[number - top & 7]) if abridged >> number & 1 else _TAG_EMPTY
        word |= tag << 2 * number
    return word


def _prfpreg(own_selectors: bool) -> Callable[[ProcessImage, Thread], bytes | None]:
    """NT_PRFPREG: ``struct user_i387_ia32_struct``, 108 bytes.

    :param own_selectors: the saved state has the selectors of the last x87 instruction and of its operand. A 64-bit
        kernel saves 64-bit pointers instead, and shows the thread's CS and DS.
    """

    def build(image: ProcessImage, thread: Thread) -> bytes | None:
        fx = fxsave(image, thread)
        if fx is None:
            # A CPU without FXSAVE, on a 32-bit kernel: FNSAVE has the note's own format.
            return thread.fpu.image[:FSAVE_SIZE] if thread.fpu is not None and is_fsave(thread.fpu) else None
        cwd, swd, abridged, fop, fip, fcs, foo, fos = _FX_HEAD.unpack_from(fx)
        stack = [fx[at : at + _ST_SIZE] for at in range(_FX_ST, _FX_ST + 8 * _FX_ST_SIZE, _FX_ST_SIZE)]
        if own_selectors:
            fcs = fcs & 0xFFFF | fop << 16
        else:
            fcs = thread.regs.values.get("cs", 0) & 0xFFFF
            fos = thread.regs.values.get("ds", 0) & 0xFFFF | 0xFFFF0000
        control = (word | 0xFFFF0000 for word in (cwd, swd, _tag_word(abridged, swd, stack)))
        return struct.pack("<7I", *control, fip, fcs, foo, fos) + b"".join(stack)

    return build


def _base(desc: int) -> int:
    """The base address in a descriptor."""
    return desc >> 16 & 0xFFFFFF | desc >> 56 << 24


def _user_desc(entry: int, desc: int) -> bytes:
    """``struct user_desc`` (arch/x86/include/uapi/asm/ldt.h), whose bits are those of a descriptor in another order."""
    base = _base(desc)
    limit = desc & 0xFFFF | desc >> 32 & 0xF0000
    bits = (
        desc >> 54 & 1,  # seg_32bit: D
        desc >> 42 & 1,  # contents, two bits: expand-down or conforming;
        desc >> 43 & 1,  # code
        ~desc >> 41 & 1,  # read_exec_only: neither writable nor readable
        desc >> 55 & 1,  # limit_in_pages: G
        ~desc >> 47 & 1,  # seg_not_present: P
        desc >> 52 & 1,  # useable: AVL
        desc >> 53 & 1,  # lm: L
    )
    return struct.pack("<4I", entry, base, limit, sum(bit << number for number, bit in enumerate(bits)))


def _segments(thread: Thread) -> Iterator[tuple[int, int]]:
    """Number and base of each thread-local segment."""
    for note in thread.regsets:
        if note.type == NT_386_TLS:
            yield from struct.iter_unpack("<II8x", note.desc[: len(note.desc) // 16 * 16])
    for entry, desc in thread.tls:
        yield entry, _base(desc)


def _thread_pointer(thread: Thread) -> int:
    """The base of the segment that ``gs`` selects."""
    selected = (thread.regs.values.get("gs", 0) & 0xFFFF) >> 3
    return next((base for entry, base in _segments(thread) if entry == selected and base), 0)


def _tls(image: ProcessImage, thread: Thread) -> bytes | None:
    if not any(desc for _, desc in thread.tls):
        return None
    return b"".join(_user_desc(entry, desc) for entry, desc in thread.tls)


# _user_desc() of a descriptor that is all zeros
_NO_SEGMENT = _user_desc(0, 0)[4:]


def _uses_tls(desc: bytes) -> bool:
    """``regset_tls_active``, of what ptrace(2) gives: an entry for each descriptor, empty ones too."""
    return any(desc[at + 4 : at + 16] != _NO_SEGMENT for at in range(0, len(desc), 16))


def _regsets(own_selectors: bool) -> tuple[RegSet, ...]:
    """enum x86_regset_32."""
    return (
        RegSet(b"CORE", NT_PRFPREG, _prfpreg(own_selectors)),
        RegSet(b"LINUX", NT_PRXFPREG, fxsave),
        XSTATE,
        RegSet(b"LINUX", NT_386_TLS, _tls, _uses_tls),
        IOPERM,
    )


# A 32-bit program on a 64-bit kernel: struct i386_elf_prstatus, arch/x86/include/asm/elfcore-compat.h
IA32 = Arch(
    name="ia32",
    elf_class=32,
    machine=EM_386,
    greg_size=4,
    greg_names=GREGS,
    gregs=_gregs,
    uid_size=2,
    regsets=_regsets(own_selectors=False),
    ip="ip",
    sp="sp",
    extra=(XSAVE_LAYOUT,),
    remarks=remarks,
    thread_pointer=_thread_pointer,
)
# A 64-bit program whose dumping thread has gone to a 32-bit code segment. The view goes by the segment, all structures
# go by the program: struct elf_prstatus has room for 64-bit registers, and the rest of it is 0.
IA32_IN_64 = replace(IA32, name="ia32-in-64", elf_class=64, uid_size=4, pr_reg_size=8 * len(GREGS_64))
# Any program on a 32-bit kernel
I386 = replace(IA32, name="i386", regsets=_regsets(own_selectors=True))
