# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose core a client may have, by clients of other users and namespaces."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kgcore import check_core
from tests.daemon.running import NOBODY, Daemon, daemon, everybodys_directory, program, root_or_skip, words_of
from tests.daemon.speaking import answer, asked, connected, new_file, packet, send
from tests.victims_here import ptrace_or_skip, settled
from tests.vmcore.corefile import Core

_PATIENCE = 3000
ASK = "say(**asked(path, packet(*{words!r}), new_file('core')))\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    ptrace_or_skip()
    root_or_skip()
    with daemon() as found:
        yield found


@pytest.fixture
def place() -> Iterator[Path]:
    with everybodys_directory() as directory:
        yield directory


@contextmanager
def sleeper(user: int, *prefix: str) -> Iterator[int]:
    """A process of a user."""
    with subprocess.Popen([*prefix, "sleep", "1000"], user=user, group=user, extra_groups=[]) as process:
        try:
            settled(process.pid)
            yield process.pid
        finally:
            process.kill()


def ask(served: Daemon, place: Path, *words: str, prefix: tuple[str, ...] = (), user: int | None = None) -> Any:
    (place / "core").unlink(missing_ok=True)
    return program(served, ASK.format(words=words), place, *prefix, user=user)


@pytest.mark.parametrize("user", [0, NOBODY])
def test_everybody_gets_himself(served: Daemon, place: Path, user: int) -> None:
    said = ask(served, place, "report=1", user=user)
    assert (said["errno"], said["status"]) == ("", 0), said
    assert said["size"] == (place / "core").stat().st_size
    assert (place / "core").stat().st_uid == user
    assert json.loads(said["report"])["tgid"] == said["pid"]
    assert check_core(place / "core").problems == ()
    assert next(iter(Core(place / "core").threads)) == said["tid"]


def test_ones_own_and_others(served: Daemon, place: Path) -> None:
    with sleeper(NOBODY) as own, sleeper(0) as roots, sleeper(NOBODY - 1) as others:
        assert ask(served, place, f"pid={own}", user=NOBODY)["errno"] == ""
        assert next(iter(Core(place / "core").threads)) == own
        for pid in (roots, others, 1):
            assert ask(served, place, f"pid={pid}", user=NOBODY)["errno"] == "EPERM"
        for pid in (own, others):
            assert ask(served, place, f"pid={pid}", user=0)["errno"] == ""


NOT_DUMPABLE = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"


def test_what_is_not_dumpable(served: Daemon, place: Path) -> None:
    """Not even itself, and not for others of its user; only for root."""
    said = program(served, NOT_DUMPABLE + ASK.format(words=()), place, user=NOBODY)
    assert said["errno"] == "EPERM"
    assert "it is not dumpable" in said["text"]
    with started(served, NOT_DUMPABLE + "say(); sys.stdin.readline()\n", place) as process:
        pid = said_by(process)["pid"]
        assert ask(served, place, f"pid={pid}", user=NOBODY)["errno"] == "EPERM"
        assert ask(served, place, f"pid={pid}", user=0)["errno"] == ""


@contextmanager
def started(served: Daemon, text: str, place: Path) -> Iterator["subprocess.Popen[str]"]:
    """A program of nobody's that waits for a line."""
    words = words_of(served, text)
    with subprocess.Popen(
        words,
        cwd=place,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said_by(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.readline())
    return said


@contextmanager
def halted(served: Daemon) -> Iterator[None]:
    """The daemon hears nothing during this block."""
    os.kill(served.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(served.process.pid, signal.SIGCONT)


def logged(served: Daemon, start: str) -> str:
    """The line of the log that begins like this, once it is there."""
    for _ in range(_PATIENCE):
        for line in served.said:
            if line.startswith(start):
                return line
        time.sleep(0.01)
    pytest.fail(f"no {start!r} in {served.said}")


SETUID = """
connection = connected(path)
connection.set_inheritable(True)
send(connection, packet(), new_file('core'))
say(); sys.stdin.readline()
os.execv('sleeper', ['sleeper', '1000'])
"""


def test_a_client_that_executes_a_setuid_program(served: Daemon, place: Path) -> None:
    """After it has asked, and before the daemon looks."""
    shutil.copy("/usr/bin/sleep", place / "sleeper")
    (place / "sleeper").chmod(0o4755)
    with started(served, SETUID, place) as process:
        with halted(served):
            pid = said_by(process)["pid"]
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            for _ in range(_PATIENCE):
                if Path(f"/proc/{pid}/comm").read_text() == "sleeper\n":
                    break
                time.sleep(0.01)
            if Path(f"/proc/{pid}/status").read_text().partition("\nUid:")[2].split()[1] != "0":
                pytest.skip("set-uid means nothing here (nosuid)")
        line = logged(served, f"kgcore daemon: pid {pid} (sleeper), uid {NOBODY}: ")
        assert ": refused: EPERM (" in line
        assert (place / "core").stat().st_size == 0
        assert process.poll() is None


# clone3() with the pid that the new process shall have, and exec.
SAME_PID = """
import ctypes, os, struct, sys
tid = ctypes.c_int(int(sys.argv[1]))
args = ctypes.create_string_buffer(struct.pack("=11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(tid), 1, 0))
libc = ctypes.CDLL(None, use_errno=True)
found = libc.syscall(435, args, ctypes.c_size_t(88))
if found == 0:
    os.execv("/usr/bin/sleep", ["sleep", "1000"])
print(found if found > 0 else -ctypes.get_errno(), flush=True)
sys.stdin.readline()
os.kill(found, 9) if found > 0 else None
"""


def test_a_pid_that_is_anothers_by_now(served: Daemon, place: Path) -> None:
    """The client ends, and a new process has its id, when the daemon comes to it."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(60)
    output = new_file(str(place / "core"))
    with connection, halted(served):
        client = os.fork()
        if client == 0:
            connection.connect(str(served.path))
            send(connection, packet(), output)
            os._exit(0)
        os.waitpid(client, 0)
        with subprocess.Popen(
            [sys.executable, "-c", SAME_PID, str(client)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            if int(process.stdout.readline()) != client:
                process.communicate("end\n")
                pytest.skip("this machine does not give a process the id that one wants")
            os.kill(served.process.pid, signal.SIGCONT)
            said = answer(connection)
            assert os.path.exists(f"/proc/{client}")
            process.communicate("end\n")
    assert said["errno"] == "ESRCH"
    assert os.fstat(output).st_size == 0
    os.close(output)


def test_a_client_in_a_pid_namespace_of_its_own(served: Daemon, place: Path) -> None:
    """It gets itself, by the number that it knows; others it cannot name."""
    inside = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no pid namespaces")
    for words in ((), ("pid=1",), ("pid=1", "tid=1")):
        said = ask(served, place, *words, prefix=inside)
        assert (said["pid"], said["errno"]) == (1, ""), said
        assert check_core(place / "core").problems == ()
    assert ask(served, place, f"pid={os.getpid()}", prefix=inside)["errno"] == "EPERM"
    assert ask(served, place, "pid=2", prefix=inside)["errno"] == "EPERM"


def test_a_client_in_a_user_namespace_of_its_own(served: Daemon, place: Path) -> None:
    """It gets itself; a process outside, of the same user, it could not trace."""
    inside = ("unshare", "--user")
    as_user: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    if subprocess.run([*inside, "true"], check=False, capture_output=True, **as_user).returncode:
        pytest.skip("no user namespaces")
    with sleeper(NOBODY) as outside:
        assert ask(served, place, f"pid={outside}", user=NOBODY)["errno"] == ""
        assert ask(served, place, f"pid={outside}", prefix=inside, user=NOBODY)["errno"] == "EPERM"
        assert ask(served, place, prefix=inside, user=NOBODY)["errno"] == ""


def test_root_that_may_not_trace(served: Daemon, place: Path) -> None:
    """As in a container without CAP_SYS_PTRACE: it gets itself."""
    less = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
    with sleeper(NOBODY) as others:
        assert ask(served, place, f"pid={others}", prefix=less)["errno"] == "EPERM"
        assert ask(served, place, prefix=less)["errno"] == ""
        assert ask(served, place, f"pid={others}")["errno"] == ""


def test_a_daemon_that_does_not_see_the_client(place: Path) -> None:
    ptrace_or_skip()
    root_or_skip()
    inside = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no pid namespaces")
    output = new_file(str(place / "core"))
    with daemon(prefix=inside) as blind:
        for words in ((), (f"pid={os.getpid()}",), ("pid=1",)):
            assert asked(str(blind.path), packet(*words), output)["errno"] == "ESRCH"
        assert "kgcore daemon: pid 0 (?), uid 0: " in "\n".join(blind.said)
    assert os.fstat(output).st_size == 0
    os.close(output)


def test_a_group(place: Path) -> None:
    """Who is not in it cannot connect; who is may, with --allow-foreign, have any process."""
    ptrace_or_skip()
    root_or_skip()
    import grp

    name = grp.getgrgid(NOBODY).gr_name
    with daemon("--group", name, "--allow-foreign") as served, sleeper(0) as roots:
        assert served.path.stat().st_mode & 0o777 == 0o660
        assert served.path.stat().st_gid == NOBODY
        assert ask(served, place, f"pid={roots}", user=NOBODY)["errno"] == ""
        refused = "try: connected(path)\nexcept PermissionError: say(errno='EACCES')\n"
        (place / "core").unlink()
        assert program(served, refused, place, user=NOBODY - 1)["errno"] == "EACCES"
        assert ask(served, place, f"pid={served.process.pid}", user=NOBODY)["errno"] == "EPERM"


def test_who_inherits_a_connection_asks_for_whoever_connected(served: Daemon, place: Path) -> None:
    """Root connects, and somebody else sends: it is root who gets his core."""
    output = new_file(str(place / "core"))
    with connected(str(served.path)) as connection:
        child = os.fork()
        if child == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            send(connection, packet(), output)
            os._exit(0)
        os.waitpid(child, 0)
        assert answer(connection)["errno"] == ""
    os.close(output)
    assert next(iter(Core(place / "core").threads)) == os.getpid()
