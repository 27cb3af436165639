# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a name leads to, nobody waits for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kgcore.system.regular import open_regular, read_at, reading
from tests.bad_sectors import bad


@pytest.mark.parametrize("links", [True, False])
def test_regular_files(tmp_path: Path, *, links: bool) -> None:
    (tmp_path / "x").write_bytes(b"content")
    descriptor = open_regular(tmp_path / "x", links=links)
    assert os.read(descriptor, 100) == b"content"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    with reading(tmp_path / "x") as file:
        assert file.read() == b"content"


def test_a_file_system_that_gives_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"content")
    descriptor = open_regular(tmp_path / "x")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda number, size, at: real(number, min(size, 2), at))
    assert read_at(descriptor, 6, 1) == read_at(descriptor, 100, 1) == b"ontent"
    assert read_at(descriptor, 5, 7) == read_at(descriptor, 0, 0) == b""
    with bad(tmp_path / "x", (5, 6)):
        assert read_at(descriptor, 3, 2) == b"nte"
        with pytest.raises(OSError, match="Input/output error"):
            read_at(descriptor, 4, 2)
    os.close(descriptor)


def test_nothing_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    before = set(os.listdir("/proc/self/fd"))
    for name in ("fifo", "link", ".", "/dev/null", "/dev/zero", "/dev/tty"):
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            open_regular(tmp_path / name)
    assert set(os.listdir("/proc/self/fd")) == before


def test_links(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    os.close(open_regular(tmp_path / "link"))
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_regular(tmp_path / "link", links=False)


@pytest.mark.parametrize("what", ["fifo", "/dev/zero", "/dev/tty", "."])
def test_check(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    words = [sys.executable, "-m", "kgcore", "check", str(tmp_path / what)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "not a regular file" in done.stderr or what in ("/dev/tty", ".")
    assert "unexpected" not in done.stderr
