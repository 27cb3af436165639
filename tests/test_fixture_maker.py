# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes the vmcores for tests: that it sees to what a fixture promises, fetches each thing once, and says how far
it is. Without a guest, which is what the fixtures themselves are."""

import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore_fixtures.make import initramfs, kernels, moments, packages, promises, qemu
from tests.vmcore_fixtures.make.catalogue import RECIPES
from tests.vmcore_fixtures.make.common import BuildError
from tests.vmcore_fixtures.make.gdbstub import GdbStub
from tests.vmcore_fixtures.make.moments import Moment
from tests.vmcore_fixtures.make.packages import Suite
from tests.vmcore_fixtures.make.progress import Progress
from tests.vmcore_fixtures.make.recipes import SPIN, Recipe
from tests.vmcore_fixtures.make.supplies import Supplies

IDLE = "RIP=ffffffff81c6f5fb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1"
KERNEL = "RIP=ffffffff8ba4453d RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0"
USER = "RIP=00000000004019df RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0"
USER_32 = "EIP=08049f3c EFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0"


class Machine:
    """A guest whose CPUs are at another place each time it is stopped.

    :ivar said: the QMP commands in their order.
    """

    def __init__(self, *scenes: tuple[str, ...]) -> None:
        self.scenes = list(scenes)
        self.said: list[str] = []

    def qmp(self, command: str) -> None:
        self.said.append(command)

    def monitor(self, line: str) -> str:
        assert line == "info registers -a"
        scene = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
        return "".join(f"\nCPU#{number}\nRAX=0000000000000000\n{cpu}\n" for number, cpu in enumerate(scene))


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "PAUSE", 0)


@pytest.mark.parametrize("spinner", [USER, USER_32])
def test_no_cpu_is_in_the_kernel(spinner: str) -> None:
    machine = Machine((IDLE, KERNEL), (KERNEL, spinner), (IDLE, spinner))
    with moments.stopped(machine, Moment()):  # type: ignore[arg-type]
        assert machine.said == ["stop", "cont", "stop", "cont", "stop"]
    assert machine.said[-1] == "cont"


def test_a_moment_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "TRIES", 5)
    machine = Machine((IDLE, KERNEL))
    with pytest.raises(BuildError, match="after 5 tries a CPU is still in the kernel: idle, kernel"):
        moments._stop(machine)  # type: ignore[arg-type]
    assert machine.said.count("stop") == 5


def test_a_function_that_the_kernel_does_not_have() -> None:
    guest: Any = type("Guest", (), {"text": "@@AT other ffffffff81000000@@\n"})
    with pytest.raises(BuildError, match="none of the functions migrate_folio, migrate_page"):
        moments._address(guest, ("migrate_folio", "migrate_page"))
    assert moments._address(guest, ("migrate_folio", "other")) == 0xFFFFFFFF81000000


def answering(path: Path, *answers: str) -> list[str]:
    """A gdb server that gives those answers, one after the other; the commands that it gets."""
    server, asked = socket.socket(socket.AF_UNIX), list[str]()
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        client, _ = server.accept()
        for answer in answers:
            while not (found := re.search(rb"\$([^#]*)#..", client.recv(4096))):
                pass
            asked.append(found[1].decode())
            client.sendall(b"+$%s#00" % answer.encode())
        while client.recv(4096):  # until it has gone
            pass
        client.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    return asked


def test_a_guest_is_stopped_where_a_function_begins(tmp_path: Path) -> None:
    """By the CPU that is wanted, and on from where it stands."""
    stops = ("OK", "T05thread:01;", "OK", "T05thread:01;", "OK", "T05thread:02;", "OK")
    asked = answering(tmp_path / "gdb", "T05thread:01;", *stops, "OK")
    with GdbStub(tmp_path / "gdb") as stub:
        stub.run_to(0x1000, cpu=1)
    assert asked == ["?", "Z0,1000,1", "c", "z0,1000,1", "s", "Z0,1000,1", "c", "z0,1000,1", "D"]


def test_answers_that_belong_to_something_else(tmp_path: Path) -> None:
    answering(tmp_path / "gdb", "T02thread:01;", "T05thread:01;", "OK")
    with pytest.raises(BuildError, match="answers 'T05thread:01;' to 'Z0,1000,1'"), GdbStub(tmp_path / "gdb") as stub:
        stub.run_to(0x1000)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("Kernel panic - not syncing: ", False),
        ("Kernel panic - not syncing: sysr", False),
        ("Kernel panic - not syncing: sysrq triggered crash\r\n", False),
        ("Kernel panic - not syncing: Fatal exception\r\n", True),
        ("@@FAIL victim x is not", False),
        ("@@FAIL victim x is not ready@@", True),
    ],
)
def test_what_shows_that_a_guest_failed(text: str, bad: bool) -> None:
    """However much of the line has come so far."""
    assert bool(qemu.FAILED.search(text)) == bad


def test_every_spinner_has_a_cpu_of_its_own() -> None:
    """Else it would be luck whether it runs."""
    for recipe in RECIPES.values():
        if any(victim.names[0].startswith("spin") for victim in recipe.victims):
            assert "isolcpus=1" in recipe.append, recipe.name


# What victims promise


def proc(root: Path, state: str, swap: int) -> Path:
    task = root / "7" / "task" / "8"
    task.mkdir(parents=True)
    (task / "stat").write_text(f"8 (a) R) {state} 1 7 7 0")
    (root / "7" / "smaps").write_text(
        "00001000-00005000 rw-p 00000000 00:00 0 \nSize: 16 kB\n"
        f"Swap:                {swap} kB\nSwapPss: 0 kB\nVmFlags: rd wr\n"
        "00009000-0000a000 rw-p 00000000 00:00 0      [heap]\nSize: 4 kB\nSwap:                4 kB\n"
    )
    return root


def told(**more: Any) -> dict[str, Any]:
    mapping = {"kind": "anon-private", "addr": 0x1000, "length": 0x4000, "swapped": [1, 2], "name": "m"}
    return {"name": "victim", "pid": 7, "threads": [{"tid": 8, "role": "futex"}], "mappings": [mapping]} | more


@pytest.mark.parametrize(
    ("state", "swap", "more", "wrong"),
    [
        ("S", 8, {}, ""),
        ("t", 8, {}, ""),
        ("R", 8, {}, "thread 8 is in state R"),
        ("R", 8, {"threads": [{"tid": 8, "role": "spin"}]}, ""),
        ("S", 8, {"threads": [{"tid": 8, "role": "spin"}]}, "thread 8 is in state S"),
        ("S", 4, {}, "4 kB are swapped out, and it said 2 pages"),
        ("S", 12, {}, "12 kB are swapped out, and it said 2 pages"),
        ("S", 12, {"name": "zram_everything"}, ""),
        ("S", 4, {"name": "zram_everything"}, "4 kB are swapped out"),
        ("S", 0, {"mappings": []}, ""),
    ],
)
def test_what_victims_promise(tmp_path: Path, state: str, swap: int, more: dict[str, Any], wrong: str) -> None:
    found = list(promises.broken(proc(tmp_path, state, swap), told(**more)))
    assert len(found) == bool(wrong)
    assert wrong in "".join(found)


@pytest.mark.parametrize(("went", "wrong"), [([3, 3], ""), ([2, 3], "swap device 2, and 3 was preferred")])
def test_a_victim_is_swapped_out_to_the_device_of_its_recipe(tmp_path: Path, went: list[int], wrong: str) -> None:
    said = told()
    said["mappings"][0]["swap_type"] = went
    root = proc(tmp_path / "proc", "S", 8)
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims/victim.preferred").write_text("3\n")
    found = list(promises.broken(root, said))
    assert len(found) == bool(wrong)
    assert wrong in "".join(found)


# Supplies and progress


def test_each_thing_is_fetched_once_and_guests_begin_as_soon_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def kernel(suite: str, flavour: str, *, update: bool) -> None:
        asked.append((suite, flavour))
        if suite == "sid":
            raise BuildError("no such suite")

    monkeypatch.setattr(kernels, "kernel", kernel)
    monkeypatch.setattr(initramfs, "fetch_packages", lambda recipe: None)
    suites = {"a": "sid", "b": "trixie", "c": "sid", "d": "trixie"}
    recipes = [Recipe(name, suite, SPIN) for name, suite in suites.items()]
    begun: dict[str, str] = {}
    Supplies(update=False).as_ready(recipes, lambda recipe, why: begun.update({recipe.name: str(why)}))
    assert sorted(asked) == [("sid", "cloud"), ("trixie", "cloud")]
    assert begun == {"a": "no such suite", "b": "None", "c": "no such suite", "d": "None"}


def test_packages_are_asked_for_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One call of apt for all that depends on something, not one for each package; and what is there stays."""
    known = {"a": "b (>= 1), c | x", "b": "d", "c": "", "d": "", "gone": None}
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> str:
        words = [word for word in map(str, command) if not word.startswith("-")]
        calls.append(words)
        if "show" in words:
            names = words[words.index("show") + 1 :]
            return "\n\n".join(
                f"Package: {name}\nVersion: 1:2\nFilename: pool/{name}_2_all.deb\nDepends: {known[name]}"
                for name in names if known[name] is not None
            )  # fmt: skip
        if "download" in words:
            for word in words[words.index("download") + 1 :]:
                (options["cwd"] / f"{word.partition('=')[0]}_1%3a2_all.deb").write_text("x")
        return ""

    monkeypatch.setenv("KGCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(packages, "run", run)
    monkeypatch.setattr(packages, "mirror", lambda: "http://localhost/debian")
    suite = Suite("made-up")
    found = suite.with_libraries("a", skip=frozenset({"x"}))
    assert [package.path.name for package in found] == ["a_2_all.deb", "b_2_all.deb", "c_2_all.deb", "d_2_all.deb"]
    assert all(package.path.exists() for package in found)
    assert sum("update" in call for call in calls) == 1
    assert sum("show" in call for call in calls) == 3
    assert sum("download" in call for call in calls) == 1
    suite.with_libraries("a", skip=frozenset())
    assert sum("download" in call for call in calls) == 1
    with pytest.raises(BuildError, match="package gone has no field Version"):
        suite.download("gone")


def test_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("before")
    progress.expect(10)
    progress.step("a", "dumping")
    progress.step("b", "building the guest")
    progress.finish("a", "done")
    lines = [re.sub(r"^\[ *\d+\.\ds", "[", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "[] before",
        "[  0/10] a: dumping",
        "[  0/10] b: building the guest",
        "[  1/10] a: done (0 s)",
        "[  1/10] 1 of 10 finished; now: b (building the guest)",
    ]
