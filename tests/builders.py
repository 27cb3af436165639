# SPDX-License-Identifier: LGPL-2.1-or-later
"""Made-up processes and memory, for tests that need neither drgn nor a dump."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kgcore.arch.x86.x86_64 import GREGS
from kgcore.model.lost import Lost
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import (
    VM_EXEC,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    CoreDialect,
    FpuState,
    MappedFile,
    ProcessImage,
    PsInfo,
    RegisterSet,
    RegisterSource,
    TaskIds,
    TaskTimes,
    Thread,
    Vma,
    XsaveLayout,
)
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import FileContents, HasMappedFiles, Process, Source, TaskRef

PAGE = 4096
TGID = 4321

# A machine with AVX and PKRU, the offsets of real Intel machines.
LAYOUT = XsaveLayout(
    user_size=2696,
    user_features=0x207,
    offsets={2: 576, 9: 2688},
    sizes={2: 256, 9: 8},
    aligned=frozenset(),
)


def make_regs(**values: int) -> RegisterSet:
    """Registers with values that tell them apart; ``values`` replace some."""
    numbered = {name: 0x1111 * (index + 1) for index, name in enumerate(GREGS)}
    flat = {"cs": 0x33, "ss": 0x2B, "ds": 0, "es": 0, "fs": 0, "gs": 0, "flags": 0x246}
    return RegisterSet({**numbered, **flat, **values}, RegisterSource.ENTRY_FRAME)


def make_fpu(**values: Any) -> FpuState:
    """A saved state with everything in its initial state, but for what ``values`` say."""
    return FpuState(**{"image": bytes(512) + bytes(2696 - 512), **values})


def make_thread(tid: int = TGID, **values: Any) -> Thread:
    return Thread(
        **{
            "task": 0xFFFF888000000000 + tid * 0x1000,
            "tid": tid,
            "comm": b"victim",
            "state": 1,
            "flags": 0x400000,
            "ids": TaskIds(tid, 1, TGID, TGID),
            "times": TaskTimes(1_500_000_999, 2_000_001_000, 0, 0),
            "sigpend": 0,
            "sighold": 0,
            "regs": make_regs(),
            "fpu": make_fpu(),
            **values,
        }
    )


def make_file(path: bytes | None = b"/usr/bin/victim", **values: Any) -> MappedFile:
    return MappedFile(**{"path": path, "nlink": 1, "mode": 0o100755, "size": 1 << 20, **values})


def make_vma(start: int, pages: int = 1, flags: int = VM_READ | VM_WRITE, **values: Any) -> Vma:
    return Vma(start, start + pages * PAGE, flags, **values)


def make_vmas() -> tuple[Vma, ...]:
    """A small address space: program text, heap, shared memory, stack, vdso, vsyscall."""
    return (
        make_vma(0x400000, 2, VM_READ | VM_EXEC, file=make_file()),
        make_vma(0x600000, 4, anon=True),
        make_vma(0x7F0000000000, 2, VM_READ | VM_WRITE | VM_SHARED, file=make_file(b"/dev/zero (deleted)", nlink=0)),
        make_vma(0x7FFD00000000, 8, anon=True),
        make_vma(0x7FFD10000000, 1, VM_READ | VM_EXEC, name="[vdso]"),
        make_vma(0xFFFFFFFFFF600000, 1, VM_EXEC, name="[vsyscall]"),
    )


def make_image(**values: Any) -> ProcessImage:
    return ProcessImage(
        **{
            "tgid": TGID,
            "arch": "x86_64",
            "page_size": PAGE,
            "threads": (make_thread(), make_thread(TGID + 1)),
            "psinfo": PsInfo(
                state=1,
                nice=-5,
                flags=0x400000,
                uid=1000,
                gid=100,
                ids=TaskIds(TGID, 1, TGID, TGID),
                comm=b"victim",
                psargs=b"./victim\0--now\0",
            ),
            "vmas": make_vmas(),
            "auxv": ((33, 0x7FFD10000000), (6, 4096), (3, 0x400040), (0, 0)),
            "dump_filter": 0x33,
            "dialect": CoreDialect(),
            "xsave": LAYOUT,
            "kernel": "6.12.0-test",
            **values,
        }
    )


def pattern(address: int, size: int) -> bytes:
    """Bytes that depend on their address: no two words of a process are alike, and none is zero."""
    return b"".join(((address + offset) | 1 << 63).to_bytes(8, "little") for offset in range(0, size, 8))


@dataclass
class FakeMemory:
    """Memory by address: patterned unless said otherwise.

    :ivar ranges: (start, end) to provenance and detail; the rest is PRESENT.
    :ivar content: bytes at page-aligned addresses, instead of the pattern.
    :ivar fails: ranges that :meth:`runs` promises and :meth:`read` cannot give.
    """

    ranges: Mapping[tuple[int, int], tuple[Provenance, str]] = field(default_factory=dict)
    content: Mapping[int, bytes] = field(default_factory=dict)
    fails: Iterable[tuple[int, int]] = ()
    page_size: int = PAGE
    parallel: bool = True
    forward: bool = False
    piece: int = 4 * PAGE

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        return self._runs(start, end, self.ranges)

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        late = dict.fromkeys(self.fails, (Provenance.UNREADABLE, "late"))
        for run in self._runs(start, end, {**self.ranges, **late}):
            if not run.provenance.stored:
                yield Piece(run, b"")
                continue
            for at in range(run.address, run.end, self.piece):
                size = min(self.piece, run.end - at)
                yield Piece(Run(at, size, run.provenance), self.bytes_at(at, size))

    def bytes_at(self, address: int, size: int) -> bytes:
        return b"".join(self._page(at) for at in range(address, address + size, PAGE))

    def _page(self, address: int) -> bytes:
        for start, data in self.content.items():
            if start <= address < start + len(data):
                return data[address - start :][:PAGE].ljust(PAGE, b"\0")
        return pattern(address, PAGE)

    @staticmethod
    def _runs(start: int, end: int, ranges: Mapping[tuple[int, int], tuple[Provenance, str]]) -> Iterator[Run]:
        edges = sorted({start, end, *(edge for bounds in ranges for edge in bounds if start < edge < end)})
        last: Run | None = None
        for left, right in pairwise(edges):
            provenance, detail = Provenance.PRESENT, ""
            for (low, high), what in ranges.items():
                if low <= left < high:
                    provenance, detail = what
            run = Run(left, right - left, provenance, detail)
            if last is not None and last[2:] == run[2:]:
                run = Run(last.address, last.length + run.length, provenance, detail)
            elif last is not None:
                yield last
            last = run
        if last is not None:
            yield last


@dataclass
class FakeSource(Source):
    """A source with one process.

    :ivar its_files: what :meth:`Process.files` gives.
    :ivar held: how many of its processes nobody has closed yet.
    """

    image: ProcessImage = field(default_factory=make_image)
    memory: FakeMemory = field(default_factory=FakeMemory)
    its_files: Sequence[FileContents | Lost] = ()
    held: int = 0

    def processes(self) -> Iterator[ProcessSummary]:
        psinfo = self.image.psinfo
        yield ProcessSummary(
            pid=self.image.tgid,
            ppid=1,
            uid=psinfo.uid,
            threads=len(self.image.threads),
            rss=PAGE,
            state="S",
            comm=psinfo.comm,
            args=None,
            kernel_thread=False,
            task=0,
        )

    def process(self, ref: TaskRef | int | str) -> "FakeProcess":
        return FakeProcess(self)

    def remarks(self, missing: frozenset[Provenance]) -> Iterator[str]:
        """What its processes say of themselves."""
        yield from ()

    def describe(self) -> dict[str, str]:
        return {"format": "made up"}


class FakeProcess(Process, HasMappedFiles):
    def __init__(self, source: FakeSource) -> None:
        self._source = source
        self._open = True
        source.held += 1

    @property
    def image(self) -> ProcessImage:
        return self._source.image

    @property
    def memory(self) -> FakeMemory:
        return self._source.memory

    def remarks(self, missing: frozenset[Provenance] = frozenset()) -> Iterator[str]:
        yield from self._source.remarks(missing)

    def files(self) -> Iterator[FileContents | Lost]:
        yield from self._source.its_files

    def close(self) -> None:
        self._source.held -= self._open
        self._open = False
