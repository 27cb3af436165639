# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file written piece by piece has every byte in its position, whichever way it went there."""

import errno
import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.sinks.directfile import DirectFile

MEMORY = Path("/dev/shm")
LARGE = random.Random(0).randbytes(9 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def needs_direct(file: int) -> None:
    """Where tests are run the file system can; else they would prove nothing."""
    target = DirectFile(file)
    assert target.direct, "the temporary directory is on a file system without O_DIRECT"
    target.close()


@pytest.mark.parametrize("directory", [None, MEMORY])
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9000), st.sampled_from([1, 100, 4095, 4096, 300_000, 262_144 + 4096, 5 << 20])),
        max_size=6,
    )
)
def test_every_byte_is_where_it_belongs(directory: Path | None, pieces: list[tuple[int, int]]) -> None:
    expected = bytearray()
    with tempfile.TemporaryFile(dir=directory) as file:
        target = DirectFile(file.fileno())
        position = target.at(0)
        for hole, length in pieces:
            position.skip(hole)
            position.write(LARGE[:length])
            expected += bytes(hole) + LARGE[:length]
        position.flush()
        target.close()
        assert position.offset == len(expected)
        assert content(file.fileno()) == expected


def test_direct_beside_each_other(file: int) -> None:
    """Several go forward at once, and none gets in another's way."""
    target = DirectFile(file)
    starts = [0, *accumulate([1_000_000, 3_000_001, 5_000_000])]
    pieces = [LARGE[start : start + 1_000_000] for start in starts]
    all_of_them = [target.at(start) for start in starts]
    for at in range(0, 1_000_000, 100_000):
        for position, piece in zip(all_of_them, pieces, strict=True):
            position.write(memoryview(piece)[at : at + 100_000])
    for position in all_of_them:
        position.flush()
    found = content(file)
    for start, piece in zip(starts, pieces, strict=True):
        assert found[start : start + len(piece)] == piece


def test_much_goes_past_the_page_cache(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_direct(file)
    pwrite, direct = os.pwrite, []

    def watched(fd: int, data: memoryview, offset: int) -> int:
        if is_direct(fd):
            direct.append(len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    target = DirectFile(file)
    position = target.at(100)
    position.write(LARGE)
    position.flush()
    assert sum(direct) > len(LARGE) - 2 * 4096
    direct.clear()
    position.skip(100)
    position.write(LARGE[:100_000])  # not worth it
    position.flush()
    assert not direct
    assert content(file) == bytes(100) + LARGE + bytes(100) + LARGE[:100_000]


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_systems_that_cannot(file: int, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """Some accept the flag and refuse the write."""
    needs_direct(file)
    pwrite, refused = os.pwrite, []

    def refusing(fd: int, data: memoryview, offset: int) -> int:
        if is_direct(fd):
            refused.append(offset)
            raise OSError(reason, os.strerror(reason))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    target = DirectFile(file)
    position = target.at(0)
    position.write(LARGE)
    position.flush()
    assert content(file) == LARGE
    assert len(refused) == 1
    assert not target.direct


def test_short_and_failing_writes(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a direct write leaves is written the other way; what fails is an error, at the latest when flushed."""
    needs_direct(file)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[: max(4096, len(data) // 3)], offset))
    position = DirectFile(file).at(4000)
    position.write(LARGE)
    position.flush()
    assert content(file) == bytes(4000) + LARGE

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    position.write(LARGE[:1_000_000])
    with pytest.raises(OSError, match="No space"):
        position.flush()


def test_without_proc(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "open", refuse)
    target = DirectFile(file)
    assert not target.direct
    position = target.at(0)
    position.write(LARGE)
    position.flush()
    assert content(file) == LARGE
