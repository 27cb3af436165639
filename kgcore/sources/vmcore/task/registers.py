# SPDX-License-Identifier: LGPL-2.1-or-later
"""User-mode registers of threads, asleep or on a CPU when the machine stopped.

A sleeping thread's registers are the ``struct pt_regs`` at the top of its kernel stack. A thread that was running in
user mode has left nothing there: its registers are in the note about its CPU, which QEMU or the crash path wrote.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from drgn import FaultError, Object

from kgcore.arch.cpunotes import named_words
from kgcore.model.process import FpuState, RegisterSet, RegisterSource
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes
from kgcore.sources.vmcore.task.cpus import OnCpu

__all__ = ("FpuState", "fpu_state", "tls_segments", "user_registers")

_GDT_TLS_ENTRIES = 3  # arch/x86/include/asm/segment.h
_LDT_ENTRIES = 8192


class Found(NamedTuple):
    """Registers, and what is to be said about them (sentences)."""

    registers: RegisterSet
    warnings: tuple[str, ...]


def user_registers(kernel: Kernel, task: Members, tid: int, on: OnCpu | None) -> Found:
    """The registers a thread has in user mode.

    :param task: ``struct task_struct``
    :param on: where it was running; None: it was not.
    """
    cpu = on.registers if on is not None else None
    if cpu is not None and cpu.user_mode:
        return Found(RegisterSet({**cpu.values, **kernel.architecture.no_system_call}, cpu.source), ())
    try:
        values = _entry_frame(kernel, task)
    except FaultError as error:
        return _unavailable(kernel, f"thread {tid}: registers are not in the dump: {in_words(error)}")
    if on is not None and not on.in_kernel:
        # Its last entry is over, perhaps: those registers would be of some time ago.
        return _unavailable(
            kernel,
            f"thread {tid} was running on CPU {on.cpu}, {on.why}: its registers are missing "
            f"(its last entry into the kernel was at {values['ip']:#x}, with the stack at {values['sp']:#x})",
        )
    warnings = []
    if not kernel.architecture.notes.user_mode(values):
        mode = kernel.architecture.mode
        warnings.append(f"thread {tid}: its last kernel entry was not from user mode ({mode} {values[mode]:#x})")
    layout = _LAYOUTS[kernel.architecture.name]
    values |= layout.segments(kernel, task)
    if cpu is not None:
        # The kernel leaves the user's FS and GS alone while it runs; the task's own copy dates from its last
        # switch-out.
        values |= {name: cpu.values[name] for name in layout.kept(kernel) if name in cpu.values}
    return Found(RegisterSet(values, RegisterSource.ENTRY_FRAME), tuple(warnings))


def _unavailable(kernel: Kernel, why: str) -> Found:
    unknown = dict.fromkeys(kernel.architecture.notes.user_regs, 0)
    return Found(RegisterSet(unknown, RegisterSource.UNAVAILABLE, frozenset(unknown), where="in the dump"), (why,))


def _entry_frame(kernel: Kernel, task: Members) -> dict[str, int]:
    """``task_pt_regs()``: what the thread's last entry into the kernel saved."""
    names = kernel.architecture.entry_frame
    size = kernel.word_size * len(names)
    at = task["stack"] + kernel.thread_size - kernel.pt_regs_padding - size
    if at >= 1 << 8 * kernel.word_size:
        raise FaultError("the thread's kernel stack has no possible address", task["stack"])
    values = named_words(names, kernel.word_size, kernel_bytes(kernel.prog, at, size))
    return kernel.architecture.notes.cleaned(values)


def _segments(kernel: Kernel, task: Members) -> dict[str, int]:
    """Segment registers and bases of a thread that is not running (arch/x86/kernel/process_64.c)."""
    fs, gs = task["thread.fsindex"], task["thread.gsindex"]
    # Renamed by 296f781a4b7f "x86/asm/64: Rename thread_struct's fs and gs to fsbase and gsbase" (4.7)
    new = kernel.target.has_member("struct thread_struct", "fsbase")
    return {
        "fs_base": _base(kernel, task, fs, task["thread.fsbase" if new else "thread.fs"]),
        "gs_base": _base(kernel, task, gs, task["thread.gsbase" if new else "thread.gs"]),
        "ds": task["thread.ds"],
        "es": task["thread.es"],
        "fs": fs,
        "gs": gs,
    }


def _segments_32(kernel: Kernel, task: Members) -> dict[str, int]:
    """What of a thread that is not running is not in its ``struct pt_regs`` (arch/x86/kernel/process_32.c)."""
    return {"gs": task["thread.gs"] & 0xFFFF} if kernel.lazy_gs else {}


def _base(kernel: Kernel, task: Members, selector: int, stored: int) -> int:
    """``x86_fsbase_read_task()``: a selector in FS or GS decides, unless the CPU lets user space set the base."""
    if selector == 0 or kernel.fsgsbase:
        return stored
    index = selector >> 3
    if selector & 4:  # a segment of the process's own table
        ldt = Object(kernel.prog, "struct mm_struct *", task["mm"]).context.ldt
        if not ldt or index >= min(ldt.nr_entries.value_(), _LDT_ENTRIES):
            return 0
        descriptor = int.from_bytes(kernel_bytes(kernel.prog, ldt.entries.value_() + 8 * index, 8), "little")
    else:
        descriptor = dict(tls_segments(kernel, task)).get(index, 0)
    # get_desc_base(), arch/x86/include/asm/desc.h: an unsigned int
    return descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000


def tls_segments(kernel: Kernel, task: Members) -> tuple[tuple[int, int], ...]:
    """``thread.tls_array``: the thread's own segments, as entries of the GDT.

    :raises FaultError: they are not in the dump.
    """
    raw = task["thread.tls_array"]
    descriptors = (int.from_bytes(raw[at : at + 8], "little") for at in range(0, 8 * _GDT_TLS_ENTRIES, 8))
    return tuple(enumerate(descriptors, _LAYOUTS[kernel.architecture.name].tls_min))


def fpu_state(kernel: Kernel, task: Members, cpu: int | None) -> FpuState:
    """Floating-point and extended registers as last saved.

    :param cpu: the CPU the thread was running on; its live registers are in no dump.
    :raises FaultError: the state is not in the dump.
    :raises BrokenDump: it contradicts itself.
    """
    pkru = None
    if kernel.target.has_member("struct thread_struct", "pkru"):
        # 954436989cc5 "x86/fpu: Remove PKRU handling from switch_fpu_finish()" (5.14) and its series
        pkru = task["thread.pkru"]
    stale = cpu is not None and not kernel.need_fpu_load(task)
    return FpuState(kernel.fpu_image(task), stale, pkru)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a kernel has which registers.

    :ivar tls_min: GDT_ENTRY_TLS_MIN.
    :ivar segments: registers of a sleeping thread that are in ``task->thread``.
    :ivar kept: user's registers that a CPU still has while it is in the kernel.
    """

    tls_min: int
    segments: Callable[[Kernel, Members], dict[str, int]]
    kept: Callable[[Kernel], tuple[str, ...]]


_LAYOUTS = {
    "x86_64": _Layout(
        tls_min=12,
        segments=_segments,
        kept=lambda kernel: ("fs_base", "gs_base", "ds", "es", "fs", "gs"),
    ),
    "i386": _Layout(
        tls_min=6,
        segments=_segments_32,
        kept=lambda kernel: ("gs",) if kernel.lazy_gs else (),
    ),
}
