# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert the x86 floating-point and extended state from the kernel's form to the core's.

A saved state is an FXSAVE image (512 bytes), or an XSAVE area: that image, a 64-byte header, and one component per
feature, either each at its fixed offset (standard format) or packed (compacted; bit 63 of ``xcomp_bv``). A core has
the standard format always. A component whose XSTATE_BV bit is clear is in its initial state, and its bytes are stale.

Kernel: ``__copy_xstate_to_uabi_buf`` in arch/x86/kernel/fpu/xstate.c (5.14 to 7.2), which makes both notes;
``fpstate_sanitize_xstate``, ``copy_xstate_to_kernel`` there and ``xfpregs_get``, ``xstateregs_get`` in regset.c (5.10).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from kgcore.model.process import FpuState, XsaveLayout

__all__ = (
    "FSAVE_SIZE",
    "FXSAVE_SIZE",
    "XFEATURE_CET_USER",
    "UserFpu",
    "is_fsave",
    "layout_note",
    "user_fpu",
    "user_ssp",
)

XFEATURE_MASK_FP = 1 << 0
XFEATURE_MASK_SSE = 1 << 1
XFEATURE_MASK_YMM = 1 << 2
XFEATURE_PKRU = 9
XFEATURE_CET_USER = 11
XCOMP_BV_COMPACTED = 1 << 63

# struct fxregs_state, struct xregs_state
MXCSR, ST_SPACE, XMM_SPACE, PADDING, SW_RESERVED = 24, 32, 160, 416, 464
FXSAVE_SIZE = 512
FSAVE_SIZE = 108
_FREGS_SIZE = 112  # struct fregs_state: FNSAVE's image, and a word of the kernel's own
EXTENDED = FXSAVE_SIZE + 64  # behind struct xstate_header: xfeatures, xcomp_bv, reserved[6]

# fpstate_init_fxstate(): cwd 0x37f, mxcsr MXCSR_DEFAULT, all else 0
_INIT_FXSAVE = struct.pack("<H22xI", 0x37F, 0x1F80).ljust(FXSAVE_SIZE, b"\0")


@dataclass(frozen=True, slots=True)
class UserFpu:
    """A thread's state as user space sees it.

    :ivar fxsave: NT_PRFPREG's ``struct user_i387_struct``, 512 bytes; None if the saved image is too short.
    :ivar xstate: NT_X86_XSTATE, ``XsaveLayout.user_size`` bytes; None if the machine has no XSAVE.
    :ivar omitted: features in use whose bytes are outside the saved image or the note; they are zeros in the note.
    """

    fxsave: bytes | None
    xstate: bytes | None
    omitted: tuple[int, ...] = ()


def is_fsave(fpu: FpuState) -> bool:
    """Say whether the CPU had no FXSAVE: 32-bit kernels then save only the x87."""
    return len(fpu.image) == _FREGS_SIZE


@lru_cache(1)  # two notes are made of it
def user_fpu(fpu: FpuState, layout: XsaveLayout | None, *, raw: bool) -> UserFpu:
    """Make the two notes of a thread.

    :param layout: None if the machine has no XSAVE.
    :param raw: as kernels before 5.14 (``CoreDialect.raw_fpregs``).
    """
    image = fpu.image
    if len(image) < FXSAVE_SIZE:
        return UserFpu(None, None)
    if layout is None or layout.user_size < EXTENDED:
        return UserFpu(image[:FXSAVE_SIZE], None)
    if len(image) < EXTENDED:  # it should have had a header: nothing says what of it is valid
        return UserFpu(image[:FXSAVE_SIZE], None, omitted=_extended(layout.user_features))
    xfeatures, xcomp_bv = struct.unpack_from("<QQ", image, FXSAVE_SIZE)
    compacted = bool(xcomp_bv & XCOMP_BV_COMPACTED)
    sources = _sources(layout, xcomp_bv if compacted else None)
    in_use = xfeatures & layout.user_features
    omitted = tuple(i for i in _extended(in_use) if not _fits(i, sources, image, layout))

    if raw:
        fxsave = _sanitized(image, xfeatures)
    else:
        fxsave = _legacy(image, layout, xfeatures & (XFEATURE_MASK_FP | XFEATURE_MASK_SSE))
    if raw and not compacted:
        xstate = _plain_copy(image, fxsave, layout, xfeatures)
    else:
        xstate = bytearray(layout.user_size)
        xstate[:FXSAVE_SIZE] = _legacy(image, layout, in_use)
        struct.pack_into("<Q", xstate, FXSAVE_SIZE, in_use)
        for i in _extended(in_use):
            if i in omitted:
                continue
            offset, size = layout.offsets[i], layout.sizes[i]
            if i == XFEATURE_PKRU and fpu.pkru is not None:  # since 5.14 the buffer's own value is not kept current
                component = struct.pack("<I", fpu.pkru & 0xFFFFFFFF)[:size].ljust(size, b"\0")
            else:
                component = image[sources[i] : sources[i] + size]
            xstate[offset : offset + size] = component
    struct.pack_into("<6Q", xstate, SW_RESERVED, layout.user_features, 0, 0, 0, 0, 0)  # xstate_fx_sw_bytes
    return UserFpu(fxsave, bytes(xstate), omitted)


def user_ssp(fpu: FpuState, layout: XsaveLayout) -> int | None:
    """Return the user-mode shadow stack pointer (``struct cet_user_state.user_ssp``); None if the image lacks it."""
    if len(fpu.image) < EXTENDED:
        return None
    xfeatures, xcomp_bv = struct.unpack_from("<QQ", fpu.image, FXSAVE_SIZE)
    offset = _sources(layout, xcomp_bv if xcomp_bv & XCOMP_BV_COMPACTED else None).get(XFEATURE_CET_USER)
    if not xfeatures >> XFEATURE_CET_USER & 1 or offset is None or offset + 16 > len(fpu.image):
        return None
    return int(struct.unpack_from("<Q", fpu.image, offset + 8)[0])


def layout_note(layout: XsaveLayout) -> bytes:
    """Build NT_X86_XSAVE_LAYOUT: ``struct x86_xfeat_component`` per extended user feature, ascending (6.12)."""
    return b"".join(
        struct.pack("<4I", i, layout.sizes[i], layout.offsets[i], 0)
        for i in _extended(layout.user_features)
        if i in layout.sizes and i in layout.offsets
    )


@lru_cache(64)
def _extended(mask: int) -> tuple[int, ...]:
    """``for_each_extended_xfeature``."""
    return tuple(i for i in range(2, 63) if mask >> i & 1)


@lru_cache(64)  # threads have few layouts between them
def _sources(layout: XsaveLayout, xcomp_bv: int | None) -> Mapping[int, int]:
    """Where each component lies in the saved image (``xfeature_get_offset``)."""
    if xcomp_bv is None:
        return dict(layout.offsets)
    sources, offset = {}, EXTENDED
    for i in _extended(xcomp_bv):
        if i not in layout.sizes:
            break  # all that follows lies at an unknown place
        if i in layout.aligned:
            offset = (offset + 63) & ~63
        sources[i] = offset
        offset += layout.sizes[i]
    return sources


def _fits(i: int, sources: Mapping[int, int], image: bytes, layout: XsaveLayout) -> bool:
    """Whether a component can be copied: the sizes in a dump may be inconsistent."""
    if i not in sources or i not in layout.sizes or i not in layout.offsets:
        return False
    size = layout.sizes[i]
    return sources[i] + size <= len(image) and EXTENDED <= layout.offsets[i] <= layout.user_size - size


def _legacy(image: bytes, layout: XsaveLayout, xfeatures: int) -> bytes:
    """The FXSAVE part: components in use, the others in initial state; padding and the rest are 0."""
    init = layout.init_image if len(layout.init_image) >= FXSAVE_SIZE else _INIT_FXSAVE
    fp = image if xfeatures & XFEATURE_MASK_FP else init
    mxcsr = image if xfeatures & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM) else init
    sse = image if xfeatures & XFEATURE_MASK_SSE else init
    parts = (fp[:MXCSR], mxcsr[MXCSR:ST_SPACE], fp[ST_SPACE:XMM_SPACE], sse[XMM_SPACE:PADDING])
    return b"".join(parts).ljust(FXSAVE_SIZE, b"\0")


def _sanitized(image: bytes, xfeatures: int) -> bytes:
    """The FXSAVE part after 5.10's fpstate_sanitize_xstate(): initial components are reset, all else is untouched."""
    fx = bytearray(image[:FXSAVE_SIZE])
    if not xfeatures & XFEATURE_MASK_FP:
        fx[:MXCSR] = _INIT_FXSAVE[:MXCSR]
        fx[ST_SPACE:XMM_SPACE] = bytes(XMM_SPACE - ST_SPACE)
    if not xfeatures & XFEATURE_MASK_SSE:
        fx[XMM_SPACE:PADDING] = bytes(PADDING - XMM_SPACE)
    return bytes(fx)


def _plain_copy(image: bytes, fxsave: bytes, layout: XsaveLayout, xfeatures: int) -> bytearray:
    """5.10's NT_X86_XSTATE from a standard area: the memory itself, but for components in initial state."""
    xstate = bytearray(image[: layout.user_size].ljust(layout.user_size, b"\0"))
    xstate[:FXSAVE_SIZE] = fxsave
    for i in _extended(layout.user_features & ~xfeatures):
        offset, size = layout.offsets.get(i), layout.sizes.get(i)
        if offset is not None and size is not None and EXTENDED <= offset <= layout.user_size - size:
            xstate[offset : offset + size] = layout.init_image[offset : offset + size].ljust(size, b"\0")
    return xstate
