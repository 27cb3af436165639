# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever fails while a process is being made, and whenever kgcore is killed: nothing of the process is left."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgcore.errors import NotRestarted
from kgcore.restore.control import Control
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.do import restart
from kgcore.restore.here import here
from kgcore.restore.need import need_of
from kgcore.restore.plan import Plan, Wishes, make_plan
from kgcore.restore.stub import Stub
from tests.restore.going_on import core_of_the_items, needs_ids

pytestmark = needs_ids

ROUNDS = 10_000 if os.environ.get("KGCORE_THOROUGH") else 24
"""How many of the some 400 injected calls are made to fail, and behind how many kgcore is killed."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedCore]:
    with core_of_the_items(tmp_path_factory.mktemp("items")) as core:
        yield core


@pytest.fixture
def plan(core: FinishedCore) -> Plan:
    found = make_plan(core, need_of(core), here(), Wishes())
    assert found.refused == ()
    return found


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def has_ended(pid: int) -> bool:
    """Whether no process and no zombie has an id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def counted(plan: Plan, core: FinishedCore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that a restart makes in the process, by name; it is killed before it runs."""
    made: list[str] = []
    attempt = Control.attempt

    def counting(self: Control, step: str, name: str, *arguments: int, tid: int = 0) -> int:
        made.append(name)
        return attempt(self, step, name, *arguments, tid=tid)

    def no_release(self: Stub, tids: object) -> None:
        raise OSError(errno.EIO, "not now")

    with monkeypatch.context() as context:
        context.setattr(Control, "attempt", counting)
        context.setattr(Stub, "release", no_release)
        with pytest.raises(NotRestarted, match="let it go"):
            restart(plan, core)
    assert has_ended(plan.need.pid)
    return made


def spread(count: int) -> list[int]:
    """Some numbers of a range, the first and the last among them."""
    step = max(count // ROUNDS, 1)
    return sorted({*range(0, count, step), count - 1})


def test_any_call_may_fail(plan: Plan, core: FinishedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which step and which call, and why."""
    names = counted(plan, core, monkeypatch)
    assert len(names) > 150
    attempt = Control.attempt
    before = descriptors()
    optional = {"madvise"}
    for number in spread(len(names)):
        if names[number] in optional:
            continue
        made = 0

        def failing(self: Control, step: str, name: str, *arguments: int, tid: int = 0, which: int = number) -> int:
            nonlocal made
            made += 1
            if made == which + 1:
                return -errno.ENOMEM
            return attempt(self, step, name, *arguments, tid=tid)

        with monkeypatch.context() as context:
            context.setattr(Control, "attempt", failing)
            with pytest.raises(NotRestarted, match=f": {names[number]}: Cannot allocate memory$"):
                restart(plan, core)
        assert has_ended(plan.need.pid), names[number]
        assert descriptors() == before, names[number]
    with pytest.raises(ChildProcessError):
        os.waitpid(plan.need.pid, 0)


KILLED = """
import os, signal, sys
from kgcore.restore.control import Control
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.do import restart
from kgcore.restore.here import here
from kgcore.restore.need import need_of
from kgcore.restore.plan import Wishes, make_plan
core = FinishedCore.open(sys.argv[1])
last, made, attempt = int(sys.argv[2]), 0, Control.attempt
def killing(self, *arguments, **more):
    global made
    if made == last:
        os.kill(os.getpid(), signal.SIGKILL)
    made += 1
    return attempt(self, *arguments, **more)
Control.attempt = killing
restart(make_plan(core, need_of(core), here(), Wishes()), core)
"""


def test_kgcore_may_be_killed(plan: Plan, core: FinishedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two calls; the kernel then ends the process."""
    count = len(counted(plan, core, monkeypatch))
    for number in spread(count)[:: 1 if ROUNDS > 100 else 12]:
        done = subprocess.run([sys.executable, "-c", KILLED, core.path, str(number)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert os.waitpid(plan.need.pid, 0)[1] == signal.SIGKILL, number


def test_an_id_that_is_taken(plan: Plan, core: FinishedCore, tmp_path: Path) -> None:
    """Between plan and doing, too: the other process is left alone."""
    script = f"""
import ctypes, os, signal, struct
wanted = ctypes.c_int({plan.need.pid})
raw = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
if ctypes.PyDLL(None).syscall(435, ctypes.create_string_buffer(raw, len(raw)), len(raw)) == 0:
    print("ready", flush=True)
    signal.pause()
os.wait()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            later = make_plan(core, need_of(core), here(), Wishes())
            assert [refusal.word for refusal in later.refused] == ["pid"]
            with pytest.raises(NotRestarted, match=f"make process {plan.need.pid}: clone3: File exists"):
                restart(plan, core)
            assert not has_ended(plan.need.pid)
        finally:
            os.kill(plan.need.pid, signal.SIGKILL)
            other.wait()
