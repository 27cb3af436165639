# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unwind the kernel stacks of threads."""

import contextlib
import struct

from drgn import FaultError, Object, StackFrame

from kgcore.arch.cpunotes import CpuRegisters
from kgcore.model.traces import OUTERMOST, End, Frame, KernelStack
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import in_words
from kgcore.sources.vmcore.task.cpus import Cpus, OnCpu

__all__ = ("KernelStacks",)

_NO_REGISTERS = End("registers", "the registers of its CPU are not in the dump")


class KernelStacks:
    """The kernel stacks of one kernel's threads.

    The kernel's own unwind tables say where the frames are; debug information, if present, adds inlined functions and
    source lines.
    """

    def __init__(self, kernel: Kernel, cpus: Cpus) -> None:
        self._kernel = kernel
        self._cpus = cpus

    def of(self, task: Object, tid: int) -> KernelStack:
        """Return the kernel stack of a thread; no frames: it was in user mode.

        :param task: ``struct task_struct *``
        """
        unwinder = self._kernel.machine.unwinder
        if unwinder is None:
            return _nothing(self._kernel.machine.no_unwinder)
        try:
            if not task.stack:
                return _nothing("it has exited: its kernel stack is gone")
            on = self._cpus.of(self._kernel.task(task), tid)
            if not unwinder.available:
                return self._by_debug_information(task, on)
            if on is None:
                state = unwinder.asleep(task)
            elif on.registers is None:
                return KernelStack((), _NO_REGISTERS)
            elif on.registers.user_mode:
                return KernelStack((), OUTERMOST)
            else:
                state = unwinder.interrupted(on.registers)
        except FaultError as error:
            return KernelStack((), End("memory", f"the kernel stack is not in the dump: {in_words(error)}"))
        except LookupError as error:
            return _nothing(f"the layout of a sleeping thread's stack is unknown: {in_words(error)}")
        calls, end = unwinder.unwind(state)
        return KernelStack(self._frames(calls), end)

    def _by_debug_information(self, task: Object, on: OnCpu | None) -> KernelStack:
        """Return the kernel stack of a thread if the kernel has no unwind tables."""
        if self._kernel.target.symbols_from != "dwarf":
            return _nothing("the unwind tables of the kernel (ORC) are not in the dump: use -s vmlinux")
        start = task
        if on is not None:
            if on.registers is None:
                return KernelStack((), _NO_REGISTERS)
            if on.registers.user_mode:
                return KernelStack((), OUTERMOST)
            # drgn would use the number that QEMU gave the CPU.
            start = Object.from_bytes_(self._kernel.prog, "struct pt_regs", self._pt_regs(on.registers))
        frames: list[Frame] = []
        try:
            for found in self._kernel.prog.stack_trace(start):
                try:
                    ip = found.pc
                except LookupError:
                    return KernelStack(tuple(frames), OUTERMOST)
                if not self._kernel.machine.is_kernel_address(ip):
                    return KernelStack(tuple(frames), OUTERMOST)
                frames.append(_frame(found, ip))
        except ValueError as error:  # the task has begun to run meanwhile
            return KernelStack(tuple(frames), End("registers", in_words(error)))
        return KernelStack(tuple(frames), End("unwind-information", "the debug information ends here"))

    def _pt_regs(self, cpu: CpuRegisters) -> bytes:
        names = self._kernel.architecture.entry_frame
        code = "Q" if self._kernel.word_size == 8 else "I"
        return struct.pack(f"<{len(names)}{code}", *(cpu.values[name] for name in names))

    def _frames(self, calls: list[tuple[int, bool]]) -> tuple[Frame, ...]:
        frames: list[Frame] = []
        for ip, exact in calls:
            # drgn treats all of them as return addresses.
            at = min(ip + exact, (1 << 64) - 1)
            frames += (_frame(found, ip) for found in self._kernel.prog.stack_trace_from_pcs([at]))
        return tuple(frames)


def _nothing(why: str) -> KernelStack:
    return KernelStack((), End("unwind-information", why))


def _frame(found: StackFrame, ip: int) -> Frame:
    function, offset, source = found.function_name, None, None
    with contextlib.suppress(LookupError):
        symbol = found.symbol()
        function = function or symbol.name
        offset = None if found.is_inline else ip - symbol.address
    with contextlib.suppress(LookupError):
        place = found.source()
        source = (place.filename, place.line) if place.filename else None
    return Frame(ip, function=function, offset=offset, source=source, inline=found.is_inline)
