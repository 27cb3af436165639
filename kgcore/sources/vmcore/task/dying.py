# SPDX-License-Identifier: LGPL-2.1-or-later
"""What processes were dying of: a signal whose core was being written, that was ending them, or that was pending.

As in kernel/signal.c and fs/coredump.c, the same from 5.10 to 7.2 except two places that kgcore probes.
"""

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

from drgn import FaultError, Object, offsetof

from kgcore.model import siginfo
from kgcore.model.dying import Dying
from kgcore.model.siginfo import SigInfo, numbers_of
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.task.sigactions import actions
from kgcore.sources.vmcore.task.sigqueues import SigQueues, bits_of

__all__ = ("Deaths",)

# include/linux/sched/signal.h; SIGNAL_GROUP_COREDUMP until 2f824d4d197e "signal: Remove SIGNAL_GROUP_COREDUMP" (5.17)
_SIGNAL_GROUP_EXIT, _SIGNAL_GROUP_COREDUMP, _SIGNAL_UNKILLABLE = 0x4, 0x8, 0x40
_CODE_MASK = 0x7F  # the signal in an exit status; 0x80 means that a core was dumped
_SIGKILL = 9
# sig_kernel_ignore(), sig_kernel_stop(), SIGCONT: not fatal by default. SIGSTOP can never be fatal.
_HARMLESS = frozenset({17, 18, 19, 20, 21, 22, 23, 28})
# SYNCHRONOUS_MASK: SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS are taken before others
_SYNCHRONOUS = frozenset({11, 7, 4, 5, 8, 31})
_TASK = ("blocked", "mm", "pending.signal", "pending.list", "pid", "ptrace", "sighand", "signal", "stack")  # fmt: skip
_SIGNAL = ("core_state", "flags", "group_exec_task", "group_exit_code", "group_exit_task",
           "shared_pending.signal", "shared_pending.list")  # fmt: skip


class Deaths:
    """Finds what the processes of one kernel were dying of."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        structs = kernel.structs
        self._tasks = structs("struct task_struct", *_TASK, *kernel.machine.fault_members)
        self._pendings = structs("struct task_struct", "blocked", "pending.signal", "signal")  # in one page
        self._signals = structs("struct signal_struct", *_SIGNAL)
        self._queues = SigQueues(kernel)
        # 0258b5fd7c71 "coredump: Limit coredumps to a single thread group" (5.16)
        self._of_the_mm = not kernel.target.has_member("struct signal_struct", "core_state")
        self._mms = structs("struct mm_struct", "core_state")

    def of(self, threads: Sequence[int], *, details: bool = True) -> Dying | None:
        """Return what a process was dying of; None: it was not dying.

        :param threads: addresses of the ``struct task_struct`` of all its threads that have the memory; threads of
            other processes after the first are ignored.
        :param details: read also the siginfo of the signal.
        :raises FaultError: the structures are not in the dump.
        """
        first = self._tasks.read(threads[0])
        signal = self._signals.read(first["signal"])
        number = signal["group_exit_code"] & _CODE_MASK
        core_state = self._mms.read(first["mm"])["core_state"] if self._of_the_mm else signal["core_state"]
        if core_state and number:
            return self._dumping(number, core_state, first["signal"], details)
        if signal["flags"] & (_SIGNAL_GROUP_EXIT | _SIGNAL_GROUP_COREDUMP):
            if not number:
                return None  # exit_group(): nobody sent the SIGKILL of its threads
            return Dying(number, "exiting", info=self._queued(number, signal, threads) if details else None)
        return self._pending(signal, threads, details)

    # In the middle of its core

    def _dumping(self, number: int, core_state: int, signal: int, details: bool) -> Dying:
        dumper = self._kernel.structs("struct core_state", "dumper.task").read(core_state)["dumper.task"]
        task = self._tasks.read(dumper)
        # Before 5.16 it may be a thread of another process that shares the memory.
        tid = int(task["pid"]) if task["signal"] == signal else None
        if not details:
            return Dying(number, "dumping-core", tid)
        fault = self._kernel.machine.fault(task) if number in _SYNCHRONOUS else None
        return Dying(number, "dumping-core", tid, self._from_stack(task, number), fault)

    def _from_stack(self, task: Members, number: int) -> SigInfo | None:
        """Return the ``kernel_siginfo_t`` of the core: a variable on the stack of the thread that writes the core.

        ``struct coredump_params``, on the same stack, points to it. The siginfo must be higher on the stack and have
        the right number, and the params must have the same memory filter. Exactly one must match.
        """
        try:
            kind = self._kernel.prog.type("struct coredump_params")
            pointer, flags = offsetof(kind, "siginfo"), offsetof(kind, "mm_flags")
            size = self._queues.info_size
            stack = kernel_bytes(self._kernel.prog, task["stack"], self._kernel.thread_size)
            mask = self._kernel.dump_filter(Object(self._kernel.prog, "struct mm_struct *", task["mm"]))
        except (LookupError, FaultError):
            return None
        word, base = self._kernel.word_size, task["stack"]
        found: set[int] = set()
        for at in range(0, len(stack) - flags - word, word):
            place = self._kernel.word_at(stack, at + pointer) - base
            if not at < place <= len(stack) - size or place % word:
                continue
            if struct.unpack_from("<i", stack, place)[0] != number:
                continue
            if self._kernel.filter_of(self._kernel.word_at(stack, at + flags)) == mask:
                found.add(place)
        if len(found) != 1:
            return None
        (place,) = found
        return siginfo.parse(stack[place : place + size], word)

    # Pending

    def _pending(self, signal: Members, threads: Sequence[int], details: bool) -> Dying | None:
        shared = bits_of(signal["shared_pending.signal"])
        group = [task for task in map(self._pendings.read, threads) if task["signal"] == signal.address]
        if not shared and not any(bits_of(task["pending.signal"]) & ~bits_of(task["blocked"]) for task in group):
            return None
        tasks = [self._tasks.read(task.address) for task in group]
        own = [(task, bits_of(task["pending.signal"]) & ~bits_of(task["blocked"])) for task in tasks]
        if signal.get("group_exec_task") or signal.get("group_exit_task"):
            # execve(): the other threads get SIGKILL, the process lives (60700e38fb68 renamed the member, 5.17).
            own = [(task, bits & ~(1 << _SIGKILL - 1)) for task, bits in own]
        fatal = self._fatal(tasks[0], signal["flags"])
        candidates: list[tuple[int, Members | None]] = []
        for task, bits in own:
            candidates += ((number, task) for number in numbers_of(bits) if number in fatal and _free(task, number))
        for number in numbers_of(shared):
            takers = (task for task in tasks if not bits_of(task["blocked"]) >> number - 1 & 1)
            if number in fatal and any(_free(task, number) for task in takers):
                candidates.append((number, None))
        if not candidates:
            return None
        # A thread takes its own signals before the process's, in this order (next_signal()).
        number, hit = min(candidates, key=lambda one: (one[0] != _SIGKILL, one[1] is None, *_order(one[0])))
        tid = int(hit["pid"]) if hit is not None else None
        if not details:
            return Dying(number, "pending", tid)
        head, struct_ = (hit, "pending.list") if hit is not None else (signal, "shared_pending.list")
        info = self._first(head, struct_, number) or siginfo.unsent(number, self._kernel.word_size)
        return Dying(number, "pending", tid, info)

    def _fatal(self, task: Members, flags: int) -> frozenset[int]:
        """Return the signals that would end the process: those whose action is the default and is fatal."""
        if flags & _SIGNAL_UNKILLABLE:
            return frozenset({_SIGKILL})  # init
        if not task["sighand"]:
            return frozenset()
        handler = offsetof(self._kernel.prog.type("struct k_sigaction"), "sa.sa_handler")
        rows = enumerate(actions(self._kernel, task["sighand"]), 1)
        return frozenset(number for number, row in rows if not self._kernel.word_at(row, handler)) - _HARMLESS

    def _queued(self, number: int, signal: Members, threads: Iterable[int]) -> SigInfo | None:
        """Return the siginfo of a pending signal; None: not found."""
        if number == _SIGKILL:  # the kernel queues no siginfo for it
            return siginfo.unsent(number, self._kernel.word_size)
        found = self._first(signal, "shared_pending.list", number)
        for thread in threads:
            if found is None:
                found = self._first(self._tasks.read(thread), "pending.list", number)
        return found

    def _first(self, head: Members, name: str, number: int) -> SigInfo | None:
        """Return the first siginfo of a signal number in a ``struct sigpending``; None: not found."""
        with suppress(FaultError):
            for raw in self._queues.infos(head, name):
                info = siginfo.parse(raw, self._kernel.word_size)
                if info.signal == number:
                    return info
        return None


def _order(number: int) -> tuple[bool, int]:
    return number not in _SYNCHRONOUS, number


def _free(task: Members, number: int) -> bool:
    """Tell whether no tracer can intercept the signal."""
    return number == _SIGKILL or not task["ptrace"]
