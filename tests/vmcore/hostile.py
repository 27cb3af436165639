# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real dumps whose memory is damaged on the fly, and a run of kgcore over them.

::

    python3 -m tests.vmcore.hostile k61-small 0 1000 corrupt    # seeds from, to; or "lose": the tests, at length

The pages that extraction reads are taken out of the dump once; a Program on a callback then sees them with whatever a
:class:`Damage` does to them.
"""

import json
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import FrameType

from drgn import Architecture, FaultError, Platform, Program

from kgcore.coredump.pipeline import Options, Prepared, prepare, write
from kgcore.coredump.report import Report
from kgcore.errors import KgcoreError
from kgcore.model.process import Thread
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile import FrameRun, Frames, FrameState, open_dump
from kgcore.sources.vmcore.dumpfile.frames import Stretch, merged, one_by_one
from kgcore.sources.vmcore.dumpfile.source import ShortFile
from kgcore.sources.vmcore.opening.drgnmemory import assemble
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.source import VmcoreSource
from kgcore.sources.vmcore.symbols import finders as symbols
from tests.vmcore.conftest import Fixture, Victim, main_dump, need
from tests.vmcore.corefile import Core

PAGE = 4096
_U64 = struct.Struct("<Q")
_KERNEL = 0xFFFF800000000000
_TYPICAL = (0, 1, 2, 0x7F, 0xFF, 0xFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1)


class TooSlow(BaseException):
    """Not an Exception, so that nothing swallows it."""


class NullSink(MemorySink):
    """Takes a core of any size and forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self.size += len(data)

    def skip(self, length: int) -> None:
        self.size += length


@dataclass
class Damage:
    """What is wrong with memory.

    :ivar pages: by frame number, those that have other contents.
    :ivar lost: frames that cannot be read.
    :ivar said: the dump's tables say that those were excluded.
    """

    pages: dict[int, bytes] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()
    said: bool = False


class Less:
    """Frames of a dump without those that are lost."""

    def __init__(self, frames: Frames, lost: frozenset[int]) -> None:
        self._frames = frames
        self._lost = lost

    def runs(self, start: int, end: int) -> Iterator[FrameRun]:
        return merged(self._split(start, end))

    def stretches(self, frames: Sequence[int]) -> Iterator[Stretch]:
        return one_by_one(frames, self.runs)

    def _split(self, start: int, end: int) -> Iterator[FrameRun]:
        for run in self._frames.runs(start, end):
            at = run.start
            for frame in sorted(frame for frame in self._lost if run.start <= frame < run.end):
                yield FrameRun(at, frame, run.state)
                yield FrameRun(frame, frame + 1, FrameState.EXCLUDED)
                at = frame + 1
            yield FrameRun(at, run.end, run.state)


class Machine:
    """A dump behind a callback.

    :ivar damage: what reads see from now on.
    :ivar reads: what was read since :meth:`record`: physical address and size.
    """

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        self._damage = Damage()
        self.reads: set[tuple[int, int]] = set()
        self._pages: dict[int, bytes] = {}
        path = str(fixture.dump(main_dump(fixture)))
        self._whole = open_target(DumpLocation(core=path, symbols_from="btf"))
        dump = open_dump(path)
        prog = Program(Platform(Architecture.X86_64), vmcoreinfo=self._whole.prog["VMCOREINFO"].string_())
        assemble(prog, dump.notes, ())
        prog.add_memory_segment(0, 1 << 52, lambda address, size, _offset, _physical: self.read(address, size), True)
        symbols.load_btf(prog, self._whole.release)
        dump.fill = self._fill  # type: ignore[method-assign]
        self.target = Target(prog, dump, "btf")
        self._frames = self.target.frames
        self.page_offset: int = prog["page_offset_base"].value_()

    @property
    def damage(self) -> Damage:
        return self._damage

    @damage.setter
    def damage(self, damage: Damage) -> None:
        self._damage = damage
        self.target.frames = Less(self._frames, damage.lost) if damage.said else self._frames

    def read(self, address: int, size: int) -> bytes:
        start, end = address, address + size
        parts = []
        while address < end:
            frame, offset = divmod(address, PAGE)
            length = min(PAGE - offset, end - address)
            parts.append(self.page(frame)[offset : offset + length])
            address += length
        self.reads.add((start, size))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill(self, pages: Sequence[int], view: memoryview) -> None:
        """What reads the file without drgn meets the same damage."""
        self.reads.update((page, PAGE) for page in pages)
        try:
            view[:] = b"".join(self.page(page // PAGE) for page in pages)
        except FaultError as error:
            raise ShortFile(str(error)) from error

    def page(self, frame: int) -> bytes:
        if frame in self.damage.lost:
            raise FaultError("made unreadable by the test", frame * PAGE)
        return self.damage.pages.get(frame) or self.clean(frame)

    def clean(self, frame: int) -> bytes:
        known = self._pages.get(frame)
        if known is None:
            known = self._pages[frame] = self._whole.phys(frame * PAGE, PAGE)
        return known

    def source(self) -> VmcoreSource:
        return VmcoreSource(self.target)

    @property
    def victims(self) -> list[Victim]:
        return list(self.fixture.victims.values())

    @contextmanager
    def recording(self) -> Iterator[set[tuple[int, int]]]:
        """The reads of a block."""
        self.reads = set()
        yield self.reads


@dataclass
class Baseline:
    """A dump that is whole, and what kgcore reads and makes of it.

    :ivar structures: where bytes of kernel structures and page tables lie: physical address and size.
    :ivar own: the same for the planning of one victim's core.
    :ivar frames: every page frame that is read.
    :ivar pointers: kernel pointers found there.
    """

    machine: Machine
    structures: list[tuple[int, int]] = field(default_factory=list)
    own: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    frames: list[int] = field(default_factory=list)
    pointers: list[int] = field(default_factory=list)
    cores: dict[str, bytes] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str) -> "Baseline":
        machine = Machine(need(name))
        base = cls(machine)
        with machine.recording() as reads:
            run_everything(machine, machine.victims, base._keep)
        # Bulk reads are the process's own memory; all else are structures.
        base.structures = sorted(read for read in reads if read[1] < PAGE)
        base.frames = sorted({frame for at, size in reads for frame in range(at // PAGE, (at + size - 1) // PAGE + 1)})
        words = {
            word
            for at, size in base.structures
            for (word,) in _U64.iter_unpack(machine.read(at & ~7, max(size, 8) & ~7))
            if word >= _KERNEL
        }
        base.pointers = sorted(words)
        for victim in machine.victims:
            with machine.recording() as reads:
                prepare(machine.source(), TaskRef.parse(str(victim.pid)), Options(mask=0x7F))
            base.own[victim.name] = sorted(read for read in reads if read[1] < PAGE)
        return base

    def _keep(self, victim: Victim, prepared: Prepared, core: bytes, report: Report) -> None:
        self.reports[victim.name] = report
        self.cores[victim.name] = core
        self.prepared[victim.name] = prepared

    def wrong(self, victim: Victim, prepared: Prepared, core: bytes, report: Report) -> Iterator[str]:
        """What a core out of unreadable memory has that it should not: anything else than the clean one's, unsaid."""
        with tempfile.TemporaryDirectory() as directory:
            yield from differences(self.cores[victim.name], core, report, Path(directory))
        clean, image = self.prepared[victim.name].image, prepared.image
        vmas = {vma.start: vma for vma in clean.vmas}
        for vma in image.vmas:
            known = vmas[vma.start]
            if vma != known and not (
                vma.end == known.end and any(f"{vma.start:#x}" in text or "name" in text for text in image.warnings)
            ):
                yield f"{vma} was {known}"
        threads = {thread.task: thread for thread in clean.threads}
        for thread in image.threads:
            known_thread = threads[thread.task]
            if thread.fpu and thread.fpu.stale and known_thread.fpu:
                # Without the kernel's code it is unknown whether they are: the core says that they may be.
                known_thread = replace(known_thread, fpu=replace(known_thread.fpu, stale=True))
            if thread != known_thread and not any(
                re.search(rf"thread {thread.tid}\b|the list of threads", text) for text in image.warnings
            ):
                yield f"thread {thread.tid}: {changed(thread, known_thread)}"
        if image.xsave and clean.xsave:  # what init_fpstate holds the architecture says too
            image = replace(image, xsave=replace(image.xsave, init_image=clean.xsave.init_image))
        for name in ("tgid", "psinfo", "auxv", "dump_filter", "dialect", "xsave"):
            if getattr(clean, name) != getattr(image, name) and not image.warnings:
                yield f"{name} {getattr(image, name)} was {getattr(clean, name)}"
        if len(image.vmas) + len(image.threads) < len(clean.vmas) + len(clean.threads) and not image.warnings:
            yield "something is missing unsaid"

    # Kinds of damage

    def corrupted(self, rng: random.Random, victim: Victim) -> Damage:
        """A few words, bytes or pages of what is read are something else.

        :param victim: half of the damage is done to what its extraction reads, all the rest to anything.
        """
        structures = rng.choice((self.own[victim.name], self.structures))
        pages: dict[int, bytearray] = {}

        def page(frame: int) -> bytearray:
            return pages.setdefault(frame, bytearray(self.machine.clean(frame)))

        if rng.random() < 0.15:
            frame = rng.choice(self.frames)
            page(frame)[:] = rng.choice(
                (rng.randbytes(PAGE), bytes(PAGE), b"\xff" * PAGE, self.machine.clean(rng.choice(self.frames)))
            )
        for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
            at, size = rng.choice(structures)
            at += rng.randrange(size)
            if rng.random() < 0.3:
                page(at // PAGE)[at % PAGE] = rng.randrange(256)
                continue
            at &= ~7
            frame, offset = divmod(at, PAGE)
            _U64.pack_into(page(frame), offset, self._word(rng, at, _U64.unpack_from(page(frame), offset)[0]))
        return Damage({frame: bytes(data) for frame, data in pages.items()})

    def _word(self, rng: random.Random, at: int, old: int) -> int:
        kind = rng.randrange(7)
        if kind == 0:
            return rng.getrandbits(64)
        if kind == 1:
            return rng.choice(_TYPICAL)
        if kind == 2:
            return old ^ 1 << rng.randrange(64)
        if kind == 3:
            return rng.choice(self.pointers)
        if kind == 4:  # to itself, or near: lists and trees in a circle
            return (
                self.machine.page_offset + at + rng.choice((0, 0, 0, -8, 8, -16, -64)) + rng.choice((0, 0, 2, 6, 0x1E))
            )
        if kind == 5:  # a page-table entry that leads to its own table, or to another page that is read
            frame = rng.choice((at // PAGE, at // PAGE, rng.choice(self.frames)))
            return frame << 12 | rng.choice((0x67, 0x67, 0xE7, 0x100, 0x6))
        return (old + rng.choice((-8, 8, 4096, -4096, 1 << 21, 1 << 32))) & (1 << 64) - 1

    def unreadable(self, rng: random.Random) -> Damage:
        """A few of the pages that are read are not in the dump."""
        if rng.random() < 0.5:  # of those that hold structures: most hold the processes' own memory
            frames = [at // PAGE for at, _ in rng.choices(self.structures, k=rng.choice((1, 2, 5, 20)))]
        else:
            frames = rng.choices(self.frames, k=rng.choice((1, 5, 50, 500)))
        return Damage(lost=frozenset(frames), said=rng.random() < 0.5)


Visitor = Callable[[Victim, Prepared, bytes, Report], None]


def run_everything(machine: Machine, victims: list[Victim], visit: Visitor | None = None) -> int:
    """All that a user can ask of a dump: list the processes, extract some, report.

    :param visit: is given each core; without it cores are written to nowhere.
    :returns: how many cores came out.
    """
    reports = 0
    source = machine.source()
    with suppress(KgcoreError):
        list(source.processes())
    with suppress(KgcoreError):
        _ = source.process(TaskRef.current()).image
    for victim in victims:
        try:
            prepared = prepare(source, TaskRef.parse(str(victim.pid)), Options(mask=0x7F))
            sink = MemorySink() if visit else NullSink()
            report = write(prepared, sink)
        except KgcoreError:
            continue
        check_report(report)
        reports += 1
        if visit:
            visit(victim, prepared, bytes(sink.data), report)
    return reports


def changed(now: Thread, before: Thread) -> str:
    names = [item.name for item in fields(now) if getattr(now, item.name) != getattr(before, item.name)]
    return ", ".join(f"{name} {getattr(now, name)} was {getattr(before, name)}"[:300] for name in names)


def check_report(report: Report) -> None:
    assert isinstance(report, Report)
    json.dumps(report.to_json())
    assert report.lines()


def differences(clean: bytes, damaged: bytes, report: Report, directory: Path) -> Iterator[str]:
    """Bytes of memory that differ between cores and are not reported as missing."""
    missing = {page for gap in report.missing for page in range(gap.start, gap.end, PAGE)}
    one, two = directory / "clean", directory / "damaged"
    one.write_bytes(clean)
    two.write_bytes(damaged)
    whole = Core(one)
    for load in (less := Core(two)).loads:
        for address, data in less.segment(load):
            there = whole.read(address, len(data))
            for at in range(0, len(data), PAGE) if there != data else ():
                if data[at : at + PAGE] != (bytes(PAGE) if address + at in missing else there[at : at + PAGE]):
                    yield f"{address + at:#x}"


def peak_memory() -> int:
    """Bytes of RAM that this process needed at most since :func:`reset_peak_memory`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def reset_peak_memory() -> None:
    with suppress(OSError):  # without it the check is merely weaker
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """:raises TooSlow: in the block, if it takes longer."""

    def bark(_number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {seconds} s; at\n{''.join(traceback.format_stack(frame)[-12:])}")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    name, first, last, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    seconds = float(sys.argv[5]) if len(sys.argv) > 5 else 20
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    start = time.monotonic()
    base = Baseline.of(name)
    print(f"{name}: {len(base.structures)} reads, {len(base.frames)} frames, {time.monotonic() - start:.1f} s")
    slowest, reports = 0.0, 0
    for seed in range(first, last):
        rng = random.Random(seed)
        start = time.monotonic()
        try:
            with watchdog(seconds):
                reports += run(base, rng, kind)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            print(f"--- {name} {seed} {kind}: {type(error).__name__}: {str(error)[:3000]}")
            if not isinstance(error, TooSlow):
                print("".join(traceback.format_exception(error)[-8:]))
        slowest = max(slowest, time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{name} {first}-{last} {kind}: {reports} cores, slowest {slowest:.1f} s, peak {peak} MiB")
    return 0


def run(base: Baseline, rng: random.Random, kind: str, count: int = 3) -> int:
    """One run on memory damaged in one of two ways, ``corrupt`` or ``lose``.

    :returns: how many cores came out, of ``count`` victims.
    :raises AssertionError: lost memory made a core wrong.
    """
    try:
        return _run(base, rng, kind, count)
    finally:
        base.machine.damage = Damage()


def _run(base: Baseline, rng: random.Random, kind: str, count: int) -> int:
    victims = rng.sample(base.machine.victims, k=min(count, len(base.machine.victims)))
    if kind == "corrupt":
        base.machine.damage = base.corrupted(rng, victims[0])
        return run_everything(base.machine, victims)
    base.machine.damage = base.unreadable(rng)
    wrong: list[str] = []

    def compare(victim: Victim, prepared: Prepared, core: bytes, report: Report) -> None:
        wrong.extend(f"{victim.name}: {where}" for where in base.wrong(victim, prepared, core, report))

    reports = run_everything(base.machine, victims, compare)
    assert not wrong, wrong[:5]
    return reports


if __name__ == "__main__":
    sys.exit(main())
