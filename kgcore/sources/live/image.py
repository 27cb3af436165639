# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a process of this machine into a :class:`kgcore.model.process.ProcessImage`."""

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from kgcore.arch import ARCHES, ARCHITECTURES, Arch
from kgcore.arch.architecture import Architecture
from kgcore.errors import KgcoreError, NoSuchTask, TargetError
from kgcore.model.process import (
    VM_MAYSHARE,
    CoreDialect,
    ProcessImage,
    PsInfo,
    RegisterNote,
    RegisterSet,
    RegisterSource,
    TaskIds,
    TaskTimes,
    Thread,
    Vma,
)
from kgcore.ptrace.tracee import Tracee
from kgcore.sources.live.mappings import MappedFiles, vmas
from kgcore.sources.live.pagemap import PageMap
from kgcore.sources.live.procfs import Stat, mappings, read, stat_of, status_of, vm_flags_of

__all__ = ("Reader", "architecture_here", "states_of")

_NT_PRSTATUS = 1
_NT_PRFPREG = 2
_PSARGS = 79  # ELF_PRARGSZ - 1, include/uapi/linux/elfcore.h
_AT_NULL, _AT_PHENT = 0, 4
_PHENT = {8: 56, 4: 32}  # sizeof(Elf64_Phdr), sizeof(Elf32_Phdr), by the bytes of the program's long
_OVERFLOW_ID = 65534  # /proc/sys/kernel/overflowuid


def architecture_here() -> Architecture:
    """Return this machine's architecture.

    :raises TargetError: kgcore does not support it.
    """
    machine = os.uname().machine
    for architecture in ARCHITECTURES.values():
        if machine in architecture.machines:
            return architecture
    raise TargetError(f"processes of {machine} machines are not supported")


def states_of(pid: int) -> dict[int, int]:
    """Return what the threads of a process are doing: ``task->__state`` by thread id, without those that have exited.

    :raises OSError: it has ended.
    """
    found = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError, ValueError):
            stat = stat_of(read(f"/proc/{pid}/task/{name}/stat"))
            if not stat.exited:
                found[int(name)] = stat.state
    return found


class Reader:
    """Reads one process, and collects warnings on the way.

    :param pid: id of the process in our own pid namespace.
    :param view: id of a thread that has not exited: a leader that has exited has no memory in /proc.
    :param files: finds the files behind its mappings.
    :param states: what its threads were doing before they were stopped: ``task->__state`` by thread id.
    :ivar forking: the mappings that fork(2) treats in its own way: start, end, and their VmFlags that say so;
        ascending, with the image.
    """

    def __init__(self, pid: int, view: int, files: MappedFiles, states: Mapping[int, int]) -> None:
        self._states = states
        self._pid = pid
        self._thread_id = view
        self._view = f"/proc/{view}"
        self._files = files
        self._here = architecture_here()
        self._word_size = self._here.word_size
        self._warnings: list[str] = []
        self.forking: list[tuple[int, int, frozenset[bytes]]] = []

    def image(self, first: int, tracee: Tracee | None) -> ProcessImage:
        """Read the process.

        :param first: id of the thread that comes first, if it is there.
        :param tracee: the stopped process; None: it runs, and its registers stay unknown.
        :raises OSError: a file of /proc cannot be read.
        :raises KgcoreError: the process has ended, or kgcore does not support programs of its kind.
        """
        auxv = self._auxv()
        tids = tracee.threads if tracee is not None else tuple(self._tids())
        tids = tuple(sorted(tids, key=lambda tid: (tid != first, tid != self._pid, tid)))
        if not tids:
            raise NoSuchTask(f"process {self._pid} has ended", pid=self._pid)
        arch = self._arch(None if tracee is None else tracee.regsets(tids[0], (_NT_PRSTATUS,))[0])
        kinds = (_NT_PRSTATUS, *(row.type for row in arch.regsets))
        regsets = {tid: self._regsets(tracee, tid, arch, kinds) for tid in tids} if tracee is not None else {}
        stat = stat_of(read(f"/proc/{self._pid}/stat"))
        memory = stat_of(read(f"{self._view}/stat"))
        threads = tuple(self._thread(tid, arch, regsets.get(tid), stat) for tid in tids)
        xsave = None
        if regsets:
            sets = zip(kinds, regsets[tids[0]], strict=True)
            xsave = self._here.xsave_here({kind: desc for kind, desc in sets if desc is not None})
        return ProcessImage(
            tgid=self._pid,
            arch=arch.name,
            page_size=os.sysconf("SC_PAGESIZE"),
            threads=threads,
            psinfo=self._psinfo(stat, memory),
            vmas=tuple(self._vmas()),
            auxv=auxv,
            dump_filter=int(read(f"{self._view}/coredump_filter") or b"0", 16),
            dialect=self._dialect(),
            xsave=xsave,
            warnings=tuple(self._warnings),
            kernel=os.uname().release,
            start_brk=memory.start_brk,
            brk=self._brk(memory),
            start_stack=memory.start_stack,
        )

    # Threads

    def _tids(self) -> list[int]:
        return sorted(map(int, os.listdir(f"/proc/{self._pid}/task")))

    def _arch(self, first: bytes | None) -> Arch:
        """Return the view that the kernel would dump the process by: by its program's width, and by the registers of
        the dumping thread."""
        views = [ARCHES[name] for name in self._here.arches if ARCHES[name].word_size == self._word_size]
        for view in views:
            if first is None or len(first) == len(view.greg_names) * view.greg_size:
                return view
        raise TargetError(f"process {self._pid}: its {8 * self._word_size}-bit program is not supported", pid=self._pid)

    @staticmethod
    def _regsets(tracee: Tracee, tid: int, arch: Arch, kinds: Sequence[int]) -> tuple[bytes | None, ...]:
        """Return a thread's register sets in the view of its process, as the kernel's core has them."""
        found = tracee.regsets(tid, kinds)
        size = len(arch.greg_names) * arch.greg_size
        if found[0] is not None and len(found[0]) != size:
            # It runs code of another width than the first thread, and ptrace(2) tells it in that code's view.
            regs, fpregs = tracee.own_view(tid)
            if len(regs) == size:  # this program's view is that of the process
                own = {_NT_PRSTATUS: regs, _NT_PRFPREG: fpregs}
                return tuple(own.get(kind, desc) for kind, desc in zip(kinds, found, strict=True))
        return found

    def _thread(self, tid: int, arch: Arch, given: tuple[bytes | None, ...] | None, process: Stat) -> Thread:
        where = f"/proc/{self._pid}/task/{tid}"
        stat = stat_of(read(f"{where}/stat"))
        status = status_of(read(f"{where}/status"))
        leader = tid == self._pid
        group = process if leader else stat
        if given is None:
            regs = RegisterSet({}, RegisterSource.UNAVAILABLE, frozenset(arch.greg_names), "read: nothing was stopped")
            regsets: tuple[RegisterNote, ...] = ()
        else:
            prstatus, *others = given
            regs = self._general(arch, tid, prstatus)
            regsets = tuple(
                RegisterNote(row.type, row.owner, desc)
                for row, desc in zip(arch.regsets, others, strict=True)
                if desc is not None and row.active(desc)
            )
        return Thread(
            task=0,
            tid=tid,
            comm=read(f"{where}/comm").removesuffix(b"\n"),
            state=self._states.get(tid, stat.state),
            flags=stat.flags,
            ids=self._ids(status),
            times=TaskTimes(group.utime, group.stime, process.cutime, process.cstime),
            sigpend=_mask(status, "SigPnd"),
            # Not PTRACE_GETSIGMASK: inside of sigsuspend(2) and the like that is the mask of afterwards.
            sighold=_mask(status, "SigBlk"),
            regs=regs,
            regsets=regsets,
        )

    def _general(self, arch: Arch, tid: int, desc: bytes | None) -> RegisterSet:
        count = len(arch.greg_names)
        if desc is None or len(desc) != count * arch.greg_size:
            # It runs in code of another width than the first thread.
            self._warnings.append(f"thread {tid} has registers of another width than the first thread's")
            return RegisterSet({}, RegisterSource.UNAVAILABLE, frozenset(arch.greg_names))
        words = struct.unpack(f"<{count}{'Q' if arch.greg_size == 8 else 'I'}", desc)
        return RegisterSet(dict(zip(arch.greg_names, words, strict=True)), RegisterSource.PTRACE)

    # Ids, as the process's own namespaces number them

    def _ids(self, status: Mapping[str, list[bytes]]) -> TaskIds:
        def innermost(name: str) -> int:
            words = status.get(name, [])
            return int(words[-1]) if words else 0

        depth = len(status.get("NSpid", []))
        return TaskIds(innermost("NSpid"), self._parent(status, depth), innermost("NSpgid"), innermost("NSsid"))

    def _parent(self, status: Mapping[str, list[bytes]], depth: int) -> int:
        """The parent's id in the process's pid namespace; 0: it is not in it."""
        parent = int((status.get("PPid") or [b"0"])[0])
        if depth <= 1 or not parent:
            return parent
        with suppress(OSError, ValueError):
            if self._namespace(self._pid) == self._namespace(parent):
                return int(status_of(read(f"/proc/{parent}/status"))["NSpid"][-1])
        return 0

    @staticmethod
    def _namespace(pid: int) -> str:
        return os.readlink(f"/proc/{pid}/ns/pid")

    def _psinfo(self, stat: Stat, memory: Stat) -> PsInfo:
        status = status_of(read(f"/proc/{self._pid}/status"))
        return PsInfo(
            state=self._states.get(self._pid, stat.state),
            nice=stat.nice,
            flags=stat.flags,
            uid=self._mapped("uid", int(status["Uid"][0])),
            gid=self._mapped("gid", int(status["Gid"][0])),
            ids=self._ids(status),
            comm=read(f"/proc/{self._pid}/comm").removesuffix(b"\n"),
            psargs=self._psargs(memory),
        )

    def _mapped(self, kind: str, number: int) -> int:
        """An id as the process's own user namespace numbers it."""
        with suppress(OSError):
            if os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{self._pid}/ns/user"):
                return number
            for line in read(f"/proc/{self._pid}/{kind}_map").splitlines():
                inside, outside, count = map(int, line.split())
                if outside <= number < outside + count:
                    return inside + number - outside
            return _OVERFLOW_ID
        self._warnings.append(f"the process's own {kind} is unknown: its user namespace cannot be read")
        return number

    def _psargs(self, stat: Stat) -> bytes | None:
        size = min(stat.arg_end - stat.arg_start, _PSARGS)
        if size <= 0:
            return b"" if stat.arg_start else None  # both are 0 for whom /proc does not trust
        try:
            memory = os.open(f"{self._view}/mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(memory, size, stat.arg_start)
            finally:
                os.close(memory)
        except OSError:
            self._warnings.append("the command line cannot be read")
            return None

    # Memory

    def _vmas(self) -> Iterator[Vma]:
        raw = read(f"{self._view}/smaps")
        flags = vm_flags_of(raw)
        size = os.sysconf("SC_PAGESIZE")
        table = PageMap(self._thread_id, size)
        try:
            for vma in vmas(mappings(raw), flags.get, self._files, size):
                # To map the huge page of zeros the kernel makes an anon_vma (do_huge_pmd_anonymous_page()); smaps
                # counts that page nowhere. The small one needs none.
                private = not vma.anon and vma.file is None and not vma.flags & VM_MAYSHARE and not vma.name
                if private and table.has_huge_zero_page(vma.start, vma.end):
                    vma = replace(vma, anon=True)
                if vma.start in flags and flags[vma.start].forking:
                    self.forking.append((vma.start, vma.end, flags[vma.start].forking))
                yield vma
        finally:
            table.close()

    @cached_property
    def _maps(self) -> bytes:
        return read(f"{self._view}/maps")

    def _brk(self, stat: Stat) -> int:
        """Where brk() ended: the end of the heap, in which it may have begun."""
        ends = [line.end for line in mappings(self._maps) if line.name == b"[heap]"]
        return max(ends, default=stat.start_brk)

    def _auxv(self) -> tuple[tuple[int, int], ...]:
        """Return the auxiliary vector, and find the width of the program by it."""
        raw = read(f"{self._view}/auxv")
        for size, entry in _PHENT.items():
            pairs = list(struct.iter_unpack("<2Q" if size == 8 else "<2I", raw[: len(raw) // (2 * size) * 2 * size]))
            found = dict(pairs)
            if found.get(_AT_PHENT) == entry and size <= self._here.word_size:
                self._word_size = size
                end = next((at for at, (kind, _) in enumerate(pairs) if kind == _AT_NULL), len(pairs) - 1)
                return tuple(pairs[: end + 1])
        if not raw:
            raise NoSuchTask(f"process {self._pid} has ended", pid=self._pid)
        raise KgcoreError(f"process {self._pid}: its auxiliary vector is not that of an ELF program", pid=self._pid)

    def _dialect(self) -> CoreDialect:
        """How the running kernel writes cores. Nothing here touches memory: one note at the end, and an alignment."""
        match = re.match(r"(\d+)\.(\d+)", os.uname().release)
        version = (int(match[1]), int(match[2])) if match else (0, 0)
        return CoreDialect(
            note_align=4 if version >= (6, 5) else 0,  # 60592fb6b67c "coredump, vmcore: Set p_align to 4 for PT_NOTE"
            xsave_layout=version
            >= (6, 12),  # ba386777a30b "x86/elf: Add a new FPU buffer layout info to x86 core files"
        )


def _mask(status: Mapping[str, list[bytes]], name: str) -> int:
    words = status.get(name) or [b"0"]
    return int(words[0], 16)
