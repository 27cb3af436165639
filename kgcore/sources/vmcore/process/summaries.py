# SPDX-License-Identifier: LGPL-2.1-or-later
"""Summaries of all processes, as in ``kgcore ps``, with a few reads per process."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from drgn import FaultError, Object, offsetof, sizeof

from kgcore.errors import BrokenDump, KgcoreError
from kgcore.model.dying import Dying
from kgcore.model.memory import peek
from kgcore.model.process import VM_READ, VM_WRITE, Vma
from kgcore.model.summary import ProcessSummary
from kgcore.sources.vmcore.dumpfile.frames import FrameState, counted
from kgcore.sources.vmcore.dumpfile.levels import LEVEL_USER_DATA
from kgcore.sources.vmcore.kernel.machine.base import PF_KTHREAD
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.process.estimates import Estimates
from kgcore.sources.vmcore.task.cgroups import Cgroups
from kgcore.sources.vmcore.task.counters import Counters, Usage
from kgcore.sources.vmcore.task.dying import Deaths
from kgcore.sources.vmcore.task.tasks import Tasks

__all__ = ("Summaries",)

_MAX_ARGUMENTS = 6 << 20  # the limit of execve(): _STK_LIM / 4 * 3, fs/exec.c
_MAX_LEVEL = 32  # MAX_PID_NS_LEVEL, include/linux/pid_namespace.h
# include/linux/sched.h; RTLOCK_WAIT since 5.15, FROZEN since
# f5d39b020809 "freezer,sched: Rewrite core freezer logic" (6.1)
_TASK_REPORT, _TASK_IDLE, _TASK_RTLOCK_WAIT, _TASK_FROZEN = 0x7F, 0x402, 0x1000, 0x8000
_NO_USAGE = Usage(0, 0, 0, 0, 0, 0)
# Of struct task_struct
_TASK = (
    "__state", "state", "cgroups", "comm", "exit_state", "flags", "mm", "pid", "real_cred", "real_parent", "signal",
    "thread_pid", "pids[0].pid",
)  # fmt: skip

_T = TypeVar("_T")


def _soft(get: Callable[[], _T], default: _T) -> _T:
    try:
        return get()
    except (FaultError, KgcoreError, LookupError, ValueError):
        return default


def _read(memory: VmcoreMemory, start: int, end: int) -> bytes | None:
    """Read arguments from memory, without their mapping: pages that were never touched cannot hold arguments."""
    page = memory.page_size
    vma = Vma(start & -page, end + page - 1 & -page, VM_READ | VM_WRITE, anon=True)
    return peek(memory, vma, start, end - start)


class Summaries:
    """Reads a summary of each process."""

    def __init__(self, backing: Backing, tasks: Tasks) -> None:
        self._backing = backing
        self._kernel = kernel = backing.kernel
        self._tasks = tasks
        structs = kernel.structs
        self._read_task = structs("struct task_struct", *_TASK).read
        self._groups = structs("struct task_struct", "tgid")
        self._signals = structs("struct signal_struct", "nr_threads")
        self._creds = structs("struct cred", "uid.val")
        self._mms = structs("struct mm_struct", "arg_start", "arg_end", "env_start", "env_end")
        self._pids = structs("struct pid", "level")
        pid, upid = kernel.prog.type("struct pid"), kernel.prog.type("struct upid")
        self._numbers, self._upid_size = int(offsetof(pid, "numbers")), sizeof(upid)
        self._nr = int(offsetof(upid, "nr"))
        self._cgroups = Cgroups(kernel)
        self._counters = Counters(kernel, tasks)
        self._deaths = Deaths(kernel)
        self._estimates = Estimates(backing)
        self._parents: dict[int, int] = {}

    def all(self) -> Iterator[ProcessSummary]:
        """See :meth:`kgcore.sources.base.Source.processes`.

        :raises BrokenDump: some processes are lost; raised after all others.
        """
        leaders, lost = self._tasks.leaders()
        rows = [row for row in map(self._row, leaders) if row is not None]
        rows.sort(key=lambda row: row.pid)
        share = self._share(rows)
        yield from (replace(row, held=int(row.held * share)) if row.held else row for row in rows)
        if lost:
            raise BrokenDump(lost[0])

    def _row(self, leader: Object) -> ProcessSummary | None:
        """Return a process summary, empty where the dump lacks data; None: the task itself is not in the dump."""
        task = self._read_task(leader.value_())
        try:
            pid, kernel_thread = int(task["pid"]), bool(task["flags"] & PF_KTHREAD)
        except FaultError:
            return None
        holder = task if kernel_thread else _soft(lambda: self._with_memory(leader, task), task)
        mm = _soft(lambda: int(holder["mm"]), -1)
        threads = _soft(lambda: int(self._signals.read(task["signal"])["nr_threads"]), 1)
        usage, args, resident = _NO_USAGE, None, 0
        if not kernel_thread and mm > 0:
            usage = _soft(lambda: self._counters.usage(holder.address, mm, threads), _NO_USAGE)
            args = _soft(lambda: self._args(mm), None)
            resident = self._estimates.resident(mm, usage)
        return ProcessSummary(
            pid=pid,
            ppid=_soft(lambda: self._parent(task["real_parent"]), 0),
            uid=_soft(lambda: int(self._creds.read(task["real_cred"])["uid.val"]), 0),
            threads=threads,
            rss=usage.rss,
            state=_soft(lambda: self._state(task), "?"),
            comm=_soft(lambda: bytes(task["comm"]).split(b"\0")[0], b""),
            args=args,
            kernel_thread=kernel_thread,
            task=task.address,
            memory=not kernel_thread and mm != 0,
            size=usage.size,
            swap=usage.swap,
            core=resident + usage.swap,
            held=resident,
            pids=_soft(lambda: self._ids(task[self._kernel.thread_pid]), ()),
            cgroup=_soft(lambda: self._cgroups.path(task["cgroups"]), None),
            dying=_soft(lambda: self._dying(leader, threads), None) if not kernel_thread and mm > 0 else None,
        )

    def _dying(self, leader: Object, threads: int) -> Dying | None:
        group = self._tasks.threads(leader)[0] if threads > 1 else []
        return self._deaths.of([thread.value_() for thread in group] or [leader.value_()], details=False)

    def _with_memory(self, leader: Object, task: Members) -> Members:
        """Return a thread that still has the memory: an exited leader has no memory, though the process lives."""
        if task["mm"]:
            return task
        threads, _ = self._tasks.threads(leader)
        read = (self._read_task(thread.value_()) for thread in threads)
        return next((thread for thread in read if thread["mm"]), task)

    def _parent(self, address: int) -> int:
        if address not in self._parents:
            self._parents[address] = int(self._groups.read(address)["tgid"])
        return self._parents[address]

    def _state(self, task: Members) -> str:
        """Return the state letter of ps, as by task_state_index() (include/linux/sched.h, 4.14 to 7.2).

        It is right for frozen tasks, too, which drgn reports as running.
        """
        state = self._kernel.task_state(task)
        if state & _TASK_IDLE == _TASK_IDLE:
            return "I"
        if state & (_TASK_RTLOCK_WAIT | _TASK_FROZEN):
            return "D"
        return "RSDTtXZP"[((state | int(task["exit_state"])) & _TASK_REPORT).bit_length()]

    def _ids(self, pid: int) -> tuple[int, ...]:
        """Return the ids in NSpid of /proc/PID/status."""
        level = self._pids.read(pid)["level"]
        if level > _MAX_LEVEL:
            return ()
        raw = kernel_bytes(self._kernel.prog, pid + self._numbers, (level + 1) * self._upid_size)
        return tuple(struct.unpack_from("<i", raw, at * self._upid_size + self._nr)[0] for at in range(level + 1))

    def _args(self, mm: int) -> bytes | None:
        """Return the arguments as ``get_mm_cmdline()``, fs/proc/base.c, does, without the NUL at their end.

        A process that overwrites the last byte of its arguments (setproctitle) has a title there: one string that may
        continue into the environment after them.
        """
        found = self._mms.read(mm)
        start, end = found["arg_start"], found["arg_end"]
        if not 0 <= end - start <= _MAX_ARGUMENTS:
            return None
        if start == end:
            return b""
        memory = VmcoreMemory(self._backing, Object(self._kernel.prog, "struct mm_struct *", mm))
        data = _read(memory, start, end)
        if data is None or data.endswith(b"\0"):
            return data and data[:-1]
        if found["env_start"] == end and found["env_end"] > end:
            end = found["env_end"]
        page = self._kernel.page_size
        end = min(end, start + page)  # get_mm_proctitle()
        middle = min(start + page & -page, end)
        title, nul, _ = (_read(memory, start, middle) or b"").partition(b"\0")
        if nul or middle == end:
            return title
        rest = _read(memory, middle, end)
        return None if rest is None else title + rest.partition(b"\0")[0]

    def _share(self, rows: list[ProcessSummary]) -> float:
        """Return roughly which part of the resident memory the dump holds.

        It is 0 if the arguments of most processes, which are in this memory, are lost; else all but the truncated part.
        """
        target = self._kernel.target
        level = target.dump.dump_level if target.dump else None
        users = [row for row in rows if row.core]
        lost = sum(row.args is None for row in users)
        if 2 * lost > len(users) and (level is None or level & LEVEL_USER_DATA):
            return 0.0
        if target.live:
            return 1.0
        frames = counted(target.frames)
        stored, cut_off = frames[FrameState.STORED], frames[FrameState.CUT_OFF]
        return stored / (stored + cut_off) if stored else 1.0
