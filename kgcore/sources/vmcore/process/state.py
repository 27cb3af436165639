# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what a process has of its kernel: a :class:`kgcore.model.state.ProcessState`."""

from collections.abc import Callable
from functools import cached_property, partial

from drgn import Object, offsetof

from kgcore.arch import ARCHES
from kgcore.model.process import VM_MAYSHARE, ProcessImage, Thread
from kgcore.model.siginfo import NSIG
from kgcore.model.state import (
    NO_LIMIT,
    Clocks,
    Descriptor,
    ProcessState,
    SharedMapping,
    SignalAction,
    ThreadState,
    gather,
)
from kgcore.sources.base import OpenFiles
from kgcore.sources.vmcore.damage import DAMAGE, broken
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import why_lost
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.process.descriptors import descriptors
from kgcore.sources.vmcore.task.clock import Clock
from kgcore.sources.vmcore.task.sigactions import actions
from kgcore.sources.vmcore.task.sigqueues import SigQueues
from kgcore.sources.vmcore.task.threadstate import ThreadStates
from kgcore.sources.vmcore.task.timers import Timers
from kgcore.sources.vmcore.task.vmas import Paths

__all__ = ("StateReader",)

_SIGNAL = "shared_pending.signal", "shared_pending.list", "oom_score_adj", "rlim"
_SA_IMMUTABLE = 0x800000  # include/linux/signal_types.h: for the kernel alone
_MMF_DUMPABLE = 3  # MMF_DUMPABLE_MASK, include/linux/mm_types.h
_MINOR_BITS = 20  # include/linux/kdev_t.h
_MAX_DESCRIPTORS = 1 << 16


class StateReader:
    """Reads one process.

    :param first: ``struct task_struct *`` of the first thread of the image.
    :param open_files: reads its open files.
    """

    def __init__(
        self, backing: Backing, image: ProcessImage, first: Object, open_files: Callable[[], OpenFiles]
    ) -> None:
        self._backing = backing
        self._kernel = backing.kernel
        self._image = image
        self._task = first
        self._open_files = open_files
        self._queues = SigQueues(self._kernel)
        self._clock = Clock(self._kernel)
        self._partly: dict[str, str] = {}

    def read(self) -> ProcessState:
        """Return all that is known."""
        values, unknown = gather(
            (
                ("actions", self._actions),
                ("pending", lambda: self._queues.pending(self._signal, "shared_pending")),
                ("itimer_real", partial(self._timer, Timers.real)),
                ("itimer_virtual", partial(self._timer, Timers.virtual)),
                ("itimer_prof", partial(self._timer, Timers.prof)),
                ("posix_timers", partial(self._timer, Timers.posix)),
                ("cwd", lambda: self._directory("pwd")),
                ("root", lambda: self._directory("root")),
                ("umask", lambda: int(self._task.fs.umask.value_())),
                ("limits", self._limits),
                ("oom_score_adj", lambda: int(self._signal["oom_score_adj"])),
                ("dumpable", self._dumpable),
                ("subreaper", lambda: bool(self._task.signal.is_child_subreaper.value_())),
                ("start_brk", lambda: self._image.start_brk),
                ("brk", lambda: self._image.brk),
                ("clocks", self._clocks),
                ("threads", self._threads),
                ("shared", self._shared),
                ("descriptors", self._descriptors),
            ),
            DAMAGE,
            _why,
        )
        return ProcessState(unknown={**unknown, **self._partly}, **values)

    @cached_property
    def _signal(self) -> Members:
        return self._kernel.structs("struct signal_struct", *_SIGNAL).read(self._task.signal.value_())

    def _timer(self, get: Callable[[Timers], object]) -> object:
        return get(self._timers)

    @cached_property
    def _timers(self) -> Timers:
        threads = [thread.task for thread in self._image.threads]
        return Timers(self._kernel, self._clock, self._task.signal.value_(), threads)

    def _clocks(self) -> Clocks:
        monotonic, boottime = self._clock.monotonic, self._clock.boottime
        if self._kernel.target.has_member("struct nsproxy", "time_ns"):  # CONFIG_TIME_NS
            offsets = self._task.nsproxy.time_ns.offsets
            monotonic += _nanoseconds(offsets.monotonic)
            boottime += _nanoseconds(offsets.boottime)
        return Clocks(monotonic=monotonic, boottime=boottime)

    def _threads(self) -> tuple[ThreadState, ...]:
        states = ThreadStates(self._kernel, self._queues)
        calls = self._kernel.architecture.system_calls[ARCHES[self._image.arch].greg_size]

        def suspended(thread: Thread) -> bool:
            number = thread.regs.values.get(calls.number, -1)
            return number & ~calls.ignored in calls.suspending

        return tuple(states.of(one.task, one.tid, suspended=suspended(one)) for one in self._image.threads)

    def _actions(self) -> tuple[SignalAction, ...]:
        kernel = self._kernel
        kind = kernel.prog.type("struct k_sigaction")
        handler, flags, restorer, mask = (
            int(offsetof(kind, f"sa.{name}")) for name in ("sa_handler", "sa_flags", "sa_restorer", "sa_mask")
        )
        return tuple(
            SignalAction(
                handler=kernel.word_at(row, handler),
                flags=kernel.word_at(row, flags) & ~_SA_IMMUTABLE,
                restorer=kernel.word_at(row, restorer),
                mask=int.from_bytes(row[mask : mask + NSIG // 8], "little"),
            )
            for row in actions(kernel, self._task.sighand.value_())
        )

    def _directory(self, name: str) -> bytes:
        """Return the path of a directory of ``task->fs``."""
        names = f"{name}.mnt", f"{name}.dentry"
        found = self._kernel.structs("struct fs_struct", *names).read(self._task.fs.value_())
        return Paths(self._kernel, None).directory(found[names[0]], found[names[1]])

    def _limits(self) -> tuple[tuple[int, int], ...]:
        raw, size = self._signal["rlim"], self._kernel.word_size
        words = [self._kernel.word_at(raw, at) for at in range(0, len(raw), size)]
        infinity = (1 << 8 * size) - 1
        words = [NO_LIMIT if word == infinity else word for word in words]
        return tuple(zip(words[::2], words[1::2], strict=True))

    def _dumpable(self) -> int:
        if self._kernel.target.has_type("struct task_exec_state"):
            # 6b1c66c9cca9 "exec_state: relocate dumpable information" (7.2)
            return int(self._task.exec_state.dumpable.value_())
        return self._kernel.mm_flags(self._task.mm) & _MMF_DUMPABLE

    def _shared(self) -> tuple[SharedMapping, ...]:
        structs = self._kernel.structs
        areas, files = structs("struct vm_area_struct", "vm_file"), structs("struct file", "f_inode")
        inodes, superblocks = structs("struct inode", "i_ino", "i_sb"), structs("struct super_block", "s_dev")
        found = []
        for vma in self._image.vmas:
            if vma.flags & VM_MAYSHARE and vma.file is not None and vma.struct:
                inode = inodes.read(files.read(areas.read(vma.struct)["vm_file"])["f_inode"])
                device = int(superblocks.read(inode["i_sb"])["s_dev"])
                numbers = device >> _MINOR_BITS, device & (1 << _MINOR_BITS) - 1
                found.append(SharedMapping(start=vma.start, end=vma.end, device=numbers, inode=int(inode["i_ino"])))
        return tuple(found)

    def _descriptors(self) -> tuple[Descriptor, ...]:
        files = self._open_files()
        lost = list(files.lost)
        if len(files.files) > _MAX_DESCRIPTORS:
            lost.append(f"only {_MAX_DESCRIPTORS} of {len(files.files)} descriptors are here")
        if lost:
            self._partly["descriptors"] = "; ".join(lost)
        return descriptors(self._backing, self._clock, files.files[:_MAX_DESCRIPTORS])


def _nanoseconds(time: Object) -> int:
    """Convert a ``struct timespec64``."""
    return int(time.tv_sec.value_()) * 1_000_000_000 + int(time.tv_nsec.value_())


def _why(name: str, error: Exception) -> str:
    """Say why a member is not known.

    :raises Exception: that is not the dump's fault.
    """
    found = broken(error, name)
    if found is None:
        raise error
    return why_lost(error)
