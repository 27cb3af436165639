# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process goes on out of a crashed machine's memory, on this machine: another kernel, another CPU."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.restore.going_on import KGCORE, PATIENCE, SOURCE, compiled, needs_ids, restart, until
from tests.vmcore.conftest import MAIN, some
from tests.vmcore.dumped_guest import dumped

pytestmark = needs_ids

PLACE = "/tmp/place"


def first_id() -> int:
    """An id that is free here, with those behind it, and stays so: once a machine is up it gives nobody an id below 300
    (RESERVED_PIDS, kernel/pid.c)."""
    reserved = range(150, 280)
    return next((at for at in reserved if not any(Path(f"/proc/{at + n}").exists() for n in range(20))), 20000)


FIRST = first_id()
SCRIPT = f"""
echo {FIRST - 1} > /proc/sys/kernel/ns_last_pid
mkdir {PLACE}; cd {PLACE}
/items < /dev/null > out 2>&1 &
until grep -q ready out; do sleep 0.2; done
/nameless < /dev/null > other 2>&1 &
until grep -q ready other; do sleep 0.2; done
cat out other
echo @@PID@@$(pidof items)@@OTHER@@$(pidof nameless)@@
echo @@END@@
"""
NAMELESS = Path(__file__).with_name("nameless.c")


class Crashed(NamedTuple):
    """The dump of a machine, and two processes in it; the program of the first."""

    vmcore: Path
    pid: str
    other: str
    program: Path


class Taken(NamedTuple):
    """What was taken out of the dump: the core, and a directory that has the files of the process."""

    core: Path
    place: Path
    program: Path


@pytest.fixture(scope="module", params=some(MAIN, ("k61",)))
def crashed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    work = tmp_path_factory.mktemp("guest")
    program = compiled(SOURCE, work / "items", "-O1", "-g", "-static", "-pthread")
    nameless = compiled(NAMELESS, work / "nameless", "-O1", "-static")
    # Protection keys few machines have.
    text = dumped(work, request.param, SCRIPT, [program, nameless], cpu="max,-la57,-pku")
    pid, other = (text.partition(f"{name}@@")[2].partition("@@")[0] for name in ("PID", "OTHER"))
    return Crashed(work / "vmcore", pid, other, program)


@pytest.fixture(scope="module")
def taken(crashed: Crashed, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    work, pid, dump = tmp_path_factory.mktemp("taken"), crashed.pid, ("-c", str(crashed.vmcore))
    core, place = work / "core", work / "place"
    (place / "inside").mkdir(parents=True)
    done = subprocess.run([*KGCORE, *dump, "-f", "127", "-o", core, pid], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    # What only the memory of that machine had.
    for number, name in ((1, "out"), (4, "file"), (7, "append")):
        words = [*KGCORE, "files", *dump, "--extract", str(number), "-o", str(place / name), pid]
        subprocess.run(words, check=True, capture_output=True)
    return Taken(core, place, crashed.program)


def test_everything_is_as_it_was(taken: Taken) -> None:
    """By its own account, item by item, but for what no dump has: the thread that was running has old floating-point
    registers, which is refused until it is allowed."""
    options = ("--map", f"/items={taken.program}", "--map", f"{PLACE}={taken.place}")
    (taken.place / "go").touch()
    refused = restart(taken.core, *options)
    assert refused.returncode == 1, refused.stderr
    assert "refused (stale-fpu)" in refused.stderr
    assert (taken.place / "out").read_bytes() == b"ready\n"
    done = restart(taken.core, "--allow", "stale-fpu", *options)
    assert done.returncode == 42, done.stderr
    judge(taken.place)


def judge(place: Path) -> None:
    """What the process says of itself."""
    lines = (place / "out").read_text().splitlines()
    assert lines[0] == "ready"
    assert len(lines) > 40
    assert [line for line in lines[1:] if not line.startswith("ok ")] == []
    assert os.listdir(place / "inside") == []


def in_one_go(crashed: Crashed, pid: str, *options: str) -> "subprocess.Popen[bytes]":
    words = [*KGCORE, "restart", "-c", str(crashed.vmcore), *options, pid]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_in_one_go(crashed: Crashed, tmp_path: Path) -> None:
    """Program, working directory and open files come out of the dump, too: no name of that machine is here."""
    assert not os.path.lexists(PLACE)
    kept = tmp_path / "kept"
    place = kept / "files" / PLACE.strip("/")
    process = in_one_go(crashed, crashed.pid, "--keep", str(kept), "--allow", "stale-fpu")
    until((place / "inside").is_dir, process)
    (place / "go").touch()
    said = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == 42, said
    judge(place)
    assert f"descriptor 7 was {PLACE}/append: it is {place}/append, out of the dump" in said
    again = in_one_go(crashed, crashed.pid, "--keep", str(kept))
    assert b"is not empty" in again.communicate(timeout=PATIENCE)[1]
    assert again.returncode == 1


def test_what_it_writes_is_not_thrown_away(crashed: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that it writes to, and that would go away with the private directory, are refused, and nothing is left."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shown = in_one_go(crashed, crashed.pid, "--dry-run", "--json", "--fd", "7=closed")
    plan = json.loads(shown.communicate(timeout=PATIENCE)[0])
    assert shown.returncode == 1
    assert (plan["core"], plan["pid"]) == (str(crashed.vmcore), int(crashed.pid))
    lost = [row["what"] for row in plan["refused"] if row["word"] == "keep"]
    assert [what.split(",")[0] for what in lost] == [
        f"descriptor 1 was {PLACE}/out",
        f"descriptor 4 was {PLACE}/file",
        f"the directory {PLACE} is not here",
        f"the directory {PLACE}/inside is not here",
    ]
    assert {row["word"] for row in plan["refused"]} == {"keep", "stale-fpu"}
    assert os.listdir(tmp_path) == []


def test_files_without_a_name(crashed: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted file, and a memfd that is not mapped: their content is in the dump alone. No directory stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "out").touch()
    options = ("--fd", f"1={tmp_path}/out", "--fd", f"2={tmp_path}/out", "--map", f"{PLACE}={tmp_path}")
    process = in_one_go(crashed, crashed.other, "--allow", "stale-fpu", *options)
    said = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == 43, said + (tmp_path / "out").read_text()
    assert os.listdir(tmp_path) == ["out"]
