# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of a vmcore (or of a live kernel) as :class:`kgcore.sources.base.Source` offers them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

from drgn import FaultError, Object

from kgcore.arch import ARCHES, Arch
from kgcore.errors import BrokenDump
from kgcore.model.dying import Dying
from kgcore.model.layouts import Layout
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory, Provenance, peek
from kgcore.model.process import (
    OpenFile,
    ProcessImage,
    PsInfo,
    RegisterSet,
    TaskIds,
    TaskTimes,
    Thread,
    Vma,
)
from kgcore.model.state import ProcessState
from kgcore.model.summary import ProcessSummary
from kgcore.model.traces import KernelStack
from kgcore.sources.base import (
    NO_USER_FILES,
    Contents,
    FileContents,
    HasKernelStacks,
    HasMappedFiles,
    HasOpenFiles,
    HasState,
    KnowsCrash,
    KnowsLayouts,
    OpenFiles,
    Process,
    Source,
    TaskRef,
    UserFiles,
)
from kgcore.sources.vmcore.damage import DAMAGE, broken, guarded, guarding_each
from kgcore.sources.vmcore.dumpfile.levels import why_left_out
from kgcore.sources.vmcore.kernel.dumplayouts import layouts_of
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import crashed_thread, in_words
from kgcore.sources.vmcore.memory.backing import Backing
from kgcore.sources.vmcore.memory.doubts import Doubts
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.process.files import mapped_programs
from kgcore.sources.vmcore.process.openfiles import file_contents, open_files
from kgcore.sources.vmcore.process.state import StateReader
from kgcore.sources.vmcore.process.summaries import Summaries
from kgcore.sources.vmcore.task import registers, vmas
from kgcore.sources.vmcore.task.cpus import Cpus
from kgcore.sources.vmcore.task.dying import Deaths
from kgcore.sources.vmcore.task.kernelstack import KernelStacks
from kgcore.sources.vmcore.task.tasks import OVERFLOW_ID, Ids, Tasks

__all__ = ("VmcoreProcess", "VmcoreSource")

_PSARGS = 79  # ELF_PRARGSZ - 1, include/uapi/linux/elfcore.h
_AT_NULL = 0
_AT_PHDR = 3
_MAX_AUXV = 256

_T = TypeVar("_T")


class _Machine:
    """State that all processes of a dump share."""

    def __init__(self, target: Target, user_files: UserFiles) -> None:
        self.target = target
        self.kernel = Kernel(target)
        self.backing = Backing(self.kernel, user_files)
        self.tasks = Tasks(self.kernel)

    @cached_property
    def cpus(self) -> Cpus:
        return Cpus(self.kernel)

    @cached_property
    def kernel_stacks(self) -> KernelStacks:
        return KernelStacks(self.kernel, self.cpus)


class VmcoreSource(Source, KnowsCrash, KnowsLayouts):
    """The processes of one opened dump."""

    @guarded("the kernel in the dump is not supported or damaged")
    def __init__(self, target: Target, user_files: UserFiles = NO_USER_FILES) -> None:
        self._machine = _Machine(target, user_files)

    def describe(self) -> dict[str, str]:
        """See :meth:`kgcore.sources.base.Source.describe`."""
        return self._machine.target.describe()

    @guarding_each("the list of processes ends early")
    def processes(self) -> Iterator[ProcessSummary]:
        """See :meth:`kgcore.sources.base.Source.processes`."""
        yield from Summaries(self._machine.backing, self._machine.tasks).all()

    def process(self, ref: TaskRef | int | str) -> "VmcoreProcess":
        """See :meth:`kgcore.sources.base.Source.process`.

        :raises BrokenDump: a structure on the way to the task is damaged or not in the dump.
        """
        return self._process(TaskRef.of(ref))  # an invalid pid is not damage of the dump

    @guarded("cannot read the process")
    def _process(self, ref: TaskRef) -> "VmcoreProcess":
        return VmcoreProcess(self._machine, ref, self._machine.tasks.find(ref))

    def crashed(self) -> int | None:
        """See :meth:`kgcore.sources.base.KnowsCrash.crashed`."""
        try:
            return int(crashed_thread(self._machine.kernel.prog).tid)
        except DAMAGE:
            return None

    @guarded("cannot compare the kernel with what kgcore needs")
    def layouts(self) -> tuple[Layout, ...]:
        """See :meth:`kgcore.sources.base.KnowsLayouts.layouts`."""
        return layouts_of(self._machine.target)


class VmcoreProcess(Process, HasMappedFiles, HasOpenFiles, HasKernelStacks, HasState):
    """A process of a dump, readable as long as the dump is open. It needs no closing.

    :param ref: how the caller named the process.
    :param task: ``struct task_struct *`` of the thread that ``ref`` names.
    """

    def __init__(self, machine: _Machine, ref: TaskRef, task: Object) -> None:
        self._machine = machine
        self._backing = machine.backing
        self._ref = ref
        self._task = task

    @property
    def image(self) -> ProcessImage:
        """See :attr:`kgcore.sources.base.Process.image`."""
        return self._read[0]

    @cached_property
    @guarded("cannot read the process")
    def _read(self) -> tuple[ProcessImage, Object]:
        """Return the image, and the task of its first thread, which is sure to have the address space."""
        machine = self._machine
        try:
            # A pid names the whole process: the thread that a signal hit comes first.
            whole = self._ref.pid is not None
            return _Reader(machine.backing, machine.tasks, machine.cpus, self._task).read(whole=whole)
        except FaultError as error:
            raise self._broken("its kernel structures are", error) from error

    def _broken(self, what: str, error: FaultError) -> BrokenDump:
        message = f"{self._ref.text}: {what} not in the dump: {in_words(error)}"
        return BrokenDump(message, address=self._task.value_())

    @cached_property
    @guarded("cannot read the address space")
    def memory(self) -> Memory:
        """See :attr:`kgcore.sources.base.Process.memory`."""
        image, first = self._read
        try:
            return VmcoreMemory(self._backing, first.mm.read_(), first)
        except FaultError as error:
            raise BrokenDump(f"process {image.tgid}: its page tables are not in the dump: {in_words(error)}") from error

    @guarding_each("cannot compare the mapped files")
    def remarks(self, missing: frozenset[Provenance] = frozenset()) -> Iterator[str]:
        """See :meth:`kgcore.sources.base.Process.remarks`."""
        image, first = self._read
        try:
            sentence = Doubts(self._machine.kernel, first.mm.read_()).sentence
        except FaultError:
            sentence = ""  # without its address space there is no core
        if sentence:
            yield sentence
        yield from self._backing.images.remarks
        if self._backing.root is not None:
            yield from self._backing.root.remarks(vma.file for vma in image.vmas if vma.file is not None)
        if Provenance.EXCLUDED in missing and (why := why_left_out(self._machine.target.describe())):
            yield why

    @guarding_each("cannot read the mapped files")
    def files(self) -> Iterator[FileContents | Lost]:
        """See :meth:`kgcore.sources.base.HasMappedFiles.files`."""
        _, first = self._read
        try:
            yield from mapped_programs(self._backing, first, first.mm.read_())
        except FaultError as error:
            yield Lost(f"the mapped files are not in the dump: {in_words(error)}")

    @guarded("cannot read the open files")
    def open_files(self) -> OpenFiles:
        """See :meth:`kgcore.sources.base.HasOpenFiles.open_files`. Needs no image."""
        task = self._task
        try:
            # The thread may have exited though its process lives.
            return open_files(self._backing, task if task.files else self._machine.tasks.dumped_threads(task)[0][0])
        except FaultError as error:
            raise self._broken("its table of open files is", error) from error

    @guarded("cannot read the contents of the file")
    def contents(self, file: OpenFile) -> Contents:
        """See :meth:`kgcore.sources.base.HasOpenFiles.contents`."""
        return file_contents(self._backing, file)

    @guarded("cannot read the state of the process")
    def state(self) -> ProcessState:
        """See :meth:`kgcore.sources.base.HasState.state`."""
        image, first = self._read
        return StateReader(self._backing, image, first, self.open_files).read()

    @guarded("cannot read the kernel stack")
    def kernel_stack(self, thread: Thread) -> KernelStack:
        """See :meth:`kgcore.sources.base.HasKernelStacks.kernel_stack`."""
        machine = self._machine
        return machine.kernel_stacks.of(Object(machine.kernel.prog, "struct task_struct *", thread.task), thread.tid)


class _Reader:
    """Reader of one process into a :class:`ProcessImage`; collects warnings on the way."""

    def __init__(self, backing: Backing, tasks: Tasks, cpus: Cpus, task: Object) -> None:
        self._backing = backing
        self._kernel = backing.kernel
        self._tasks = tasks
        self._cpus = cpus
        self._task = task
        self._warnings: list[str] = []

    def read(self, *, whole: bool) -> tuple[ProcessImage, Object]:
        """Return the image, and the task of its first thread.

        :param whole: if the task is the leader, put the thread that a signal hit before it, as the kernel's cores do.
        """
        threads, warnings = self._tasks.dumped_threads(self._task)
        self._warnings += warnings
        dying = self._dying(threads)
        if dying is not None and whole and self._task.value_() == self._task.group_leader.value_():
            threads.sort(key=lambda thread: thread.pid.value_() != dying.tid)
        first = threads[0]
        tgid = self._tasks.tgid(first)
        if first.group_leader.pid.value_() != tgid:
            self._warnings.append(f"the leader of its threads has another id than {tgid}, their process's")
        mm = first.mm
        initial = self._kernel.prog["init_pid_ns"].address_of_()
        namespace = self._soft("the pid namespace", lambda: self._tasks.namespace(first), initial)
        ids = Ids(self._kernel, namespace)
        read = tuple(self._thread(self._kernel.task(thread), ids) for thread in threads)
        arch = self._arch(mm, read[0].regs)
        mappings, lost = vmas.read_vmas(self._kernel, first, mm, arch.word_size)
        self._warnings += lost
        auxv = self._auxv(mm, arch)
        headers = dict(auxv).get(_AT_PHDR, 0)
        if headers and not any(vma.start <= headers < vma.end for vma in mappings):
            self._warnings.append(f"the program's headers (AT_PHDR {headers:#x}) are in no mapping")
        if not mm.end_code.value_() | mm.start_stack.value_():
            # load_elf_binary(), fs/binfmt_elf.c, sets them once the whole program is mapped
            self._warnings.append("the process was in execve(): the program is mapped in part or not at all")
        image = ProcessImage(
            tgid=tgid,
            arch=arch.name,
            page_size=self._kernel.page_size,
            threads=read,
            psinfo=self._psinfo(first.group_leader, mm, ids, mappings),
            vmas=mappings,
            auxv=auxv,
            dump_filter=self._kernel.dump_filter(mm),
            dialect=self._kernel.dialect(),
            xsave=self._soft("the layout of the FPU state", self._kernel.machine.xsave_layout, None),
            warnings=tuple(self._warnings),
            kernel=self._kernel.target.release,
            start_brk=mm.start_brk.value_(),
            brk=mm.brk.value_(),
            start_stack=mm.start_stack.value_(),
            dying=dying,
        )
        return image, first

    def _dying(self, threads: list[Object]) -> Dying | None:
        deaths = Deaths(self._kernel)
        group = [thread.value_() for thread in threads]
        dying = self._soft("whether it was dying of a signal", lambda: deaths.of(group), None)
        if dying is not None and dying.info is None:
            self._warnings.append(f"the siginfo of {dying.name} is not in the dump")
        return dying

    def _soft(self, what: str, get: Callable[[], _T], default: _T) -> _T:
        """Return what ``get`` reads; if it is damaged or missing, warn and return the default."""
        try:
            return get()
        except DAMAGE as error:
            if (found := broken(error, what)) is None:
                raise
            self._warnings.append(f"{what} is not in the dump: {error if isinstance(error, FaultError) else found}")
            return default

    def _arch(self, mm: Object, first: RegisterSet) -> Arch:
        """Return the architecture that the kernel would give the process's core.

        :param first: registers of the dumping thread.
        """
        return ARCHES[self._kernel.machine.task_arch(mm, first.values)]

    def _thread(self, task: Members, ids: Ids) -> Thread:
        tid = int(task["pid"])
        on = self._cpus.of(task, tid)
        cpu = None if on is None else on.cpu
        found = registers.user_registers(self._kernel, task, tid, on)
        self._warnings += found.warnings
        return Thread(
            task=task.address,
            tid=tid,
            comm=task["comm"].split(b"\0")[0],
            state=self._kernel.task_state(task),
            flags=task["flags"],
            ids=self._soft(f"ids of thread {tid}", lambda: ids.of(task), TaskIds(tid, 0, 0, 0)),
            times=self._soft(f"CPU times of thread {tid}", lambda: self._tasks.times(task), TaskTimes(0, 0, 0, 0)),
            sigpend=task["pending.signal.sig[0]"],
            sighold=task["blocked.sig[0]"],
            regs=found.registers,
            fpu=self._soft(f"FPU state of thread {tid}", lambda: self._kernel.machine.fpu_state(task, cpu), None),
            ioperm=self._soft(f"I/O bitmap of thread {tid}", lambda: self._kernel.machine.io_bitmap(task), None),
            shstk=self._kernel.machine.shadow_stack(task),
            cpu=cpu,
            forced_tf=self._kernel.machine.forced_tf(task),
            tls=self._soft(f"TLS segments of thread {tid}", lambda: self._kernel.machine.tls_segments(task), ()),
        )

    def _psinfo(self, leader: Object, mm: Object, ids: Ids, mappings: tuple[Vma, ...]) -> PsInfo:
        nobody = (OVERFLOW_ID, OVERFLOW_ID)
        task = self._kernel.task(leader)
        tgid = int(task["tgid"])
        uid, gid = self._soft("the user and group id", lambda: self._tasks.credentials(leader), nobody)
        return PsInfo(
            state=self._kernel.task_state(task),
            nice=task["static_prio"] - 120,
            flags=task["flags"],
            uid=uid,
            gid=gid,
            ids=self._soft("ids of the process", lambda: ids.of(task), TaskIds(tgid, 0, 0, 0)),
            comm=task["comm"].split(b"\0")[0],
            psargs=self._psargs(mm, mappings),
        )

    def _psargs(self, mm: Object, mappings: tuple[Vma, ...]) -> bytes | None:
        """Return the start of the argument area, as fill_psinfo() reads it (fs/binfmt_elf.c); None: not in the dump."""
        start = mm.arg_start.value_()
        size = min(mm.arg_end.value_() - start & (1 << 64) - 1, _PSARGS)
        memory = VmcoreMemory(self._backing, mm)
        data: bytes | None = b""
        for vma in mappings:
            if data is not None and vma.start < start + size and start < vma.end:
                inside = min(start + size, vma.end) - max(start, vma.start)
                part = peek(memory, vma, max(start, vma.start), inside)
                data = None if part is None else data + part
        if data is None or len(data) < size:
            self._warnings.append("the command line is not in the dump")
            return None
        return data

    def _auxv(self, mm: Object, arch: Arch) -> tuple[tuple[int, int], ...]:
        words = self._kernel.auxv(mm, arch.word_size)[:_MAX_AUXV]
        pairs: list[tuple[int, int]] = []
        for kind, value in zip(words[::2], words[1::2], strict=False):
            pairs.append((kind, value))
            if kind == _AT_NULL:
                return tuple(pairs)
        self._warnings.append("the auxiliary vector has no end")
        return (*pairs, (_AT_NULL, 0))
