# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say why a process of this machine cannot be taken, and what to do."""

import errno
import os
from contextlib import suppress

from kgcore.errors import Busy, KernelThread, KgcoreError, NoSuchTask, NoUserMemory, TargetError
from kgcore.ptrace.guardian import NAME
from kgcore.sources.live.procfs import read, stat_of, status_of

__all__ = ("busy", "check", "refused")

_PF_KTHREAD = 0x00200000  # include/linux/sched.h


def check(pid: int, text: str) -> int:
    """Return the id of the process that a thread belongs to.

    :param text: how the user named it.
    :raises KgcoreError: there is no such thread, or its process has no memory.
    """
    try:
        status = status_of(read(f"/proc/{pid}/status"))
        stat = stat_of(read(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchTask(f"no thread has the id {text}", hint="kgcore ps --live lists processes", pid=pid) from None
    except PermissionError as error:
        raise TargetError(f"cannot look at process {text}: {error.strerror}", hint="run it as root", pid=pid) from error
    tgid = int(status["Tgid"][0])
    name = _name(tgid)
    if stat.flags & _PF_KTHREAD:
        raise KernelThread(f"{tgid} ({name}) is a kernel thread: it has no user memory", pid=tgid)
    if tgid == os.getpid():
        raise TargetError(f"{tgid} ({name}) is kgcore itself", hint="a process cannot stop itself", pid=tgid)
    with suppress(OSError):
        if not read(f"/proc/{tgid}/maps") and all(_is_dead(tgid, tid) for tid in os.listdir(f"/proc/{tgid}/task")):
            raise NoUserMemory(f"{tgid} ({name}) is a zombie: it has exited, and its memory is gone", pid=tgid)
    return tgid


def _is_dead(tgid: int, tid: str) -> bool:
    with suppress(OSError):
        return stat_of(read(f"/proc/{tgid}/task/{tid}/stat")).exited
    return True


def _name(pid: int) -> str:
    with suppress(OSError):
        return read(f"/proc/{pid}/comm").removesuffix(b"\n").decode("utf-8", "replace")
    return "?"


def refused(pid: int, error: OSError) -> KgcoreError:
    """Return the error for a process that cannot be stopped or read.

    :param error: what the system said; ``filename`` may be the id of the thread.
    """
    name = f"process {pid} ({_name(pid)})"
    if error.errno == errno.ESRCH or not os.path.exists(f"/proc/{pid}"):
        return NoSuchTask(f"process {pid} has ended", pid=pid)
    if error.errno == errno.ETIMEDOUT:
        return TargetError(
            f"{name}: thread {error.filename} does not stop: it is in an uninterruptible sleep",
            hint="--no-registers reads it without stopping it; kgcore -k takes it by the kernel's memory",
            pid=pid,
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        tracer = _tracer(pid)
        if tracer and _name(tracer) == NAME:
            return busy(pid)
        if tracer:
            return TargetError(
                f"{name} is being traced by {tracer} ({_name(tracer)})",
                hint="end that debugger first, or use --no-registers",
                pid=pid,
            )
        return TargetError(f"{name}: no permission to trace it: {_why(pid)}", hint="run it as root", pid=pid)
    return TargetError(f"{name} cannot be read: {error.strerror}", pid=pid)


def busy(pid: int) -> Busy:
    """Return the error for a process that another kgcore takes at this moment."""
    return Busy(f"process {pid} is being dumped by another kgcore", hint="try again later", pid=pid)


def _tracer(pid: int) -> int:
    with suppress(OSError, KeyError, ValueError, IndexError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            tracer = int(status_of(read(f"/proc/{pid}/task/{tid}/status"))["TracerPid"][0])
            if tracer and tracer != os.getpid():
                return tracer
    return 0


def _why(pid: int) -> str:
    """Which of the kernel's rules forbids it (ptrace_may_access(), kernel/ptrace.c; security/yama)."""
    with suppress(OSError, KeyError, ValueError, IndexError):
        uids = {int(word) for word in status_of(read(f"/proc/{pid}/status"))["Uid"][:3]}
        if os.geteuid() and uids != {os.geteuid()}:
            return "it belongs to another user"
        # The directory itself is always its user's: task_dump_owner(), fs/proc/base.c
        if os.geteuid() and os.stat(f"/proc/{pid}/mem").st_uid != os.geteuid():
            return "it is not dumpable (PR_SET_DUMPABLE), or was started set-uid"
        # A long read(2) of a file of /proc/sys is ENOMEM.
        with suppress(FileNotFoundError), open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            scope = int(file.read(16))
            if scope:
                return f"Yama forbids it (kernel.yama.ptrace_scope is {scope})"
    return "this program lacks CAP_SYS_PTRACE"
