# SPDX-License-Identifier: LGPL-2.1-or-later
"""What processes were dying of, on made-up tasks: layouts before and since 5.16, queues and stacks that are damaged."""

import struct
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.dying import Dying
from kgcore.sources.vmcore.task.dying import Deaths
from tests.vmcore.layouts.world import World, physical

TYPES = """
struct list_head { struct list_head *next, *prev; };
typedef struct { unsigned long sig[1]; } sigset_t;
struct sigpending { struct list_head list; sigset_t signal; };
struct kernel_siginfo { int si_signo, si_errno, si_code; int pad; u8 fields[32]; };
struct sigqueue { struct list_head list; int flags; struct kernel_siginfo info; };
struct sigaction { void *sa_handler; unsigned long sa_flags; };
struct k_sigaction { struct sigaction sa; };
struct sighand_struct { int count; struct k_sigaction action[64]; };
struct core_thread { struct task_struct *task; struct core_thread *next; };
struct core_state { int nr_threads; struct core_thread dumper; };
struct mm_struct { unsigned long flags; @MM@ };
struct signal_struct {
    struct sigpending shared_pending; int group_exit_code; struct task_struct *group_exec_task; unsigned int flags;
    @SIGNAL@
};
struct thread_struct { unsigned long cr2, trap_nr, error_code; };
struct task_struct {
    void *stack; int pid; unsigned int ptrace; struct mm_struct *mm; sigset_t blocked; struct sigpending pending;
    struct signal_struct *signal; struct sighand_struct *sighand; struct thread_struct thread;
};
struct coredump_params {
    struct kernel_siginfo *siginfo; void *file; unsigned long limit; unsigned long mm_flags; int cpu;
};
"""
MEMBER = "struct core_state *core_state;"
NEW = TYPES.replace("@SIGNAL@", MEMBER).replace("@MM@", "")
OLD = TYPES.replace("@MM@", MEMBER).replace("@SIGNAL@", "")
FLAGS = 0x33 << 2
GROUP_EXIT, GROUP_COREDUMP, UNKILLABLE = 4, 8, 0x40
KILL, SEGV, TERM, USR1, HUP, CHLD, BUS = 9, 11, 15, 10, 1, 17, 7


class Process(World):
    """Two threads, 4711 and 4712."""

    def __init__(self, types: str = NEW) -> None:
        super().__init__(types)
        self.mm = self.new("struct mm_struct", flags=FLAGS)
        self.sighand = self.new("struct sighand_struct")
        self.signal = self.new("struct signal_struct")
        self._empty("struct signal_struct", self.signal, "shared_pending")
        self.tasks = [self._task(pid) for pid in (4711, 4712)]

    def _task(self, pid: int) -> int:
        members = {"pid": pid, "mm": self.mm, "signal": self.signal, "sighand": self.sighand}
        task = self.new("struct task_struct", stack=self.allocate(16384), **members)
        self._empty("struct task_struct", task, "pending")
        return task

    def _empty(self, kind: str, address: int, member: str) -> None:
        head = address + self.offset(kind, f"{member}.list")
        self.link(head)

    def of_signal(self, **members: Any) -> None:
        self.set("struct signal_struct", self.signal, {name.replace("__", "."): v for name, v in members.items()})

    def of_task(self, number: int, **members: Any) -> None:
        values = {name.replace("__", "."): value for name, value in members.items()}
        self.set("struct task_struct", self.tasks[number], values)

    def dump(self, number: int, signal: int, member: str = "signal", *, info: bool = True) -> int:
        """A thread begins to write the core."""
        state = self.new("struct core_state", dumper__task=self.tasks[number])
        if member == "signal":
            self.of_signal(core_state=state, flags=GROUP_EXIT, group_exit_code=signal)
        else:
            self.set("struct mm_struct", self.mm, {"core_state": state})
            self.of_signal(flags=GROUP_COREDUMP, group_exit_code=signal)
        return self.params(number, signal) if info else state

    def params(self, number: int, signal: int, at: int = 0x1000, info: int = 0x3000, flags: int = FLAGS) -> int:
        """``struct coredump_params`` in a thread's stack, and what it points to."""
        stack = int(self.at("struct task_struct", self.tasks[number]).stack.value_())
        self.write(stack + info, struct.pack("<iiiiQ", signal, 0, 1, 0, 0xDEAD0))
        self.set("struct coredump_params", stack + at, {"siginfo": stack + info, "mm_flags": flags})
        return stack

    def queue(self, place: int, signal: int, code: int = 0, pid: int = 1) -> int:
        """Something that waits in a ``struct sigpending``."""
        entry = self.new("struct sigqueue", info__si_signo=signal, info__si_code=code)
        self.write(entry + self.offset("struct sigqueue", "info.fields"), struct.pack("<ii", pid, 1000))
        self.link(place, entry)
        return entry

    @property
    def shared(self) -> int:
        return self.signal + self.offset("struct signal_struct", "shared_pending.list")

    def own(self, number: int) -> int:
        return self.tasks[number] + self.offset("struct task_struct", "pending.list")

    def found(self, **options: Any) -> Dying | None:
        return Deaths(self.kernel).of(self.tasks, **options)


def bit(*signals: int) -> int:
    return sum(1 << signal - 1 for signal in signals)


@pytest.mark.parametrize(("types", "member"), [(NEW, "signal"), (OLD, "mm")])
class TestDumpingCore:
    def test_what_the_core_is_for(self, types: str, member: str) -> None:
        process = Process(types)
        process.dump(1, SEGV, member)
        process.of_task(1, thread__cr2=0xDEAD0, thread__trap_nr=14, thread__error_code=6)
        process.of_task(0, pending__signal=struct.pack("<Q", bit(KILL)))  # zap_process()
        found = process.found()
        assert found is not None
        assert (found.signal, found.stage, found.tid) == (SEGV, "dumping-core", 4712)
        assert found.info is not None
        assert (found.info.code, found.info.get("address")) == (1, 0xDEAD0)
        assert found.fault is not None
        assert (found.fault.trap, found.fault.error_code, found.fault.address) == (14, 6, 0xDEAD0)
        assert process.found(details=False) == Dying(SEGV, "dumping-core", 4712)

    @pytest.mark.parametrize("damage", ["none", "filter", "number", "two", "below", "outside"])
    def test_nothing_else_is_taken_for_it(self, types: str, member: str, damage: str) -> None:
        process = Process(types)
        process.dump(0, SEGV, member, info=False)
        if damage == "filter":
            process.params(0, SEGV, flags=FLAGS | 1 << 3)
            process.params(0, SEGV, flags=0x7F << 2)
        elif damage == "number":
            process.params(0, BUS)
        elif damage == "two":
            process.params(0, SEGV)
            process.params(0, SEGV, at=0x1100, info=0x3100)
        elif damage == "below":
            process.params(0, SEGV, at=0x3000, info=0x1000)
        elif damage == "outside":
            stack = process.params(0, SEGV)
            process.set("struct coredump_params", stack + 0x1000, {"siginfo": stack + 16384 - 8})
        found = process.found()
        assert found is not None
        assert (found.signal, found.info) == (SEGV, None)

    def test_the_stack_is_lost(self, types: str, member: str) -> None:
        process = Process(types)
        stack = process.dump(0, SEGV, member)
        process.lost = {physical(stack) >> 12}
        found = process.found()
        assert found is not None
        assert (found.signal, found.tid, found.info) == (SEGV, 4711, None)


class TestExiting:
    def test_of_a_signal(self) -> None:
        process = Process()
        process.of_signal(flags=GROUP_EXIT, group_exit_code=TERM)
        process.of_task(0, pending__signal=struct.pack("<Q", bit(KILL)))
        assert process.found() == Dying(TERM, "exiting")
        process.queue(process.shared, TERM, pid=7)
        found = process.found()
        assert found is not None
        assert found.info is not None
        assert found.info.get("pid") == 7

    def test_core_was_written(self) -> None:
        process = Process()
        process.of_signal(flags=GROUP_EXIT, group_exit_code=SEGV | 0x80)
        assert process.found() == Dying(SEGV, "exiting")

    def test_by_itself(self) -> None:
        """exit_group() sends SIGKILL to the other threads, too."""
        process = Process()
        process.of_signal(flags=GROUP_EXIT, group_exit_code=3 << 8)
        process.of_task(1, pending__signal=struct.pack("<Q", bit(KILL)))
        assert process.found() is None

    def test_stopped(self) -> None:
        """group_exit_code is the stopping signal's then."""
        process = Process()
        process.of_signal(flags=1, group_exit_code=19)
        assert process.found() is None


class TestPending:
    def pending(self, shared: int = 0, *own: int) -> Process:
        process = Process()
        process.of_signal(shared_pending__signal=struct.pack("<Q", shared))
        for number, bits in enumerate(own):
            process.of_task(number, pending__signal=struct.pack("<Q", bits))
        return process

    def test_of_the_process(self) -> None:
        process = self.pending(bit(CHLD, TERM))
        process.queue(process.shared, TERM, pid=7)
        found = process.found()
        assert found is not None
        assert (found.signal, found.stage, found.tid) == (TERM, "pending", None)
        assert found.info is not None
        assert found.info.get("pid") == 7
        process.of_task(0, blocked=struct.pack("<Q", bit(TERM)))
        assert process.found() is not None, "the other thread takes it"
        process.of_task(1, blocked=struct.pack("<Q", bit(TERM)))
        assert process.found() is None

    def test_of_a_thread_first(self) -> None:
        process = self.pending(bit(HUP), 0, bit(TERM, SEGV))
        process.queue(process.own(1), SEGV, code=1)
        found = process.found()
        assert found is not None
        assert (found.signal, found.tid) == (SEGV, 4712)
        assert found.info is not None
        assert found.info.code == 1
        process.of_task(1, blocked=struct.pack("<Q", bit(SEGV)))
        assert process.found(details=False) == Dying(TERM, "pending", 4712)

    @pytest.mark.parametrize("handler", [1, 0x401000])
    def test_ignored_or_caught(self, handler: int) -> None:
        process = self.pending(bit(TERM, USR1))
        process.set("struct sighand_struct", process.sighand, {f"action[{TERM - 1}].sa.sa_handler": handler})
        assert process.found(details=False) == Dying(USR1, "pending")
        process.set("struct sighand_struct", process.sighand, {f"action[{USR1 - 1}].sa.sa_handler": handler})
        assert process.found() is None

    def test_init_dies_of_none(self) -> None:
        process = self.pending(bit(TERM))
        process.of_signal(flags=UNKILLABLE)
        assert process.found() is None

    def test_a_tracer_has_a_say(self) -> None:
        process = self.pending(bit(TERM))
        process.of_task(0, ptrace=1)
        process.of_task(1, ptrace=1)
        assert process.found() is None
        process.of_signal(shared_pending__signal=struct.pack("<Q", bit(KILL)))
        assert process.found(details=False) == Dying(KILL, "pending")

    def test_threads_that_execve_kills(self) -> None:
        process = self.pending(0, 0, bit(KILL))
        process.of_signal(group_exec_task=process.tasks[0])
        assert process.found() is None

    @pytest.mark.parametrize("damage", ["circle", "lost", "null", "elsewhere"])
    def test_damaged_queue(self, damage: str) -> None:
        process = self.pending(bit(TERM))
        entry = process.queue(process.shared, HUP)
        if damage == "circle":
            process.write(entry, struct.pack("<Q", entry))
        elif damage == "lost":
            process.lost = {physical(entry) >> 12}
        else:
            process.write(entry, struct.pack("<Q", 0 if damage == "null" else 0x1234))
        found = process.found()
        assert found is not None
        assert found.signal == TERM
        assert found.info is not None
        assert (found.info.code, found.info.get("pid")) == (0, 0), "as the kernel says of what it has lost"
