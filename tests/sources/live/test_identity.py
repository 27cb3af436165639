# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that is not, or not any more, the one that was meant is let go before a byte of it is read."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgcore.errors import NoSuchTask, TargetError
from kgcore.library import open_source
from kgcore.sources.base import NO_USER_FILES
from kgcore.sources.location import Expected, LiveLocation
from tests.victims_here import ptrace_or_skip, settled, sleeping

NOBODY = 65534


@pytest.fixture(autouse=True)
def traceable() -> None:
    ptrace_or_skip()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with sleeping() as process:
        yield process


def taken(pid: int, expected: Expected) -> int:
    """Take the process, if it is the one."""
    location = LiveLocation(expected=expected)
    with open_source(location, NO_USER_FILES, lambda message: None) as source, source.process(pid) as process:
        return process.image.tgid


def is_free(pid: int) -> bool:
    return "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()


def test_the_one_that_is_meant(sleeper: "subprocess.Popen[bytes]") -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    assert taken(sleeper.pid, Expected(pidfd)) == sleeper.pid
    assert taken(sleeper.pid, Expected(pidfd, (os.getuid(), os.getgid()))) == sleeper.pid
    os.close(pidfd)


def test_one_that_has_ended(sleeper: "subprocess.Popen[bytes]") -> None:
    """Its id would be the sleeper's by now."""
    with subprocess.Popen(["true"]) as other:
        pidfd = os.pidfd_open(other.pid)
    with pytest.raises(NoSuchTask, match="has ended, and its id may be another one's"):
        taken(sleeper.pid, Expected(pidfd))
    os.close(pidfd)
    assert is_free(sleeper.pid)
    assert sleeper.poll() is None


def test_another_users(sleeper: "subprocess.Popen[bytes]") -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    for ids in ((os.getuid() + 1, os.getgid()), (os.getuid(), os.getgid() + 1)):
        with pytest.raises(TargetError, match="no permission to read it: it belongs to another user"):
            taken(sleeper.pid, Expected(pidfd, ids))
    os.close(pidfd)
    assert is_free(sleeper.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o711, 0o755])
def test_more_rights_than_its_user(tmp_path: Path, mode: int) -> None:
    """Set-uid to the user's own id, set-gid, a program that may not be read: its ids are all its user's."""
    program = tmp_path / "sleeper"
    shutil.copy("/usr/bin/sleep", program)
    os.chown(program, NOBODY if mode == 0o4755 else 0, NOBODY - 1 if mode == 0o2755 else 0)
    program.chmod(mode)
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 1:
            path.chmod(path.stat().st_mode | 1)
        if path == Path("/tmp"):
            break
    with subprocess.Popen([program, "1000"], user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        try:
            settled(process.pid)
            status = Path(f"/proc/{process.pid}/status").read_text()
            groups = status.partition("\nGid:")[2].split()[:4]
            if mode == 0o2755 and len(set(groups)) == 1:
                pytest.skip("set-gid means nothing here (nosuid)")
            expected = Expected(os.pidfd_open(process.pid), (NOBODY, NOBODY))
            if mode in (0o755, 0o4755):  # set-uid to whom one is already gives nothing
                assert taken(process.pid, expected) == process.pid
            else:
                with pytest.raises(TargetError, match="no permission to read it"):
                    taken(process.pid, expected)
            os.close(expected.pidfd)
            assert is_free(process.pid)
            assert process.poll() is None
        finally:
            process.kill()
