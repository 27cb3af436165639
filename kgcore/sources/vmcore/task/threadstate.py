# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each thread has for itself: its alternate stack, pending signals, scheduling, and what it told the kernel."""

from collections.abc import Callable
from functools import cache, cached_property

from drgn import FaultError, Object

from kgcore.model.state import AlternateStack, Rseq, ThreadState, gather
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import why_lost
from kgcore.sources.vmcore.task.sigqueues import SigQueues

__all__ = ("ThreadStates",)

_TASK = ("pid", "sas_ss_sp", "sas_ss_size", "sas_ss_flags", "pending.signal", "pending.list", "static_prio", "policy",
         "rt_priority", "comm", "blocked", "saved_sigmask",
         "clear_child_tid", "pdeath_signal", "personality", "atomic_flags", "seccomp.mode",
         "cred")  # fmt: skip
_NO_NEW_PRIVS = 1 << 0  # PFA_NO_NEW_PRIVS, include/linux/sched.h
_SS_MODE = 0xFFFF  # SS_DISABLE and SS_ONSTACK; above are flags of their own
_SS_DISABLE = 2
_ORIGINAL_RSEQ_SIZE = 32
_DEFAULT_PRIO = 120


class ThreadStates:
    """Reads ``struct task_struct``, once for each thread: there may be thousands."""

    def __init__(self, kernel: Kernel, queues: SigQueues) -> None:
        self._kernel = kernel
        self._queues = queues
        has_member = kernel.target.has_member
        # 3bd3706251ee "sched/core: Provide a pointer to the valid CPU mask" (5.3)
        self._cpus = "cpus_mask" if has_member("struct task_struct", "cpus_mask") else "cpus_allowed"
        # c1ffc9c6e4f8 "futex: Move futex task related data into a struct" (7.2)
        moved = has_member("struct task_struct", "futex")
        self._robust = "futex.robust_list" if moved else "robust_list"
        # That of a 32-bit program of a 64-bit kernel (CONFIG_COMPAT)
        self._narrow_robust = "futex.compat_robust_list" if moved else "compat_robust_list"
        # faba9d250eae "rseq: Introduce struct rseq_data" (6.19)
        self._rseq: tuple[str, str, str]
        if has_member("struct rseq_data", "usrptr"):
            self._rseq = "rseq.usrptr", "rseq.len", "rseq.sig"
        else:
            self._rseq = "rseq", "rseq_len", "rseq_sig"
        self._tasks = kernel.structs(
            "struct task_struct", *_TASK, self._cpus, self._robust, self._narrow_robust, *self._rseq
        )
        creds = kernel.structs("struct cred", "securebits")
        # The cache belongs to this object and is freed with it: threads share credentials
        self._securebits: Callable[[int], int] = cache(lambda cred: int(creds.read(cred)["securebits"]))

    def of(self, task: int, tid: int, *, suspended: bool) -> ThreadState:
        """Read a thread.

        :param task: address of its ``struct task_struct``.
        :param suspended: it is in sigsuspend(2).
        """
        found = self._tasks.read(task)
        try:
            return ThreadState(
                tid=tid,
                name=_name(found),
                blocked=self._blocked(found, suspended),
                alternate_stack=_alternate_stack(found),
                pending=self._queues.pending(found, "pending"),
                nice=int(found["static_prio"]) - _DEFAULT_PRIO,
                policy=int(found["policy"]),
                priority=int(found["rt_priority"]),
                affinity=self._affinity(found),
                rseq=self._rseq_of(found),
                robust_list=self._robust_list(found),
                clear_child_tid=int(found["clear_child_tid"]),
                pdeath_signal=int(found["pdeath_signal"]),
                personality=int(found["personality"]),
                no_new_privs=bool(found["atomic_flags"] & _NO_NEW_PRIVS),
                seccomp=int(found["seccomp.mode"]),
                securebits=self._securebits(found["cred"]),
            )
        except FaultError:
            return self._parts(found, tid, suspended)

    def _parts(self, found: Members, tid: int, suspended: bool) -> ThreadState:
        """Return what is known of a thread of which something is not."""
        values, unknown = gather(
            (
                ("name", lambda: _name(found)),
                ("blocked", lambda: self._blocked(found, suspended)),
                ("alternate_stack", lambda: _alternate_stack(found)),
                ("pending", lambda: self._queues.pending(found, "pending")),
                ("nice", lambda: int(found["static_prio"]) - _DEFAULT_PRIO),
                ("policy", lambda: int(found["policy"])),
                ("priority", lambda: int(found["rt_priority"])),
                ("affinity", lambda: self._affinity(found)),
                ("rseq", lambda: self._rseq_of(found)),
                ("robust_list", lambda: self._robust_list(found)),
                ("clear_child_tid", lambda: int(found["clear_child_tid"])),
                ("pdeath_signal", lambda: int(found["pdeath_signal"])),
                ("personality", lambda: int(found["personality"])),
                ("no_new_privs", lambda: bool(found["atomic_flags"] & _NO_NEW_PRIVS)),
                ("seccomp", lambda: int(found["seccomp.mode"])),
                ("securebits", lambda: self._securebits(found["cred"])),
            ),
            (FaultError,),
            lambda _, error: why_lost(error),
        )
        return ThreadState(tid=tid, unknown=unknown, **values)

    def _affinity(self, found: Members) -> int:
        return int.from_bytes(found[self._cpus], "little") & self._possible

    def _blocked(self, found: Members, suspended: bool) -> int:
        """What it blocks, or will when sigsuspend() or the like ends: kernel/signal.c.

        set_user_sigmask() of ppoll() and others says at once that there is a mask to go back to, sigsuspend() says so
        at its end.
        """
        if found["saved_sigmask"] == found["blocked"]:
            return int.from_bytes(found["blocked"], "little")
        task = Object(self._kernel.prog, "struct task_struct *", value=found.address)
        name = "saved_sigmask" if suspended or task.restore_sigmask.value_() else "blocked"
        return int.from_bytes(found[name], "little")

    @cached_property
    def _possible(self) -> int:
        """The CPUs that there may be: a task that may run on all has the bits of all that a kernel can count."""
        return sum(1 << cpu for cpu in self._kernel.cpus)

    def _robust_list(self, found: Members) -> int:
        return int(found[self._robust]) or int(found.get(self._narrow_robust, 0))

    def _rseq_of(self, found: Members) -> Rseq:
        address, size, signature = self._rseq
        where = int(found[address])
        # ee3e3ac05c26 "rseq: Introduce extensible rseq ABI" (6.3); before it had one size
        length = int(found[size]) if size in found else _ORIGINAL_RSEQ_SIZE if where else 0
        return Rseq(address=where, size=length, signature=int(found[signature]))


def _name(found: Members) -> bytes:
    name: bytes = found["comm"]
    return name.partition(b"\0")[0]


def _alternate_stack(found: Members) -> AlternateStack:
    """As sigaltstack() tells it, which says of no stack that it is disabled; whether it is in use depends on the stack
    pointer alone."""
    size, flags = int(found["sas_ss_size"]), int(found["sas_ss_flags"])
    flags = flags & ~_SS_MODE | (0 if size else _SS_DISABLE)
    return AlternateStack(address=int(found["sas_ss_sp"]), size=size, flags=flags & 0xFFFFFFFF)
