# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share between x86 views: registers as ptrace shows them, and the notes common to 32- and 64-bit tasks.

Kernel: arch/x86/kernel/ptrace.c (``getreg``, ``genregs_get``, ``ioperm_get``).
"""

from kgcore.arch.base import ProcessNote, RegSet
from kgcore.arch.x86.xsave import UserFpu, is_fsave, layout_note, user_fpu
from kgcore.model.process import ProcessImage, Thread

__all__ = (
    "IOPERM",
    "NT_PRFPREG",
    "NT_X86_XSTATE",
    "XSAVE_LAYOUT",
    "XSTATE",
    "fxsave",
    "remarks",
    "thread_fpu",
    "user_regs",
)

NT_PRFPREG = 2
NT_386_IOPERM = 0x201
NT_X86_XSTATE = 0x202
NT_X86_XSAVE_LAYOUT = 0x205
IO_BITMAP_BYTES = 8192

X86_EFLAGS_TF = 0x100
_SEGMENTS = frozenset(("cs", "ds", "es", "fs", "gs", "ss"))


def user_regs(thread: Thread, order: tuple[str, ...], width: int) -> tuple[int, ...]:
    """Return general registers in the order of ``struct user_regs_struct``, each ``width`` bytes wide."""
    mask = (1 << 8 * width) - 1
    values = {name: thread.regs.values.get(name, 0) & (0xFFFF if name in _SEGMENTS else mask) for name in order}
    if thread.forced_tf:
        values["flags"] &= ~X86_EFLAGS_TF
    return tuple(values[name] for name in order)


def thread_fpu(image: ProcessImage, thread: Thread) -> UserFpu | None:
    return None if thread.fpu is None else user_fpu(thread.fpu, image.xsave, raw=image.dialect.raw_fpregs)


def fxsave(image: ProcessImage, thread: Thread) -> bytes | None:
    """Build NT_PRFPREG of a 64-bit view, NT_PRXFPREG of a 32-bit one (``xfpregs_get``)."""
    fpu = thread_fpu(image, thread)
    return None if fpu is None else fpu.fxsave


def _ioperm(image: ProcessImage, thread: Thread) -> bytes | None:
    return None if thread.ioperm is None else thread.ioperm[:IO_BITMAP_BYTES].ljust(IO_BITMAP_BYTES, b"\xff")


def _xstate(image: ProcessImage, thread: Thread) -> bytes | None:
    fpu = thread_fpu(image, thread)
    return None if fpu is None else fpu.xstate


def _xsave_layout(image: ProcessImage) -> bytes | None:
    if not image.dialect.xsave_layout or image.xsave is None or not image.xsave.user_features:
        return None
    return layout_note(image.xsave)


def remarks(image: ProcessImage, thread: Thread) -> tuple[str, ...]:
    """Say what the notes lack of the floating-point state."""
    fpu = thread_fpu(image, thread)
    if fpu is None:
        return ("its floating-point state was not found",)
    if fpu.fxsave is None and not (thread.fpu is not None and is_fsave(thread.fpu)):
        return ("its floating-point state is cut short and was left out",)
    if fpu.omitted:
        features = ", ".join(map(str, fpu.omitted))
        return (f"its extended state is incomplete: XSAVE features {features} are zeros",)
    return ()


IOPERM = RegSet(b"LINUX", NT_386_IOPERM, _ioperm)
XSTATE = RegSet(b"LINUX", NT_X86_XSTATE, _xstate)
XSAVE_LAYOUT = ProcessNote(b"LINUX", NT_X86_XSAVE_LAYOUT, _xsave_layout)
