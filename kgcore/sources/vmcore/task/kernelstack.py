# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a thread was doing in the kernel: its kernel stack as frames."""

import contextlib
from functools import cached_property

from drgn import FaultError, Object, StackFrame

from kgcore.arch.x86.cpunotes import pt_regs
from kgcore.model.traces import OUTERMOST, End, Frame, KernelStack
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import in_words
from kgcore.sources.vmcore.task.cpus import Cpus, OnCpu
from kgcore.sources.vmcore.task.orc import OrcUnwinder, State

__all__ = ("KernelStacks",)

_KERNEL = 1 << 63  # the addresses from there on are the kernel's
_FRAME = "struct inactive_task_frame"
_NO_REGISTERS = End("registers", "the registers of its CPU are not in the dump")


class KernelStacks:
    """Of one kernel.

    The kernel's own tables say where the frames are; debug information, if there is any, adds functions that were
    inlined, and source lines.
    """

    def __init__(self, kernel: Kernel, cpus: Cpus) -> None:
        self._kernel = kernel
        self._cpus = cpus

    @cached_property
    def _orc(self) -> OrcUnwinder:
        return OrcUnwinder(self._kernel)

    def of(self, task: Object, tid: int) -> KernelStack:
        """The kernel stack of a thread; no frames: it was in user mode.

        :param task: ``struct task_struct *``
        """
        if self._kernel.architecture.name != "x86_64":
            return _nothing("the stacks of 32-bit kernels are not unwound")
        try:
            if not task.stack:
                return _nothing("it has exited: its kernel stack is gone")
            on = self._cpus.of(self._kernel.task(task), tid)
            if not self._orc.available:
                return self._by_debug_information(task, on)
            state = self._start(task, on)
        except FaultError as error:
            return KernelStack((), End("memory", f"the kernel stack is not in the dump: {in_words(error)}"))
        except LookupError as error:
            return _nothing(f"the layout of a sleeping thread's stack is not known: {in_words(error)}")
        if state is None:
            return KernelStack((), _NO_REGISTERS)
        if state.user_mode:
            return KernelStack((), OUTERMOST)
        calls, end = self._orc.unwind(state)
        return KernelStack(self._frames(calls), end)

    def _start(self, task: Object, on: OnCpu | None) -> State | None:
        """Where to begin: at the CPU's registers, else where ``__switch_to_asm()`` left off."""
        if on is not None:
            if on.registers is None:
                return None
            values = on.registers.values
            return State(values["ip"], values["sp"], values["bp"], True, values, on.registers.user_mode)
        sp = task.thread.sp.value_()
        frame = Object(self._kernel.prog, _FRAME, address=sp)
        size = self._kernel.prog.type(_FRAME).size or 0
        ip = frame.ret_addr.value_()
        return State(ip, sp + size, frame.bp.value_(), exact=ip in self._forked)

    @cached_property
    def _forked(self) -> tuple[int, ...]:
        """Where a task begins that has never run: at a function's first instruction, which is no return address.

        ``ret_from_fork_asm`` since 3aec4ecb3d1f "x86: Rewrite ret_from_fork() in C" (6.6), before it ``ret_from_fork``;
        __unwind_start() in arch/x86/kernel/unwind_orc.c makes the same exception.
        """
        found = map(self._kernel.target.symbol_address, ("ret_from_fork_asm", "ret_from_fork"))
        return tuple(address for address in found if address is not None)

    def _by_debug_information(self, task: Object, on: OnCpu | None) -> KernelStack:
        """Of a kernel without tables."""
        if self._kernel.target.symbols_from != "dwarf":
            return _nothing("the unwind tables of the kernel (ORC) are not in the dump: -s vmlinux has others")
        start = task
        if on is not None:
            if on.registers is None:
                return KernelStack((), _NO_REGISTERS)
            if on.registers.user_mode:
                return KernelStack((), OUTERMOST)
            # drgn would go by the number that QEMU gave the CPU.
            start = Object.from_bytes_(self._kernel.prog, "struct pt_regs", pt_regs(on.registers.values))
        frames: list[Frame] = []
        try:
            for found in self._kernel.prog.stack_trace(start):
                try:
                    ip = found.pc
                except LookupError:
                    return KernelStack(tuple(frames), OUTERMOST)
                if ip < _KERNEL:
                    return KernelStack(tuple(frames), OUTERMOST)
                frames.append(_frame(found, ip))
        except ValueError as error:  # of a task that began to run meanwhile
            return KernelStack(tuple(frames), End("registers", in_words(error)))
        return KernelStack(tuple(frames), End("unwind-information", "the debug information says no more"))

    def _frames(self, calls: list[tuple[int, bool]]) -> tuple[Frame, ...]:
        frames: list[Frame] = []
        for ip, exact in calls:
            # drgn takes all of them for return addresses.
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
