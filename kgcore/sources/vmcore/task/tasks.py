# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks of the crashed kernel: how to find them, and their threads, ids, credentials and times."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property

from drgn import FaultError, Object, offsetof
from drgn.helpers.linux.pid import find_task, for_each_task, pid_task

from kgcore.errors import BadTask, BrokenDump, KernelThread, NoCurrentTask, NoSuchTask, NoUserMemory
from kgcore.model.process import TaskIds, TaskTimes
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.machine.base import PF_KTHREAD
from kgcore.sources.vmcore.kernel.structs import Members, Structs
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.kernelreads import crashed_thread, in_words

__all__ = ("OVERFLOW_ID", "Ids", "Tasks", "comm", "is_kernel_thread")

_PID_MAX = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_EXIT_DEAD = 0x10
_EXIT_ZOMBIE = 0x20
OVERFLOW_ID = 65534  # for users and groups without an id in a namespace
_UID_GID_MAP_MAX_BASE_EXTENTS = 5  # include/linux/user_namespace.h
_UID_GID_MAP_MAX_EXTENTS = 340
_TIMES = "utime", "stime", "cutime", "cstime"
_PS_HINT = "kgcore ps lists the processes in the dump"


def comm(task: Object) -> bytes:
    """Return ``task->comm``: the name of a thread, at most 15 bytes."""
    return bytes(task.comm.string_())


def is_kernel_thread(task: Object) -> bool:
    """Tell whether a task has PF_KTHREAD: no user memory of its own, even with ``mm`` (kthread_use_mm())."""
    return bool(task.flags.value_() & PF_KTHREAD)


class Tasks:
    """Finds tasks of a kernel. All methods return ``struct task_struct *``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._prog = kernel.prog

    def find(self, ref: TaskRef) -> Object:
        """Return the thread that the user named.

        :raises NoSuchTask: no thread has that id.
        :raises BadTask: there is no task at that address.
        :raises NoCurrentTask: the user named no task and the dump does not say which one was current.
        :raises KernelThread, NoUserMemory: the task has no memory to dump.
        """
        try:
            return self._with_user_memory(ref)
        except FaultError as error:
            raise BrokenDump(
                f"{ref.text}: its task_struct is not in the dump: {in_words(error)}", pid=ref.pid
            ) from error

    def _with_user_memory(self, ref: TaskRef) -> Object:
        task = self._current() if ref.is_current else self._named(ref)
        if is_kernel_thread(task):
            name = comm(task).decode(errors="backslashreplace")
            if ref.is_current:
                raise NoCurrentTask(f"the current task is the kernel thread {name}", hint=f"name a PID; {_PS_HINT}")
            raise KernelThread(
                f"{ref.text} is the kernel thread {name}: it has no user memory", pid=task.pid.value_(), hint=_PS_HINT
            )
        return task

    def _current(self) -> Object:
        """Return the task on the CPU that crashed."""
        try:
            return crashed_thread(self._prog).object
        except (LookupError, FaultError) as error:
            raise NoCurrentTask(
                f"no PID given, and the dump does not say which task was current: {in_words(error)}",
                hint=f"name a PID; {_PS_HINT}",
            ) from error

    def _named(self, ref: TaskRef) -> Object:
        if ref.pid is not None and ref.pid <= _PID_MAX:
            task = self._by_pid(ref.pid)
            if task is not None:
                return task
        elif ref.address is not None:
            return self._at(ref.address, ref.text)
        raise NoSuchTask(f"no thread has the id {ref.text}", pid=ref.pid, hint=_PS_HINT)

    def _by_pid(self, pid: int) -> Object | None:
        """Return the thread with an id; None: unknown id.

        :raises BrokenDump: the id may exist, but the structures that lead to it are not in the dump.
        """
        try:
            return self._lookup(pid)
        except FaultError as error:
            fault = error
        for leader in self.leaders()[0]:
            for task in self.threads(leader)[0]:
                try:
                    if task.pid.value_() == pid:
                        return task
                except FaultError:
                    continue
        raise BrokenDump(f"cannot find thread {pid}: the kernel's task tables are damaged: {in_words(fault)}", pid=pid)

    def _lookup(self, pid: int) -> Object | None:
        """Find a task as ``find_task_by_pid_ns()`` does in the initial namespace.

        :raises FaultError: the kernel's tables are damaged or not in the dump.
        """
        namespace = self._prog["init_pid_ns"]
        if not self._kernel.target.has_member("struct pid_namespace", "idr"):
            # Before 95846ecf9dac "pid: replace pid bitmap implementation with IDR API" (4.15)
            return find_task(self._prog, pid) or None
        idr, trees = namespace.idr, self._trees
        entry = trees.load(trees.head(idr.idr_rt), pid - idr.idr_base.value_())
        return pid_task(Object(self._prog, "struct pid *", entry), 0) or None if entry else None

    @cached_property
    def _trees(self) -> XArrays:
        return XArrays.of(self._prog, "struct idr", "idr_rt")

    def _all_by_id(self) -> Iterator[Object | None]:
        """Yield every task that has an id; None where the table of ids is damaged."""
        if not self._kernel.target.has_member("struct pid_namespace", "idr"):
            yield from for_each_task(self._prog)
            return
        for entry in self._trees.entries(self._trees.head(self._prog["init_pid_ns"].idr.idr_rt)):
            try:
                task = entry and pid_task(Object(self._prog, "struct pid *", entry), 0)
                if entry is None or task:
                    yield task
            except FaultError:
                yield None

    def leaders(self) -> tuple[list[Object], list[str]]:
        """Return all thread group leaders, and sentences about what is lost.

        Walk their list from both ends, so that one lost task costs no other; then look among the ids for leaders that
        may still be missing.
        """
        found: dict[int, Object] = {}
        structs = self._kernel.structs("struct task_struct", "tasks.next", "tasks.prev")
        kind = self._prog.type("struct task_struct")
        at, pointer = offsetof(kind, "tasks"), self._prog.pointer_type(kind)
        head = int(self._prog["init_task"].address_of_().value_())
        lost = ""
        for direction in ("tasks.next", "tasks.prev"):
            try:
                address = structs.read(head)[direction] - at
                while address != head and len(found) <= _PID_MAX:
                    if address in found:
                        lost = "it is circular"
                        break
                    following = structs.read(address)[direction] - at
                    found[address] = Object(self._prog, pointer, address)
                    address = following
                else:
                    return list(found.values()), []
            except FaultError as error:
                lost = in_words(error)
        try:
            for task in self._all_by_id():
                with suppress(FaultError):  # it is that one that is lost
                    if task is not None and task.pid.value_() == task.tgid.value_():
                        found.setdefault(task.value_(), task)
        except FaultError as error:
            lost = in_words(error)
        return list(found.values()), [f"the list of processes is damaged; some may be missing: {lost}"]

    def _at(self, address: int, text: str) -> Object:
        """Return the task at an address from the user, after checks that it is a task."""
        what = "neither the id of a thread nor" if text.isdecimal() else "not"
        bad = BadTask(f"{text} is {what} the address of a task_struct", address=address, hint=_PS_HINT)
        if address % 8:
            raise bad
        task = Object(self._prog, "struct task_struct *", address)
        try:
            pid = task.pid.value_()
            state = int(task.exit_state.value_())
        except FaultError:
            raise bad from None
        if pid == 0 and is_kernel_thread(task) and comm(task).startswith(b"swapper"):
            return task
        if not 0 < pid <= _PID_MAX:
            raise bad
        try:
            if (found := self._lookup(pid)) is not None and found.value_() == address:
                return task
        except FaultError:
            if any(address == other.value_() for leader in self.leaders()[0] for other in self.threads(leader)[0]):
                return task
        # Removed from the process table for good, but not freed: some other structure holds it.
        if state & (_EXIT_DEAD | _EXIT_ZOMBIE) == state and state:
            raise NoUserMemory(f"process {pid} has exited: its memory is gone", pid=pid, address=address)
        raise bad

    def threads(self, task: Object) -> tuple[list[Object], list[str]]:
        """Return all threads of a task's group in the kernel's order, and sentences about what is lost."""
        found, warnings = self._group(task)
        pointer = self._prog.pointer_type(self._prog.type("struct task_struct"))
        return [Object(self._prog, pointer, thread.address) for thread in found], warnings

    def _group(self, task: Object, *members: str) -> tuple[list[Members], list[str]]:
        """Read members of all threads of a task's group; return them, and sentences about what is lost.

        The list is ``signal->thread_head`` (0c740d0afc3b, 3.14); the older list of the leader went in 6.7.
        """
        signal = task.signal.value_()
        head = task.signal.thread_head.address_of_().value_()
        structs = self._kernel.structs("struct task_struct", "signal", "thread_node.next", *members)
        at = offsetof(self._prog.type("struct task_struct"), "thread_node")
        threads: list[Members] = []
        seen: set[int] = set()
        node = task.signal.thread_head.next.value_()
        try:
            while node != head:
                if node in seen or len(seen) > _PID_MAX:
                    return threads, ["the list of threads is circular; threads may be missing"]
                seen.add(node)
                thread = structs.read(node - at)
                if thread["signal"] != signal:
                    return threads, [f"the list of threads ends early after {len(threads)}: it leads out of the list"]
                threads.append(thread)
                node = thread["thread_node.next"]
        except FaultError as error:
            return threads, [f"the list of threads ends early after {len(threads)}: {in_words(error)}"]
        return threads, []

    def dumped_threads(self, task: Object) -> tuple[list[Object], list[str]]:
        """Return the threads of a core, and sentences about what is lost.

        A core has the threads that still have the memory; the given thread is first if it still has it.

        :raises NoUserMemory: no thread has the memory any more.
        """
        group, warnings = self.threads(task)
        if warnings and all(thread.value_() != task.value_() for thread in group):
            group.append(task)  # this thread exists, even if the list breaks off before it
        alive = [thread for thread in group if thread.mm]
        if not alive:
            raise self._no_memory(task)
        if self._kernel.dumps_sharers and alive[0].mm.mm_users.counter.value_() > len(alive):
            alive += self._sharers(task, alive[0].mm.value_())
        first = next((thread for thread in alive if thread.value_() == task.value_()), alive[0])
        return [first, *(thread for thread in alive if thread.value_() != first.value_())], warnings

    def _sharers(self, task: Object, mm: int) -> Iterator[Object]:
        """Yield the threads of other processes that share the memory; before 5.16, a core has these threads."""
        group = task.tgid.value_()
        for leader in self.leaders()[0]:
            if leader.tgid.value_() != group and not is_kernel_thread(leader):
                yield from (other for other in self.threads(leader)[0] if other.mm.value_() == mm)

    def tgid(self, task: Object) -> int:
        """Return the id of the process that a task belongs to.

        :raises BrokenDump: it is no id of a process.
        """
        tgid = int(task.tgid.value_())
        if not 0 < tgid <= _PID_MAX:
            raise BrokenDump(
                f"task {task.value_():#x} says that it belongs to process {tgid}: its task_struct is damaged",
                address=task.value_(),
            )
        return tgid

    def _no_memory(self, task: Object) -> NoUserMemory:
        pid, name = task.tgid.value_(), comm(task).decode(errors="backslashreplace")
        if int(task.exit_state.value_()) & _EXIT_ZOMBIE:
            parent = task.real_parent.tgid.value_()
            return NoUserMemory(
                f"process {pid} ({name}) is a zombie: it has exited, its memory is gone; "
                f"its parent {parent} has not collected it",
                pid=pid,
            )
        return NoUserMemory(f"process {pid} ({name}) has exited: its memory is gone", pid=pid)

    # Ids

    def namespace(self, task: Object) -> Object:
        """Return the pid namespace whose ids a core of this task has (``task_active_pid_ns()``)."""
        pid = task.thread_pid if self._kernel.thread_pid == "thread_pid" else task.pids[0].pid
        return pid.numbers[pid.level].ns

    def credentials(self, task: Object) -> tuple[int, int]:
        """Return the real uid and gid in the task's own user namespace (``from_kuid_munged()``)."""
        cred = task.real_cred
        namespace = cred.user_ns
        return (
            self._munged(namespace.uid_map, int(cred.uid.val.value_()), "overflowuid"),
            self._munged(namespace.gid_map, int(cred.gid.val.value_()), "overflowgid"),
        )

    def _munged(self, mapping: Object, kid: int, overflow: str) -> int:
        count = min(int(mapping.nr_extents.value_()), _UID_GID_MAP_MAX_EXTENTS)
        extents = mapping.extent if count <= _UID_GID_MAP_MAX_BASE_EXTENTS else mapping.forward
        for number in range(count):
            extent = extents[number]
            lower = int(extent.lower_first.value_())
            if lower <= kid < lower + int(extent.count.value_()):
                return int(extent.first.value_()) + kid - lower
        value = self._kernel.read_u64(overflow)
        return OVERFLOW_ID if value is None else value & 0xFFFFFFFF

    # Times

    def times(self, task: Members) -> TaskTimes:
        """Return CPU times in ns; a leader's times are the group's: of all its threads, including exited ones.

        :param task: ``struct task_struct``
        """
        signal = self._kernel.structs("struct signal_struct", *_TIMES).read(task["signal"])
        utime, stime = task["utime"], task["stime"]
        if task.address == task["group_leader"]:
            leader = Object(self._prog, "struct task_struct *", task.address)
            group, _ = self._group(leader, "utime", "stime")
            utime = signal["utime"] + sum([thread["utime"] for thread in group])
            stime = signal["stime"] + sum([thread["stime"] for thread in group])
        return TaskTimes(utime, stime, signal["cutime"], signal["cstime"])


class Ids:
    """The ids of tasks in one pid namespace. The threads of a process share most of their ids."""

    def __init__(self, kernel: Kernel, namespace: Object) -> None:
        """Set up the ids of a namespace.

        :param namespace: ``struct pid_namespace *``
        """
        constant = kernel.target.constant
        pgid, sid = constant("PIDTYPE_PGID"), constant("PIDTYPE_SID")
        # 2c4704756cab "pids: Move the pgrp and session pid pointers from task_struct to signal_struct" (4.19)
        self._shared = kernel.target.has_member("struct signal_struct", "pids")
        if self._shared:
            self._pids = f"pids[{2 if pgid is None else pgid}]", f"pids[{3 if sid is None else sid}]"
            self._signals = kernel.structs("struct signal_struct", *self._pids)
        else:
            self._pids = f"pids[{1 if pgid is None else pgid}].pid", f"pids[{2 if sid is None else sid}].pid"
            self._signals = kernel.structs("struct task_struct", *self._pids)
        self._thread_pid = kernel.thread_pid
        self._parents = kernel.structs("struct task_struct", self._thread_pid)
        self._namespace = namespace
        self._structs = kernel.structs
        # The caches belong to this object and are freed with it
        self._parent: Callable[[int], int] = cache(
            lambda task: self._number(self._parents.read(task)[self._thread_pid])
        )
        self._group: Callable[[int], tuple[int, int]] = cache(self._read_group)

    def of(self, task: Members) -> TaskIds:
        """Return the four ids of a note, as ``task_pid_vnr()`` and related functions give them.

        :param task: ``struct task_struct``
        """
        pgrp, sid = self._group(task["signal" if self._shared else "group_leader"])
        return TaskIds(self._number(task[self._thread_pid]), self._parent(task["real_parent"]), pgrp, sid)

    def _read_group(self, holder: int) -> tuple[int, int]:
        pids = self._signals.read(holder)
        pgrp, sid = (self._number(pids[name]) for name in self._pids)
        return pgrp, sid

    def _number(self, pid: int) -> int:
        """Return the number of a ``struct pid`` in the namespace (``pid_nr_ns()``); 0 if it is not visible there."""
        if not pid:
            return 0
        level, nr, ns = self._upid
        # A struct pid ends after the number of its own level, and perhaps the dumped memory ends there, too.
        found = self._pid.read(pid)
        return int(found[nr]) if level <= found["level"] and found[ns] == self._inside else 0

    @cached_property
    def _upid(self) -> tuple[int, str, str]:
        """Return the namespace's level, and the members of ``struct pid`` for that level."""
        level = int(self._namespace.level.value_())
        return level, f"numbers[{level}].nr", f"numbers[{level}].ns"

    @cached_property
    def _pid(self) -> Structs:
        return self._structs("struct pid", "level", *self._upid[1:])

    @cached_property
    def _inside(self) -> int:
        return int(self._namespace.value_())
