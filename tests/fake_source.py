# SPDX-License-Identifier: LGPL-2.1-or-later
"""A source with one process for each thing that can happen, and the kgcore command on it.

``python3 -m tests.fake_source ARGUMENTS`` is ``kgcore ARGUMENTS`` with this source instead of a vmcore, for tests that
need a process of its own: signals, pipes, limits.
"""

import contextlib
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

from kgcore.cli.console import Console
from kgcore.cli.request import Channel
from kgcore.errors import KernelThread, KgcoreError, NoCurrentTask, NoSuchTask, NoUserMemory
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory, Piece, Provenance, Run
from kgcore.model.process import (
    VM_DONTDUMP,
    VM_READ,
    VM_WRITE,
    FpuState,
    MappedFile,
    OpenFile,
    ProcessImage,
    PsInfo,
    RegisterSet,
    RegisterSource,
    Socket,
    TaskIds,
    TaskTimes,
    Thread,
    Vma,
)
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import (
    NO_USER_FILES,
    Contents,
    FileContents,
    HasMappedFiles,
    HasOpenFiles,
    OpenFiles,
    Process,
    Source,
    TaskRef,
    UserFiles,
)
from kgcore.sources.location import Location

COMPLETE, INCOMPLETE, ENDLESS, LARGE, DEFECT = 100, 200, 500, 600, 666
MARKED = 700  # has a MADV_DONTDUMP page and a DAX page
KERNEL_THREAD, ZOMBIE, UNKNOWN = 2, 300, 404
THREAD = 101  # of COMPLETE
HOSTILE = b"\x1b[31m[red]\xff\n"
BASE = 0x7F0000000000
LARGE_SIZE = 20 << 20  # several parts
ELF = (
    b"\x7fELF\2\1\1".ljust(16, b"\0")
    + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0)
    + b"made up" * 1200
)
"""A program without any segments or sections."""

_TASKS = 0xFFFF888000000000
_SIZES = {COMPLETE: 0x3000, INCOMPLETE: 0x3000, ENDLESS: LARGE_SIZE, LARGE: LARGE_SIZE, DEFECT: 0x3000, MARKED: 0x1000}


def task_address(pid: int) -> int:
    return _TASKS + pid * 0x1000


def _pid(ref: TaskRef, current: int | None) -> int:
    pids = {COMPLETE, THREAD, INCOMPLETE, ENDLESS, LARGE, DEFECT, MARKED, KERNEL_THREAD, ZOMBIE}
    if ref.is_current:
        if current is None:
            raise NoCurrentTask("nothing crashed, so no process is current", hint="kgcore ps lists them")
        return current
    if ref.pid in pids:
        return ref.pid
    for pid in pids:
        if ref.address == task_address(pid):
            return pid
    raise NoSuchTask(f"no thread has the id {ref.text}", hint="kgcore ps lists the processes")


class FakeSource(Source):
    """
    :param current: the process that was current in the crash.
    :ivar held: how many processes nobody has closed yet.
    """

    def __init__(self, current: int | None = None) -> None:
        self.current = current
        self.asked: list[str] = []
        self.held = 0
        self.user_files = NO_USER_FILES

    def processes(self) -> Iterator[ProcessSummary]:
        yield ProcessSummary(
            pid=KERNEL_THREAD,
            ppid=0,
            uid=0,
            threads=1,
            rss=0,
            state="S",
            comm=b"kthreadd",
            args=b"",
            kernel_thread=True,
            task=task_address(KERNEL_THREAD),
        )
        yield ProcessSummary(
            pid=COMPLETE,
            ppid=1,
            uid=1000,
            threads=2,
            rss=12288,
            state="R",
            comm=b"[red]work",
            args=b"/bin/work\0-x\0" + b"long" * 60 + b"\0",
            kernel_thread=False,
            task=0x1000,
        )
        yield ProcessSummary(
            pid=INCOMPLETE,
            ppid=1,
            uid=0,
            threads=1,
            rss=4096,
            state="S",
            comm=HOSTILE,
            args=None,
            kernel_thread=False,
            task=0x2000,
        )
        yield ProcessSummary(
            pid=ZOMBIE,
            ppid=1,
            uid=1000,
            threads=1,
            rss=0,
            state="Z",
            comm=b"dead",
            args=None,
            kernel_thread=False,
            task=task_address(ZOMBIE),
            memory=False,
        )

    def process(self, ref: TaskRef | int | str) -> Process:
        ref = TaskRef.of(ref)
        self.asked.append(ref.text)
        pid = _pid(ref, self.current)
        if pid == KERNEL_THREAD:
            raise KernelThread("2 (kthreadd) is a kernel thread: it has no user memory", pid=pid)
        if pid == ZOMBIE:
            raise NoUserMemory("300 (dead) is a zombie: its memory is gone", pid=pid)
        return FakeProcess(self, pid)

    def describe(self) -> dict[str, str]:
        return {"format": "fake"}


class FakeProcess(Process, HasMappedFiles, HasOpenFiles):
    def __init__(self, source: FakeSource, pid: int) -> None:
        source.held += 1
        self._source: FakeSource | None = source
        tids = [COMPLETE, THREAD] if pid in (COMPLETE, THREAD) else [pid]
        tids.sort(key=lambda tid: tid != pid)
        self._pid = pid
        self._image = _image(COMPLETE if pid == THREAD else pid, tids)

    @property
    def image(self) -> ProcessImage:
        return self._image

    @property
    def memory(self) -> Memory:
        return _FakeMemory(self._image.tgid)

    def files(self) -> Iterator[FileContents | Lost]:
        """A program that all processes share; INCOMPLETE has an incomplete library too."""
        yield made_up_file(b"/bin/work")
        if self._image.tgid == INCOMPLETE:
            yield made_up_file(b"/lib/" + HOSTILE, lost=1)

    def open_files(self) -> OpenFiles:
        """COMPLETE has some of each kind; of INCOMPLETE a part of the table is lost."""
        lost = ("file descriptors 64 to 127, if open, are lost: no memory there",)
        return OpenFiles(self._pid, OPEN_FILES, lost if self._pid == INCOMPLETE else ())

    def contents(self, file: OpenFile) -> Contents:
        if file.type != "regular":
            raise KgcoreError(f"file descriptor {file.fd} is not a regular file")
        return FakeContents(file)

    def close(self) -> None:
        if self._source is not None:
            self._source.held -= 1
            self._source = None


class BareSource(FakeSource):
    """What the line needs and no more: no files, no kernel stacks, no crash."""

    def process(self, ref: TaskRef | int | str) -> Process:
        return BareProcess(super().process(ref))


class BareProcess(Process):
    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def image(self) -> ProcessImage:
        return self._process.image

    @property
    def memory(self) -> Memory:
        return self._process.memory

    def close(self) -> None:
        self._process.close()


def _open_file(fd: int, path: bytes | None, kind: Any, flags: int, size: int = 0, **more: Any) -> OpenFile:
    return OpenFile(
        fd=fd,
        file=0x1000 + fd,
        path=path,
        type=kind,
        flags=flags,
        offset=fd * 10,
        mode=0o100600,
        size=size,
        nlink=more.pop("nlink", 1),
        inode=7,
        **more,
    )


OPEN_FILES = (
    _open_file(0, b"/dev/null", "character", 0o100000),
    _open_file(2, b"/tmp/gone (deleted)", "regular", 0o2102001, 10_000, nlink=0),
    _open_file(3, b"/memfd:" + HOSTILE + b" (deleted)", "regular", 2, 16384, nlink=0, in_memory=True),
    _open_file(4, b"socket:[7]", "socket", 0o4002, socket=Socket("inet", "stream", b"127.0.0.1:80", b"127.0.0.1:9")),
    _open_file(5, None, "unknown", 0o40000000),
    _open_file(6, b"/etc/x", "regular", 0o100000, 5),
    _open_file(100, b"/tmp/many (deleted)", "regular", 0, 100 * 4096, nlink=0),
)


class FakeContents:
    """Letters; of the memfd a page is swapped out and two are zeros; of the long file every second one is lost."""

    def __init__(self, file: OpenFile) -> None:
        self.size = file.size
        self.fd = file.fd

    def runs(self) -> Iterator[Run]:
        for at in range(0, self.size, 4096):
            provenance = Provenance.PAGE_CACHE
            if self.fd == 3:
                provenance = (Provenance.PAGE_CACHE, Provenance.ZERO, Provenance.SWAPPED, Provenance.ZERO)[at >> 12]
            elif self.fd == 100 and at >> 12 & 1:
                provenance = Provenance.FILE
            yield Run(at, 4096, provenance, "swap 0, slot 9" if provenance is Provenance.SWAPPED else "")

    def read(self) -> Iterator[Piece]:
        for run in self.runs():
            yield Piece(run, b"abcdefgh" * 512 if run.provenance.stored else b"")

    def unwritten(self) -> int | None:
        return None if self.fd == 3 else 8192 if self.fd == 2 else 0


def made_up_file(
    path: bytes, content: bytes = ELF, *, lost: int | None = None, deleted: bool = False, key: object = None
) -> FileContents:
    """:param lost: a page that is missing."""

    def read() -> Iterator[Piece]:
        for at in range(0, len(content), 4096):
            provenance = Provenance.FILE if at >> 12 == lost else Provenance.PAGE_CACHE
            data = b"" if provenance.missing else content[at : at + 4096].ljust(4096, b"\0")
            yield Piece(Run(at, 4096, provenance), data)

    return FileContents(path=path, size=len(content), mode=0o100755, deleted=deleted, key=key or path, read=read)


def _image(tgid: int, tids: list[int]) -> ProcessImage:
    regs = RegisterSet(dict.fromkeys(_REGISTERS, 0), RegisterSource.ENTRY_FRAME)
    threads = tuple(
        Thread(
            task=task_address(tid),
            tid=tid,
            comm=b"fake",
            state=1,
            flags=0,
            ids=TaskIds(tid, 1, tgid, tgid),
            times=TaskTimes(0, 0, 0, 0),
            sigpend=0,
            sighold=0,
            regs=regs,
            fpu=_FPU,
        )
        for tid in tids
    )
    flags = VM_READ | VM_WRITE
    vmas: tuple[Vma, ...] = (
        Vma(0x1000, 0x2000, VM_READ, file=MappedFile(b"/lib/" + HOSTILE, 1, 0o100644, 4096)),
        Vma(BASE, BASE + _SIZES[tgid], flags, anon=True),
    )
    if tgid == MARKED:
        dax = MappedFile(b"/mnt/pmem", 1, 0o100644, 0x1000, dax=True)
        vmas += (
            Vma(BASE + 0x10000, BASE + 0x11000, flags | VM_DONTDUMP, anon=True),
            Vma(BASE + 0x20000, BASE + 0x21000, flags, file=dax, anon=True),
        )
    comm = HOSTILE if tgid == INCOMPLETE else b"fake"
    psinfo = PsInfo(state=1, nice=0, flags=0, uid=0, gid=0, ids=TaskIds(tgid, 1, tgid, tgid), comm=comm, psargs=b"fake")
    return ProcessImage(
        tgid=tgid,
        arch="x86_64",
        page_size=4096,
        threads=threads,
        psinfo=psinfo,
        vmas=vmas,
        auxv=((0, 0),),
        dump_filter=0x33,
        kernel="6.1.0",
    )


_FPU = FpuState(bytes(512))
_REGISTERS = (
    "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base ds es fs gs".split()
)


class _FakeMemory(Memory):
    page_size = 4096
    parallel = True

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        lost = BASE + 0x1000
        if self.pid == INCOMPLETE and start <= lost < end:
            if start < lost:
                yield Run(start, lost - start, Provenance.PRESENT)
            yield Run(lost, 0x1000, Provenance.SWAPPED, "swap 0")
            if lost + 0x1000 < end:
                yield Run(lost + 0x1000, end - lost - 0x1000, Provenance.PRESENT)
        else:
            yield Run(start, end - start, Provenance.PRESENT)

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        if self.pid == DEFECT and start >= BASE:
            raise RuntimeError("a defect")
        for run in self.runs(vma, start, end):
            for at in range(run.address, run.end, 1 << 20):
                length = min(1 << 20, run.end - at)
                present = run.provenance is Provenance.PRESENT
                yield Piece(run._replace(address=at, length=length), b"\xa5" * length if present else b"")
                if self.pid == ENDLESS and at == BASE:
                    print("half-way", file=sys.stderr, flush=True)
                    time.sleep(60)


@contextlib.contextmanager
def opened(place: Location, show: Channel, console: Console, user_files: UserFiles = NO_USER_FILES) -> Iterator[Source]:
    """In the place of ``kgcore.cli.commands.opening.opened``."""
    yield FakeSource(current=COMPLETE)


if __name__ == "__main__":
    from kgcore.cli import main as cli
    from kgcore.cli.commands import opening

    opening.opened = opened
    cli.entry()
