# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores of processes in a QEMU guest that runs before and after."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu

from kgcore import gcore
from kgcore.check.core import check_core
from kgcore.errors import TargetError
from kgcore.model.process import ProcessImage, RegisterSource
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.signals import heeds_signals
from tests.vmcore.conftest import need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.live_guest import LiveGuest, boot, plug, told_by_qemu, unplug
from tests.vmcore.test_registers import NAMES
from tests.vmcore.tools import ROOT, kgcore, same_bytes, tool
from tests.vmcore_fixtures.make import moments
from tests.vmcore_fixtures.make.recipes import HUGE_PAGES, Recipe, simple

HOLD = """
import sys, time
from kgcore.cli.main import main
from kgcore.sources.vmcore import source
def processes(self):
    print("paused", flush=True)
    {action}
source.VmcoreSource.processes = processes
sys.exit(main(["ps", "--qemu", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGuest]:
    need("k61")  # whose kernel it is
    for name in ("qemu-system-x86_64", "busybox", "cpio", "gcc", "mkfs.ext4"):
        tool(name)
    with boot(tmp_path_factory.mktemp("guest")) as live:
        yield live


def pids(guest: LiveGuest) -> dict[str, int]:
    done = kgcore("ps", "--json", "--qemu", guest.socket, cwd=guest.work)
    assert (done.status, done.remarks) == (0, [])
    return {row["comm"]: row["pid"] for row in json.loads(done.raw)["processes"]}


def wait_for(guest: LiveGuest, status: str) -> bool:
    """Whether the guest comes to be in a state."""
    for _ in range(1200):
        if guest.status == status:
            return True
        time.sleep(0.05)
    return False


def test_paused_while_open_and_running_behind(guest: LiveGuest) -> None:
    assert guest.status == "running"
    with open_target(DumpLocation(qemu=guest.socket)) as target:
        assert guest.status == "paused"
        assert target.live
        assert target.describe()["format"] == "running guest"
        assert not target.messages
    assert guest.status == "running"


def test_running_after_an_error(guest: LiveGuest) -> None:
    with contextlib.suppress(ZeroDivisionError), open_target(DumpLocation(qemu=guest.socket)):
        raise ZeroDivisionError
    assert guest.status == "running"
    done = kgcore("--qemu", guest.socket, 4194303, cwd=guest.work)
    assert done.status == 1
    assert guest.status == "running"
    vmlinux = need("k612").vmlinux
    done = kgcore("--qemu", guest.socket, "-s", vmlinux, "ps", cwd=guest.work)  # of another kernel
    assert done.status == 1
    assert "build id" in done.remarks[0]
    assert guest.status == "running"


@pytest.mark.parametrize(
    ("action", "number"),
    [
        ("time.sleep(60)", signal.SIGINT),
        ("time.sleep(60)", signal.SIGTERM),
        ("time.sleep(60)", signal.SIGKILL),
        ("sys.stderr.close(); sys.stdout.close(); __import__('os').abort()", None),
    ],
)
def test_running_after_a_signal(guest: LiveGuest, action: str, number: int | None) -> None:
    """To the whole process group, as a terminal does it."""
    script = HOLD.format(action=action)
    with subprocess.Popen(
        [sys.executable, "-c", script, guest.socket],
        preexec_fn=heeds_signals,  # noqa: PLW1509  (of the guest's thread it needs nothing)
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"paused\n"
        if number is not None:
            assert guest.status == "paused"
            os.killpg(process.pid, number)
        process.wait(30)
    assert wait_for(guest, "running")


def test_one_that_was_paused_stays_so(guest: LiveGuest) -> None:
    guest.guest.qmp("stop")
    assert "threads" in pids(guest)
    assert guest.status == "paused"
    guest.guest.qmp("cont")
    assert guest.status == "running"


def test_socket_in_use(guest: LiveGuest) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(guest.socket)
        other.recv(100)
        with pytest.raises(TargetError, match="another client may be connected"):
            open_target(DumpLocation(qemu=guest.socket))
    assert guest.status == "running"


def test_no_socket(tmp_path: Path) -> None:
    for address, reason in ((tmp_path / "none", "No such file"), ("localhost:1", "refused"), (__file__, "refused")):
        done = kgcore("ps", "--qemu", address, cwd=tmp_path)
        assert done.status == 1
        (remark,) = done.remarks
        assert reason in remark
        assert "-qmp unix:PATH,server=on,wait=off" in remark


@pytest.mark.usefixtures("guest")  # which has looked for the programs that booting takes
def test_kernel_that_hides_its_symbols(tmp_path: Path) -> None:
    """5.10: what its VMCOREINFO lacks is found in its memory, and a second Program reads through the first."""
    need("k510")
    with boot(tmp_path, "bullseye") as old:
        pid = pids(old)["threads"]
        done = kgcore("--qemu", old.socket, "-o", tmp_path / "core", pid, cwd=tmp_path)
        assert (done.status, done.remarks) == (0, [])
        assert old.status == "running"
        assert len(Core(tmp_path / "core").threads) == 7


def check_spinner(images: Sequence[ProcessImage], told: Sequence[Mapping[str, int]]) -> None:
    """The spinner on CPU 2 has the registers of that CPU.

    :param images: of the running guest, and of a dump of it.
    :param told: QEMU's word of the registers of all CPUs.
    """
    for image, source in zip(images, (RegisterSource.LIVE_CPU, RegisterSource.QEMU_NOTE), strict=True):
        (running,) = (thread for thread in image.threads if thread.cpu is not None)
        assert running.cpu == 2
        assert running.regs.values["r12"] == 0xBB00008100000012  # block_fill(), victims/blockregs.h
        if running.regs.source is not RegisterSource.ENTRY_FRAME:  # it was in no interrupt at that moment
            assert running.regs.source is source
            (cpu,) = (one for one in told if one["r12"] == running.regs.values["r12"])
            assert {name: running.regs.values[name] for name in cpu} == cpu


@pytest.mark.usefixtures("guest")
def test_unplugged_and_added_cpus(tmp_path: Path) -> None:
    """What QEMU tells of the CPUs has a gap, and more than the kernel runs: two were added, which it has not started.

    Of the running guest, and of a dump that is taken of it; QEMU's own word of the registers is of the same moment."""
    spinner = simple("spin", "0x33", "2")
    recipe = Recipe("unplugged", "bookworm", (spinner,), ram=384, append="isolcpus=2", setup=HUGE_PAGES)
    with boot(tmp_path, recipe=recipe, cpus="3,maxcpus=6") as live:
        plug(live.guest, 5)
        plug(live.guest, 4)
        unplug(live.guest, 1)
        with open_target(DumpLocation(qemu=live.socket)) as target:
            text = live.guest.monitor("info registers -a")
            live.guest.dump(tmp_path / "vmcore", "elf")
            (row,) = (row for row in VmcoreSource(target).processes() if row.comm == b"spin")
            images = [VmcoreSource(target).process(TaskRef("spin", pid=row.pid)).image]
        with open_target(DumpLocation(core=str(tmp_path / "vmcore"))) as target:
            images.append(VmcoreSource(target).process(TaskRef("spin", pid=row.pid)).image)
    told = told_by_qemu(text)
    assert (text.count("CPU#"), len(told)) == (4, 2)
    check_spinner(images, told)


SWITCH_CPUS = """
echo 0 > /sys/devices/system/cpu/cpu1/online
(until echo 1 > /sys/devices/system/cpu/cpu3/online; do sleep 0.2; done 2> /dev/null; echo "@@ADDED@@" > /dev/console) &
"""


@pytest.mark.usefixtures("guest")
def test_offline_and_added_cpus(tmp_path: Path) -> None:
    """A CPU that the kernel took offline, and one that was added and that it has started.

    QEMU tells of the one as well, which still has the kernel's per-CPU memory and runs nobody."""
    spinner, setup = simple("spin", "0x33", "2"), HUGE_PAGES + SWITCH_CPUS
    recipe = Recipe("offline", "bookworm", (spinner,), ram=384, append="isolcpus=2", setup=setup)
    with boot(tmp_path, recipe=recipe, cpus="3,maxcpus=4") as live:
        plug(live.guest, 3)
        live.guest.wait_for("ADDED", 60)
        with open_target(DumpLocation(qemu=live.socket)) as target:
            text = live.guest.monitor("info registers -a")
            live.guest.dump(tmp_path / "vmcore", "elf")
            online = set(for_each_online_cpu(target.prog))
            (row,) = (row for row in VmcoreSource(target).processes() if row.comm == b"spin")
            images = [VmcoreSource(target).process(TaskRef("spin", pid=row.pid)).image]
        with open_target(DumpLocation(core=str(tmp_path / "vmcore"))) as target:
            images.append(VmcoreSource(target).process(TaskRef("spin", pid=row.pid)).image)
    told = told_by_qemu(text)
    assert (online, text.count("CPU#"), len(told)) == ({0, 2, 3}, 4, 4)
    check_spinner(images, told)


def test_gcore_on_a_program_of_a_guest(guest: LiveGuest, tmp_path: Path) -> None:
    """drgn's own way to a guest, and ``gcore(prog, pid)``: the core that the command writes at the same moment."""
    pid = pids(guest)["threads"]
    with moments.stopped(guest.guest, moments.Moment()):
        words = ("--qemu", guest.socket, "--no-kgcore-note", "-o", tmp_path / "command", pid)
        assert kgcore(*words, cwd=tmp_path).status == 0
        prog = Program()
        prog.set_qemu_qmp(guest.socket)
        report = gcore(prog, pid, output=tmp_path / "function", note=False)
        del prog
        gc.collect()  # the types that were made of its kernel's BTF refer to their Program, which has the connection
    assert report.complete
    assert same_bytes(tmp_path / "function", tmp_path / "command")
    assert guest.status == "running"


def test_cores_equal_the_kernels_own(guest: LiveGuest, tmp_path: Path) -> None:
    """Last, since the guest ends: what its victims and its kernel say of the same processes, some seconds later."""
    found = pids(guest)
    with moments.stopped(guest.guest, moments.Moment()):  # kgcore finds it paused, and leaves it so
        for name in ("threads", "spin"):
            options = ("--qemu", guest.socket, "-f", "process", "--no-kgcore-note", "-o", tmp_path / name)
            done = kgcore(*options, found[name], cwd=tmp_path)
            # Floating-point registers of a running thread cannot be had, unless an interrupt has saved them.
            assert done.status in ((0, 3) if name == "spin" else (0,)), done.remarks
            assert any("it was running" in line for line in done.remarks) == (done.status == 3)
            assert check_core(str(tmp_path / name)).ok
        with open_target(DumpLocation(qemu=guest.socket)) as target:
            image = VmcoreSource(target).process(TaskRef("spin", pid=found["spin"])).image
    guest.finish()
    said = {thread["tid"]: thread for thread in guest.said("spin")["threads"]}
    running = {tid for tid, thread in said.items() if thread["role"] == "spin"}
    assert {thread.tid for thread in image.threads if thread.cpu is not None} == running
    checked = 0
    for thread in image.threads:
        live = thread.tid in running
        assert thread.regs.source is (RegisterSource.LIVE_CPU if live else RegisterSource.ENTRY_FRAME)
        for name, value in said[thread.tid].get("regs", {}).items():
            ours = NAMES.get(name, name)
            if live and ours in thread.regs.values and ours != "ip":
                assert thread.regs.values[ours] == value, name
                checked += 1
    assert checked >= 12
    for name in ("threads", "spin"):
        special = Expected(running=frozenset(running))
        assert list(compare(Core(guest.core(found[name])), Core(tmp_path / name), special)) == []
