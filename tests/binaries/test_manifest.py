# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of a sysroot: several kgcore add to it at a time, and others may have put something in its place."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kgcore.binaries import manifest as module
from kgcore.binaries.manifest import MANIFEST, Manifest
from kgcore.binaries.sysroot import Sysroot
from kgcore.check.sysroot import check_sysroot
from kgcore.errors import KgcoreError, OutputError
from kgcore.model.lost import Lost
from kgcore.sources.base import FileContents
from tests.builders import FakeSource
from tests.fake_source import made_up_file

WRITERS, ROUNDS = 6, 15


def add(directory: Path, *paths: str, force: bool = False) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        Manifest(str(directory), force=force).add(descriptor, {path: {"path": path} for path in paths}, paths)
    finally:
        os.close(descriptor)


def listed(directory: Path) -> tuple[list[str], list[str]]:
    content = json.loads((directory / MANIFEST).read_text())
    return [entry["path"] for entry in content["files"]], content["lost"]


def in_processes(count: int, work: Callable[[int], None]) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * count


def test_several_writers(tmp_path: Path) -> None:
    def work(writer: int) -> None:
        for number in range(ROUNDS):
            add(tmp_path, f"/{writer}-{number}")

    in_processes(WRITERS, work)
    everything = sorted(f"/{writer}-{number}" for writer in range(WRITERS) for number in range(ROUNDS))
    files, lost = listed(tmp_path)
    assert files == everything
    assert sorted(lost) == everything
    assert os.listdir(tmp_path) == [MANIFEST]


def test_several_kgcore_with_one_sysroot(tmp_path: Path) -> None:
    """Each knows what it has written itself; none forgets what the others have."""

    def work(number: int) -> None:
        sysroot = Sysroot(str(tmp_path / "dir"))
        for step in range(4):
            file = made_up_file(b"/bin/program%d-%d" % (number, step))
            found: list[FileContents | Lost] = [file, Lost(f"{number}-{step} is lost")]
            assert not sysroot.add(FakeSource(its_files=found).process(1)).problems

    in_processes(4, work)
    verdict = check_sysroot(tmp_path / "dir")
    assert verdict.ok
    assert len(verdict.files) == len(verdict.lost) == 16


def test_a_lock_that_is_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read the directory may lock it."""
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another process keeps its directory locked"):
        add(tmp_path, "/x")
    os.close(other)
    add(tmp_path, "/x")
    assert listed(tmp_path)[0] == ["/x"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", flock)
    add(tmp_path, "/x")
    add(tmp_path, "/y")
    assert listed(tmp_path)[0] == ["/x", "/y"]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):  # such a name may not be long
        bound.bind(path.name)


def _list_of_others(path: Path) -> None:
    (path.parent / "other").write_text('{"format": "kgcore-sysroot", "version": 1, "files": [], "lost": []}')
    path.symlink_to("other")


PLANTED: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "link": _list_of_others,
    "socket": _socket,
    "directory": Path.mkdir,
}


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    PLANTED[request.param](tmp_path / MANIFEST)
    return tmp_path


@pytest.mark.parametrize("planted", PLANTED, indirect=True)
@pytest.mark.parametrize("force", [False, True])
def test_planted_lists_are_not_read(planted: Path, *, force: bool) -> None:
    process = FakeSource(its_files=[made_up_file(b"/x")]).process(1)
    with pytest.raises(OutputError, match=r"cannot write .*json: "):
        Sysroot(str(planted), force=force).add(process)
    assert not (planted / "x").exists()


@pytest.mark.parametrize("planted", sorted(set(PLANTED) - {"link"}), indirect=True)
def test_planted_lists_are_not_checked(planted: Path) -> None:
    with pytest.raises(KgcoreError, match="cannot read"):
        check_sysroot(planted)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.truncate(1 << 42),
        lambda file: file.write(b"[" + b"[]," * (5 << 20) + b"[]]"),
        lambda file: file.write(b"[" * (3 << 20)),
        lambda file: file.write(b'{"format": ' + b"9" * (1 << 20)),
    ],
    ids=["sparse", "values", "deep", "number"],
)
def test_lists_of_no_sane_size(tmp_path: Path, write: Callable[..., object]) -> None:
    """16 bytes in the file may be a hundred in memory."""
    with (tmp_path / MANIFEST).open("wb") as file:
        write(file)

    def work(_number: int) -> None:
        # Beyond what this process has, which is what all tests before have come to.
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + (400 << 20), has + (400 << 20)))
        with pytest.raises(OutputError, match="not a manifest of this version of kgcore"):
            Sysroot(str(tmp_path)).add(FakeSource().process(1))
        with pytest.raises(KgcoreError, match=r"is too large for a manifest|manifest .* is invalid"):
            check_sysroot(tmp_path)

    in_processes(1, work)
