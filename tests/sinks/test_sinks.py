# SPDX-License-Identifier: LGPL-2.1-or-later
import errno
import io
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kgcore.errors import OutputError
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import MemorySink, StreamSink


def save(path: Path, content: bytes = b"core", **options: Any) -> None:
    with FileSink(path, **options) as sink:
        sink.write(content)
        sink.commit()


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_file_is_private_and_has_its_name_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "core.1"
    with FileSink(path) as sink:
        sink.write(b"a")
        (name,) = names(tmp_path)
        assert name.startswith(".core.1.")
        assert name.endswith(".tmp")
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        sink.commit()
    assert names(tmp_path) == ["core.1"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1


def test_file_is_sparse_and_has_its_full_size(tmp_path: Path) -> None:
    path = tmp_path / "core"
    with FileSink(path) as sink:
        sink.skip(1 << 20)
        sink.write(memoryview(b"x" * 4096))
        sink.skip(1 << 20)
        sink.skip(1 << 20)
        sink.commit()
    assert path.stat().st_size == (3 << 20) + 4096
    assert path.stat().st_blocks * 512 <= 64 << 10
    assert path.read_bytes() == bytes(1 << 20) + b"x" * 4096 + bytes(2 << 20)


def test_relative_name_without_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("core"))
    assert names(tmp_path) == ["core"]


def test_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists") as caught:
        save(path)
    assert "--force" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["core"]
    save(path, force=True)
    assert path.read_bytes() == b"core"
    assert names(tmp_path) == ["core"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        without_links(monkeypatch)
    path = tmp_path / "core"
    with FileSink(path) as sink:
        sink.write(b"new")
        path.write_bytes(b"other")
        with pytest.raises(OutputError, match="exists"):
            sink.commit()
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["core"]


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch)
    save(tmp_path / "core")
    assert (tmp_path / "core").read_bytes() == b"core"
    assert names(tmp_path) == ["core"]


def test_race_lost_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "core"
    link = os.link

    def late(*args: Any, **kwargs: Any) -> None:
        path.write_bytes(b"other")
        link(*args, **kwargs)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputError, match="exists"):
        save(path)
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["core"]


@pytest.mark.parametrize("force", [True, False])
def test_symbolic_links_are_not_followed(tmp_path: Path, force: bool) -> None:
    target, path = tmp_path / "target", tmp_path / "core"
    target.write_bytes(b"precious")
    for destination in (target, tmp_path / "nowhere"):
        path.unlink(missing_ok=True)
        path.symlink_to(destination)
        with pytest.raises(OutputError, match="not a regular file"):
            save(path, force=force)
        assert path.is_symlink()
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["core", "target"]


def test_devices_and_directories_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(OutputError, match="not a regular file"):
            save(path, force=True)
    assert names(tmp_path) == ["fifo"]


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        save(tmp_path / "none" / "core")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_any_exception_removes_the_file(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with FileSink(tmp_path / "core") as sink:
            sink.write(b"x")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_no_commit_no_file(tmp_path: Path) -> None:
    with FileSink(tmp_path / "core") as sink:
        sink.write(b"x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync", "ftruncate"])
def test_a_full_disk_is_an_error_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        save(tmp_path / "core")
    assert "-D" in caught.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [20_000, 20 << 20])
def test_a_file_system_that_is_really_full(tmp_path: Path, size: int) -> None:
    """The limit on the size of files does as a disk that fills up: the first write is partial, the next one fails."""
    code = (
        "import resource, sys; from kgcore.sinks.files import FileSink\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, resource.RLIM_INFINITY))\n"
        "with FileSink(sys.argv[1]) as sink: sink.write(bytes(size)); sink.commit()\n"
    ).replace("size", str(size))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "core"], capture_output=True, text=True)
    assert "OutputError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert names(tmp_path) == []


def test_partial_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    with FileSink(tmp_path / "core") as sink:
        sink.write(b"0123456789")
        sink.skip(2)
        sink.write(b"ab")
        sink.commit()
    assert (tmp_path / "core").read_bytes() == b"0123456789\0\0ab"


class Slow(io.RawIOBase):
    """Takes three bytes at a time."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data[:3])
        return min(3, len(data))


class Careless:
    """Writes, and says nothing of how much."""

    data = b""

    def write(self, data: Any) -> None:
        self.data += bytes(data)


@pytest.mark.parametrize("file", [Slow(), Careless()])
def test_streams_get_everything(file: Any) -> None:
    with StreamSink(file) as sink:
        sink.write(b"0123456789")
        sink.skip(5)
        sink.write(memoryview(b"ab"))
        sink.commit()
        assert sink.path is None
    assert file.data == b"0123456789" + bytes(5) + b"ab"


def test_streams_stay_open_and_holes_overwrite(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        file.write(b"x" * 10)
        file.seek(2)
        with StreamSink(file) as sink:
            sink.skip(3)
            sink.write(b"ab")
            sink.commit()
        assert (tmp_path / "f").read_bytes() == b"xx\0\0\0abxxx"
        assert not file.closed


def test_large_holes_in_a_pipe() -> None:
    with subprocess.Popen(["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as counter:
        assert counter.stdin is not None
        with StreamSink(counter.stdin) as sink:
            sink.skip((5 << 20) + 1)
            sink.commit()
        told = counter.communicate()[0]
    assert int(told) == (5 << 20) + 1


def test_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        os.fdopen(writing, "wb", buffering=0) as file,
        pytest.raises(OutputError, match="closed the pipe"),
        StreamSink(file) as sink,
    ):
        sink.write(b"x")


def test_full_non_blocking_pipe() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with (
        os.fdopen(reading, "rb"),
        os.fdopen(writing, "wb", buffering=0) as file,
        pytest.raises(OutputError, match="non-blocking"),
        StreamSink(file) as sink,
    ):
        sink.skip(10 << 20)


def test_unwritable_stream(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with (tmp_path / "f").open("rb") as file, pytest.raises(OutputError), StreamSink(file) as sink:
        sink.write(b"x")


def test_memory() -> None:
    with MemorySink() as sink:
        sink.write(b"a")
        sink.skip(2)
        sink.commit()
    assert sink.data == b"a\0\0"
