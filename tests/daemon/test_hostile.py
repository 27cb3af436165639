# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that want to harm: others are served meanwhile, and the daemon is afterwards as it was."""

import array
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.daemon.running import NOBODY, Daemon, daemon, everybodys_directory, program, root_or_skip
from tests.daemon.speaking import CANCEL, DUMP, HEADER, ID, answer, answers, asked, connected, packet, send
from tests.victims_here import ptrace_or_skip, sleeping

MESSAGES = int(os.environ.get("KGCORE_DAEMON_MESSAGES", "300"))  # by hand: 10000
_PATIENCE = 3000
_MEMORY = 4 << 10  # KiB that the daemon may have grown by: allocators keep some


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    ptrace_or_skip()
    with daemon("--max-workers", "2") as found:
        good(found)  # from now on it is warm
        yield found
        good(found)
        assert not [line for line in found.said if "unexpected" in line or "Traceback" in line], found.said


def good(served: Daemon) -> None:
    """A good client gets its core."""
    with sleeping() as process:
        null = os.open("/dev/null", os.O_WRONLY)
        try:
            said = asked(str(served.path), packet(f"pid={process.pid}"), null)
        finally:
            os.close(null)
        assert said["errno"] == "", said
        assert process.poll() is None


def descriptors(served: Daemon) -> list[str]:
    """What the daemon has open."""
    pid = served.process.pid
    return sorted(os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))


def memory(served: Daemon) -> int:
    """KiB of its own memory."""
    for line in Path(f"/proc/{served.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no Anonymous")


@contextmanager
def unchanged(served: Daemon) -> Iterator[None]:
    """After the block the daemon has no children, and the descriptors of before."""
    quiet(served)
    before = descriptors(served)
    yield
    for _ in range(_PATIENCE):
        with suppress(FileNotFoundError):  # one is being closed
            if descriptors(served) == before and not children(served.process.pid):
                return
        time.sleep(0.01)
    assert descriptors(served) == before
    assert children(served.process.pid) == []


def quiet(served: Daemon) -> None:
    """Wait until it has no children."""
    for _ in range(_PATIENCE):
        if not children(served.process.pid):
            return
        time.sleep(0.01)
    pytest.fail("its children do not end")


class Chaos:
    """Random messages with random descriptors."""

    def __init__(self, place: Path) -> None:
        self.random = random.Random(MESSAGES)
        self.place = place
        self.file = place / "file"
        self.file.write_text("content")

    def message(self) -> bytes:
        words = ["pid=1", "pid=99999999", "freeze=stop", "freeze=", "filter=511", "exclude=size:>1", "only=name:x"]
        words += ["redact=addr:0-ffffffffffffffff", "max-size=1", "max-time=0.000001", "tid=0", "compress=gzip"]
        words += ["progress=1", "report=1", "=", "\n", "max-freeze=1e9", "profile=mini", f"pid={os.getpid()}"]
        data = packet(
            *self.random.sample(words, self.random.randrange(5)),
            kind=self.random.choice((DUMP, DUMP, DUMP, CANCEL, 0, 16, 17, 65535)),
            version=self.random.choice((1, 1, 1, 1, 0, 2)),
        )
        match self.random.randrange(6):
            case 0:
                data = self.random.randbytes(self.random.randrange(5000))
            case 1:
                data = data[: self.random.randrange(len(data))]
            case 2:
                place = self.random.randrange(len(data))
                data = data[:place] + self.random.randbytes(1) + data[place + 1 :]
            case 3:
                data = HEADER.pack(HEADER.size + 64, 1, DUMP, ID) + self.random.randbytes(64)
        return data

    def descriptors(self) -> list[int]:
        """Some descriptors, which the caller closes."""
        reading, writing = os.pipe()
        memory = os.memfd_create("m")
        one, other = socket.socketpair()
        found = [reading, writing, memory, one.detach(), other.detach()]
        found += [os.open(self.file, self.random.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_APPEND)))]
        found += [os.open(self.place, os.O_RDONLY), os.open("/dev/null", os.O_WRONLY), os.eventfd(0)]
        return found


def test_random_messages_and_descriptors(served: Daemon, tmp_path: Path) -> None:
    """Nobody is harmed: no file that has content is touched, others get their cores, and nothing is left."""
    chaos = Chaos(tmp_path)
    before = memory(served)
    with unchanged(served), sleeping() as victim:
        for number in range(MESSAGES):
            some = chaos.descriptors()
            given = chaos.random.sample(some, chaos.random.choice((0, 1, 1, 1, 2, 5)))
            with connected(str(served.path)) as connection:
                with suppress(BrokenPipeError, ConnectionResetError):  # it has answered, and hears no more
                    for _ in range(chaos.random.choice((1, 1, 1, 2, 5))):
                        send(connection, chaos.message().replace(b"pid=1\0", b"pid=%d\0" % victim.pid) or b"x", *given)
                for descriptor in some:
                    os.close(descriptor)
                if chaos.random.random() < 0.9:
                    with suppress(ConnectionResetError):
                        for _ in answers(connection):
                            pass
            if number % 100 == 50:
                good(served)
        assert victim.poll() is None
    assert memory(served) <= before + _MEMORY, (before, memory(served))
    assert chaos.file.read_text() == "content"
    assert served.process.poll() is None


def test_ten_thousand_on_one_connection(served: Daemon) -> None:
    """The second ends the request; what follows stays where it is, and takes no memory of the daemon's."""
    with unchanged(served), connected(str(served.path)) as connection:
        connection.settimeout(5)
        sent = 0
        with suppress(BrokenPipeError, TimeoutError, ConnectionResetError):
            for _ in range(10000):
                connection.send(packet(kind=CANCEL))
                sent += 1
        assert sent > 0
        good(served)


def test_clients_that_say_nothing_and_that_never_read(served: Daemon) -> None:
    """They wait; others are served."""
    with unchanged(served), sleeping() as process:
        silent = [connected(str(served.path)) for _ in range(50)]
        deaf = []
        for _ in range(20):
            null = os.open("/dev/null", os.O_WRONLY)
            deaf.append(connected(str(served.path)))
            send(deaf[-1], packet(f"pid={process.pid}", "progress=1", "report=1"), null)
            os.close(null)
        good(served)
        assert process.poll() is None
        for connection in (*silent, *deaf):
            connection.close()


def test_a_pipe_that_nobody_reads_takes_a_turn_of_its_user_alone(served: Daemon) -> None:
    """One user cannot have all turns."""
    root_or_skip()
    with unchanged(served), everybodys_directory() as place:
        text = (
            "waiting = []\n"
            "for _ in range(5):\n"
            "    reading, writing = os.pipe()\n"
            "    os.write(writing, b'x' * 65536)\n"  # it is full
            "    connection = connected(path); send(connection, packet('progress=1'), writing)\n"
            "    waiting.append((reading, connection))\n"
            "say(started=next(iter(answers(waiting[0][1])))[0]); sys.stdin.readline()\n"
        )
        from tests.daemon.running import words_of

        with subprocess.Popen(
            words_of(served, text), stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, cwd=place
        ) as process:
            assert process.stdout is not None
            assert b'"started": 19' in process.stdout.readline()
            good(served)
            good(served)
            process.kill()


def test_too_many_clients_of_one_user() -> None:
    """They are refused by name, and root is served."""
    ptrace_or_skip()
    root_or_skip()
    text = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))\n"
        "waiting = [connected(path) for _ in range(300)]\n"
        "say(errnos=[answer(each, said_id=False)['errno'] for each in waiting[256:]])\n"
    )
    with daemon() as served, everybodys_directory() as place:
        good(served)
        with unchanged(served):
            assert program(served, text, place, user=NOBODY)["errnos"] == ["EAGAIN"] * 44
        good(served)


def test_a_descriptor_that_is_slow_to_close(served: Daemon) -> None:
    """A socket that lingers: whoever closes it last waits until its peer has read everything, or for a minute."""
    with unchanged(served), socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []
        for kind in (DUMP, CANCEL, 77, 0):
            slow = socket.create_connection(listener.getsockname())
            unread, _ = listener.accept()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            slow.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    slow.send(b"x" * (1 << 16))
            connections.append(connected(str(served.path)))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [slow.fileno()]))]
            with suppress(BrokenPipeError, ConnectionResetError):  # it has answered, and hears no more
                for _ in range(3):
                    connections[-1].sendmsg([packet(kind=kind)], rights)
            slow.close()
            connections.append(unread)
        good(served)
        for connection in connections:
            connection.close()


def test_the_process_that_makes_a_core_has_no_others_descriptors(served: Daemon) -> None:
    """Of the daemon's and of other clients' it has none."""
    silent = [connected(str(served.path)) for _ in range(5)]
    quiet(served)
    with sleeping() as process:
        reading, writing = os.pipe()
        with connected(str(served.path)) as connection:
            send(connection, packet(f"pid={process.pid}", "freeze=stop"), writing)
            os.close(writing)
            assert os.read(reading, 4) == b"\x7fELF"
            daemons = served.process.pid
            (session,) = children(daemons)
            (worker,) = [each for each in children(session) if "python" in os.readlink(f"/proc/{each}/exe")]
            own = {os.readlink(f"/proc/{daemons}/fd/{name}") for name in os.listdir(f"/proc/{daemons}/fd")}
            standard = {os.readlink(f"/proc/{daemons}/fd/{number}") for number in (0, 1, 2)}
            for pid in (session, worker):
                theirs = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
                shared = [each for each in theirs if each in own - standard and "anon_inode:[pidfd]" not in each]
                assert shared == [], (pid, shared)
                assert len(theirs) <= 12, theirs
            (guardian,) = children(worker)
            assert Path(f"/proc/{guardian}/comm").read_text() == "kgcore-guardian\n"
            assert len(os.listdir(f"/proc/{guardian}/fd")) == 4, "its socket, and the standard streams"
        os.close(reading)
    for each in silent:
        each.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_signals() -> None:
    """SIGTERM: those that wait get an answer, and the dump that has begun its end."""
    ptrace_or_skip()
    with daemon() as served, sleeping() as process, connected(str(served.path)) as running:
        reading, writing = os.pipe()
        send(running, packet(f"pid={process.pid}", "freeze=stop", "progress=1"), writing)
        os.close(writing)
        assert os.read(reading, 4) == b"\x7fELF"
        with connected(str(served.path)) as silent:
            good(served)  # by now it has accepted the silent one, too
            served.process.send_signal(signal.SIGTERM)
            assert answer(silent, said_id=False)["errno"] == "ECANCELED"
        closed(served)
        assert served.process.poll() is None
        while os.read(reading, 1 << 20):
            pass
        assert answer(running)["errno"] == ""
        assert served.process.wait(60) == 0
        os.close(reading)


def closed(served: Daemon) -> None:
    """Wait until it takes no more clients."""
    for _ in range(_PATIENCE):
        try:
            connected(str(served.path)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    pytest.fail("it still takes clients")


def test_a_second_signal() -> None:
    ptrace_or_skip()
    with daemon() as served, sleeping() as process:
        reading, writing = os.pipe()
        with connected(str(served.path)) as running:
            send(running, packet(f"pid={process.pid}", "freeze=stop"), writing)
            os.close(writing)
            assert os.read(reading, 4) == b"\x7fELF"
            served.process.send_signal(signal.SIGTERM)
            closed(served)
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(60) == 0
            assert answer(running)["errno"] == "closed"
            for _ in range(_PATIENCE):
                if "TracerPid:\t0\n" in Path(f"/proc/{process.pid}/status").read_text():
                    break
                time.sleep(0.01)
            else:
                pytest.fail("it is still traced")
            assert process.poll() is None
        os.close(reading)
