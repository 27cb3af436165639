# SPDX-License-Identifier: LGPL-2.1-or-later
"""kgcore inside drgn, on real dumps: the same bytes as the command writes, whichever way it is asked."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.vmcore.conftest import Extractor, Fixture, need
from tests.vmcore.corefile import Core
from tests.vmcore.tools import ROOT, TIMEOUT, kgcore, plain_environment

SYMBOLS = ("without", "with")
"""Whether drgn is given the kernel's debug information."""


@pytest.fixture(params=["k61", "k510", "k72"])
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return need(request.param)


def drgn_words(dump: Path, *options: str | Path) -> list[str]:
    program = Path(sys.executable).with_name("drgn")
    found = str(program) if program.exists() else shutil.which("drgn")
    assert found, "the program drgn belongs to the package drgn"
    return [found, "-q", "-c", str(dump), *map(str, options)]


def environment(home: Path) -> dict[str, str]:
    # drgn reads and writes a history at home, and pages what it prints.
    return plain_environment() | {"PYTHONPATH": str(ROOT), "HOME": str(home), "PAGER": "cat"}


def script(dump: Path, code: str, cwd: Path, *options: str | Path) -> str:
    """What a script on drgn's standard input prints; it must go through."""
    done = subprocess.run(
        drgn_words(dump, *options), input=code, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT,
        env=environment(cwd),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def symbols(fixture: Fixture, given: str) -> dict[str, Any]:
    """Options of ``extract`` for what drgn is given."""
    return {"symbols": (str(fixture.vmlinux),)} if given == "with" else {}


def drgn_symbols(fixture: Fixture, given: str) -> list[str | Path]:
    return ["-s", fixture.vmlinux] if given == "with" else []


def cores(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


LIBRARY = """\
import io
from drgn.commands import run_command
from kgcore import gcore

PID, TASK = {pid}, {task}

class Pipe(io.RawIOBase):
    "Not seekable."
    def __init__(self): self.pieces = []
    def writable(self): return True
    def write(self, data): self.pieces.append(bytes(data)); return len(data)

report = gcore(prog, PID)
print(report.tgid, report.path, report.complete, report.size)
gcore(prog, PID, output="by-pid")
gcore(prog, TASK, output="by-address")
gcore(prog, hex(TASK), output="by-text")
gcore(prog, PID, output="filtered", filter=1, missing="zero", note=False)
steps = []
with open("file", "wb") as file:
    gcore(prog, PID, output=file, progress=lambda done, total: steps.append((done, total)))
print(steps[-1])
pipe = Pipe()
gcore(prog, PID, output=pipe)
open("pipe", "wb").write(b"".join(pipe.pieces))
run_command(prog, "gcore -v 4 -o command " + str(PID))
run_command(prog, "gcore -f 1 --missing zero --no-kgcore-note -o command-filtered " + str(PID))
"""

TASKS = """\
from drgn.helpers.linux.pid import find_task
thread = find_task(prog, {tid})
gcore(prog, find_task(prog, PID), output="by-task")
gcore(prog, thread, output="by-thread")
gcore(prog, thread[0], output="by-thread-struct")
"""


@pytest.mark.parametrize("given", SYMBOLS)
def test_gcore(fixture: Fixture, given: str, extract: Extractor, tmp_path: Path) -> None:
    """``gcore(prog, ...)`` and ``%gcore`` with a pid, an address and an object, to a name, a directory and files."""
    victim = fixture.victims["dynamic"]
    tid = victim.tids[1]
    same = symbols(fixture, given)
    whole, report = extract(fixture.dump(), victim.pid, **same)
    task = extract.source(fixture.dump(), **({"symbols": ()} | same)).process(ref(victim.pid)).image.threads[0].task
    code = LIBRARY.format(pid=victim.pid, task=task) + (TASKS.format(tid=tid) if given == "with" else "")
    lines = script(fixture.dump(), code, tmp_path, *drgn_symbols(fixture, given)).splitlines()
    assert lines[0] == f"{victim.pid} {os.curdir}/core.{victim.pid} True {whole.stat().st_size}"
    done, total = (int(part) for part in lines[1].strip("()").split(","))
    assert done == total > 0
    assert lines[2:] == [f"Saved core.{victim.pid}"] * 2
    written = cores(tmp_path)
    filtered, _ = extract(fixture.dump(), victim.pid, mask=1, missing="zero", vendor_note=False, **same)
    for name in ("filtered", "command-filtered"):
        assert written.pop(name) == filtered.read_bytes()
    if given == "with":
        by_thread, _ = extract(fixture.dump(), tid, **same)
        assert next(iter(Core(by_thread).threads)) == tid
        for name in ("by-thread", "by-thread-struct"):
            assert written.pop(name) == by_thread.read_bytes()
        assert written.pop("by-task") == whole.read_bytes()
    assert sorted(written) == sorted(
        [f"core.{victim.pid}", "by-pid", "by-address", "by-text", "file", "pipe", "command"]
    )
    assert {name for name, data in written.items() if data != whole.read_bytes()} == set()
    assert report.complete


def ref(pid: int) -> Any:
    from kgcore.sources.base import TaskRef

    return TaskRef.parse(str(pid))


def test_errors(tmp_path: Path) -> None:
    """What is no process raises an error that says which, and drgn's session goes on."""
    fixture = need("k61")
    code = f"""\
from drgn.commands import run_command
from kgcore import gcore
for pid in (2, 4194303, {fixture.victims["zombie"].pid}, None):
    for ask in (lambda: gcore(prog, pid), lambda: run_command(prog, "gcore " + str(pid or ""))):
        try:
            ask()
        except Exception as error:
            print(type(error).__name__, error)
"""
    lines = script(fixture.dump(), code, tmp_path).splitlines()
    assert [line.split()[0] for line in lines[1::2]] == ["CommandError"] * 4
    assert [line.split()[0] for line in lines[::2]] == ["KernelThread", "NoSuchTask", "NoUserMemory", "NoCurrentTask"]
    texts = [line.split(maxsplit=1)[1] for line in lines]
    assert texts[::2] == texts[1::2]
    for text, part in zip(texts[::2], ("kernel thread kthreadd", "4194303", "zombie", "no PID given"), strict=True):
        assert part in text
    assert cores(tmp_path) == {}


# At drgn's prompt


class Prompt:
    """drgn on a terminal of its own, where ``%gcore`` and ``crash>`` are typed."""

    def __init__(self, dump: Path, cwd: Path, *options: str | Path) -> None:
        self._terminal, end = pty.openpty()
        self._drgn = subprocess.Popen(
            drgn_words(dump, *options), stdin=end, stdout=end, stderr=end, cwd=cwd, start_new_session=True,
            env=environment(cwd),
        )  # fmt: skip
        os.close(end)
        self._answer()
        self('prog.config["crash_pager"] = None')  # else less waits for a key

    def __enter__(self) -> "Prompt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drgn.kill()
        self._drgn.wait()
        os.close(self._terminal)

    def __call__(self, line: str) -> list[str]:
        """Type a line; what drgn prints until its next prompt."""
        os.write(self._terminal, line.encode() + b"\n")
        return self._answer()[1:-1]  # without the echo, and the prompt

    def _answer(self) -> list[str]:
        text = b"".join(self._pieces())
        return text.decode().splitlines()

    def _pieces(self) -> Iterator[bytes]:
        end = b""
        limit = time.monotonic() + 30
        while not end.endswith((b">>> ", b"crash> ")):
            assert select.select([self._terminal], [], [], max(0.0, limit - time.monotonic()))[0], f"no prompt: {end!r}"
            piece = os.read(self._terminal, 1 << 16)
            end = (end + piece)[-4096:]
            yield piece


@pytest.mark.parametrize("given", SYMBOLS)
def test_at_the_prompt(given: str, extract: Extractor, tmp_path: Path) -> None:
    """``%gcore -v 4 -f 21 PID PID``, and ``gcore`` in crash mode, with and without an argument."""
    pytest.importorskip("drgn.commands._crash")
    fixture = need("k61")
    one, two = fixture.victims["dynamic"], fixture.victims["identity"]
    same = symbols(fixture, given)
    with Prompt(fixture.dump(), tmp_path, *drgn_symbols(fixture, given)) as prompt:
        said = prompt(f"%gcore -v 4 -f 21 {one.pid} 2 {two.pid}")
        assert [line for line in said if line.startswith("Saved")] == [f"Saved core.{one.pid}", f"Saved core.{two.pid}"]
        assert any("2 is the kernel thread kthreadd" in line for line in said)
        assert f"Saved core.{two.pid}" in prompt(f"%crash gcore -o percent {two.pid}")
        prompt("%crash")
        assert f"Saved core.{two.pid}" in prompt(f"gcore -o crash {two.pid}")
        if given != "with":  # crash mode's own commands need drgn to have the kernel's types
            assert any("could not find 'init_pid_ns'" in line for line in prompt(f"set {one.pid}"))
            prompt("load_types")
        assert any(f"PID: {one.pid}" in line for line in prompt(f"set {one.pid}"))
        assert f"Saved core.{one.pid}" in prompt("gcore -o current")
    written = cores(tmp_path)
    for victim in (one, two):
        path, _ = extract(fixture.dump(), victim.pid, mask=21, **same)
        assert written.pop(f"core.{victim.pid}") == path.read_bytes()
    for name in ("percent", "crash"):
        assert written.pop(name) == extract(fixture.dump(), two.pid, **same)[0].read_bytes()
    assert written.pop("current") == extract(fixture.dump(), one.pid, **same)[0].read_bytes()
    assert not [name for name in written if not name.startswith(".")]


def test_the_process_that_crashed(tmp_path: Path) -> None:
    """Without an argument, in crash mode and out of it: as the command does."""
    pytest.importorskip("drgn.commands._crash")
    fixture = need("k61-kexec")
    dump = fixture.dump("vmcore.kexec")
    pid = fixture.victims["crasher"].pid
    words = ["-c", dump, "-s", fixture.vmlinux, "-o", "command"]
    assert kgcore(*words, cwd=tmp_path).lines == [f"Saved core.{pid}"]
    with Prompt(dump, tmp_path, "-s", fixture.vmlinux) as prompt:
        assert f"Saved core.{pid}" in prompt("%gcore -o percent")
        assert f"Saved core.{pid}" in prompt("%crash gcore -o crash")
    written = cores(tmp_path)
    assert written["percent"] == written["crash"] == written["command"]
