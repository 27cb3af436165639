# SPDX-License-Identifier: LGPL-2.1-or-later
"""Give the half-made process its threads, and what it had of its kernel: signals, timers, limits, names."""

import os
import resource
import signal
import struct
from collections.abc import Sequence

from kgcore.arch import ARCHES
from kgcore.arch.resuming import Vector
from kgcore.errors import NotRestarted
from kgcore.model.state import NO_LIMIT, PendingSignal, PosixTimer, ThreadState, TimerValue
from kgcore.ptrace import calls
from kgcore.restore.control import Control
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.interrupted import first_registers
from kgcore.restore.need import Need, NeededThread
from kgcore.restore.objects import Objects
from kgcore.restore.plan import Plan
from kgcore.restore.stub import failed
from kgcore.sources.live.image import architecture_here

__all__ = ("set_registers", "set_signals", "set_state", "start_threads", "start_timers")

# include/uapi/linux/sched.h: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, CHILD_CLEARTID
_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x200000
_CLONE_ARGS = struct.Struct("=11Q")
_LIMITS = 16  # RLIM_NLIMITS
_SIGINFO = 128
_UNTOUCHABLE = (signal.SIGKILL, signal.SIGSTOP)
_ROBUST_HEAD = 24  # sizeof(struct robust_list_head)
_SS_DISABLE = 2
_F_SETFD, _FD_CLOEXEC = 2, 1
_EVERYTHING = (1 << 32) - 1
_SECOND = 1_000_000_000
# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_SECUREBITS = 1, 4, 15, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_PR_GET_NAME_SIZE = 16
_SIGEV_THREAD_ID = 4
_MOST_TIMERS = 1 << 16  # ids that are tried
_NT_PRSTATUS, _NT_PRFPREG = 1, 2


def start_threads(control: Control, need: Need) -> None:
    """Make the other threads, with their ids; all are stopped.

    :raises NotRestarted: that failed.
    """
    for thread in need.threads[1:]:
        tids = control.give(struct.pack("=i", thread.tid), at=_CLONE_ARGS.size + 8)
        content = _CLONE_ARGS.pack(_THREAD, 0, thread.state.clear_child_tid or 0, 0, 0, 0, 0, 0, tids, 1, 0)
        step = f"make thread {thread.tid}"
        made = control.call(step, "clone3", control.give(content), _CLONE_ARGS.size)
        if made != thread.tid:
            raise NotRestarted(f"cannot restart it: {step}: it is {made}")


def set_state(control: Control, plan: Plan, objects: Objects) -> None:
    """Set what the process and its threads told the kernel, but for what makes things happen.

    :raises NotRestarted: that failed.
    """
    need, state = plan.need, plan.need.state
    for number, action in enumerate(state.actions or (), 1):
        if number not in _UNTOUCHABLE:
            content = struct.pack("=4Q", action.handler, action.flags, action.restorer, action.mask)
            control.call(f"set the action of signal {number}", "rt_sigaction", number, control.give(content), 0, 8)
    control.call("set its first thread's word", "set_tid_address", need.threads[0].state.clear_child_tid or 0)
    for thread in need.threads:
        _set_thread(control, thread, thread.state.name or need.summary.name)
    for row in plan.descriptors.planned:
        if row.close_on_exec:
            control.call(f"have descriptor {row.fd} closed by exec", "fcntl", row.fd, _F_SETFD, _FD_CLOEXEC)
    control.call("close what is mapped", "close_range", objects.above, _EVERYTHING, 0)
    if state.subreaper:
        control.call("be a subreaper", "prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if state.dumpable in (0, 1):
        control.call("set whether it may be dumped", "prctl", _PR_SET_DUMPABLE, state.dumpable, 0, 0, 0)
    _from_outside(control, need)


def _set_thread(control: Control, thread: NeededThread, name: bytes) -> None:
    tid, known = thread.tid, thread.state
    step = f"set up thread {tid}"
    control.call(step, "prctl", _PR_SET_NAME, control.give(name[: _PR_GET_NAME_SIZE - 1] + b"\0"), 0, 0, 0, tid=tid)
    if known.robust_list:
        control.call(step, "set_robust_list", known.robust_list, _ROBUST_HEAD, tid=tid)
    if known.rseq is not None and known.rseq.address:
        control.call(step, "rseq", known.rseq.address, known.rseq.size, 0, known.rseq.signature, tid=tid)
    stack = known.alternate_stack
    if stack is not None and not stack.flags & _SS_DISABLE:
        content = struct.pack("=Qi4xQ", stack.address, _signed(stack.flags), stack.size)
        control.call(step, "sigaltstack", control.give(content), 0, tid=tid)
    if known.personality is not None:
        control.call(step, "personality", known.personality, tid=tid)
    if known.no_new_privs:
        control.call(step, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, tid=tid)
    if known.securebits:
        control.call(step, "prctl", _PR_SET_SECUREBITS, known.securebits, 0, 0, 0, tid=tid)
    if known.pdeath_signal:
        control.call(step, "prctl", _PR_SET_PDEATHSIG, known.pdeath_signal, 0, 0, 0, tid=tid)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 & 1 else word


def _from_outside(control: Control, need: Need) -> None:
    """What this program may set of its child."""
    pid, state = control.stub.pid, need.state
    for thread in need.threads:
        _schedule(thread.tid, thread.state)
    if state.oom_score_adj is not None:
        try:
            with open(f"/proc/{pid}/oom_score_adj", "w") as file:
                file.write(str(state.oom_score_adj))
        except PermissionError:
            pass  # it may be raised by all, and lowered by root
        except OSError as error:
            raise failed("set oom_score_adj", "write", error) from error
    for number, pair in enumerate((state.limits or ())[:_LIMITS]):
        soft, hard = (resource.RLIM_INFINITY if one == NO_LIMIT else one for one in pair)
        try:
            try:
                resource.prlimit(pid, number, (soft, hard))
            except (PermissionError, ValueError):
                most = resource.prlimit(pid, number)[1]
                lower = most if soft == resource.RLIM_INFINITY else min(soft, most)
                resource.prlimit(pid, number, (soft if most == resource.RLIM_INFINITY else lower, most))
        except OSError as error:
            raise failed(f"set resource limit {number}", "prlimit", error) from error


def _schedule(tid: int, known: ThreadState) -> None:
    try:
        if known.policy is not None and known.policy != os.SCHED_OTHER:
            os.sched_setscheduler(tid, known.policy, os.sched_param(known.priority or 0))
        if known.nice is not None and known.nice != os.getpriority(os.PRIO_PROCESS, tid):
            os.setpriority(os.PRIO_PROCESS, tid, known.nice)
        cpus = {number for number in range((known.affinity or 0).bit_length()) if (known.affinity or 0) >> number & 1}
        cpus &= os.sched_getaffinity(0)
        if cpus:
            os.sched_setaffinity(tid, cpus)
    except OSError as error:
        raise failed(f"schedule thread {tid}", "sched_setscheduler", error) from error


# What makes things happen


def set_signals(control: Control, plan: Plan) -> None:
    """Send it the signals that waited for it; all its threads block all signals.

    :raises NotRestarted: that failed.
    """
    pid = control.stub.pid
    for one in plan.need.state.pending or ():
        control.call(f"send signal {one.signal}", "rt_sigqueueinfo", pid, one.signal, _info(control, one))
    for thread in plan.need.threads:
        for one in thread.state.pending or ():
            step = f"send signal {one.signal} to thread {thread.tid}"
            where = _info(control, one)
            control.call(step, "rt_tgsigqueueinfo", pid, thread.tid, one.signal, where, tid=thread.tid)


def _info(control: Control, one: PendingSignal) -> int:
    info = one.info or struct.pack("=i", one.signal)
    return control.give(info.ljust(_SIGINFO, b"\0")[:_SIGINFO])


def start_timers(control: Control, plan: Plan) -> None:
    """Start its timers.

    :raises NotRestarted: that failed.
    """
    state = plan.need.state
    _posix_timers(control, state.posix_timers or ())
    for which, timer in enumerate((state.itimer_real, state.itimer_virtual, state.itimer_prof)):
        if timer is not None and (timer.value or timer.interval):
            # Microseconds, rounded up: 0 would stop it. It has nothing left while its signal waits to be taken: then it
            # expires at once, which sends no second one, and begins anew when that is taken, as it would have.
            parts = [divmod(-(-value // 1000), 1_000_000) for value in (timer.interval, timer.value or 1)]
            content = struct.pack("=4q", *parts[0], *parts[1])
            control.call("start a timer", "setitimer", which, control.give(content), 0)


def _posix_timers(control: Control, timers: Sequence[PosixTimer]) -> None:
    """Make timers with their ids: the kernel gives them in order, so that others are made and deleted between."""
    following = 0
    for timer in sorted(timers, key=lambda one: one.id):
        step = f"make timer {timer.id}"
        if not following <= timer.id < _MOST_TIMERS:
            raise NotRestarted(f"cannot restart it: {step}: it cannot have that id")
        while following <= timer.id:
            notify = timer.notify & ~_SIGEV_THREAD_ID if not timer.thread else timer.notify
            event = struct.pack("=Qiii", timer.sigval, timer.signal, notify, timer.thread).ljust(64, b"\0")
            where, number = control.give(event), control.scratch + 64
            control.call(step, "timer_create", timer.clock & (1 << 64) - 1, where, number)
            (found,) = struct.unpack("=i", control.read(number, 4))
            if found != following:
                raise NotRestarted(f"cannot restart it: {step}: its id is {found}")
            if following < timer.id:
                control.call(step, "timer_delete", found)
            following += 1
        _set_timer(control, step, timer.id, timer.timer or TimerValue(value=0, interval=0))


def _set_timer(control: Control, step: str, number: int, value: TimerValue) -> None:
    if value.value or value.interval:
        words = (*divmod(value.interval, _SECOND), *divmod(value.value, _SECOND))
        control.call(step, "timer_settime", number, 0, control.give(struct.pack("=4q", *words)), 0)


# Registers


def set_registers(control: Control, plan: Plan, thread: NeededThread, core: FinishedCore) -> None:
    """Give a thread its registers and its mask: its next instruction is its own.

    :raises NotRestarted: that failed.
    """
    how, need = control.how, plan.need
    # No call is to be started again by the kernel.
    registers = {**first_registers(need, thread, core.read), **architecture_here().no_system_call}
    names = ARCHES[need.view].greg_names
    step = f"set the registers of thread {thread.tid}"
    try:
        if thread.vector is not None:
            ours = calls.getregset(thread.tid, how.vector, 1 << 16) or b""
            layout = architecture_here().xsave_here({how.vector: ours})
            theirs = Vector(desc=thread.vector, layout=how.layout_of(need.layout, thread.vector))
            calls.setregset(thread.tid, how.vector, how.merged(theirs, Vector(desc=ours, layout=layout)))
        elif thread.floating is not None:
            calls.setregset(thread.tid, _NT_PRFPREG, thread.floating)
        content = struct.pack(f"={len(names)}Q", *(registers[name] for name in names))
        calls.setregset(thread.tid, _NT_PRSTATUS, content)
        blocked = thread.state.blocked if thread.state.blocked is not None else thread.blocked
        calls.setsigmask(thread.tid, blocked)
    except ValueError as error:
        raise NotRestarted(f"cannot restart it: {step}: {error}") from error
    except OSError as error:
        raise failed(step, "ptrace", error) from error
