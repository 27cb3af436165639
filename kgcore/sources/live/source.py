# SPDX-License-Identifier: LGPL-2.1-or-later
"""The processes of this machine as :class:`kgcore.sources.base.Source` offers them."""

import os
from collections.abc import Iterator
from contextlib import suppress

from kgcore.errors import BadTask, NoCurrentTask, NoSuchTask, TargetError
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import Source, TaskRef
from kgcore.sources.live.process import LiveProcess
from kgcore.sources.live.procfs import read, stat_of, status_of
from kgcore.sources.live.refusals import check
from kgcore.sources.location import LiveLocation

__all__ = ("LiveSource",)

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_KIB = 1024


class LiveSource(Source):
    """The processes of this machine. They go on, unless and while one of them is taken.

    :param location: how to take a process.
    :raises TargetError: there is no /proc.
    """

    def __init__(self, location: LiveLocation) -> None:
        self._location = location
        if not os.path.exists("/proc/self/stat"):
            raise TargetError("there is no /proc", hint="mount it: mount -t proc proc /proc")

    def describe(self) -> dict[str, str]:
        """See :meth:`kgcore.sources.base.Source.describe`."""
        found = os.uname()
        how = "stopped by ptrace" if self._location.registers else "running"
        return {"format": "live", "release": found.release, "architecture": found.machine, "processes": how}

    def processes(self) -> Iterator[ProcessSummary]:
        """See :meth:`kgcore.sources.base.Source.processes`. Processes that end meanwhile are not in the list."""
        only = self._location.pid
        pids = (int(name) for name in os.listdir("/proc") if name.isdecimal()) if only is None else (only,)
        for pid in sorted(pids):
            with suppress(OSError, ValueError, KeyError, IndexError):
                yield _summary(pid)

    def process(self, ref: TaskRef | int | str) -> LiveProcess:
        """See :meth:`kgcore.sources.base.Source.process`. Until it is closed, its threads stand still.

        :raises KgcoreError: it may not be traced, is being traced, or does not stop.
        """
        found = TaskRef.of(ref)
        if found.is_current:
            raise NoCurrentTask("no process was named", hint="give its PID")
        if found.pid is None:
            raise BadTask(f"{found.text} is an address: a live process is named by its PID")
        tgid = check(found.pid, found.text)
        if self._location.pid not in (None, tgid):
            raise NoSuchTask(
                f"thread {found.text} belongs to process {tgid}, and process {self._location.pid} was opened", pid=tgid
            )
        return LiveProcess(tgid, found.pid, self._location)


def _summary(pid: int) -> ProcessSummary:
    stat = stat_of(read(f"/proc/{pid}/stat"))
    status = status_of(read(f"/proc/{pid}/status"))

    def size(name: str) -> int:
        return int(status[name][0]) * _KIB if name in status else 0

    kernel_thread = bool(stat.flags & _PF_KTHREAD)
    swap = size("VmSwap")
    resident = size("RssAnon") + size("RssShmem") + size("HugetlbPages")
    args: bytes | None = None
    if not kernel_thread:
        with suppress(OSError):
            args = read(f"/proc/{pid}/cmdline")
    cgroup: bytes | None = None
    with suppress(OSError):
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            if line.startswith(b"0::"):
                cgroup = line[3:]
    return ProcessSummary(
        pid=pid,
        ppid=stat.ppid,
        uid=int(status["Uid"][0]),
        threads=stat.threads,
        rss=size("VmRSS"),
        state=stat.letter,
        comm=read(f"/proc/{pid}/comm").removesuffix(b"\n"),
        args=args or None,
        kernel_thread=kernel_thread,
        task=0,
        memory="VmSize" in status,
        size=size("VmSize"),
        swap=swap,
        core=resident + swap,
        held=resident + swap,
        pids=tuple(map(int, status.get("NSpid", []))),
        cgroup=cgroup,
    )
