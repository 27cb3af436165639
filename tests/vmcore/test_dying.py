# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes in the middle of their core dumps, and others that a signal was ending, on each kernel.

Truth is the very core that the guest's kernel was writing at the moment of the dump, and what the process says of its
signal.
"""

import json
import struct
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.check.core import check_core
from kgcore.model.siginfo import signal_name
from tests.schemas import strict
from tests.vmcore.conftest import Extractor, Fixture, Victim, main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.tools import ROOT, gdb, kgcore
from tests.vmcore_fixtures.make.dying_guests import DUMPING, DUMPING_IA32, NO_CORE, PENDING

KERNELS = ("k510-dying", "k61-dying", "k612-dying", "k72-dying")
CORES = [*(f"dying-{how}" for how in DUMPING), *(f"dying-ia32-{how}" for how in DUMPING_IA32)]
ALL = [*CORES, *(f"dying-{how}" for how in (*PENDING, *NO_CORE))]
NT_SIGINFO = 0x53494749


def victim_of(fixture: Fixture, name: str) -> Victim:
    if name not in fixture.victims:
        pytest.skip("this kernel has no such cgroups")
    return fixture.victims[name]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("victim_name", CORES)
def test_the_core_that_was_being_written(name: str, victim_name: str, extract: Extractor) -> None:
    """Signal, siginfo, order of the threads, registers and memory."""
    fixture = need(name)
    victim = victim_of(fixture, victim_name)
    path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None, vendor_note=False)
    assert victim.core is not None
    theirs, ours = Core(victim.core), Core(path)
    special = Expected(dying=True, marks_image=fixture.version < (5, 14))
    assert list(compare(theirs, ours, special)) == []
    assert next(iter(theirs.threads)) == next(iter(ours.threads)) == victim.said["hit"]
    assert (report.warnings, report.missing_bytes) == ((), 0)
    assert check_core(str(path)).ok


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("victim_name", ALL)
def test_what_it_says_itself(name: str, victim_name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = victim_of(fixture, victim_name)
    said = victim.said
    path, report = extract(fixture.dump(main_dump(fixture)), victim.pid, mask=None)
    core = Core(path)
    siginfo = core.process_note(NT_SIGINFO)
    assert siginfo is not None
    number, _, code = struct.unpack_from("<iii", siginfo)
    assert number == said["signal"]
    assert {notes.prstatus["cursig"] for notes in core.threads.values()} == {said["signal"]}
    dying = report.dying
    if not said["signal"]:
        assert dying is None
        assert siginfo == bytes(128)
        return
    assert dying is not None
    assert (dying.signal, dying.stage, code) == (said["signal"], said["stage"], said["code"])
    if said["stage"] == "dumping-core" or victim_name == "dying-pending-thread":
        assert dying.tid == said["hit"]
    assert dying.info is not None
    if said["address"]:
        assert dying.info.get("address") == said["address"]
        assert dying.fault is not None
        assert (dying.fault.trap, dying.fault.address) == (14, said["address"])
    if said["code"] <= 0 and victim_name != "dying-frozen":
        assert dying.info.get("pid") == said["sender"]
    if victim_name.endswith("queue"):
        value = dying.info.get("value")
        assert value is not None
        assert value & 0xFFFFFFFF == 0x12345678


@pytest.mark.parametrize("name", KERNELS)
def test_commands(name: str, tmp_path: Path) -> None:
    """ps has a column, bt and the summary a line; gdb says what the process terminated with."""
    fixture = need(name)
    dump = fixture.dump(main_dump(fixture))
    rows = json.loads(kgcore("ps", "--json", "-c", dump, cwd=tmp_path).raw)["processes"]
    dying = {row["pid"]: row["dying"] for row in rows}
    states = {row["pid"]: row["state"] for row in rows}
    for victim in fixture.victims.values():
        said = victim.said
        found = dying.pop(victim.pid)
        (state,) = (line.split()[1] for line in (victim.proc / "status").read_text().splitlines() if "State:" in line)
        assert states[victim.pid] == state
        if not said["signal"]:
            assert found is None
            continue
        assert (found["signal"], found["stage"]) == (said["signal"], said["stage"])
        assert found["name"] == signal_name(said["signal"])
    assert not any(dying.values()), "of nobody else"
    thread = fixture.victims["dying-thread"]
    title, *table = kgcore("ps", "-c", dump, cwd=tmp_path).lines
    assert "DYING OF" in title
    (line,) = (line for line in table if line.split()[0] == str(thread.pid))
    assert "SIGSEGV (dumping-core)" in line
    words = "the kernel was writing its core for SIGSEGV (SEGV_MAPERR) at address 0xdead0, which thread "
    shown = "\n".join(kgcore("bt", "-c", dump, thread.pid, cwd=tmp_path).lines)
    assert f"Dying: {words}{thread.said['hit']}" in shown
    assert f"Thread {thread.said['hit']}:" in shown
    assert "touch" in shown
    done = kgcore("-c", dump, "--report", tmp_path / "report", thread.pid, cwd=tmp_path)
    assert done.status == 0
    assert done.remarks == [f"kgcore: process {thread.pid}: {words}{thread.said['hit']} got"]
    report = json.loads((tmp_path / "report").read_text())["processes"][0]["dying"]
    assert report["info"]["code_name"] == "SEGV_MAPERR"
    core = tmp_path / f"core.{thread.pid}"
    shown = gdb(core, fixture.path / "sysroot", "victims/dying", "p $_siginfo._sifields._sigfault.si_addr")
    assert "Program terminated with signal SIGSEGV" in shown
    assert "(void *) 0xdead0" in shown
    assert "touch (address=912080)" in shown


@pytest.mark.parametrize("name", KERNELS)
def test_json_is_as_the_schemas_say(name: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    fixture = need(name)
    dump = fixture.dump(main_dump(fixture))
    pids = [victim.pid for victim in fixture.victims.values() if "ia32" not in victim.name]
    found = {
        "ps": json.loads(kgcore("ps", "--json", "-c", dump, cwd=tmp_path).raw),
        "bt": json.loads(kgcore("bt", "--json", "-c", dump, *pids, cwd=tmp_path).raw),
    }
    kgcore("-c", dump, "-f", 1, "--report", tmp_path / "report", *pids, cwd=tmp_path)
    found["report"] = json.loads((tmp_path / "report").read_text())
    for kind, value in found.items():
        schema = strict(json.loads((ROOT / "kgcore" / "schemas" / f"{kind}.schema.json").read_text()))
        assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)] == []
        assert sum(process["dying"] is not None for process in value["processes"]) >= 12, kind


@pytest.mark.parametrize("name", KERNELS)
def test_another_thread_may_come_first(name: str, extract: Extractor) -> None:
    """If it is named itself."""
    fixture = need(name)
    victim = fixture.victims["dying-maperr"]
    (other,) = set(victim.tids) - {victim.pid}
    path, _ = extract(fixture.dump(main_dump(fixture)), other, mask=0)
    assert next(iter(Core(path).threads)) == other
