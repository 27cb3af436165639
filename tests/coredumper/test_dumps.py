# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that dump themselves and others by a call. Each is a process of its own, which says what it finds."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import kgcore
from kgcore import Note, check_core, get_core_dump, write_core_dump
from tests.victims_here import ptrace_or_skip, sleeping
from tests.vmcore.corefile import Core

ROOT = Path(kgcore.__file__).parents[1]
NOBODY = 65534
_BEGINNING = """
import asyncio, ctypes, fcntl, io, json, os, signal, sys, threading, time
import kgcore
from kgcore import *
LETTERS = ctypes.create_string_buffer(b"what only this program knows", 4096)
def children():
    return [word for tid in os.listdir("/proc/self/task")
            for word in open(f"/proc/self/task/{tid}/children").read().split()]
def say(**what):
    print(json.dumps(what | {"pid": os.getpid(), "tid": threading.get_native_id(), "address":
          ctypes.addressof(LETTERS), "children": children()}), flush=True)
"""


@pytest.fixture(autouse=True)
def traceable() -> None:
    ptrace_or_skip()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with sleeping() as process:
        yield process


def program(text: str, directory: Path, *words: str, python: str = sys.executable, **options: Any) -> dict[str, Any]:
    """Run a program in a directory, and return what it says."""
    done = subprocess.run(
        [python, "-c", _BEGINNING + text, *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **({"env": os.environ | {"PYTHONPATH": str(ROOT)}} | options),
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["children"] == []
    return said


def is_its_core(path: Path, said: dict[str, Any]) -> Core:
    """A whole core, with the calling thread first, and what only the program knows."""
    assert check_core(path).problems == ()
    core = Core(path)
    assert next(iter(core.threads)) == said["tid"]
    assert core.read(said["address"], 28) == b"what only this program knows"
    return core


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_itself_by_any_thread(tmp_path: Path, freeze: str) -> None:
    said = program(
        "def work():\n"
        f"    report = write_core_dump('core', freeze={freeze!r})\n"
        "    say(path=report.path, how=report.freeze.how, complete=report.complete, size=report.size)\n"
        "others = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(3)]\n"
        "for other in others: other.start()\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "sys.stdout.flush(); os._exit(0)\n",
        tmp_path,
    )
    core = is_its_core(tmp_path / "core", said)
    assert said["tid"] != said["pid"]
    assert len(core.threads) == 5
    assert (said["how"], said["complete"]) == (freeze, True)
    assert said["path"] == str(tmp_path / "core")
    assert said["size"] == (tmp_path / "core").stat().st_size


def test_a_stream_of_itself(tmp_path: Path) -> None:
    """It reads its own core while it runs: of the moment of the call."""
    said = program(
        "with get_core_dump() as core:\n"
        "    LETTERS[:4] = b'WHAT'\n"
        "    assert not core.seekable() and core.report is None\n"
        "    with open('core', 'wb') as file:\n"
        "        while data := core.read(1 << 20): file.write(data)\n"
        "    LETTERS[:4] = b'what'\n"
        "    say(how=core.report.freeze.how, size=core.report.size)\n",
        tmp_path,
    )
    assert said["how"] == "fork"
    assert said["size"] == (tmp_path / "core").stat().st_size
    assert check_core(tmp_path / "core").problems == ()
    assert Core(tmp_path / "core").read(said["address"] + 4, 24) == b" only this program knows"


def test_in_memory(tmp_path: Path) -> None:
    said = program(
        "with get_core_dump(spool='memfd', freeze='stop') as core:\n"
        "    size = core.seek(0, os.SEEK_END); core.seek(0)\n"
        "    open('core', 'wb').write(core.read()); core.seek(0); magic = core.read(4)\n"
        "    try:\n        os.pwrite(core.fileno(), b'x', 0)\n"
        "    except PermissionError: sealed = True\n"
        "    blocks = os.fstat(core.fileno()).st_blocks * 512\n"
        "    say(size=size, sealed=sealed, magic=magic.hex(), stored=core.report.stored, blocks=blocks,"
        " data=core.report.data)\n",
        tmp_path,
    )
    is_its_core(tmp_path / "core", said)
    assert (said["sealed"], said["magic"]) == (True, b"\x7fELF".hex())
    assert said["size"] == (tmp_path / "core").stat().st_size
    assert said["blocks"] < said["size"]  # its holes take no memory
    assert said["blocks"] <= said["data"] + (1 << 20)


def test_in_a_forked_child_and_in_asyncio(tmp_path: Path) -> None:
    said = program(
        "async def both():\n"
        "    return await asyncio.gather(asyncio.to_thread(write_core_dump, 'core.async'))\n"
        "asyncio.run(both())\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    write_core_dump('core'); say(); sys.stdout.flush(); os._exit(0)\n"
        "os.waitpid(child, 0)\n",
        tmp_path,
    )
    is_its_core(tmp_path / "core", said)
    assert check_core(tmp_path / "core.async").problems == ()


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that all may use; pytest's own are private."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


def test_one_that_is_not_dumpable(everybodys: Path) -> None:
    """As nobody in particular: without the permission that it gives itself for the moment, it could not be traced."""
    python = "/usr/bin/python3"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    trial = [python, "-c", "import kgcore.saving, kgcore.library, construct"]
    if os.geteuid() or subprocess.run(trial, env=environment, user=NOBODY, cwd="/", capture_output=True).returncode:
        pytest.skip("others may not run this Python")
    said = program(
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(4, 0, 0, 0, 0)\n"
        "report = write_core_dump('core')\n"
        "dumpable = libc.prctl(3, 0, 0, 0, 0)\n"
        "libc.prctl(4, 1, 0, 0, 0)\n"
        "say(dumpable=dumpable, how=report.freeze.how)\n",
        everybodys,
        python=python,
        env=environment,
        user=NOBODY,
        group=NOBODY,
    )
    assert said["dumpable"] == 0
    is_its_core(everybodys / "core", said)


def test_another_process(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    report = write_core_dump(tmp_path / "core", sleeper.pid)
    assert report.complete
    assert next(iter(Core(tmp_path / "core").threads)) == sleeper.pid
    with pytest.raises(kgcore.OutputError, match="core exists"):
        write_core_dump(tmp_path / "core", sleeper.pid)
    with get_core_dump(sleeper.pid) as core:
        assert core.read(4) == b"\x7fELF"
    assert sleeper.poll() is None


def test_two_at_once(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    core = get_core_dump(sleeper.pid, freeze="stop")
    try:
        assert core.read(4) == b"\x7fELF"  # the pipe is full, and nobody reads on
        with pytest.raises(kgcore.Busy, match=f"process {sleeper.pid} is being dumped by another kgcore"):
            write_core_dump(tmp_path / "core", sleeper.pid)
    finally:
        core.close()
    assert not (tmp_path / "core").exists()
    write_core_dump(tmp_path / "core", sleeper.pid)


def test_given_up(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    with pytest.raises(kgcore.Cancelled, match="the dump was given up"):
        write_core_dump(tmp_path / "core", sleeper.pid, cancel=lambda: True)
    assert list(tmp_path.iterdir()) == []
    assert "TracerPid:\t0\n" in Path(f"/proc/{sleeper.pid}/status").read_text()
    seen: list[tuple[int, int]] = []
    write_core_dump(tmp_path / "core", sleeper.pid, cancel=lambda: False, progress=lambda *at: seen.append(at))
    assert seen
    assert all(done <= total for done, total in seen)


def test_the_helper_is_killed(tmp_path: Path) -> None:
    """The program is told so, and goes on."""
    said = program(
        "def kill():\n"
        "    while not (found := children()): pass\n"
        "    time.sleep(0.3); os.kill(int(found[0]), signal.SIGKILL)\n"
        "threading.Thread(target=kill).start()\n"
        "core = get_core_dump()\n"
        "time.sleep(1)\n"
        "try:\n"
        "    while core.read(1 << 16): pass\n"
        "except KgcoreError as error: text = str(error)\n"
        "for _ in range(200):\n"
        "    if not children(): break\n"
        "    time.sleep(0.05)\n"
        "say(text=text)\n",
        tmp_path,
    )
    assert said["text"] == "the program that dumps has ended (was it killed?)"


def owners(path: Path) -> list[str]:
    """Of all notes, in their order, as readelf has them."""
    said = subprocess.run(["readelf", "-nW", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (\S+) +\t?0x[0-9a-f]{8}\t", said, flags=re.MULTILINE)


def test_notes_of_ones_own(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """Behind the kernel's, and before kgcore's own."""
    called = []

    def content() -> bytes:
        called.append(1)
        return b"x" * 4097

    notes = [Note("myself", 0xBEEF, b"abc"), Note("others", 7, content)]
    write_core_dump(tmp_path / "core", sleeper.pid, notes=notes)
    assert called == [1]
    found = owners(tmp_path / "core")
    assert found[-3:] == ["myself", "others", "KGCORE"]
    assert set(found[:-3]) == {"CORE", "LINUX"}
    data = (tmp_path / "core").read_bytes()
    assert b"\x07\0\0\0\x03\0\0\0\xef\xbe\0\0myself\0\0abc\0" in data
    assert b"\x07\0\0\0\x01\x10\0\0\x07\0\0\0others\0\0" + b"x" * 4097 + bytes(3) in data
    assert check_core(tmp_path / "core").problems == ()
    for wrong in (("CORE", 1, b""), ("", 1, b""), ("a\0b", 1, b""), ("a", -1, b""), ("a", 1 << 32, b"")):
        with pytest.raises(ValueError, match=r"(owner|type) is "):
            Note(*wrong)


def test_the_first_compressor_that_there_is(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """By its own questions: a list whose first is missing, a program, none at all; and what limits cost."""
    write_core_dump(tmp_path / "plain", sleeper.pid)
    plain = (tmp_path / "plain").stat().st_size
    missing: Any = ("no-such-compressor", [], ".none")
    report = write_core_dump(tmp_path / "a", sleeper.pid, compress=[missing, ("gzip", ["-1", "-c"], ".gz"), "zstd"])
    assert report.path == str(tmp_path / "a.gz")
    assert len(gzip.decompress((tmp_path / "a.gz").read_bytes())) == report.size == plain
    report = write_core_dump(tmp_path / "b", sleeper.pid, compress=[missing, None])
    assert report.path == str(tmp_path / "b")
    with pytest.raises(kgcore.KgcoreError, match="this machine has no no-such-compressor"):
        write_core_dump(tmp_path / "c", sleeper.pid, compress=[missing])
    with pytest.raises(kgcore.OutputError, match="false did not compress the core: it ended with status 1"):
        write_core_dump(tmp_path / "c", sleeper.pid, compress=("false", [], ".x"))
    limited = write_core_dump(tmp_path / "d", compress="gzip", max_size=1 << 20, limit="priority")
    assert (tmp_path / "d.gz").stat().st_size <= 1 << 20
    assert limited.limit.startswith("reached the size limit of")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gz", "b", "d.gz", "plain"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 0}, "size is 0: expected more than 0"),
        ({"max_size": -1}, "max_size is -1"),
        ({"max_time": -1}, "max_time is -1"),
        ({"freeze": "never"}, "freeze is 'never'"),
        ({"freeze": "stop", "shared": "late"}, "shared='late' is about copies"),
        ({"limit": "largest-first"}, "it takes max_size or max_time"),
        ({"limit": "other", "max_size": 1}, "rule is 'other'"),
        ({"profile": "tiny"}, "profile is 'tiny'"),
        ({"compress": "bzip2"}, "compress is 'bzip2'"),
        ({"compress": []}, "compress is an empty list"),
        ({"compress": ("x", "y", "z")}, r"compress is \('x', 'y', 'z'\)"),
        ({"exclude": ["nothing"]}, "'nothing' is not a rule"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_what_makes_no_sense_stops_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """It is said before anything happens: there is no such process, and nobody looks."""
    for pid in (None, 1 << 22):
        with pytest.raises(ValueError, match=message):
            write_core_dump(tmp_path / "core", pid, **options)
    with pytest.raises(TypeError, match="unexpected option: colour"):
        write_core_dump(tmp_path / "core", colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="a process that stands still cannot read its own core"):
        get_core_dump(freeze="stop")
    with pytest.raises(ValueError, match="pid is -1"):
        write_core_dump(tmp_path / "core", -1)


def test_rules_and_a_limit_without_compression(tmp_path: Path) -> None:
    text = "data = bytearray(b'd' * (64 << 20))\nsay(report=write_core_dump('core', **OPTIONS).to_json())\n"
    whole = program(text.replace("OPTIONS", "{}"), tmp_path)["report"]
    (tmp_path / "core").unlink()
    without = program(text.replace("OPTIONS", "{'exclude': ['size:>32M']}"), tmp_path)["report"]
    assert whole["data"] - without["data"] > 60 << 20
    (tmp_path / "core").unlink()
    limited = program(text.replace("OPTIONS", "{'max_size': 8 << 20}"), tmp_path)["report"]
    assert (tmp_path / "core").stat().st_blocks * 512 <= 8 << 20
    assert limited["limit"].startswith("reached the size limit")
    (tmp_path / "core").unlink()
    mini = program(text.replace("OPTIONS", "{'profile': 'mini'}"), tmp_path)
    assert mini["report"]["data"] < 16 << 20  # what the interpreter's frames need; not the 64 MiB
    assert next(iter(Core(tmp_path / "core").threads)) == mini["tid"]


def test_a_signal_in_the_middle(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """The process that is dumped gets a signal that ends it: its core may be there or not, and no helper stays."""
    for number in range(3):
        with subprocess.Popen(["sleep", "1000"]) as process:
            core = get_core_dump(process.pid, freeze="stop" if number % 2 else "fork")
            time.sleep(0.1 * number)
            os.kill(process.pid, signal.SIGTERM)
            with suppress(kgcore.KgcoreError):
                while core.read(1 << 20):
                    pass
            core.close()
            assert process.wait(30) == -signal.SIGTERM
