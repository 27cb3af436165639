# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore live`` and ``kgcore -k`` side by side, of processes that stand still, in a guest: what /proc and ptrace(2)
say, and what the structures of the running kernel say."""

from typing import Any

import pytest

from kgcore.check.core import check_core
from kgcore.sources.live import procfs
from tests.vmcore.conftest import some
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.kgcore_guest import Result, run_script

SCRIPT = """

mkfifo in
taskset 1 /victims/stateful /out/book < in > stateful.out &
exec 9> in
taskset 1 /victims/threads threads 0x7f > /dev/null 2>&1 &
taskset 1 /victims/memory memory 0x7f > /dev/null 2>&1 &
taskset 1 /victims/spin spin 0x7f 1 > /dev/null 2>&1 &
until_it 'grep -q ready stateful.out'
for name in threads memory spin; do
    until_it '[ -e /truth/victims/$name.ready ]'
    cp /truth/victims/$name.json /out
done
pid_of() { sed -n 's/^ *"pid": \\([0-9]*\\).*/\\1/p' "$1" | head -n 1; }
for name in threads memory spin stateful; do
    json=/out/$name.json; [ $name != stateful ] || json=/out/book
    pid=$(pid_of $json)
    kill -STOP $pid
    until_it '! grep -h ^State: /proc/$pid/task/*/status | grep -qv T'
    cat /victims/* /disk/files/* > /dev/null
    kgcore -k -f 127 -o /out/$name.kernel $pid > /out/$name.kernel.said 2>&1
    echo "@@KERNEL $name $?@@"
    kgcore live --freeze stop -f 127 -o /out/$name.live $pid > /out/$name.live.said 2>&1
    echo "@@LIVE $name $?@@"
    kill -CONT $pid
done
chmod 1777 /tmp
as_nobody() { chroot --userspec=65534:65534 / "$@"; }
for scope in 1 2; do
    echo $scope > /proc/sys/kernel/yama/ptrace_scope
    chroot --userspec=65534:65534 / sleep 1000 &  # not by the function: its shell would be the process
    until_it "grep -q '^Uid:.65534' /proc/$!/status"
    as_nobody kgcore live -o /tmp/other $! > /out/other.$scope 2>&1
    as_nobody env PYTHONPATH=/opt/kgcore python3.11 /itself.py $scope > /out/itself.$scope 2>&1
    cp /tmp/itself.$scope /out/core.$scope
done
"""
# A program that dumps itself, and says where it has bytes that nobody else could make up.
ITSELF = """
import ctypes, os, sys
import kgcore
buffer = ctypes.create_string_buffer(os.urandom(64), 64)
try:
    report = kgcore.write_core_dump(f"/tmp/itself.{sys.argv[1]}")
    print(hex(ctypes.addressof(buffer)), buffer.raw.hex(), os.getpid(), len(report.missing))
except kgcore.KgcoreError as error:
    print(error)
"""
PAGE = 4096
# Of a mapping's flags, those that kgcore wants to know of a living process.
TOLD = sum(procfs._VM_FLAGS.values())
VICTIMS = ("threads", "memory", "spin", "stateful")


@pytest.fixture(scope="module", params=some(("bullseye", "bookworm", "trixie", "sid"), ("trixie",)))
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    work = tmp_path_factory.mktemp("guest")
    return run_script(work, request.param, SCRIPT, "threads", "memory", "spin", files={"itself.py": ITSELF})


def core(guest: Result, name: str, way: str) -> Core:
    """A core, less the program header of kgcore's own note."""
    found = Core(guest.directory / f"{name}.{way}")
    found.phdrs.remove(found.note_phdrs[1])
    return found


def note(guest: Result, name: str, way: str) -> dict[str, Any]:
    verdict = check_core(guest.directory / f"{name}.{way}")
    assert verdict.ok, verdict
    found: dict[str, Any] = verdict.facts["kgcore"]
    return found


@pytest.mark.parametrize("way", ["kernel", "live"])
@pytest.mark.parametrize("name", VICTIMS)
def test_nothing_is_missing(guest: Result, name: str, way: str) -> None:
    said = (guest.directory / f"{name}.{way}.said").read_text().splitlines()
    assert [line.split()[0] for line in said] == ["Saved", "peak"]


@pytest.mark.parametrize("name", VICTIMS)
def test_registers_flags_and_memory(guest: Result, name: str) -> None:
    # Asking for the state runs the threads for a moment: the kernel then writes to struct rseq how many run beside it.
    threads = note(guest, name, "kernel")["state"]["threads"]
    pages = frozenset(int(thread["rseq"]["address"], 16) & -PAGE for thread in threads if thread["rseq"])
    expected = Expected(proc_times=True, pages=pages if name == "spin" else frozenset())
    assert [*compare(core(guest, name, "kernel"), core(guest, name, "live"), expected)] == []


@pytest.mark.parametrize("name", VICTIMS)
def test_state(guest: Result, name: str) -> None:
    """All is the same, but for clocks, and what was left of timers, which went on."""
    kernel, live = (note(guest, name, way)["state"] for way in ("kernel", "live"))
    earlier_clocks, later_clocks = kernel.pop("clocks"), live.pop("clocks")
    assert all(0 < earlier_clocks[key] < later_clocks[key] for key in ("monotonic", "boottime"))
    earlier, later = left(kernel), left(live)
    assert len(earlier) == len(later) == (8 if name == "stateful" else 0)
    assert all(0 < second <= first for first, second in zip(earlier, later, strict=True))  # some count CPU time
    assert kernel == live


def left(state: dict[str, Any]) -> list[int]:
    """Take the nanoseconds that are left of timers out of a state."""
    timers = [state[f"itimer_{kind}"] for kind in ("real", "virtual", "prof")]
    timers += [timer["timer"] for timer in state["posix_timers"]]
    timers += [row["timerfd"]["timer"] for row in state["descriptors"] if row.get("timerfd")]
    return [timer.pop("value") for timer in timers if timer["value"]]


@pytest.mark.parametrize("name", ["threads", "memory", "spin"])
def test_flags_of_mappings(guest: Result, name: str) -> None:
    """Those that a core's reader is told."""
    kernel, live = (note(guest, name, way)["vmas"] for way in ("kernel", "live"))
    told = [[start, end, hex(int(flags, 16) & TOLD), *rest] for start, end, flags, *rest in kernel]
    assert told == live


def test_a_program_dumps_itself_under_yama(guest: Result) -> None:
    """With ptrace_scope 1 a program may only be traced by its parents and by whom it names: its helper program."""
    address, content, pid, missing = (guest.directory / "itself.1").read_text().split()
    core = Core(guest.directory / "core.1")
    assert core.psinfo["pid"] == int(pid)
    assert core.read(int(address, 16), 64).hex() == content
    assert int(missing) == 0


def test_what_yama_does_not_allow(guest: Result) -> None:
    """A process of the same user with 1; and with 2 even oneself."""
    for name in ("other.1", "other.2", "itself.2"):
        said = (guest.directory / name).read_text()
        assert "kernel.yama.ptrace_scope" in said, said
    assert not (guest.directory / "core.2").exists()
