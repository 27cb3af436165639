# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores that are compressed: the same process goes on from them, and those that are damaged start nothing."""

import gzip
import os
import random
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kgcore.errors import TargetError
from kgcore.restore.corefile import FinishedCore
from tests.restore.going_on import compiled, needs_ids, restart, running, taken, until_ready

pytestmark = needs_ids

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    unsigned *block = malloc(3 << 20), sum = 0;
    for (unsigned i = 0; i < (3 << 18); i++)
        block[i] = i * 2654435761u;
    printf("ready\n"), fflush(stdout);
    while (access("go", F_OK) != 0)
        usleep(5000);
    for (unsigned i = 0; i < (3 << 18); i++)
        sum += block[i] == i * 2654435761u;
    printf("%u\n", sum);
    return 9;
}
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed core, beside the folder of its process."""
    folder = tmp_path_factory.mktemp("block")
    source, place = folder / "block.c", folder / "place"
    source.write_text(PROGRAM)
    program = compiled(source, folder / "block", "-O1")
    with running(place, program) as process:
        until_ready(place, process)
        return taken(process, folder / "core.zst", "--compress", "zstd")


def plain(core: Path) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    with core.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        return bytes(reader.read())


def test_it_goes_on(core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert core.read_bytes()[:4] != b"\x7fELF"
    place = core.parent / "place"
    (place / "go").touch()
    done = restart(core)
    assert done.returncode == 9, done.stderr
    assert (place / "out").read_text() == f"ready\n{3 << 18}\n"
    assert os.listdir(tmp_path) == []


def test_every_byte_is_as_in_the_core_itself(core: Path, tmp_path: Path) -> None:
    itself, packed = tmp_path / "core", tmp_path / "core.gz"
    itself.write_bytes(plain(core))
    packed.write_bytes(gzip.compress(plain(core), 1))
    os.utime(packed, (1000000, 1000000))
    with (
        closing(FinishedCore.open(str(itself))) as one,
        closing(FinishedCore.open(str(packed))) as gz,
        closing(FinishedCore.open(str(core))) as zst,
    ):
        assert sum(segment.stored for segment in one.segments) > 3 << 20
        assert gz.modified() == 1000000
        for other in (gz, zst):
            assert (other.segments, other.notes) == (one.segments, one.notes)
            for segment in one.segments:
                mine, others = (each.read(segment.start, segment.stored) for each in (one, other))
                assert mine == others


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_bad_ones(core: Path, tmp_path: Path) -> None:
    """They are cut off or damaged, or something else; or there is no room. No descriptor stays open."""
    whole = core.read_bytes()
    inside = bytearray(gzip.compress(plain(core), 1))
    inside[len(inside) // 2] ^= 0xFF
    bad = {
        "cut.zst": (whole[: len(whole) // 2], "cut off|damaged"),
        "cut.gz": (gzip.compress(plain(core), 1)[:-100], "cut off"),
        "changed.gz": (bytes(inside), "damaged"),
        "text.gz": (gzip.compress(b"no core"), "does not begin like an ELF file"),
        "noise.zst": (whole[:4] + random.Random(5).randbytes(5000), "damaged|cut off"),
    }
    before = os.listdir("/proc/self/fd")
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TargetError, match=message) as caught:
            FinishedCore.open(str(tmp_path / name))
        assert name in caught.value.message
    with longest_file(1 << 21), pytest.raises(TargetError, match=r"cannot unpack .*: File too large"):
        FinishedCore.open(str(core))
    assert os.listdir("/proc/self/fd") == before
