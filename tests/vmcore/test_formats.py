# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every format of dump gives the same cores. Which files are real and which synthetic, each test says."""

import bz2
import gc
import gzip
import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile import FrameState, open_dump
from kgcore.sources.vmcore.opening.target import open_target
from tests.vmcore import reshape
from tests.vmcore.conftest import Extractor, Fixture, need
from tests.vmcore.corefile import Core
from tests.vmcore.tools import kgcore, same_bytes

ALL = 1 << 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For dumps that several tests use."""
    return tmp_path_factory.mktemp("formats")


def core_of(tmp_path: Path, pid: int, *options: object) -> bytes:
    """The core by the command line, without what tells of the container: the kernel's part alone."""
    done = kgcore(*options, "--no-kgcore-note", "-f", "0x7f", "-o", tmp_path / "core", "--force", pid, cwd=tmp_path)
    assert (done.status, done.remarks) == (0, []), done.remarks
    return (tmp_path / "core").read_bytes()


@pytest.fixture(scope="module")
def k61() -> Fixture:
    return need("k61")


VICTIM = "threads"


@pytest.fixture(scope="module")
def expected(k61: Fixture, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return core_of(tmp_path_factory.mktemp("expected"), k61.victims[VICTIM].pid, "-c", k61.dump())


class TestLinear:
    """Synthetic: no tool here writes these; the memory is that of a real dump."""

    @pytest.mark.parametrize("reverse", [False, True])
    def test_lime(self, k61: Fixture, expected: bytes, tmp_path: Path, *, reverse: bool) -> None:
        path = reshape.lime(k61.dump(), tmp_path / "image.lime", reverse=reverse)
        assert core_of(tmp_path, k61.victims[VICTIM].pid, "-c", path) == expected

    def test_lime_cut_off(self, k61: Fixture, tmp_path: Path) -> None:
        whole = reshape.lime(k61.dump(), tmp_path / "image.lime")
        size = whole.stat().st_size
        path = reshape.truncated(whole, tmp_path / "cut.lime", size - (5 << 20))
        done = kgcore("info", "-c", path, cwd=tmp_path)
        assert done.status == 0
        assert "cut off" in done.remarks[0]
        with open_target(DumpLocation(core=str(path))) as target:
            states = {state for _, _, state in target.frames.runs(0, ALL)}
        assert FrameState.CUT_OFF in states

    def test_raw_memory(self, k61: Fixture, expected: bytes, tmp_path: Path) -> None:
        path = reshape.raw(k61.dump(), tmp_path / "memory")
        options = ("-c", path, "--architecture", "x86_64")
        assert core_of(tmp_path, k61.victims[VICTIM].pid, *options) == expected
        done = kgcore("-c", path, 1, cwd=tmp_path)  # nobody said what it is
        assert done.status == 1
        assert "--architecture" in done.remarks[0]
        assert len(done.remarks) == 1


class TestElf:
    def test_elf32(self, k61: Fixture, expected: bytes, tmp_path: Path) -> None:
        """Synthetic: ELF32 headers, as kexec makes them on request, on a real dump."""
        path = reshape.elf32(k61.dump(), tmp_path / "vmcore")
        assert open_dump(path).format == "ELF32"
        assert core_of(tmp_path, k61.victims[VICTIM].pid, "-c", path) == expected

    @pytest.mark.parametrize("name", ["k61"])
    def test_filtered_elf_holds_what_it_says(self, name: str) -> None:
        """Real makedumpfile -E: what is stored is as in the whole dump; what is not is no zeros, but missing."""
        fixture = need(name)
        whole = {segment.address: segment for segment in reshape.segments(fixture.dump()) if segment.kind == 1}
        with (
            open_target(DumpLocation(core=str(fixture.dump("vmcore.d31-elf")))) as target,
            fixture.dump().open("rb") as file,
        ):
            pages = dict.fromkeys(FrameState, 0)
            nonzero = 0
            for start, end, state in target.frames.runs(0, ALL):
                pages[state] += end - start
                for address, segment in whole.items():
                    low, high = max(start << 12, address), min(end << 12, address + segment.size)
                    if low < high and state is not FrameState.NO_RAM:
                        file.seek(segment.offset + low - address)
                        data = file.read(high - low)
                        if state is FrameState.STORED:
                            assert target.phys(low, high - low) == data
                        else:
                            nonzero += any(data)
            assert nonzero  # drgn gives zeros here, and has others in the whole dump
            assert sum(pages[state] for state in (FrameState.STORED, FrameState.EXCLUDED)) == sum(
                segment.size >> 12 for segment in whole.values()
            )

    def test_excluded_memory_is_missing_in_cores(self, k61: Fixture, extract: Extractor) -> None:
        pid = k61.victims["memory"].pid
        whole, _ = extract(k61.dump(), pid, mask=None, vendor_note=False)
        path, report = extract(k61.dump("vmcore.d31-elf"), pid, mask=None, vendor_note=False)
        assert report.missing_bytes > 1 << 20
        for load in Core(path).loads:
            for address, data in Core(path).segment(load):
                assert Core(whole).read(address, len(data)) == data


class TestKdump:
    def test_not_compressed(self, tmp_path: Path) -> None:
        """Real: makedumpfile without a compressor."""
        fixture, makedumpfile = need("k61-kexec"), tool()
        makedumpfile("-d", "17", fixture.dump("vmcore.kexec"), tmp_path / "vmcore")
        dump = open_dump(tmp_path / "vmcore")
        assert (dump.format, dump.compression, dump.dump_level) == ("kdump", "none", 17)
        check_kexec(fixture, tmp_path, "-c", tmp_path / "vmcore")

    def test_snappy(self, k61: Fixture, extract: Extractor, tmp_path: Path) -> None:
        """Synthetic: neither makedumpfile nor QEMU of any Debian suite is built with snappy. Pages of a real file."""
        cramjam = pytest.importorskip("cramjam")
        small = need("k61-small")
        compress: Callable[[bytes], bytes] = lambda page: bytes(cramjam.snappy.compress_raw(page))  # noqa: E731
        path = reshape.recompressed(small.dump("vmcore"), tmp_path / "vmcore", 4, compress)
        assert open_dump(path).compression == "snappy"
        pid = small.victims["threads"].pid
        one, _ = extract(small.dump("vmcore"), pid, mask=None, vendor_note=False)
        two, _ = extract(path, pid, mask=None, vendor_note=False)
        assert same_bytes(one, two)


def tool() -> Callable[..., None]:
    """Trixie's makedumpfile, which the fixtures' recipes have unpacked."""
    from tests.vmcore_fixtures.make.makedumpfile import Makedumpfile

    found = Makedumpfile.of("trixie")

    def run(*words: object) -> None:
        subprocess.run([*found.command, *map(str, words)], check=True, capture_output=True, timeout=300)

    return run


def check_kexec(fixture: Fixture, tmp_path: Path, *options: object) -> None:
    """Another container of that dump gives the same core."""
    pid = fixture.victims["threads"].pid
    assert core_of(tmp_path, pid, *options) == core_of(tmp_path, pid, "-c", fixture.dump("vmcore.kexec"))


def split(place: Path, prefix: str, level: int = 17) -> list[Path]:
    paths = [place / f"{prefix}{number}" for number in range(3)]
    source = need("k61-kexec").dump("vmcore.kexec")
    tool()("-c", "-d", level, "--splitblock-size", "1024", "--split", source, *paths)
    return paths


@pytest.fixture(scope="module")
def parts(place: Path) -> list[Path]:
    return split(place, "a")


def named(*paths: Path) -> list[object]:
    return [word for path in paths for word in ("-c", path)]


class TestSplit:
    """Real: makedumpfile --split."""

    def test_same_core_in_any_order(self, parts: list[Path], tmp_path: Path) -> None:
        one, two, three = parts
        check_kexec(need("k61-kexec"), tmp_path, *named(three, one, two))

    def test_presence(self, parts: list[Path]) -> None:
        whole = open_dump(need("k61-kexec").dump("vmcore.d17-lzo"))
        assert list(open_dump(*parts).frames.runs(0, ALL)) == list(whole.frames.runs(0, ALL))

    @pytest.mark.parametrize("absent", [0, 1, 2])
    def test_incomplete(self, parts: list[Path], tmp_path: Path, absent: int) -> None:
        there = [path for number, path in enumerate(parts) if number != absent]
        done = kgcore(*named(*there), 1, cwd=tmp_path)
        assert done.status == 1
        assert len(done.remarks) == 1
        assert "the split set is incomplete" in done.remarks[0]
        assert "lack the file with the physical memory from 0x" in done.remarks[0]

    def test_one_alone(self, parts: list[Path], tmp_path: Path) -> None:
        done = kgcore("-c", parts[1], 1, cwd=tmp_path)
        assert done.status == 1
        assert done.remarks[0].count(" to 0x") == 2

    def test_not_of_one_dump(self, parts: list[Path], place: Path, tmp_path: Path) -> None:
        others = split(place, "b", level=31)
        done = kgcore(*named(parts[0], others[1], parts[2]), 1, cwd=tmp_path)
        assert done.status == 1
        assert "belong to different dumps" in done.remarks[0]

    def test_no_part_at_all(self, parts: list[Path], tmp_path: Path) -> None:
        other = need("k61-kexec").dump("vmcore.d17-lzo")
        done = kgcore(*named(parts[0], other), 1, cwd=tmp_path)
        assert done.status == 1
        assert f"{other} is a complete dump" in done.remarks[0]

    def test_the_same_twice(self, parts: list[Path], tmp_path: Path) -> None:
        done = kgcore(*named(parts[0], parts[0]), 1, cwd=tmp_path)
        assert done.status == 2
        twin = tmp_path / "twin"
        twin.symlink_to(parts[1])
        done = kgcore(*named(*parts, twin), 1, cwd=tmp_path)
        assert done.status == 1
        assert "given twice" in done.remarks[0]

    def test_a_part_cut_off(self, parts: list[Path], tmp_path: Path) -> None:
        short = reshape.truncated(parts[2], tmp_path / "short", parts[2].stat().st_size - 100_000)
        done = kgcore(*named(*parts[:2], short), "info", cwd=tmp_path)
        assert done.status == 0
        assert "cut off" in done.remarks[0]


PACKERS: tuple[tuple[str, str, Callable[[bytes], bytes] | None], ...] = (
    ("gzip", ".gz", gzip.compress),
    ("xz", ".xz", lambda data: lzma.compress(data, preset=0)),
    ("bzip2", ".bz2", bz2.compress),
    ("zstd", ".zst", None),
    ("lz4", ".lz4", None),
)


@pytest.mark.parametrize(("name", "suffix", "pack"), PACKERS, ids=[name for name, _, _ in PACKERS])
@pytest.mark.parametrize("odd", [False, True])
def test_a_packed_dump_is_refused_with_the_command_that_unpacks_it(
    name: str, suffix: str, pack: Callable[[bytes], bytes] | None, *, odd: bool, tmp_path: Path
) -> None:
    """And that command, run as it stands, does."""
    small = need("k61-small").dump("vmcore")
    path = tmp_path / ("it's packed" if odd else f"vmcore{suffix}")
    if pack:
        path.write_bytes(pack(small.read_bytes()))
    elif shutil.which(name):
        with small.open("rb") as source, path.open("wb") as target:
            subprocess.run([name, "-q", "-c", "-1"], stdin=source, stdout=target, check=True)
    else:
        magic = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}[name]
        path.write_bytes(magic + small.read_bytes()[:100])
    done = kgcore("-c", path, 1, cwd=tmp_path)
    assert done.status == 1
    (remark,) = done.remarks
    assert f"it is compressed with {name}" in remark
    command = remark.partition("decompress it: ")[2].removesuffix(")")
    assert command.startswith(f"{name} -dc ")
    if shutil.which(name):
        subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
        unpacked = tmp_path / ("it's packed.unpacked" if odd else "vmcore")
        assert same_bytes(unpacked, small)


class TestVmcoreinfo:
    def test_without_the_note_the_same_core(self, k61: Fixture, expected: bytes, tmp_path: Path) -> None:
        """A real dump with KASLR whose VMCOREINFO note was made unreadable: found in memory, the core is the same."""
        assert "nokaslr" not in k61.manifest["cmdline"]
        path = reshape.without_vmcoreinfo(k61.dump(), tmp_path / "vmcore")
        assert all(note.name != b"VMCOREINFO" for note in open_dump(path).notes)
        assert core_of(tmp_path, k61.victims[VICTIM].pid, "-c", path) == expected

    @pytest.mark.parametrize("name", ["k510", "k612", "k72"])
    def test_of_other_kernels(self, name: str, extract: Extractor, tmp_path: Path) -> None:
        fixture = need(name)
        pid = fixture.victims["dynamic"].pid
        path = reshape.without_vmcoreinfo(fixture.dump("vmcore.qemu-kdump"), tmp_path / "vmcore")
        one, _ = extract(fixture.dump("vmcore.qemu-kdump"), pid, mask=None, vendor_note=False)
        two, _ = extract(path, pid, mask=None, vendor_note=False)
        assert same_bytes(one, two)


def test_lime_with_a_damaged_header(tmp_path: Path) -> None:
    good = struct.pack("<4sIQQ8x", b"EMiL", 1, 0, 4095) + bytes(4096)
    for data, message in (
        (good + b"what is this here, thirty-two bytes of it?", "damaged or unknown header at offset 4128"),
        (good.replace(b"EMiL\1", b"EMiL\2"), "damaged or unknown header at offset 0"),
        (good + good, "two of its ranges hold the memory at 0x0"),
    ):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(TargetError, match=message):
            open_dump(tmp_path / "x")


def test_no_descriptor_is_closed_twice_or_left_open(k61: Fixture) -> None:
    """drgn takes over the file that an assembled dump starts with."""
    gc.collect()  # what earlier tests have left
    before = set(os.listdir("/proc/self/fd"))
    with open_target(DumpLocation(core=str(k61.dump("vmcore.qemu-flat")))) as target:
        assert target.release
    del target
    gc.collect()
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    gc.collect()
    for descriptor in kept:
        os.close(descriptor)  # EBADF if one was closed behind our back
    assert not set(os.listdir("/proc/self/fd")) - before
