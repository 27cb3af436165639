# SPDX-License-Identifier: LGPL-2.1-or-later
import gzip
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import Options, dump, prepare, write
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.errors import KgcoreError
from kgcore.model.memory import Piece, Provenance, Run, Without
from kgcore.model.process import Vma
from kgcore.sinks.compressed import CompressedSink
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from tests.builders import FakeMemory, FakeSource, make_image, make_vma
from tests.kernel_core import (
    KernelCore,
    Parsed,
    RecordedFilter,
    make_kernel_core,
    missing_page,
    parse_core,
    with_ready_notes,
)

REF = TaskRef("4321", pid=4321)


@pytest.fixture(scope="module")
def kernel_core(tmp_path_factory: pytest.TempPathFactory) -> KernelCore:
    return make_kernel_core(tmp_path_factory.mktemp("kernel"))


def rebuilt(parsed: Parsed, path: Path, **options: object) -> Path:
    plan = make_plan(parsed.image, parsed.keep, parsed.memory, **options)  # type: ignore[arg-type]
    with FileSink(path) as sink:
        write_core(plan, parsed.memory, sink)
        sink.commit()
    return path


def test_a_core_of_the_kernel_comes_out_again_byte_for_byte(kernel_core: KernelCore, tmp_path: Path) -> None:
    parsed = parse_core(kernel_core.path)
    assert len(parsed.image.threads) == 2
    path = rebuilt(parsed, tmp_path / "core")
    assert path.read_bytes() == parsed.without_signal
    assert check_core(kernel_core.path).ok


def test_register_sets_of_the_kernel_come_out_again(kernel_core: KernelCore, tmp_path: Path) -> None:
    """As somebody hands them over who has them from the kernel, whatever they are."""
    ready = with_ready_notes(parse_core(kernel_core.path))
    assert all(len(thread.regsets) >= 2 and thread.fpu is None for thread in ready.image.threads)
    assert rebuilt(ready, tmp_path / "core").read_bytes() == ready.without_signal


def gdb(kernel_core: KernelCore, core: Path, *commands: str) -> str:
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    args = ["gdb", "-nx", "-batch", *(f"-ex={command}" for command in commands), str(kernel_core.program), str(core)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize("note", [True, False])
def test_gdb_finds_frames_and_thread_locals(kernel_core: KernelCore, tmp_path: Path, note: bool) -> None:
    parsed = parse_core(kernel_core.path)
    core = rebuilt(parsed, tmp_path / "core", source={"format": "kernel"} if note else None)
    told = gdb(kernel_core, core, "thread apply all bt", "p mine", "p $xmm7.uint128", "thread 2", "p mine")
    for frame in ("deepest ()", "deeper ()", "main ()", "thread (arg="):
        assert frame in told
    assert "$1 = 7" in told
    assert f"$2 = {2**128 - 1}" in told
    assert "$3 = 8" in told


@pytest.mark.parametrize("policy", ["omit", "zero"])
def test_gdb_refuses_to_read_a_missing_page_only_if_omitted(
    kernel_core: KernelCore, tmp_path: Path, policy: str
) -> None:
    parsed = parse_core(kernel_core.path)
    heap = next(vma for vma in parsed.image.vmas if vma.file is None and vma.end - vma.start >= 5 * 4096)
    core = rebuilt(missing_page(parsed, heap.start), tmp_path / "core", missing=policy)
    told = gdb(kernel_core, core, f"x/gx {heap.start:#x}")
    assert ("Cannot access memory" in told) == (policy == "omit")


def test_gdb_takes_missing_program_text_from_the_program(kernel_core: KernelCore, tmp_path: Path) -> None:
    """Text that the filter asked for and nobody had: no PT_LOAD stands in the way of the program's own file."""
    parsed = parse_core(kernel_core.path)
    ip = parsed.image.threads[0].regs.values["ip"]
    text = next(vma for vma in parsed.image.vmas if vma.start <= ip < vma.end)
    memory = FakeMemory({(text.start, text.end): (Provenance.FILE, "")}, parsed.memory.content, piece=16 * 4096)
    keep = RecordedFilter({**parsed.keep.lengths, text.start: text.end - text.start})
    core = rebuilt(parsed._replace(memory=memory, keep=keep), tmp_path / "core", source={"format": "kernel"})
    verdict = check_core(core)
    assert verdict.ok
    assert len(verdict.lacks) == 1
    told = gdb(kernel_core, core, "bt", f"x/i {ip:#x}")
    assert "deepest ()" in told
    assert "Cannot access" not in told


def test_same_process_and_options_give_the_same_bytes() -> None:
    cores = []
    for _ in range(2):
        sink = MemorySink()
        dump(FakeSource(), REF, lambda image, sink=sink: sink)  # type: ignore[misc]
        cores.append(bytes(sink.data))
    assert cores[0] == cores[1]


def test_prepared_sizes_are_those_written(tmp_path: Path) -> None:
    prepared = prepare(FakeSource(), REF, Options(mask=0x7F))
    report = write(prepared, FileSink(tmp_path / "core"))
    assert (tmp_path / "core").stat().st_size == prepared.plan.size == report.size
    assert report.path == str(tmp_path / "core")
    assert report.exit_status == 0


def test_own_filter_and_dax_bits() -> None:
    source = FakeSource()
    assert prepare(source, REF, Options(mask=None)).plan.filter_settings["mask"] == 0x33
    assert prepare(source, REF, Options(mask=0, dax=True)).plan.filter_settings["mask"] == 0x180
    assert prepare(source, REF, Options(dontdump=True)).plan.filter_settings["dontdump"] is True


def test_without_vendor_note_kgcore_is_not_named() -> None:
    sink = MemorySink()
    dump(FakeSource(), REF, lambda image: sink, Options(vendor_note=False))
    assert b"KGCORE" not in sink.data


def test_a_failing_write_leaves_nothing_behind(tmp_path: Path) -> None:
    class Interrupted(FakeMemory):
        def bytes_at(self, address: int, size: int) -> bytes:
            raise KeyboardInterrupt

    memory = Interrupted({(0x400000, 0x402000): (Provenance.ZERO, "")})
    with pytest.raises(KeyboardInterrupt):
        dump(FakeSource(memory=memory), REF, lambda image: FileSink(tmp_path / "core"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_what_turns_out_to_be_lost_is_no_zeros(tmp_path: Path, compression: str | None, jobs: int) -> None:
    """A file is written once more without the bytes that could not be read, as if that had been known before."""
    source = FakeSource()
    vma = next(vma for vma in source.image.vmas if vma.end - vma.start >= 3 * 4096)
    lost = (vma.start + 4096, vma.start + 2 * 4096)
    source.memory = FakeMemory(fails=[lost])
    prepared = prepare(source, TaskRef.parse("1"), Options(mask=0x7F))
    path = tmp_path / "core"
    file = FileSink(path)
    report = write(prepared, file if compression is None else CompressedSink(file, "gzip"), jobs=jobs)
    assert [(gap.start, gap.end, gap.reason, gap.late) for gap in report.missing] == [(*lost, "unreadable", False)]
    content = path.read_bytes() if compression is None else gzip.decompress(path.read_bytes())
    known = FakeSource()
    known.memory = FakeMemory({lost: (Provenance.UNREADABLE, "late")})
    sink = MemorySink()
    dump(known, TaskRef.parse("1"), lambda _image: sink, Options(mask=0x7F))
    assert content == sink.data
    assert os.listdir(tmp_path) == ["core"]


def test_a_stream_cannot_be_taken_back() -> None:
    source = FakeSource()
    start = source.image.vmas[0].start
    source.memory = FakeMemory(fails=[(start, start + 4096)])
    report = write(prepare(source, TaskRef.parse("1"), Options(mask=0x7F)), MemorySink())
    assert [gap.late for gap in report.missing] == [True]


def test_a_disk_that_fails_more_and_more(tmp_path: Path) -> None:
    """After a few times it is enough, and zeros stand for the rest, as the report says."""

    class Failing(FakeMemory):
        tries = 0

        def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
            for run, data in super().read(vma, start, end):
                if run.address == first.start:
                    self.tries += 1
                if self.tries and run.address <= first.start + (self.tries - 1) * 4096 < run.end:
                    yield Piece(run._replace(provenance=Provenance.UNREADABLE, detail="late"), b"")
                else:
                    yield Piece(run, data)

    source = FakeSource()
    first = max(source.image.vmas, key=lambda vma: vma.end - vma.start)
    source.memory = Failing(piece=4096)
    report = write(prepare(source, TaskRef.parse("1"), Options(mask=0x7F)), FileSink(tmp_path / "core"))
    assert not report.complete
    assert check_core(tmp_path / "core").ok


def test_memory_without_some_bytes() -> None:
    memory = FakeMemory()
    vma = make_vma(0x10000, 10)
    lost = [Run(0x11000, 0x1000, Provenance.UNREADABLE, "a"), Run(0x15000, 0x3000, Provenance.UNREADABLE, "b")]
    without = Without(memory, lost)
    for start in range(0x10000, 0x1A000, 0x1000):
        for end in range(start + 0x1000, 0x1B000, 0x1000):
            expected = [run for run in lost if run.address < end and start < run.end]
            for found in (list(without.runs(vma, start, end)), [piece.run for piece in without.read(vma, start, end)]):
                assert (found[0].address, found[-1].end) == (start, end)
                assert all(one.end == two.address for one, two in pairwise(found))
                missing = [run for run in found if run.provenance.missing]
                assert [(max(run.address, start), min(run.end, end), run.detail) for run in expected] == [
                    (run.address, run.end, run.detail) for run in missing
                ]


# How long a process is held


def test_a_process_is_held_until_the_last_read() -> None:
    class Watched(FakeMemory):
        def bytes_at(self, address: int, size: int) -> bytes:
            assert source.held == 1
            return super().bytes_at(address, size)

    source = FakeSource(memory=Watched())
    with prepare(source, REF) as prepared:
        write(prepared, MemorySink())
        assert source.held == 1
    assert source.held == 0
    prepared.close()
    assert source.held == 0
    dump(source, REF, lambda image: MemorySink())
    assert source.held == 0


def test_a_process_that_cannot_be_planned_or_written_is_let_go() -> None:
    class Failing(FakeMemory):
        def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
            raise KeyboardInterrupt

    class Interrupted(FakeMemory):
        def bytes_at(self, address: int, size: int) -> bytes:
            raise KeyboardInterrupt

    for memory in (Failing(), Interrupted()):
        source = FakeSource(memory=memory)
        with pytest.raises(KeyboardInterrupt):
            dump(source, REF, lambda image: MemorySink(), Options(mask=0x7F))
        assert source.held == 0
    source = FakeSource(make_image(arch="vax"))
    with pytest.raises(KgcoreError, match="vax"):
        prepare(source, REF)
    assert source.held == 0
