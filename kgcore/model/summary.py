# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe a process in a list of all: a row of ``kgcore ps``."""

from dataclasses import dataclass

from kgcore.model.dying import Dying
from kgcore.text import plain

__all__ = ("ProcessSummary",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSummary:
    """A row of ``kgcore ps``.

    :ivar pid: its id in the initial pid namespace, ``ppid`` that of its parent.
    :ivar uid: real user id, as the initial user namespace numbers it.
    :ivar threads: how many it has.
    :ivar rss: resident bytes.
    :ivar state: a letter, as ps(1) has them.
    :ivar comm: its name, raw.
    :ivar args: command line, NULs between arguments; None if its memory is not in the dump.
    :ivar kernel_thread: it is a kernel thread.
    :ivar task: address of its ``struct task_struct``.
    :ivar memory: it has user memory, as far as is known; kernel threads and zombies have none.
    :ivar size: bytes of all mappings.
    :ivar swap: bytes that are swapped out, shared memory excepted, of which the kernel does not count that.
    :ivar core: an estimate of what a core with the default filter has besides zeros: bytes of anonymous and shared
        memory, resident and swapped out, and of huge pages, by the kernel's counters.
    :ivar held: an estimate of how much of that the dump holds; what is swapped out counts as not held.
    :ivar pids: its id in each pid namespace that it is in, the initial one first.
    :ivar cgroup: path of its control group; None: not found.
    :ivar dying: the signal that it was dying of, if it was; without what came with that.
    """

    pid: int
    ppid: int
    uid: int
    threads: int
    rss: int
    state: str
    comm: bytes
    args: bytes | None
    kernel_thread: bool
    task: int
    memory: bool = True
    size: int = 0
    swap: int = 0
    core: int = 0
    held: int = 0
    pids: tuple[int, ...] = ()
    cgroup: bytes | None = None
    dying: Dying | None = None

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``, as ``kgcore ps --json`` does. Names that are not UTF-8 have ``\\xNN``; a command
        line that cannot be read is null."""
        args = self.args
        return {
            "pid": self.pid,
            "ppid": self.ppid,
            "uid": self.uid,
            "threads": self.threads,
            "rss": self.rss,
            "size": self.size,
            "swap": self.swap,
            "core_estimate": self.core,
            "held_estimate": self.held,
            "state": self.state,
            "comm": plain(self.comm),
            "args": None if args is None else [plain(arg) for arg in args.removesuffix(b"\0").split(b"\0") if args],
            "kernel_thread": self.kernel_thread,
            "task": f"{self.task:#x}",
            "pids": list(self.pids),
            "cgroup": None if self.cgroup is None else plain(self.cgroup),
            "dying": None if self.dying is None else self.dying.brief(),
        }
