# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes go on from the cores that ``kgcore live`` wrote of them, as if nothing had been: by their own account."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest

import kgcore
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.need import need_of
from tests.restore.going_on import (
    KGCORE,
    PATIENCE,
    SOURCE,
    compiled,
    needs_ids,
    restart,
    running,
    taken,
    until,
    until_ready,
)
from tests.schemas import strict
from tests.victims_here import live_core, sleeping

pytestmark = needs_ids

COUNTER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    for (int i = 0; i < 40; i++) {
        char *text = malloc(100000);
        snprintf(text, 100000, "%d of %d", i, (int)getpid());
        puts(text), fflush(stdout), usleep(20000);
        while (i == 30 && access("go", F_OK) != 0)
            usleep(10000);
    }
    return 7;
}
"""
CYCLES = 10 if os.environ.get("KGCORE_THOROUGH") else 2
COUNTERS = {"static": ("-static",), "pie": ("-pie", "-fPIE"), "non-pie": ("-no-pie",)}
ITEMS = {"static": ("-static",), "dynamic": ()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("kind", COUNTERS)
def test_a_counter(folder: Path, tmp_path: Path, kind: str) -> None:
    """It is not missing a line, nor has it one twice; and it ends as it would have."""
    source = tmp_path / "counter.c"
    source.write_text(COUNTER)
    program = compiled(source, folder / f"counter-{kind}", "-O1", *COUNTERS[kind])
    place = tmp_path / "place"
    with running(place, program) as process:
        until(lambda: (place / "out").read_bytes().count(b"\n") > 5, process)
        core = taken(process, tmp_path / "core")
    (place / "go").touch()
    # It had written more by the time when it was killed, which it writes once more.
    done = restart(core, "--allow", "files")
    assert done.returncode == 7, done.stderr
    lines = (place / "out").read_text().splitlines()
    assert lines == [f"{number} of {process.pid}" for number in range(40)]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[str]:
    """What the program with something of everything says if nothing happens to it."""
    program = compiled(SOURCE, folder / "items-dynamic", "-O1", "-g", "-pthread")
    place = folder / "undisturbed"
    with running(place, program) as process:
        until_ready(place, process)
        (place / "go").touch()
        assert process.wait(PATIENCE) == 42
    lines = (place / "out").read_text().splitlines()
    assert len(lines) > 40
    assert all(line == "ready" or line.startswith("ok ") for line in lines), lines
    return lines


@pytest.mark.parametrize(("kind", "freeze"), [("static", "stop"), ("dynamic", "fork")])
def test_everything_is_as_it_was(folder: Path, tmp_path: Path, kind: str, freeze: str, expected: list[str]) -> None:
    """Item by item, with eight threads in all sorts of calls and in user mode."""
    program = folder / f"items-{kind}"
    if not program.exists():
        compiled(SOURCE, program, "-O1", "-g", "-pthread", *ITEMS[kind])
    place = tmp_path / "place"
    with running(place, program) as process:
        until_ready(place, process)
        core = taken(process, tmp_path / "core", "--freeze", freeze)
    (place / "go").touch()
    done = restart(core)
    assert done.returncode == 42, done.stderr
    assert (place / "out").read_text().splitlines() == expected


def test_again_and_again(folder: Path, tmp_path: Path, expected: list[str]) -> None:
    """It is taken and restarted, and again."""
    place = tmp_path / "place"
    with running(place, folder / "items-dynamic") as process:
        until_ready(place, process)
        core = taken(process, tmp_path / "core-0")
    for number in range(1, CYCLES):
        done = restart(core, "--detach")
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == process.pid
        core = taken_once_more(process.pid, tmp_path / f"core-{number}")
    (place / "go").touch()
    done = restart(core)
    assert done.returncode == 42, done.stderr
    assert (place / "out").read_text().splitlines() == expected


def test_the_vdso_of_another_kernel(folder: Path, tmp_path: Path, expected: list[str]) -> None:
    """Its functions are system calls then; so they stay when the process is taken and restarted once more."""
    place = tmp_path / "place"
    with running(place, folder / "items-dynamic") as process:
        until_ready(place, process)
        core = taken(process, tmp_path / "core")
    with closing(FinishedCore.open(str(core))) as reader:
        start = need_of(reader).words[33]  # AT_SYSINFO_EHDR
        segment = next(one for one in reader.segments if one.start == start)
    # The last byte of its pages, which nothing uses.
    with core.open("r+b") as file:
        file.seek(segment.offset + segment.stored - 1)
        assert file.read(1) == b"\0"
        file.seek(segment.offset + segment.stored - 1)
        file.write(b"\1")
    done = restart(core, "--detach")
    assert done.returncode == 0, done.stderr
    second = taken_once_more(process.pid, tmp_path / "second")
    assert "its functions are system calls now" in done.stderr
    (place / "go").touch()
    done = restart(second)
    assert done.returncode == 42, done.stderr
    assert (place / "out").read_text().splitlines() == expected


def taken_once_more(pid: int, core: Path) -> Path:
    """The core of a process that was restarted and left alone; it is killed, and has ended then."""
    live = subprocess.run([*KGCORE, "live", "-o", core, str(pid)], capture_output=True, text=True, check=False)
    os.kill(pid, signal.SIGKILL)
    assert (live.returncode, live.stderr) == (0, "")
    os.waitpid(pid, 0)
    return core


def test_the_clock_goes_on(folder: Path, tmp_path: Path) -> None:
    """A program with a deadline of a clock that was 100 days ahead ends in time: its clock goes on from there."""
    source, place = tmp_path / "waits.c", tmp_path / "place"
    source.write_text(r"""
#include <stdio.h>
#include <time.h>
int main(void)
{
    struct timespec now, until;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%ld\n", (long)now.tv_sec), fflush(stdout);
    until = now, until.tv_sec += 3;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    clock_gettime(CLOCK_MONOTONIC, &now);
    puts(now.tv_sec - until.tv_sec < 30 ? "in time" : "late");
    return 3;
}
""")
    program = compiled(source, tmp_path / "waits")
    days = "8640000"
    with running(place, "unshare", "--time", "--monotonic", days, "--boottime", days, program) as process:
        try:
            until(lambda: (place / "out").read_bytes().count(b"\n") == 1, process)
        except AssertionError:
            pytest.skip("time namespaces are not allowed here")
        core = taken(process, tmp_path / "core")
    refused = restart(core, "--clock", "jump")
    assert refused.returncode == 1
    assert "refused (clock)" in refused.stderr
    assert "clock_nanosleep" in refused.stderr
    done = restart(core)
    assert done.returncode == 3, done.stderr
    said = (place / "out").read_text().splitlines()
    assert int(said[0]) > 8_000_000
    assert said[1] == "in time"


def test_files_that_are_elsewhere_now(folder: Path, tmp_path: Path) -> None:
    """A sysroot has the program under its old name; with a hole where the core has nothing either, it is refused."""
    source, place, root = tmp_path / "counter.c", tmp_path / "place", tmp_path / "root"
    source.write_text(COUNTER)
    program = compiled(source, tmp_path / "moves", "-O1", "-static")
    with running(place, program) as process:
        until(lambda: (place / "out").read_bytes().count(b"\n") > 5, process)
        core = taken(process, tmp_path / "core")
    there = root / program.relative_to("/")
    there.parent.mkdir(parents=True)
    shutil.move(program, there)
    assert "cannot be opened here" in restart(core, "--allow", "files").stderr
    holes = tmp_path / "holes" / program.relative_to("/")
    holes.parent.mkdir(parents=True)
    with there.open("rb") as whole, holes.open("wb") as file:
        file.write(whole.read(3 * 4096))
        whole.seek(64 << 10)
        file.seek(64 << 10)
        shutil.copyfileobj(whole, file)
    holes.chmod(0o755)
    (place / "go").touch()
    refused = restart(core, "--allow", "files", "--sysroot", str(tmp_path / "holes"))
    assert "refused (missing)" in refused.stderr
    assert "moves has a hole at its byte" in refused.stderr
    done = restart(core, "--force", "--sysroot", str(root))
    assert done.returncode == 7, done.stderr
    lines = (place / "out").read_text().splitlines()
    assert lines == [f"{number} of {process.pid}" for number in range(40)]


PYTHON = r"""
import hashlib, os, sqlite3, sys, threading, time
log = open("log", "w")
base = sqlite3.connect("base")
base.execute("create table t(a integer, b text)")
total = []
def work():
    for i in range(30):
        time.sleep(0.02)
        total.append(i)
thread = threading.Thread(target=work)
thread.start()
digest = hashlib.sha256()
print("ready", flush=True)
for i in range(400):
    for j in range(200):
        digest.update(repr((i, j, i / (j + 1))).encode())
    while i == 300 and not os.path.exists("go"):
        time.sleep(0.01)
    if i % 10 == 0:
        base.execute("insert into t values(?, ?)", (i, digest.hexdigest()))
        base.commit()
        print(i, digest.hexdigest(), file=log, flush=True)
        compile(f"x = {i}\n" * 50, "f", "exec")
thread.join()
import decimal, json
print(sum(total), digest.hexdigest(), base.execute("select count(*), sum(a) from t").fetchall())
print(json.dumps(str(decimal.Decimal(2).sqrt())))
sys.exit(9)
"""


def test_python_in_a_computation(tmp_path: Path) -> None:
    """With a thread, a database and an open file."""
    script = tmp_path / "script.py"
    script.write_text(PYTHON)
    one, other = tmp_path / "one", tmp_path / "other"
    with running(one, sys.executable, script) as process:
        (one / "go").touch()
        assert process.wait(PATIENCE) == 9
    with running(other, sys.executable, script) as process:
        until(lambda: b"ready\n" in (other / "out").read_bytes(), process)
        core = taken(process, tmp_path / "core", "--freeze", "stop")
    (other / "go").touch()
    done = restart(core, "--allow", "files")
    assert done.returncode == 9, done.stderr
    for name in ("out", "log"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_how_it_ends_is_how_restart_ends(folder: Path, tmp_path: Path) -> None:
    """A signal for kgcore is passed on, and the signal that ends the process is in the exit status."""
    with running(tmp_path / "place", "sleep", "1000") as process:
        core = taken(process, tmp_path / "core")
    with subprocess.Popen([*KGCORE, "restart", str(core)], stderr=subprocess.PIPE) as command:
        until(lambda: Path(f"/proc/{process.pid}/stat").exists() and name_of(process.pid) == "sleep", command)
        os.kill(command.pid, signal.SIGTERM)
        assert command.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{process.pid}").exists()


def name_of(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    tracer = re.search(r"TracerPid:\t(\d+)", status)
    assert tracer is not None
    return "" if tracer[1] != "0" else status.split("\n", 1)[0].removeprefix("Name:\t")


def test_it_is_left_stopped(folder: Path, tmp_path: Path) -> None:
    with running(tmp_path / "place", "sleep", "1000") as process:
        core = taken(process, tmp_path / "core")
    done = restart(core, "--stopped", "--detach")
    assert (done.returncode, done.stdout) == (0, f"{process.pid}\n"), done.stderr
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        assert stat.rpartition(") ")[2][0] == "T"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)


@pytest.mark.usefixtures("expected")
def test_the_plan(folder: Path, tmp_path: Path) -> None:
    """It says what is restored, different and refused, and starts nothing."""
    place = tmp_path / "place"
    with running(place, folder / "items-dynamic") as process:
        until_ready(place, process)
        core = taken(process, tmp_path / "core")
    done = restart(core, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    schema = json.loads((Path(kgcore.__file__).parent / "schemas" / "restart.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plan, strict(schema))
    assert plan["pid"] == process.pid
    assert plan["refused"] == []
    assert {call["call"] for call in plan["calls"]} >= {"futex", "read", "poll", "epoll_wait", "rt_sigsuspend"}
    assert not Path(f"/proc/{process.pid}").exists()
    with (place / "file").open("ab") as file:
        file.write(b"more")
    refused = restart(core, "--dry-run", "--json")
    assert refused.returncode == 1
    words = [(one["word"], one["allowable"]) for one in json.loads(refused.stdout)["refused"]]
    assert words == [("files", True)]


def test_a_call_that_cannot_start_again(tmp_path: Path) -> None:
    """A sleep that was interrupted once is a call whose rest of time no core has: it is refused, and not restored."""
    with sleeping() as process:
        live_core(process.pid, tmp_path / "first")
        core = taken(process, tmp_path / "core")
    done = restart(core, "--dry-run")
    assert done.returncode == 1
    assert f"refused (restart): thread {process.pid} was in restart_syscall()" in done.stdout
    assert "starts again" not in done.stdout
