# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask this machine's CPU where XSAVE puts what: CPUID leaf 0xD, for NT_X86_XSAVE_LAYOUT of living processes.

No register set and no file of /proc has these offsets, and AMD's differ from Intel's.
"""

import ctypes
import mmap
import struct
from collections.abc import Mapping

from kgcore.arch.x86.common import NT_X86_XSTATE
from kgcore.arch.x86.xsave import SW_RESERVED
from kgcore.model.process import XsaveLayout

__all__ = ("layout_here", "layout_of_this_cpu")

# push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid; mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx;
# mov [r8+12], edx; pop rbx; ret
_CODE = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
# xor ecx, ecx; xgetbv; shl rdx, 32; or rax, rdx; ret
_XGETBV = bytes.fromhex("31c9 0f01d0 48c1e220 4809d0 c3")
_LEAF = 0xD
_OSXSAVE = 1 << 27  # leaf 1, ECX: the kernel lets programs use XSAVE
_ALIGNED = 1 << 1  # ECX: the compacted format aligns the component to 64 bytes


def layout_here(regsets: Mapping[int, bytes]) -> XsaveLayout | None:
    """Return how this machine lays out vector registers; None: it has no XSAVE, or does not say.

    :param regsets: a thread's, by NT_*.
    """
    xstate = regsets.get(NT_X86_XSTATE, b"")
    if len(xstate) < SW_RESERVED + 8:
        return None
    (features,) = struct.unpack_from("<Q", xstate, SW_RESERVED)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            return _measured(page, features, len(xstate))
    except (OSError, BufferError):  # a policy forbids memory that is writable and executable
        return None


def layout_of_this_cpu() -> XsaveLayout | None:
    """Return how this machine lays out the vector registers that its kernel saves; None: as above."""
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            found = (ctypes.c_uint32 * 4)()
            _cpuid(page, 1, 0, found)
            if not found[2] & _OSXSAVE:
                return None
            _cpuid(page, _LEAF, 0, found)
            size = found[1]
            page.seek(0)
            page.write(_XGETBV)
            code = ctypes.c_char.from_buffer(page)
            features = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))()
            del code
            page.seek(0)
            return _measured(page, features, size)
    except (OSError, BufferError):
        return None


def _cpuid(page: mmap.mmap, leaf: int, number: int, found: "ctypes.Array[ctypes.c_uint32]") -> None:
    page.seek(0)
    page.write(_CODE)
    code = ctypes.c_char.from_buffer(page)
    ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(code))(
        leaf, number, ctypes.addressof(found)
    )


def _measured(page: mmap.mmap, features: int, size: int) -> XsaveLayout:
    page.write(_CODE)
    code = ctypes.c_char.from_buffer(page)
    cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(code))
    found = (ctypes.c_uint32 * 4)()
    offsets, sizes, aligned = {}, {}, set()
    for number in range(2, 63):
        if features >> number & 1:
            cpuid(_LEAF, number, ctypes.addressof(found))
            sizes[number], offsets[number] = found[0], found[1]
            if found[2] & _ALIGNED:
                aligned.add(number)
    del code, cpuid  # before the page goes
    return XsaveLayout(user_size=size, user_features=features, offsets=offsets, sizes=sizes, aligned=frozenset(aligned))
