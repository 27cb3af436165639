# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make backtraces of a process without a core on disk.

::

    source -> image + memory -> UnwindFilter -> CorePlan -> writer -> memory file -> drgn -> traces

The core is small: the stacks of the requested threads, and what identifies mapped files. The files themselves, whose
tables unwinding needs, go to a temporary private directory.
"""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from kgcore._version import __version__
from kgcore.arch import ARCHES
from kgcore.binaries.localcopies import completed, file_name, mapped_build_id, mapped_build_ids
from kgcore.binaries.sysroot import Sysroot, SysrootReport
from kgcore.coredump.limits import Limits
from kgcore.coredump.plan import make_plan
from kgcore.coredump.report import Gap
from kgcore.coredump.writer import write_core
from kgcore.elf.ehframe import Entry, unwind_entry
from kgcore.errors import KgcoreError
from kgcore.filters.unwind import UnwindFilter, cut_out_stacks
from kgcore.model.dying import Dying
from kgcore.model.memory import Memory
from kgcore.model.process import VM_EXEC, ProcessImage, Thread, Vma
from kgcore.model.traces import OUTERMOST, End, Frame, ThreadTrace
from kgcore.sinks.base import BaseSink
from kgcore.sources.base import HasKernelStacks, KnowsCrash, Process, Source, TaskRef
from kgcore.system.privatedir import PrivateDirectory
from kgcore.system.regular import read_at
from kgcore.text import human_size, plain

if TYPE_CHECKING:
    from kgcore.sources.corefile.unwind import ProgramFile, Unwound

__all__ = ("BT_VERSION", "Backtrace", "backtrace", "document")

BT_VERSION = 1

_MOST = 1 << 30  # bytes of the core in memory


@dataclass(frozen=True, slots=True)
class Backtrace:
    """The backtraces of a process.

    :ivar tgid: its id in the initial pid namespace.
    :ivar comm: its name, raw.
    :ivar threads: the requested thread first, else the leader.
    :ivar others: how many further threads it has.
    :ivar remarks: remarks on all of it, as sentences.
    :ivar dying: the signal that it was dying of, if any.
    """

    tgid: int
    comm: bytes
    threads: tuple[ThreadTrace, ...]
    others: int
    remarks: tuple[str, ...]
    _: KW_ONLY
    dying: Dying | None = None

    @property
    def complete(self) -> bool:
        """Whether every trace reaches the outermost call."""
        return all(thread.complete for thread in self.threads)

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``, as a process of ``kgcore bt --json``."""
        return {
            "tgid": self.tgid,
            "comm": plain(self.comm),
            "complete": self.complete,
            "other_threads": self.others,
            "dying": None if self.dying is None else self.dying.to_json(),
            "threads": [thread.to_json() for thread in self.threads],
            "remarks": [plain(text) for text in self.remarks],
        }


def document(backtraces: Sequence[Backtrace], failures: Sequence[Mapping[str, str]], status: int) -> dict[str, object]:
    """Return the value that ``kgcore bt --json`` prints."""
    return {
        "version": BT_VERSION,
        "kgcore": __version__,
        "status": status,
        "processes": [one.to_json() for one in backtraces],
        "failures": list(failures),
    }


def backtrace(
    source: Source,
    ref: TaskRef | int | str,
    *,
    all_threads: bool = False,
    kernel: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> Backtrace:
    """Unwind the stacks of a process, without a core on the disk.

    Programs and libraries come out of the dump as far as they were in memory, else from ``root``, from this machine's
    debug files of the same build id, and from the debuginfod servers of ``$DEBUGINFOD_URLS``.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param all_threads: all of its threads, not only the one that ``ref`` names.
    :param kernel: what they were doing in the kernel, too.
    :param root: a directory with the files of the crashed machine; the one that the source was opened with.
    :return: a trace for each thread, and why it ends where it does.
    :raises KgcoreError: the process does not exist, or drgn cannot unwind its architecture, or is missing or too old.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    directory = None if root is None else os.fspath(root)
    with source.process(ref) as process:
        return _backtrace(source, process, all_threads=all_threads, kernel=kernel, root=directory)


def _backtrace(source: Source, process: Process, *, all_threads: bool, kernel: bool, root: str | None) -> Backtrace:
    image = process.image
    if image.arch not in ARCHES or not ARCHES[image.arch].unwound:
        raise KgcoreError(
            f"process {image.tgid} is an {image.arch} process, which drgn cannot unwind",
            hint="kgcore debug opens it in gdb, which can",
            pid=image.tgid,
        )
    stacks = process if kernel and isinstance(process, HasKernelStacks) else None
    if kernel and stacks is None:
        raise KgcoreError(
            f"the source of process {image.tgid} has no kernel stacks",
            hint="leave out --kernel-stack",
            pid=image.tgid,
        )
    threads = image.threads if all_threads else image.threads[:1]
    memory = process.memory
    with PrivateDirectory() as directory, _memory_file() as file:
        sysroot = Sysroot(directory.path).add(process, image.warnings)
        sysroot.raise_problems()
        if root is not None:
            sysroot = completed(sysroot, root, mapped_build_ids(image, memory))
        core = _Core(image, threads, memory, sysroot, file)
        crashed = source.crashed() if isinstance(source, KnowsCrash) else None
        traces = tuple(
            ThreadTrace(
                tid=thread.tid,
                comm=thread.comm,
                cpu=thread.cpu,
                crashed=thread.tid == crashed,
                frames=frames,
                end=end,
                kernel=None if stacks is None else stacks.kernel_stack(thread),
            )
            for thread, (frames, end) in zip(threads, map(core.trace, range(len(threads))), strict=True)
        )
    remarks = (*image.warnings, *sysroot.lost, *sysroot.remarks)
    return Backtrace(
        image.tgid, image.psinfo.comm, traces, len(image.threads) - len(threads), remarks, dying=image.dying
    )


class _Core:
    """A process whose core is in memory and open in drgn.

    :param core: the file in memory to write it to.
    """

    def __init__(
        self,
        image: ProcessImage,
        threads: Sequence[Thread],
        memory: Memory,
        sysroot: SysrootReport,
        core: "_MemoryFile",
    ) -> None:
        from kgcore.sources.corefile.unwind import CoreThreads

        self._threads = threads
        self._page_size = image.page_size
        self._directory = sysroot.directory
        self._files = {plain(file.path): file for file in sysroot.files}
        self._arch = ARCHES[image.arch]
        pointers = [thread.regs.values[self._arch.sp] for thread in threads]
        vmas, stacks = cut_out_stacks(image.vmas, pointers, image.page_size, self._arch.red_zone)
        # Ids of our own, since those in the dump need not be different, nor visible in the process's namespace.
        numbered = tuple(
            replace(thread, ids=replace(thread.ids, pid=number + 1)) for number, thread in enumerate(threads)
        )
        keep = UnwindFilter(stacks, image.page_size)
        plan = make_plan(replace(image, vmas=vmas, threads=numbered, notes=()), keep, memory, order="importance")
        self._vmas = plan.image.vmas
        self._starts = [vma.start for vma in self._vmas]
        self._kept = [vma.keep.length for vma in plan.vmas]
        self._report = write_core(plan, memory, core, limits=Limits(_MOST))
        core.commit()
        self._core = CoreThreads(core.descriptor, list(self._mapped(image.vmas, memory)))

    def _mapped(self, vmas: Sequence[Vma], memory: Memory) -> Iterator["ProgramFile"]:
        """The mapped programs and libraries, each from its start to the end of its last mapping."""
        from kgcore.sources.corefile.unwind import ProgramFile

        first: Vma | None = None
        for vma, following in zip_longest(vmas, vmas[1:]):
            if vma.file is None or vma.file.path is None:
                continue  # .bss; what follows may still be of the same file
            if vma.pgoff == 0:
                first = vma
            if first is None or first.file is None or first.file.path != vma.file.path:
                continue
            more = following.file if following is not None and following.pgoff else None
            if more is not None and more.path == vma.file.path:
                continue
            file = self._files.get(plain(file_name(vma.file.path)))
            if file is not None and mapped_build_id(memory, first) in (None, file.build_id):
                path = _path(self._directory, file.path)
                yield ProgramFile(first.start, vma.end, path, file.build_id, file.whole)

    def trace(self, number: int) -> tuple[tuple[Frame, ...], End]:
        """Return the trace of a thread, by its index among the requested ones."""
        regs = self._threads[number].regs
        if {self._arch.ip, self._arch.sp} & regs.unknown:
            return (), End("registers", f"its registers are not {regs.where}")
        unwound = self._core.unwound(number + 1)
        frames: list[Frame] = []
        for number, frame in enumerate(unwound.frames):
            vma = self._vma(frame.ip)
            if number in unwound.guesses and not self._known(frames[-1], len(frames) == 1):
                return tuple(frames), self._without(frames[-1])
            # A caller is code. What is behind a frame that led elsewhere is not worth more than that frame.
            if frames and (vma is None or not vma.flags & VM_EXEC):
                return tuple(frames), self._nowhere(frame, frames)
            frames.append(replace(frame, module=_name(vma)))
        return tuple(frames), self._end(unwound, frames)

    def _nowhere(self, frame: Frame, frames: Sequence[Frame]) -> End:
        if frame.ip == 0:
            return OUTERMOST  # how stacks begin that a program made itself
        return End("no-code", f"the return address {frame.ip:#x} is not in code{self._doubt(frames[-1])}")

    def _doubt(self, frame: Frame) -> str:
        """What may be wrong with the step to the caller of a frame."""
        lacking = self._lacking(frame)
        return f": {lacking}" if lacking else ""

    def _end(self, unwound: "Unwound", frames: Sequence[Frame]) -> End:
        from kgcore.sources.corefile.unwind import MAX_FRAMES

        if unwound.failure:
            return End("failed", f"drgn gave up: {unwound.failure}")
        if sum(not frame.inline for frame in frames) >= MAX_FRAMES:
            return End("limit", f"more than {MAX_FRAMES} frames")
        if unwound.slot is not None:
            lost = self._lost(unwound.slot)
            return End("memory", lost) if lost else OUTERMOST
        if not frames:
            return End("registers", "its registers are not known")
        last, sp = frames[-1], unwound.pointers[len(frames) - 1]
        lost = self._lost(sp) if sp is not None else ""
        if lost:
            return End("memory", lost)
        vma = self._vma(last.ip)
        if vma is None or not vma.flags & VM_EXEC:
            return End("no-code", f"no code at {last.ip:#x}")
        return self._without(last)

    def _without(self, frame: Frame) -> End:
        text = self._lacking(frame) or f"no unwind information for {_where(frame)}"
        return End("unwind-information", text)

    def _known(self, frame: Frame, exact: bool) -> bool:
        """Whether unwind information covers a frame's code, so that the step from there is not a guess."""
        if frame.module is None or frame.module.startswith(b"[") or frame.module_offset is None:
            return True
        file = self._files.get(plain(file_name(frame.module)))
        if file is None or not self._core.has_file(frame.ip):
            return False
        missing = file.missing

        def read(at: int, size: int) -> bytes | None:
            if any(gap.start < at + size and at < gap.end for gap in missing):
                return None
            return read_at(opened.fileno(), size, at)

        with contextlib.suppress(OSError), open(_path(self._directory, file.path), "rb") as opened:
            entry = unwind_entry(read, frame.module_offset - (not exact), self._page_size)
            # A whole file without such a table, as Go writes them, has another one or keeps frame pointers.
            return entry is Entry.YES or (entry is Entry.UNKNOWN and file.whole)
        return False

    def _lacking(self, frame: Frame) -> str:
        """What the file of a frame lacks, if that may be its unwind information."""
        if frame.module is None or frame.module.startswith(b"["):
            return ""
        name = plain(file_name(frame.module))
        build_id = f"build id {frame.build_id}" if frame.build_id else "build id unknown"
        file = self._files.get(name)
        if file is None:
            return f"{name} ({build_id}) was not found"
        if not file.whole:
            return f"{name} ({build_id}) lacks {human_size(file.missing_bytes)}, perhaps its unwind information"
        return ""

    # Memory

    def _vma(self, address: int) -> Vma | None:
        index = bisect_right(self._starts, address) - 1
        return self._vmas[index] if index >= 0 and address < self._vmas[index].end else None

    def _lost(self, address: int) -> str:
        """Why a word of the stack is unreadable; "": it is readable."""
        gap = next((gap for gap in self._report.missing if gap.start < address + 8 and address < gap.end), None)
        if gap is not None:
            return f"the stack at {address:#x} is missing: {_reason(gap)}"
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._vmas[index].end:
            return f"the stack pointer {address:#x} is not mapped"
        if address - self._starts[index] >= self._kept[index]:
            return f"the stack continues at {address:#x}, beyond the limit of this backtrace"
        return ""


def _reason(gap: Gap) -> str:
    return f"{gap.reason} ({gap.detail})" if gap.detail else gap.reason


def _name(vma: Vma | None) -> bytes | None:
    if vma is None:
        return None
    if vma.name:
        return vma.name.encode("utf-8", "surrogateescape")
    return vma.file.path if vma.file is not None else None


def _where(frame: Frame) -> str:
    name = plain(frame.module or b"generated code")
    return f"{name} ({frame.function})" if frame.function else f"{name} at {frame.ip:#x}"


def _path(directory: str, path: bytes) -> str:
    return os.path.join(directory, os.fsdecode(path).lstrip("/"))


class _MemoryFile(BaseSink):
    """An unnamed file in memory; holes take no space.

    :ivar descriptor: its file descriptor.
    """

    path: str | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.used += len(view)
        while view:
            count = os.pwrite(self.descriptor, view, self._size)
            self._size += count
            view = view[count:]

    def skip(self, length: int) -> None:
        self._size += length

    def commit(self) -> None:
        os.ftruncate(self.descriptor, self._size)


@contextlib.contextmanager
def _memory_file() -> Iterator[_MemoryFile]:
    descriptor = os.memfd_create("kgcore", os.MFD_CLOEXEC)
    try:
        with _MemoryFile(descriptor) as sink:
            yield sink
    finally:
        os.close(descriptor)
