# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, threads, ids and credentials on made-up kernels, whole and damaged."""

import re
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import Object

from kgcore.errors import BadTask, BrokenDump, KernelThread, NoCurrentTask, NoSuchTask, NoUserMemory
from kgcore.model.process import TaskIds, TaskTimes
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.task.counters import Counters
from kgcore.sources.vmcore.task.tasks import Ids, Tasks
from tests.vmcore.layouts.world import World, physical

TYPES = """
enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX };
struct list_head { struct list_head *next, *prev; };
struct hlist_node { struct hlist_node *next, **pprev; };
struct hlist_head { struct hlist_node *first; };
struct xa_node {
    unsigned char shift, offset, count, nr_values;
    struct xa_node *parent; struct xarray *array; struct list_head private_list; void *slots[64];
};
struct xarray { int xa_lock; unsigned int xa_flags; void *xa_head; };
struct idr { struct xarray idr_rt; unsigned int idr_base; };
struct pid_namespace { struct idr idr; unsigned int level; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { int count; unsigned int level; struct hlist_head tasks[4]; struct upid numbers[1]; };
struct uid_gid_extent { u32 first, lower_first, count; };
struct uid_gid_map {
    union {
        struct { struct uid_gid_extent extent[5]; u32 nr_extents; };
        struct { struct uid_gid_extent *forward; struct uid_gid_extent *reverse; };
    };
};
struct user_namespace { struct uid_gid_map uid_map, gid_map; };
typedef struct { u32 val; } kuid_t;
struct cred { kuid_t uid, gid; struct user_namespace *user_ns; };
typedef struct { int counter; } atomic_t;
typedef struct { long counter; } atomic_long_t;
struct mm_rss_stat { atomic_long_t count[4]; };
struct mm_struct { atomic_t mm_users; unsigned long total_vm; struct mm_rss_stat rss_stat; };
struct signal_struct {
    struct list_head thread_head; struct pid *pids[4]; u64 utime, stime, cutime, cstime;
};
struct task_rss_stat { int events; int count[4]; };
struct task_struct {
    unsigned int flags; int exit_state; int pid, tgid; struct list_head tasks; struct mm_struct *mm;
    struct task_struct *real_parent, *group_leader; struct pid *thread_pid; struct hlist_node pid_links[4];
    struct list_head thread_node; u64 utime, stime; struct cred *real_cred; char comm[16];
    struct signal_struct *signal;
};
enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES };
struct cpumask { unsigned long bits[1]; };
"""
OLD = TYPES.replace("struct mm_struct {", "struct mm_struct { struct core_state *core_state;")
PF_KTHREAD, EXIT_DEAD, EXIT_ZOMBIE = 0x00200000, 0x10, 0x20  # include/linux/sched.h


class Processes(World):
    """Processes 1 and 10 to 12, each with some threads, all in the initial namespaces."""

    def __init__(self, types: str = TYPES) -> None:
        super().__init__(types)
        self.namespace = self.variable("init_pid_ns", "struct pid_namespace")
        self.tasks: dict[int, int] = {}
        self.leaders: list[int] = []
        self.init_task = self.variable("init_task", "struct task_struct", comm=b"swapper/0", flags=PF_KTHREAD)
        for pid in (1, 10, 11, 12):
            self.process(pid, b"process")
        self.finish()

    def process(self, pid: int, comm: bytes, threads: int = 1, **members: Any) -> int:
        mm = members.pop("mm", None)
        if mm is None:
            mm = self.new("struct mm_struct", mm_users__counter=threads)
        signal = self.new("struct signal_struct")
        leader = 0
        nodes = []
        for number in range(threads):
            tid = pid + 100 * number
            known = {"pid": tid, "tgid": pid, "comm": comm, "signal": signal, "mm": mm}
            task = self.new("struct task_struct", **known | members)
            leader = leader or task
            self.set("struct task_struct", task, {"group_leader": leader, "thread_pid": self.pid(task, tid)})
            self.set("struct task_struct", task, {"real_parent": self.tasks.get(1, self.init_task)})
            nodes.append(self.field(task, "thread_node"))
            self.tasks[tid] = task
        self.link(signal, *nodes)
        own = self.at("struct task_struct", leader).thread_pid.value_()
        self.set("struct signal_struct", signal, {"pids[1]": own, "pids[2]": own, "pids[3]": own})
        self.leaders.append(leader)
        return leader

    def pid(self, task: int, number: int) -> int:
        """A ``struct pid`` that leads to a task."""
        node = self.field(task, "pid_links[0]")
        pid = self.new("struct pid")
        self.set(
            "struct pid",
            pid,
            {"tasks[0].first": node, "numbers[0].nr": number, "numbers[0].ns": self.namespace},
        )
        return pid

    def finish(self, base: int = 0) -> None:
        """Tie all into the list of processes and into the table of ids.

        :param base: ``idr_base``
        """
        self.link(self.field(self.init_task, "tasks"), *(self.field(leader, "tasks") for leader in self.leaders))
        lower = {
            number: self.new("struct xa_node", offset=number) for number in {pid - base >> 6 for pid in self.tasks}
        }
        top = self.new("struct xa_node", shift=6)
        for number, node in lower.items():
            self.set("struct xa_node", node, {"parent": top})
            self.set("struct xa_node", top, {f"slots[{number}]": node + 2})
        for pid, task in self.tasks.items():
            entry = self.at("struct task_struct", task).thread_pid.value_()
            self.set("struct xa_node", lower[pid - base >> 6], {f"slots[{pid - base & 63}]": entry})
        self.nodes = {"top": top} | {str(number): node for number, node in lower.items()}
        self.set("struct pid_namespace", self.namespace, {"idr.idr_rt.xa_head": top + 2, "idr.idr_base": base})

    def field(self, task: int, path: str) -> int:
        return task + self.offset("struct task_struct", path)

    def change(self, pid: int, **members: Any) -> None:
        names = {name.replace("__", "."): value for name, value in members.items()}
        self.set("struct task_struct", self.tasks[pid], names)

    def lose(self, address: int) -> None:
        self.lost.add(physical(address) >> 12)

    def object(self, pid: int) -> Object:
        return self.pointer("struct task_struct", self.tasks[pid])

    def ids(self, pid: int, namespace: Object) -> TaskIds:
        return Ids(self.kernel, namespace).of(self.kernel.task(self.object(pid)))

    @property
    def it(self) -> Tasks:
        return Tasks(self.kernel)

    def found(self, text: str) -> int:
        return int(self.it.find(TaskRef.parse(text)).pid.value_())

    def pids(self) -> list[int]:
        return sorted(task.pid.value_() for task in self.it.leaders()[0])


@pytest.fixture
def world() -> Processes:
    return Processes()


class TestFind:
    def test_by_pid_and_address(self, world: Processes) -> None:
        assert world.found("11") == 11
        assert world.found(f"{world.tasks[12]:x}") == 12
        assert world.found(f"{world.tasks[12]:#X}") == 12
        assert world.found(str(world.tasks[12])) == 12, "a decimal address"

    @pytest.mark.parametrize("text", ["13", "63", "64", "4095", "4096", "4194304"])
    def test_no_such(self, world: Processes, text: str) -> None:
        with pytest.raises(NoSuchTask, match=f"no thread has the id {text}"):
            world.found(text)

    def test_threads_have_ids_too(self, world: Processes) -> None:
        world.process(20, b"many", threads=3)
        world.finish()
        assert world.found("220") == 220

    def test_base_of_the_table(self, world: Processes) -> None:
        """idr_find(): ``id - idr->idr_base``"""
        world.finish(base=1)
        world.lose(world.init_task)  # so that no list helps
        assert world.found("11") == 11

    def test_kernel_thread(self, world: Processes) -> None:
        world.process(2, b"kthreadd", flags=PF_KTHREAD, mm=0)
        world.finish()
        with pytest.raises(KernelThread, match="2 is the kernel thread kthreadd: it has no user memory"):
            world.found("2")

    def test_kernel_thread_that_borrowed_memory(self, world: Processes) -> None:
        """kthread_use_mm() sets ``mm``."""
        world.change(12, flags=PF_KTHREAD, comm=b"vhost\xff")
        with pytest.raises(KernelThread, match=r"the kernel thread vhost\\xff"):
            world.found("12")

    def test_idle_task(self, world: Processes) -> None:
        with pytest.raises(KernelThread, match="swapper/0"):
            world.found(hex(world.init_task))

    @pytest.mark.parametrize("offset", [4, 8, 1 << 30])
    def test_not_a_task(self, world: Processes, offset: int) -> None:
        with pytest.raises(BadTask):
            world.found(hex(world.tasks[11] + offset))

    def test_task_that_the_table_does_not_know(self, world: Processes) -> None:
        """Memory that merely looks like a task."""
        copy = world.new("struct task_struct", pid=11, comm=b"fake")
        with pytest.raises(BadTask):
            world.found(hex(copy))

    @pytest.mark.parametrize("state", [EXIT_DEAD, EXIT_ZOMBIE, EXIT_DEAD | EXIT_ZOMBIE])
    def test_exited(self, world: Processes, state: int) -> None:
        """Out of the table, and not freed yet: release_task() was done (kernel/exit.c)."""
        gone = world.new("struct task_struct", pid=77, exit_state=state)
        with pytest.raises(NoUserMemory, match="process 77 has exited: its memory is gone"):
            world.found(hex(gone))

    def test_no_current_task(self, world: Processes) -> None:
        with pytest.raises(NoCurrentTask, match="the dump does not say"):
            world.it.find(TaskRef.current())

    def test_lost_task(self, world: Processes) -> None:
        world.lose(world.tasks[11])
        with pytest.raises((BrokenDump, BadTask)):
            world.found(hex(world.tasks[11]))
        with pytest.raises(BrokenDump):
            world.found("11")

    @pytest.mark.parametrize("node", ["top", "0"])
    @pytest.mark.parametrize("damage", ["lost", "itself", "shift", "parent", "offset"])
    def test_damaged_table(self, world: Processes, node: str, damage: str) -> None:
        """The list of processes finds it all the same; and no tree is endless."""
        address = world.nodes[node]
        if damage == "lost":
            world.lose(address)
        elif damage == "itself":
            world.set("struct xa_node", address, {"slots[0]": address + 2})
        else:
            value = world.at("struct xa_node", address, damage).value_()
            world.set("struct xa_node", address, {damage: value + (6 if damage == "shift" else 1)})
        assert world.found("11") == 11
        assert world.pids() == [1, 10, 11, 12]


class TestLeaders:
    def test_all(self, world: Processes) -> None:
        assert world.pids() == [1, 10, 11, 12]
        assert world.it.leaders()[1] == []

    def test_one_lost(self, world: Processes) -> None:
        """From the other side all but that one are found."""
        world.lose(world.tasks[10])
        assert world.pids() == [1, 11, 12]
        (warning,) = world.it.leaders()[1]
        assert "the list of processes is damaged" in warning

    def test_two_lost(self, world: Processes) -> None:
        """What lies between them the table of ids knows."""
        world.lose(world.tasks[10])
        world.lose(world.tasks[12])
        assert world.pids() == [1, 11]

    @pytest.mark.parametrize("direction", ["next", "prev"])
    @pytest.mark.parametrize("to", [1, 10, 11])
    def test_circle(self, world: Processes, direction: str, to: int) -> None:
        world.change(11, **{f"tasks__{direction}": world.field(world.tasks[to], "tasks")})
        assert world.pids() == [1, 10, 11, 12]
        if direction == "next":
            assert "is circular" in world.it.leaders()[1][0]

    def test_wild_pointer(self, world: Processes) -> None:
        world.change(10, tasks__next=0x1234567890)
        assert world.pids() == [1, 10, 11, 12]
        assert world.it.leaders()[1]

    def test_table_lost_too(self, world: Processes) -> None:
        world.lose(world.tasks[10])
        world.lose(world.tasks[12])
        world.lose(world.nodes["0"])
        assert world.pids() == [1]
        assert world.it.leaders()[1]


class TestThreads:
    @pytest.fixture
    def world(self) -> Processes:
        world = Processes()
        world.process(20, b"many", threads=4)
        world.process(21, b"other", threads=2)
        world.finish()
        return world

    def tids(self, world: Processes, pid: int = 20) -> list[int]:
        return [task.pid.value_() for task in world.it.threads(world.object(pid))[0]]

    def test_kernels_order(self, world: Processes) -> None:
        assert self.tids(world) == self.tids(world, 320) == [20, 120, 220, 320]
        assert world.it.threads(world.object(20))[1] == []

    def test_endless(self, world: Processes) -> None:
        world.change(320, thread_node__next=world.field(world.tasks[120], "thread_node"))
        assert self.tids(world) == [20, 120, 220, 320]
        assert "is circular" in world.it.threads(world.object(20))[1][0]

    def test_itself(self, world: Processes) -> None:
        world.change(120, thread_node__next=world.field(world.tasks[120], "thread_node"))
        assert self.tids(world) == [20, 120]
        assert world.it.threads(world.object(20))[1]

    def test_breaks_off(self, world: Processes) -> None:
        world.lose(world.tasks[220])
        assert self.tids(world) == [20, 120]
        assert "ends early after 2" in world.it.threads(world.object(20))[1][0]

    def test_leads_into_another_process(self, world: Processes) -> None:
        world.change(120, thread_node__next=world.field(world.tasks[121], "thread_node"))
        assert self.tids(world) == [20, 120]
        assert "ends early after 2: it leads out of the list" in world.it.threads(world.object(20))[1][0]

    def dumped(self, world: Processes, pid: int) -> list[int]:
        return [task.pid.value_() for task in world.it.dumped_threads(world.object(pid))[0]]

    def test_the_named_one_first(self, world: Processes) -> None:
        assert self.dumped(world, 20) == [20, 120, 220, 320]
        assert self.dumped(world, 220) == [220, 20, 120, 320]

    def test_named_one_behind_the_break(self, world: Processes) -> None:
        world.lose(world.tasks[120])
        assert self.dumped(world, 220) == [220, 20]

    def test_exited_threads_have_no_part(self, world: Processes) -> None:
        world.change(20, mm=0, exit_state=EXIT_ZOMBIE)
        world.change(220, mm=0)
        assert self.dumped(world, 20) == [120, 320]

    def test_zombie(self, world: Processes) -> None:
        for tid in (20, 120, 220, 320):
            world.change(tid, mm=0)
        world.change(20, exit_state=EXIT_ZOMBIE, real_parent=world.tasks[12])
        message = r"process 20 \(many\) is a zombie: .* its parent 12 has not collected it"
        with pytest.raises(NoUserMemory, match=message):
            world.it.dumped_threads(world.object(20))

    def test_exiting(self, world: Processes) -> None:
        for tid in (20, 120, 220, 320):
            world.change(tid, mm=0)
        with pytest.raises(NoUserMemory, match=r"process 20 \(many\) has exited: its memory is gone"):
            world.it.dumped_threads(world.object(20))

    @pytest.mark.parametrize(("types", "shared"), [(TYPES, []), (OLD, [30, 130])])
    def test_sharers(self, types: str, shared: list[int]) -> None:
        """zap_threads() of 5.15 and before takes in whoever has the mm; kernel threads it passes by (fs/coredump.c)."""
        world = Processes(types)
        mm = world.new("struct mm_struct", mm_users__counter=4)
        world.process(20, b"parent", mm=mm)
        world.process(30, b"child", threads=2, mm=mm)
        world.process(40, b"worker", mm=mm, flags=PF_KTHREAD)
        world.process(41, b"other")
        world.finish()
        assert self.dumped(world, 20) == [20, *shared]


class TestIds:
    def test_initial_namespace(self, world: Processes) -> None:
        assert world.ids(11, world.it.namespace(world.object(11))) == TaskIds(11, 1, 11, 11)

    def test_namespaces(self) -> None:
        """``pid_nr_ns()``, kernel/pid.c: a number at each level, 0 for who is not in that namespace."""
        world = Processes(TYPES.replace("numbers[1]", "numbers[3]"))
        middle = world.new("struct pid_namespace", level=1)
        inner = world.new("struct pid_namespace", level=2)
        other = world.new("struct pid_namespace", level=2)
        levels = {10: (10, 5, 1), 11: (11, 6, 2), 12: (12, 7)}
        for pid, numbers in levels.items():
            members: dict[str, int] = {"level": len(numbers) - 1}
            for level, (number, namespace) in enumerate(zip(numbers, (world.namespace, middle, inner), strict=False)):
                members |= {f"numbers[{level}].nr": number, f"numbers[{level}].ns": namespace}
            world.set("struct pid", world.object(pid).thread_pid.value_(), members)
        # Behind the numbers of a pid lies something else.
        world.set("struct pid", world.object(12).thread_pid.value_(), {"numbers[2].nr": 99, "numbers[2].ns": inner})
        world.change(11, real_parent=world.tasks[10])
        world.set(
            "struct signal_struct", world.object(11).signal.value_(), {"pids[3]": world.object(12).thread_pid.value_()}
        )
        tasks, task = world.it, world.object(11)
        assert tasks.namespace(task).value_() == inner
        assert world.ids(11, tasks.namespace(task)) == TaskIds(2, 1, 2, 0), "the session is of the level above"
        assert world.ids(11, world.pointer("struct pid_namespace", middle)) == TaskIds(6, 5, 6, 7)
        assert world.ids(11, world.pointer("struct pid_namespace", world.namespace)) == TaskIds(11, 10, 11, 12)
        assert world.ids(11, world.pointer("struct pid_namespace", other)) == TaskIds(0, 0, 0, 0)
        assert world.ids(1, tasks.namespace(task)) == TaskIds(0, 0, 0, 0)

    def test_no_group_and_session(self, world: Processes) -> None:
        world.set("struct signal_struct", world.object(11).signal.value_(), {"pids[2]": 0, "pids[3]": 0})
        assert world.ids(11, world.it.namespace(world.object(11))) == TaskIds(11, 1, 0, 0)


class TestCredentials:
    """``from_kuid_munged()``: map_id_up(), kernel/user_namespace.c."""

    def credentials(
        self, uid: int, extents: list[tuple[int, int, int]], overflow: int | None = None
    ) -> tuple[int, int]:
        world = Processes()
        namespace = world.new("struct user_namespace")
        if len(extents) <= 5:
            for number, extent in enumerate(extents):
                self.extent(world, namespace + 16 * 0, f"uid_map.extent[{number}]", extent)
        else:
            size = 12
            forward = world.allocate(size * len(extents))
            for number, (first, lower, count) in enumerate(extents):
                where = {"first": first, "lower_first": lower, "count": count}
                world.set("struct uid_gid_extent", forward + size * number, where)
            world.set("struct user_namespace", namespace, {"uid_map.forward": forward})
        world.set("struct user_namespace", namespace, {"uid_map.nr_extents": len(extents)})
        self.extent(world, namespace, "gid_map.extent[0]", (7, 1000, 10))
        world.set("struct user_namespace", namespace, {"gid_map.nr_extents": 1})
        cred = world.new("struct cred", uid__val=uid, gid__val=1003, user_ns=namespace)
        world.change(11, real_cred=cred)
        if overflow is not None:
            world.word("overflowuid", 0x1234_0000_0000 | overflow)  # an int
        return world.it.credentials(world.object(11))

    @staticmethod
    def extent(world: World, namespace: int, path: str, extent: tuple[int, int, int]) -> None:
        first, lower, count = extent
        members = {f"{path}.first": first, f"{path}.lower_first": lower, f"{path}.count": count}
        world.set("struct user_namespace", namespace, members)

    def test_identity(self) -> None:
        assert self.credentials(1234, [(0, 0, 0xFFFFFFFF)]) == (1234, 10)

    @pytest.mark.parametrize(
        ("uid", "expected"), [(1000, 0), (1001, 65534), (100000, 1), (165534, 65535), (165535, 65534), (999, 65534)]
    )
    def test_container(self, uid: int, expected: int) -> None:
        assert self.credentials(uid, [(0, 1000, 1), (1, 100000, 65535)])[0] == expected

    def test_overflow_id_is_a_sysctl(self) -> None:
        assert self.credentials(1, [(0, 1000, 1)], overflow=60001)[0] == 60001

    @pytest.mark.parametrize("count", [5, 6, 340])
    def test_many_extents(self, count: int) -> None:
        """More than UID_GID_MAP_MAX_BASE_EXTENTS lie in an array of their own (include/linux/user_namespace.h)."""
        extents = [(10 * number, 1000 * number, 10) for number in range(count)]
        assert self.credentials(1000 * (count - 1) + 9, extents)[0] == 10 * (count - 1) + 9
        assert self.credentials(1000 * (count - 1) + 10, extents)[0] == 65534

    def test_lying_count(self) -> None:
        world = Processes()
        forward = world.allocate(4096 * 4)
        namespace = world.new("struct user_namespace", uid_map__forward=forward)
        world.set("struct user_namespace", namespace, {"uid_map.nr_extents": 0xFFFFFFFF})
        world.change(11, real_cred=world.new("struct cred", uid__val=5, user_ns=namespace))
        assert world.it.credentials(world.object(11)) == (65534, 65534)


class TestTimes:
    def test_leader_speaks_for_the_group(self) -> None:
        """thread_group_cputime(): kernel/sched/cputime.c; fill_prstatus() uses it for the leader (fs/binfmt_elf.c)."""
        world = Processes()
        world.process(20, b"many", threads=3)
        world.finish()
        members = {"utime": 1000, "stime": 2000, "cutime": 30, "cstime": 40}
        world.set("struct signal_struct", world.object(20).signal.value_(), members)
        for number, tid in enumerate((20, 120, 220)):
            world.change(tid, utime=10**number, stime=3 * 10**number)
        assert world.it.times(world.kernel.task(world.object(20))) == TaskTimes(1111, 2333, 30, 40)
        assert world.it.times(world.kernel.task(world.object(120))) == TaskTimes(10, 30, 30, 40)


class TestRss:
    """``get_mm_rss()``, include/linux/mm.h: file, anonymous and shmem pages, without swap entries."""

    COUNTS = (1, 20, 300, 4000)

    def world(self, types: str) -> Processes:
        world = Processes(types)
        world.variable("__cpu_possible_mask", "struct cpumask", bits=[3])
        return world

    def rss(self, world: Processes, pid: int, threads: int = 1) -> int:
        task = world.object(pid)
        return Counters(world.kernel, world.it).usage(task.value_(), task.mm.value_(), threads).rss

    def test_plain_counters(self) -> None:
        world = self.world(TYPES)
        mm = world.object(11).mm.value_()
        world.set("struct mm_struct", mm, {f"rss_stat.count[{n}].counter": c for n, c in enumerate(self.COUNTS)})
        assert self.rss(world, 11) == 4021 * 4096

    def test_counters_of_threads(self) -> None:
        """SPLIT_RSS_COUNTING (before 6.2): what a thread counted and has not handed in."""
        world = self.world(TYPES.replace("char comm[16];", "char comm[16]; struct task_rss_stat rss_stat;"))
        world.process(20, b"many", threads=2)
        world.finish()
        mm = world.object(20).mm.value_()
        world.set("struct mm_struct", mm, {f"rss_stat.count[{n}].counter": c for n, c in enumerate(self.COUNTS)})
        world.change(20, **{"rss_stat__count[1]": -5, "rss_stat__count[2]": 7})
        world.change(120, **{"rss_stat__count[3]": 2})
        assert self.rss(world, 20, 2) == (4021 - 5 + 2) * 4096

    def test_percpu_counters(self) -> None:
        types = TYPES.replace(
            "struct mm_struct { atomic_t mm_users; unsigned long total_vm; struct mm_rss_stat rss_stat; };",
            "struct percpu_counter { s64 count; int *counters; };"
            "struct mm_struct { atomic_t mm_users; unsigned long total_vm; struct percpu_counter rss_stat[4]; };",
        )
        world = self.world(types)
        world.place("__per_cpu_offset", world.prog.array_type(world.types["unsigned long"], 2), world.allocate(16))
        mm = world.object(11).mm.value_()
        for number, count in enumerate(self.COUNTS):
            counters = world.data((-number & 0xFFFFFFFF).to_bytes(4, "little"))
            world.set(
                "struct mm_struct", mm, {f"rss_stat[{number}].count": count, f"rss_stat[{number}].counters": counters}
            )
        # Both CPUs' parts are the same memory here.
        assert self.rss(world, 11) == (4021 - 2 * (0 + 1 + 3)) * 4096

    def test_percpu_counters_without_smp(self) -> None:
        """``struct percpu_counter`` is the count alone (include/linux/percpu_counter.h)."""
        types = TYPES.replace(
            "struct mm_struct { atomic_t mm_users; unsigned long total_vm; struct mm_rss_stat rss_stat; };",
            "struct percpu_counter { s64 count; };"
            "struct mm_struct { atomic_t mm_users; unsigned long total_vm; struct percpu_counter rss_stat[4]; };",
        )
        world = self.world(types)
        mm = world.object(11).mm.value_()
        for number, count in enumerate(self.COUNTS):
            world.set("struct mm_struct", mm, {f"rss_stat[{number}].count": count})
        assert self.rss(world, 11) == 4021 * 4096


def test_messages_hold_no_raw_bytes(world: Processes) -> None:
    world.change(11, comm=b"\x1b[31m\xff", flags=PF_KTHREAD)
    with pytest.raises(KernelThread) as caught:
        world.found("11")
    assert re.search(r"\\xff", caught.value.message)
