# SPDX-License-Identifier: LGPL-2.1-or-later
"""User-mode registers of threads, asleep or on a CPU when the machine stopped.

A sleeping thread's registers are the ``struct pt_regs`` at the top of its kernel stack. A thread that was running in
user mode has no registers there: they are in its CPU's note, which QEMU or the crash path wrote.
"""

from typing import NamedTuple

from drgn import FaultError

from kgcore.arch.cpunotes import named_words
from kgcore.model.process import RegisterSet, RegisterSource
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes
from kgcore.sources.vmcore.task.cpus import OnCpu

__all__ = ("Found", "user_registers")


class Found(NamedTuple):
    """User-mode registers, and remarks on them (sentences)."""

    registers: RegisterSet
    warnings: tuple[str, ...]


def user_registers(kernel: Kernel, task: Members, tid: int, on: OnCpu | None) -> Found:
    """Return the user-mode registers of a thread.

    :param task: ``struct task_struct``
    :param on: where it was running; None: it was not running.
    """
    cpu = on.registers if on is not None else None
    if cpu is not None and cpu.user_mode:
        return Found(RegisterSet({**cpu.values, **kernel.architecture.no_system_call}, cpu.source), ())
    try:
        values = _entry_frame(kernel, task)
    except FaultError as error:
        return _unavailable(kernel, f"thread {tid}: registers are not in the dump: {in_words(error)}")
    if on is not None and not on.in_kernel:
        # It may have left the kernel since: the saved registers would be out of date.
        ip, sp = values[kernel.architecture.ip], values[kernel.architecture.sp]
        return _unavailable(
            kernel,
            f"thread {tid} was running on CPU {on.cpu}, {on.why}: its registers are missing "
            f"(its last entry into the kernel was at {ip:#x}, with the stack at {sp:#x})",
        )
    machine = kernel.machine
    if not machine.entry_frames_fit:
        why = "no thread's kernel stack ends as kgcore expects it"
        return _unavailable(kernel, f"thread {tid}: its registers are missing: {why}")
    warnings = []
    if not kernel.architecture.notes.user_mode(values):
        mode = kernel.architecture.mode
        warnings.append(f"thread {tid}: its last kernel entry was not from user mode ({mode} {values[mode]:#x})")
    values |= machine.asleep(task)
    if cpu is not None:
        # The kernel does not change the user's FS and GS while it runs; the copy in the task is as old as its last
        # switch-out.
        values |= {name: cpu.values[name] for name in machine.kept() if name in cpu.values}
    return Found(RegisterSet(values, RegisterSource.ENTRY_FRAME), tuple(warnings))


def _unavailable(kernel: Kernel, why: str) -> Found:
    unknown = dict.fromkeys(kernel.architecture.notes.user_regs, 0)
    return Found(RegisterSet(unknown, RegisterSource.UNAVAILABLE, frozenset(unknown), where="in the dump"), (why,))


def _entry_frame(kernel: Kernel, task: Members) -> dict[str, int]:
    """Return ``task_pt_regs()``: the registers saved at the thread's last entry into the kernel."""
    names = kernel.architecture.entry_frame
    size = kernel.word_size * len(names)
    at = task["stack"] + kernel.thread_size - kernel.machine.pt_regs_padding - size
    if at >= 1 << 8 * kernel.word_size:
        raise FaultError("the thread's kernel stack has no possible address", task["stack"])
    values = named_words(names, kernel.word_size, kernel_bytes(kernel.prog, at, size))
    return kernel.architecture.notes.cleaned(values)
