# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gets no core: by the answers, and by strace of the daemon, which says that nobody was stopped for it."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.running import Daemon, daemon
from tests.daemon.speaking import CANCEL, answer, asked, connected, new_file, packet, send
from tests.victims_here import ptrace_or_skip, sleeping

O_PATH = 0o10000000
_PATIENCE = 3000
Stops = Callable[[], list[str]]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strace") / "trace"


@pytest.fixture(scope="module")
def served(trace: Path) -> Iterator[Daemon]:
    """A daemon under strace: which processes it stops, and which files it opens."""
    ptrace_or_skip()
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    calls = "ptrace,process_vm_readv,open,openat,openat2,creat,rename,renameat2,unlink,unlinkat,link,linkat,mkdir,chmod"
    with daemon(prefix=("strace", "-f", "-qq", "-s", "4096", "-e", f"trace={calls}", "-o", str(trace))) as found:
        yield found


@pytest.fixture
def stops(trace: Path) -> Stops:
    """Which calls since the beginning of this test stopped a process."""
    before = len(trace.read_bytes())

    def found() -> list[str]:
        with trace.open("rb") as file:
            file.seek(before)
            return [line for line in file.read().decode().splitlines() if "ptrace(" in line]

    return found


def refused(served: Daemon, stops: Stops, data: bytes, *descriptors: int, said_id: bool = True) -> str:
    """The errno that a request gets; nothing is stopped for it."""
    with connected(str(served.path)) as connection:
        send(connection, data, *descriptors)
        said = answer(connection, said_id=said_id)
    assert stops() == []
    return str(said["errno"])


def test_outputs(served: Daemon, stops: Stops, tmp_path: Path) -> None:
    file = tmp_path / "core"
    file.touch()
    full = tmp_path / "full"
    full.write_text("content")
    reading, unused = os.pipe()
    closed_reading, closed = os.pipe()
    os.close(closed_reading)
    waiting_reading, waiting = os.pipe2(os.O_NONBLOCK)
    memory = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    growing = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(growing, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    mighty = tmp_path / "mighty"
    mighty.touch()
    mighty.chmod(0o6600)
    ours, theirs = socket.socketpair()
    moved = os.open(tmp_path / "moved", os.O_WRONLY | os.O_CREAT)
    os.lseek(moved, 100, os.SEEK_SET)
    good = os.open(file, os.O_WRONLY)
    cases: dict[str, tuple[str, tuple[int, ...]]] = {
        "read-only": ("EBADF", (os.open(file, os.O_RDONLY),)),
        "only a place": ("EBADF", (os.open(file, O_PATH),)),
        "a directory": ("EISDIR", (os.open(tmp_path, os.O_RDONLY),)),
        "the place of a directory": ("EBADF", (os.open(tmp_path, O_PATH),)),
        "a sealed memfd": ("EPERM", (memory,)),
        "a memfd that cannot grow": ("EPERM", (growing,)),
        "a closed pipe": ("EPIPE", (closed,)),
        "a pipe to read": ("EBADF", (reading,)),
        "a pipe that does not block": ("EINVAL", (waiting,)),
        "content": ("EEXIST", (os.open(full, os.O_WRONLY),)),
        "content, to append": ("EEXIST", (os.open(full, os.O_WRONLY | os.O_APPEND),)),
        "set-uid": ("EPERM", (os.open(mighty, os.O_WRONLY),)),
        "a socket": ("EINVAL", (ours.fileno(),)),
        "a device": ("EINVAL", (os.open("/dev/full", os.O_WRONLY),)),
        "not at the beginning": ("EINVAL", (moved,)),
        "two": ("EINVAL", (good, good)),
        "many": ("EINVAL", (good,) * 100),
        "none": ("EINVAL", ()),
    }
    found = {name: refused(served, stops, packet(), *descriptors) for name, (_, descriptors) in cases.items()}
    assert found == {name: expected for name, (expected, _) in cases.items()}
    assert full.read_text() == "content"
    assert file.read_bytes() == b""
    given = {descriptor for _, descriptors in cases.values() for descriptor in descriptors}
    for descriptor in (*given - {ours.fileno()}, unused, waiting_reading):
        os.close(descriptor)
    ours.close()
    theirs.close()


def test_messages(served: Daemon, stops: Stops, tmp_path: Path) -> None:
    output = new_file(str(tmp_path / "core"))
    whole = packet("progress=1")
    cases = {
        "cut short in its header": ("EBADMSG", whole[:7], False),
        "cut short": ("EBADMSG", whole[:-3], True),
        "longer than it says": ("EBADMSG", whole + b"x", True),
        "of a later version": ("EPROTONOSUPPORT", packet(version=2), True),
        "of an unknown type": ("EBADMSG", packet(kind=77), True),
        "too long": ("EMSGSIZE", packet("exclude=name:" + "x" * 4096), True),
        "given up": ("ECANCELED", packet(kind=CANCEL), True),
        "without its last NUL": ("EINVAL", packet("progress=1", length=26)[:-1], True),
        "no words": ("EINVAL", packet("progress"), True),
        "an unknown key": ("EINVAL", packet("path=/etc/passwd"), True),
        "twice": ("EINVAL", packet("freeze=fork", "freeze=fork"), True),
        "no number": ("EINVAL", packet("pid=-1"), True),
        "a huge number": ("EINVAL", packet("max-size=99999999999999999999"), True),
        "a program to run": ("EINVAL", packet("compress=sh"), True),
        "no rule": ("EINVAL", packet("exclude=/etc/passwd"), True),
        "a limit of nothing": ("EINVAL", packet("limit=truncate"), True),
        "contradicting": ("EINVAL", packet("freeze=stop", "shared=late"), True),
        "another's thread": ("EINVAL", packet(f"tid={os.getppid()}"), True),
    }
    found = {
        name: refused(served, stops, data, output, said_id=said_id) for name, (_, data, said_id) in cases.items()
    }
    assert found == {name: expected for name, (expected, *_) in cases.items()}
    assert os.fstat(output).st_size == 0
    os.close(output)


def test_not_utf8(served: Daemon, stops: Stops, tmp_path: Path) -> None:
    data = packet("only=name:a")
    assert refused(served, stops, data.replace(b"name:a", b"name:\xff"), new_file(str(tmp_path / "core"))) == "EINVAL"


def test_processes(served: Daemon, stops: Stops, tmp_path: Path) -> None:
    """The daemon, what it started, the kernel's threads, and one that is not there."""
    strace = served.process.pid
    (tracee,) = Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
    output = new_file(str(tmp_path / "core"))
    unused = next(pid for pid in range(1 << 22, 1, -1) if not os.path.exists(f"/proc/{pid}"))
    assert refused(served, stops, packet(f"pid={tracee}"), output) == "EPERM"
    assert refused(served, stops, packet(f"pid={unused}"), output) == "ESRCH"
    if b"\n" not in Path("/proc/2/maps").read_bytes():  # in a container 2 may be any
        assert refused(served, stops, packet("pid=2"), output) == "EPERM"
    os.close(output)


def test_a_pipe_of_ones_own_and_standing_still(served: Daemon, stops: Stops) -> None:
    reading, writing = os.pipe()
    assert refused(served, stops, packet("freeze=stop"), writing) == "EINVAL"
    os.close(reading)
    os.close(writing)


def test_the_log_names_who_asked(served: Daemon, stops: Stops) -> None:
    assert refused(served, stops, packet("pid=1")) == "EINVAL"
    comm = Path("/proc/self/comm").read_text().strip()
    assert f"kgcore daemon: pid {os.getpid()} ({comm}), uid {os.getuid()}: refused: EINVAL" in "\n".join(served.said)


def test_a_message_of_a_megabyte(served: Daemon, stops: Stops) -> None:
    """Where the client's kernel lets it pass at all."""
    with connected(str(served.path)) as connection:
        try:
            connection.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE
            connection.send(packet("only=" + "x" * (1 << 20)))
        except OSError as error:
            pytest.skip(f"such a message cannot be sent: {error.strerror}")
        assert answer(connection)["errno"] == "EMSGSIZE"
    assert stops() == []


def test_it_would_be_seen(served: Daemon, stops: Stops, trace: Path, tmp_path: Path) -> None:
    """A good request stops the process; and no name of the client's is opened."""
    with sleeping() as process:
        output = new_file(str(tmp_path / "core-with-a-name"))
        said = asked(str(served.path), packet(f"pid={process.pid}", "report=1"), output)
        os.close(output)
        assert (said["errno"], said["status"]) == ("", 0)
    assert any("PTRACE_SEIZE" in line for line in stops())
    text = trace.read_text()
    assert 'openat(AT_FDCWD, "/proc/' in text
    assert str(tmp_path) not in text
    assert "core-with-a-name" not in text


def test_a_limit_of_file_sizes(served: Daemon, tmp_path: Path) -> None:
    """RLIMIT_FSIZE of the client: it has what fits, and an errno."""
    program = (
        "import os, resource, sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.daemon.speaking import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "print(asked(sys.argv[1], packet(), new_file('core'))['errno'], os.stat('core').st_size)\n"
    )
    words = [os.path.realpath("/proc/self/exe"), "-c", program, str(served.path), str(Path(__file__).parents[2])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    number, size = done.stdout.split()
    assert number == "EFBIG"
    assert int(size) <= 100000


def test_given_up_while_it_waits_for_a_reader(served: Daemon) -> None:
    """The core goes into a pipe that is full. CANCEL, or that the client goes, ends it; the process goes on."""
    with sleeping() as process:
        for cancel in (True, False):
            reading, writing = os.pipe()
            with connected(str(served.path)) as connection:
                send(connection, packet(f"pid={process.pid}", "freeze=stop", "progress=1"), writing)
                os.close(writing)
                assert os.read(reading, 4) == b"\x7fELF"
                assert tracer(process.pid) != 0
                assert asked(str(served.path), packet(f"pid={process.pid}"), *null())["errno"] == "EBUSY"
                if cancel:
                    connection.send(packet(kind=CANCEL))
                    assert answer(connection)["errno"] == "ECANCELED"
            for _ in range(_PATIENCE):
                if not tracer(process.pid):
                    break
                time.sleep(0.01)
            assert tracer(process.pid) == 0
            while os.read(reading, 1 << 20):  # the daemon has closed its end
                pass
            os.close(reading)
        assert process.poll() is None


def null() -> list[int]:
    return [os.open("/dev/null", os.O_WRONLY)]


def tracer(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid:"))


def test_the_process_that_makes_the_core_is_killed(served: Daemon) -> None:
    """That is an answer, and the process that was dumped goes on."""
    with sleeping() as process:
        reading, writing = os.pipe()
        with connected(str(served.path)) as connection:
            send(connection, packet(f"pid={process.pid}", "freeze=stop"), writing)
            os.close(writing)
            assert os.read(reading, 4) == b"\x7fELF"
            guardian = tracer(process.pid)
            worker = parent(guardian)
            os.kill(worker, signal.SIGKILL)
            said = answer(connection)
            assert said["errno"] == "EIO"
            assert said["text"] == f"the process that makes the core was killed by signal {signal.SIGKILL:d}"
        os.close(reading)
        for _ in range(_PATIENCE):
            if not tracer(process.pid):
                break
            time.sleep(0.01)
        assert tracer(process.pid) == 0
        assert process.poll() is None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def test_errnos_are_documented() -> None:
    """Each that a Refusal has in the source."""
    root = Path(__file__).parents[2]
    table = (root / "docs" / "daemon.md").read_text().partition("## What the errors mean")[2]
    for path in (root / "kgcore" / "daemon").glob("*.py"):
        for name in re.findall(r"(?:Refusal|BadMessage|error)\([^)]*?errno\.(E\w+)", path.read_text()):
            assert name in table, (path, name)
