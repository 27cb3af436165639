# SPDX-License-Identifier: LGPL-2.1-or-later
"""The C client beside daemons that misbehave; with kgcore's own it is in test_c_dumps.py."""

import ctypes
import errno
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.contrib.cclient import HERE, KEEP_PARTIAL, OVERWRITE, Client, Said, client, compiled, compiler, options_size
from tests.contrib.fake_daemon import DONE, ERROR, Answer, Asked, FakeDaemon, faked

ALLOWED = {"socket", "connect", "open", "sendmsg", "recvmsg", "close", "poll", "clock_gettime", "gettid"}
"""System calls of a dump that succeeds."""
MOST_STACK = 2048


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return client(tmp_path_factory.mktemp("client"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with faked(tmp_path) as daemon:
        yield daemon


# What is asked


def test_what_is_sent(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    seen = []

    def answer(asked: Asked) -> None:
        (descriptor,) = asked.descriptors
        seen.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_mode & 0o7777))
        asked.done(3, 12345678901)

    daemon.answer = answer
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(0, 1, 12345678901, "")
    assert seen == [((tmp_path / "core").stat().st_ino, 0o600)]
    assert struct.unpack_from("=IHH", daemon.last.packet) == (len(daemon.last.packet), 1, 1)
    assert daemon.last.settings == [f"tid={threading.get_native_id()}"]


def test_all_options(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    said = asking.dump(
        tmp_path / "core",
        ("filter=127", "exclude=name:[heap]", "only=size:>1"),
        socket=daemon.path,
        pid=1,
        tid=4194304,
        timeout_ms=60000,
        max_time_ms=1,
        max_freeze_ms=123456,
        max_size=(1 << 62),
    )
    assert said.problem == 0
    assert daemon.last.settings == [
        "pid=1", "tid=4194304", "max-time=0.001", "max-freeze=123.456", f"max-size={1 << 62}",
        "filter=127", "exclude=name:[heap]", "only=size:>1",
    ]  # fmt: skip
    asking.dump(tmp_path / "2", socket=daemon.path, max_time_ms=4294967295, tid=-1)
    assert daemon.last.settings == ["max-time=4294967.295"]
    asking.dump(tmp_path / "3", socket=daemon.path, pid=7, max_time_ms=60)
    assert daemon.last.settings == ["pid=7", "max-time=0.060"]
    assert asking.dump(tmp_path / "4", ("a=b",) * 32, socket=daemon.path).problem == 0
    assert asking.dump(tmp_path / "5", ("a=b",) * 33, socket=daemon.path).problem == errno.E2BIG
    assert not (tmp_path / "5").exists()


@pytest.mark.parametrize("options", [{"flags": 4}, {"pid": -1}, {"tid": -2}])
def test_options_that_mean_nothing(options: dict[str, Any], asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    assert asking.dump(tmp_path / "core", socket=daemon.path, **options).problem == errno.EINVAL
    assert daemon.asked == []


def test_options_of_other_versions(
    asking: Client, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger structure is one of a later version: what this one does not know must not be set in it."""
    monkeypatch.chdir(tmp_path)
    size = options_size()
    path = ctypes.create_string_buffer(os.fsencode(daemon.path))
    body = bytearray(size)
    struct.pack_into("=Q", body, 40, ctypes.addressof(path))
    for first, more in ((0, b""), (size, b""), (size + 8, b"\0" * 8)):
        struct.pack_into("=Q", body, 0, first)
        assert asking.dump_raw(Path(f"core{len(daemon.asked)}"), bytes(body) + more) == 0
    struct.pack_into("=Q", body, 0, size + 8)
    assert asking.dump_raw(Path("core"), bytes(body) + b"\0" * 7 + b"\1") == errno.E2BIG
    assert len(daemon.asked) == 3


def test_a_name_is_the_callers(
    asking: Client, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert asking.dump("relative", socket=daemon.path).problem == 0
    assert (tmp_path / "below" / "relative").exists()


# The file


def test_nothing_is_overwritten(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_text("somebody's")
    (tmp_path / "link").symlink_to("core")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("core", "link", "dangling"):
        assert asking.dump(tmp_path / name, socket=daemon.path).problem == errno.EEXIST
    assert asking.dump(tmp_path / "link", socket=daemon.path, flags=OVERWRITE).problem == errno.ELOOP
    assert asking.dump(tmp_path, socket=daemon.path, flags=OVERWRITE).problem == errno.EISDIR
    assert asking.dump(tmp_path / "no" / "core", socket=daemon.path).problem == errno.ENOENT
    assert asking.dump(None, socket=daemon.path).problem == errno.EFAULT
    assert core.read_text() == "somebody's"
    assert not (tmp_path / "nowhere").exists()
    assert not daemon.asked
    assert asking.dump(core, socket=daemon.path, flags=OVERWRITE).problem == 0
    assert core.read_bytes() == b""


def write_half(asked: Asked) -> None:
    os.write(asked.descriptors[0], b"half a core")


def test_what_a_failure_leaves(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Only what the call itself made is removed."""

    def answer(asked: Asked) -> None:
        write_half(asked)
        asked.error(errno.ENOSPC, "no space left")

    daemon.answer = answer
    core = tmp_path / "core"
    assert asking.dump(core, socket=daemon.path) == Said(errno.ENOSPC, 0, 0, "no space left")
    assert not core.exists()
    assert asking.dump(core, socket=daemon.path, flags=KEEP_PARTIAL).problem == errno.ENOSPC
    assert core.read_text() == "half a core"
    core.write_text("somebody's, which is longer")
    assert asking.dump(core, socket=daemon.path, flags=OVERWRITE).problem == errno.ENOSPC
    assert core.read_text() == "half a core"
    with (tmp_path / "other").open("wb") as file:
        assert asking.dump(file.fileno(), socket=daemon.path).problem == errno.ENOSPC
    assert (tmp_path / "other").read_text() == "half a core"
    assert asking.dump(-1, socket=daemon.path).problem == errno.EBADF


def test_another_file_of_that_name_stays(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    core = tmp_path / "core"

    def answer(asked: Asked) -> None:
        core.rename(tmp_path / "moved")
        core.write_text("somebody's")
        asked.error(errno.EIO, "")

    daemon.answer = answer
    assert asking.dump(core, socket=daemon.path).problem == errno.EIO
    assert core.read_text() == "somebody's"


def test_a_descriptor(asking: Client, daemon: FakeDaemon) -> None:
    def answer(asked: Asked) -> None:
        write_half(asked)
        asked.done(0, 11)

    daemon.answer = answer
    reader, writer = os.pipe()
    try:
        assert asking.dump(writer, socket=daemon.path) == Said(0, 0, 11, "")
        assert os.read(reader, 100) == b"half a core"
    finally:
        os.close(reader)
        os.close(writer)


# Daemons that are not there, or not what they should be


def test_no_daemon(asking: Client, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "dead"))
    for path, problem in (
        (tmp_path / "nothing", errno.ENOENT),
        (tmp_path / "dead", errno.ECONNREFUSED),
        ("/" + "x" * 107, errno.ENAMETOOLONG),
        ("/" + "x" * 106, errno.ENOENT),
    ):
        assert asking.dump(tmp_path / "core", socket=path).problem == problem
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(str(tmp_path / "stream"))
        stream.listen()
        assert asking.dump(tmp_path / "core", socket=tmp_path / "stream").problem == errno.EPROTOTYPE
    assert not (tmp_path / "core").exists()


def raw(packet: Callable[[int], bytes]) -> Answer:
    """Answer with a packet, made of the request's id."""

    def answer(asked: Asked) -> None:
        write_half(asked)
        asked.connection.send(packet(asked.id))

    return answer


def head(length: int, kind: int, id: int, version: int = 1) -> bytes:  # noqa: A002
    return struct.pack("=IHHQ", length, version, kind, id)


BODY = struct.pack("=iIQ", 0, 0, 7)
GARBAGE: dict[str, Callable[[int], bytes]] = {
    "a byte": lambda _: b"x",
    "half a header": lambda _: b"\0" * 15,
    "zeros": lambda _: b"\0" * 32,
    "text": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9,
    "longer than it says": lambda asked: head(32, DONE, asked) + BODY + b"x",
    "shorter than it says": lambda asked: head(33, DONE, asked) + BODY,
    "without a size": lambda asked: head(24, DONE, asked) + BODY[:8],
    "with half a size": lambda asked: head(28, DONE, asked) + BODY[:12],
    "of another version": lambda asked: head(32, DONE, asked, 2) + BODY,
    "to another request": lambda asked: head(32, DONE, asked + 1) + BODY,
    "to no request": lambda asked: head(32, DONE, 0) + BODY,
    "of no known status": lambda asked: head(32, DONE, asked) + struct.pack("=iIQ", 1, 0, 7),
    "an error without a number": lambda asked: head(16, ERROR, asked),
    "an error of nothing": lambda asked: head(24, ERROR, asked) + struct.pack("=iI", 0, 0),
    "an error below 0": lambda asked: head(24, ERROR, asked) + struct.pack("=iI", -5, 0),
    "no errno": lambda asked: head(24, ERROR, asked) + struct.pack("=iI", 4096, 0),
    "64 KiB": lambda asked: head(32, DONE, asked) + BODY + b"x" * (1 << 16),
}


@pytest.mark.parametrize("packet", GARBAGE.values(), ids=list(GARBAGE))
def test_garbage(packet: Callable[[int], bytes], asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answer = raw(packet)
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(errno.EBADMSG, 0, 0, "")
    assert not (tmp_path / "core").exists()


def test_messages_of_kinds_that_it_does_not_know(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    """A later daemon may send them."""

    def answer(asked: Asked) -> None:
        asked.answer(16, struct.pack("=QQ", 1, 2))
        asked.answer(19, b"")
        asked.answer(999, b"x" * 5000)
        asked.error(errno.EPERM, "no")

    daemon.answer = answer
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(errno.EPERM, 0, 0, "no")
    daemon.answer = lambda asked: asked.answer(16, b"")
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(errno.EPIPE, 0, 0, "")


def test_a_long_done(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    """With a report that was not asked for, of which nothing gets into the message."""
    daemon.answer = lambda asked: asked.answer(DONE, struct.pack("=iIQ", 0, 0, 9) + b"{}" * 20000)
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(0, 0, 9, "")


def test_it_dies_in_the_middle(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answer = write_half
    assert asking.dump(tmp_path / "core", socket=daemon.path) == Said(errno.EPIPE, 0, 0, "")
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize("refuses", [True, False])
def test_it_refuses_without_reading(refuses: bool, tmp_path: Path) -> None:
    """It is gone before the request is sent, which is a broken connection: no SIGPIPE comes, and what it said counts.

    (strace stops the program when it has opened the file. Python ignores SIGPIPE; the program does not.)
    """
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99")
    trace = tmp_path / "trace"
    words = [compiler("strace"), "-o", str(trace), "-e", "trace=open,sendmsg", "-e", "inject=open:signal=SIGSTOP"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        environment = os.environ | {"KGCORE_SOCKET": str(tmp_path / "socket")}
        words += [str(program), str(tmp_path / "core"), "0"]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as running:
            connection, _ = listening.accept()
            with connection:
                while not (trace.exists() and "stopped by SIGSTOP" in trace.read_text()):
                    assert running.poll() is None
                if refuses:
                    connection.send(struct.pack("=IHHQiI", 24, 1, ERROR, 0, errno.EAGAIN, 0))
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGCONT)
            output, _ = running.communicate(timeout=60)
    assert (running.returncode, output.split()[:2]) == (0, [str(errno.EAGAIN if refuses else errno.EPIPE), "77"])
    assert "sendmsg" in trace.read_text()
    assert "EPIPE" in trace.read_text()
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize(
    ("refuses", "said"), [(True, Said(errno.EAGAIN, 0, 0, "many")), (False, Said(errno.EPIPE, 0, 0, ""))]
)
def test_a_request_that_stays_unread(refuses: bool, said: Said, asking: Client, tmp_path: Path) -> None:
    """The kernel then reports a reset before what the daemon said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, ThreadPoolExecutor(1) as thread:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        asks = thread.submit(asking.dump, tmp_path / "core", socket=tmp_path / "socket")
        connection, _ = listening.accept()
        with connection:
            packet = connection.recv(4096, socket.MSG_PEEK)
            if refuses:
                Asked(connection, packet, []).error(errno.EAGAIN, "many")
        assert asks.result() == said
    assert not (tmp_path / "core").exists()


def test_it_never_answers(asking: Client, tmp_path: Path) -> None:
    gone = threading.Event()

    def answer(asked: Asked) -> None:
        write_half(asked)
        assert asked.connection.recv(1) == b""
        gone.set()

    with faked(tmp_path, answer) as daemon:
        assert asking.dump(tmp_path / "core", socket=daemon.path, timeout_ms=50).problem == errno.ETIMEDOUT
        assert gone.wait(60), "the connection is not closed"
    assert not (tmp_path / "core").exists()


def test_it_never_accepts(asking: Client, tmp_path: Path) -> None:
    """Its queue is full, so that connect() would block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(str(tmp_path / "socket"))
            said = asking.dump(tmp_path / "core", socket=tmp_path / "socket", timeout_ms=50)
    assert said.problem == errno.ETIMEDOUT
    assert not (tmp_path / "core").exists()


def test_it_sends_descriptors(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    """They are not taken."""
    with (tmp_path / "sent").open("w") as sent:

        def answer(asked: Asked) -> None:
            packet = head(32, DONE, asked.id) + BODY
            socket.send_fds(asked.connection, [packet], [sent.fileno()] * 3)

        daemon.answer = answer
        assert asking.dump(tmp_path / "core", socket=daemon.path).problem == 0
        (link,) = (link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == sent.name)
        assert link.name == str(sent.fileno())


@pytest.mark.parametrize(("text", "shown"), [
    ("x" * 255, "x" * 255),
    ("x" * 256, "x" * 255),
    ("x" * 254 + "é", "x" * 254),
    ("x" * 253 + "é", "x" * 253 + "é"),
    ("€" * 300, "€" * 84),
    ("\x80" * 200, None),
    ("", ""),
])  # fmt: skip
def test_what_it_says(text: str, shown: str | None, asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answer = lambda asked: asked.error(errno.EPERM, text)
    said = asking.dump(tmp_path / "core", socket=daemon.path)
    assert said.problem == errno.EPERM
    assert text.startswith(said.message)
    assert shown in (None, said.message)


def test_many_threads(asking: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answer = lambda asked: asked.done(0, asked.id)
    problems = []

    def ask(number: int) -> None:
        for turn in range(20):
            said = asking.dump(tmp_path / f"{number}.{turn}", socket=daemon.path, timeout_ms=60000)
            problems.append((said.problem, said.size == threading.get_native_id()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [(0, True)] * 160


# In a program of its own


def told(program: Path, *arguments: object, **environment: str) -> list[int]:
    done = subprocess.run(
        [str(program), *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("flags", ["-O0", "-O2", "-O0 -fsanitize=address,undefined", "-m32 -O2", "-m32 -O0"])
def test_the_stack(flags: str, daemon: FakeDaemon, tmp_path: Path) -> None:
    """What a dump takes of it, the C library's functions with it; and errno, from a signal handler."""
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99", *flags.split())
    for timeout, answer, problem in (
        (0, Asked.done, 0),
        (60000, Asked.done, 0),
        (60000, lambda asked: asked.error(errno.EPERM, "no" * 400), errno.EPERM),
    ):
        daemon.answer = answer
        (tmp_path / "core").unlink(missing_ok=True)
        said, kept, used = told(program, tmp_path / "core", timeout, "measured", KGCORE_SOCKET=str(daemon.path))
        assert (said, kept) == (problem, 77)
        if "sanitize" not in flags:
            assert 300 < used < MOST_STACK


def test_signals_meanwhile(daemon: FakeDaemon, tmp_path: Path) -> None:
    """They are handled, and it goes on waiting. What it opens is closed by an exec of another thread."""
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99")

    def answer(asked: Asked) -> None:
        for link in Path(f"/proc/{asked.peer}/fd").iterdir():
            flags = re.findall(r"flags:\t0*(\d+)", Path(f"/proc/{asked.peer}/fdinfo/{link.name}").read_text())
            assert int(link.name) < 3 or int(flags[0], 8) & os.O_CLOEXEC, os.readlink(link)
        for _ in range(3):
            os.kill(asked.peer, signal.SIGUSR2)
            while int(re.findall(r"ShdPnd:\t(\w+)", Path(f"/proc/{asked.peer}/status").read_text())[0], 16):
                pass
        asked.done()

    daemon.answer = answer
    for timeout in (0, 60000):
        assert told(program, tmp_path / f"core{timeout}", timeout, KGCORE_SOCKET=str(daemon.path))[:2] == [0, 77]


def test_the_system_calls(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Between the signal and the return from its handler."""
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99", "-O2")

    def calls(timeout: int) -> list[str]:
        words = [compiler("strace"), "-f", "-o", str(tmp_path / "trace"), str(program), str(tmp_path / "core")]
        environment = os.environ | {"KGCORE_SOCKET": str(daemon.path)}
        subprocess.run([*words, str(timeout)], env=environment, check=True, capture_output=True, timeout=60)
        trace = (tmp_path / "trace").read_text()
        inside = trace.partition("--- SIGUSR1")[2].partition("rt_sigreturn(")[0]
        return re.findall(r"^\d+ +(\w+)\(", inside, re.MULTILINE)

    assert set(calls(60000)) == ALLOWED
    (tmp_path / "core").unlink()
    assert calls(0).count("clock_gettime") == 1
    daemon.answer = lambda asked: asked.error(errno.EPERM, "no")
    (tmp_path / "core").unlink()
    assert set(calls(60000)) <= ALLOWED | {"statx", "unlink"}
    assert not (tmp_path / "core").exists()


def test_valgrind(daemon: FakeDaemon, tmp_path: Path) -> None:
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99", "-g")
    words = [compiler("valgrind"), "-q", "--error-exitcode=9", "--leak-check=full", "--track-fds=yes"]
    environment = os.environ | {"KGCORE_SOCKET": str(daemon.path)}
    for answer in (Asked.done, lambda asked: asked.error(errno.EPERM, "no" * 400), raw(lambda _: b"x")):
        daemon.answer = answer
        (tmp_path / "core").unlink(missing_ok=True)
        done = subprocess.run(
            [*words, str(program), str(tmp_path / "core"), "60000"], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, re.findall(r"==\d+== (?!\s*$).*", done.stderr)) == (0, []), done.stderr


def test_32_bits_say_the_same(daemon: FakeDaemon, tmp_path: Path) -> None:
    packets = []
    for flag in ("-m64", "-m32"):
        program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99", flag)
        assert told(program, tmp_path / f"core{flag}", 60000, KGCORE_SOCKET=str(daemon.path))[:2] == [0, 77]
        packets.append(re.sub(rb"\d+", b"N", daemon.last.packet[16:]))
        assert struct.unpack_from("=IHH", daemon.last.packet) == (len(daemon.last.packet), 1, 1)
    assert packets == [b"tid=N\0"] * 2


# $KGCORE_SOCKET


def test_the_environment_of_the_start(daemon: FakeDaemon, tmp_path: Path) -> None:
    source = tmp_path / "sets.c"
    source.write_text(
        "#define _GNU_SOURCE\n"
        '#include "kgcore_client.h"\n'
        "#include <stdio.h>\n"
        "int main(int argc, char **argv) {\n"
        '    if (argc == 3) setenv("KGCORE_SOCKET", argv[2], 1);\n'
        '    printf("%d\\n", kgcore_dump(argv[1], NULL)); return 0; }\n'
    )
    program = compiled(tmp_path / "sets", source, "-std=c99")
    assert told(program, tmp_path / "1", KGCORE_SOCKET=str(daemon.path)) == [0]
    assert told(program, tmp_path / "2", tmp_path / "nowhere", KGCORE_SOCKET=str(daemon.path)) == [0]
    assert told(program, tmp_path / "3", KGCORE_SOCKET=str(tmp_path / "nowhere")) == [errno.ENOENT]
    assert told(program, tmp_path / "4", KGCORE_SOCKET="/" + "x" * 107) == [errno.ENAMETOOLONG]
    assert told(program, tmp_path / "5", KGCORE_SOCKET="/" + "x" * 5000) == [errno.ENAMETOOLONG]
    assert len(daemon.asked) == 2


def test_a_program_with_more_rights_does_not_believe_it(daemon: FakeDaemon, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes a program that is set-uid root and starts it as somebody else")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    program = compiled(tmp_path / "handler", HERE / "handler.c", "-std=c99")
    program.chmod(0o4755)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(program), str(tmp_path / "core"), "0"]
    environment = os.environ | {"KGCORE_SOCKET": str(daemon.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] in (str(errno.ENOENT), str(errno.ECONNREFUSED)), "of /run/kgcore/socket"
    assert daemon.asked == []
    program.chmod(0o755)
    daemon.path.chmod(0o777)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] in ("0", str(errno.EACCES))
