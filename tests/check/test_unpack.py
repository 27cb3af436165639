# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed cores, read through by ``kgcore check``: whole, cut off, damaged, and made to cost."""

import gzip
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from kgcore.check import unpack
from kgcore.check.core import check_core
from kgcore.check.unpack import Unpacked, compression_of
from kgcore.coredump.pipeline import dump
from kgcore.errors import KgcoreError
from kgcore.sinks.compressed import CompressedSink, Compression
from kgcore.sinks.files import FileSink
from kgcore.sources.base import TaskRef
from tests.fake_source import LARGE, FakeSource

zstandard = pytest.importorskip("zstandard")

SUFFIX = {"zstd": ".zst", "gzip": ".gz"}
KINDS: tuple[Compression, ...] = ("zstd", "gzip")


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """One of 20 MiB."""
    path = tmp_path / "core"
    dump(FakeSource(), TaskRef(str(LARGE), pid=LARGE), lambda _: FileSink(path))
    return path


def packed(core: Path, kind: Compression) -> Path:
    path = core.with_suffix(SUFFIX[kind])
    dump(FakeSource(), TaskRef(str(LARGE), pid=LARGE), lambda _: CompressedSink(FileSink(path, force=True), kind))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_own_cores(kind: Compression, core: Path) -> None:
    plain, verdict = check_core(core), check_core(packed(core, kind))
    assert (verdict.ok, verdict.complete, verdict.problems) == (True, plain.complete, ())
    assert verdict.facts == plain.facts


@pytest.mark.parametrize("kind", KINDS)
def test_packed_by_others(kind: Compression, core: Path) -> None:
    tool = {"zstd": "zstd", "gzip": "gzip"}[kind]
    path = core.with_name("theirs")
    path.write_bytes(subprocess.run([tool, "-c", str(core)], capture_output=True, check=True).stdout)
    assert check_core(path).facts == check_core(core).facts
    assert check_core(path).ok


@pytest.mark.parametrize("kind", KINDS)
def test_every_end_is_seen(kind: Compression, core: Path) -> None:
    data = packed(core, kind).read_bytes()
    path = core.with_name("cut")
    random.seed(1)
    for length in sorted({5, 20, len(data) - 1, len(data) - 5, *(random.randrange(30, len(data)) for _ in range(20))}):
        path.write_bytes(data[:length])
        verdict = check_core(path)
        assert not verdict.ok
        assert verdict.complete is False
        assert verdict.problems[0] == "the compressed file is cut off", length
        assert "CUT SHORT" in verdict.lines()[0] or "DAMAGED" in verdict.lines()[0]
    path.write_bytes(data[: len(data) - 1])
    assert check_core(path).lines()[0].endswith("INCOMPLETE")


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_byte_is_seen(kind: Compression, core: Path) -> None:
    data = packed(core, kind).read_bytes()
    path = core.with_name("damaged")
    random.seed(2)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[random.randrange(20, len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        verdict = check_core(path)
        if kind == "gzip" and verdict.ok:  # the time of a member, which no checksum covers
            assert gzip.decompress(damaged) == core.read_bytes()
            continue
        assert not verdict.ok
        assert "compressed file" in verdict.problems[0]
        assert not any("unexpected" in line for line in verdict.lines())


@pytest.mark.parametrize("kind", KINDS)
def test_far_places(kind: Compression, core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between what is kept of the beginning and of the end, in any order, as long as it is not too often."""
    monkeypatch.setattr(unpack, "_HEAD", 1 << 16)
    data, path = core.read_bytes(), packed(core, kind)
    with path.open("rb") as file:
        assert compression_of(file.read(4)) == kind
        unpacked = Unpacked(file, str(path), kind)
        assert unpacked.size == len(data)
        for at, size in ((0, 64), (1 << 16, 100), ((1 << 16) - 50, 100), (len(data) - 64, 64), (12 << 20, 1 << 16)):
            unpacked.seek(at)
            assert unpacked.read(size) == data[at : at + size]
            assert unpacked.tell() == at + size
        unpacked.seek(-10, os.SEEK_END)
        assert unpacked.read() == data[-10:]
        assert unpacked.read(5) == b""
        unpacked.seek(1 << 20)
        again = iter(lambda: (unpacked.seek(1 << 20), unpacked.read(10)), None)
        with pytest.raises(KgcoreError, match="notes after its memory"):
            list(islice(again, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_may_cost(kind: Compression, tmp_path: Path) -> None:
    """A small file with an ELF header that becomes 40 GiB: neither all memory nor an hour."""
    zeros = bytes(64 << 20)
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor(level=1).compress
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(b"\x7fELF" + zeros) + pack(zeros) * 640)
    code = (
        "import sys; from kgcore.check.core import check_core; from kgcore.check import unpack\n"
        "from kgcore import errors\n"
        "unpack._ALWAYS = 1 << 30\n"  # a test need not wait for 8 of them
        "try: check_core(sys.argv[1])\n"
        "except errors.KgcoreError as error: print(error)\n"
        # Of getrusage() a process has what the one had that started it.
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bomb)], capture_output=True, text=True, timeout=120)
    message, peak = done.stdout.splitlines()
    assert "unpacks to more than" in message
    assert f"{kind} -d" in message
    assert int(peak) < 300 << 10  # KiB


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_that_is_packed(kind: Compression, tmp_path: Path) -> None:
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor().compress
    (tmp_path / "text").write_bytes(pack(b"no core " * (4 << 20)))
    verdict = check_core(tmp_path / "text")
    assert not verdict.ok
    assert verdict.problems[0].startswith("not an ELF file")
    (tmp_path / "text").write_bytes(pack(b""))
    assert check_core(tmp_path / "text").problems == ("the file is empty",)


def test_without_the_library(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(core, "zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(KgcoreError, match="needs the Python package zstandard"):
        check_core(path)
    assert check_core(packed(core, "gzip")).ok
