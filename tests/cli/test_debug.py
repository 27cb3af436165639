# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore debug`` and ``kgcore bt`` on made-up processes: arguments, private files, debuggers that are not there, and
names that lie."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kgcore.binaries.contents import FileGap
from kgcore.binaries.sysroot import SysrootFile
from kgcore.cli.commands import bt, debug
from kgcore.cli.parser import UsageError
from kgcore.model.process import MappedFile, ProcessImage, PsInfo, TaskIds, Vma
from kgcore.sources.base import TaskRef
from kgcore.views.debugger import Session, command_line, program_of
from tests.fake_source import COMPLETE, INCOMPLETE, KERNEL_THREAD
from tests.signals import heeds_signals
from tests.vmcore.tools import ROOT

FAKE = """\
#!/bin/sh
# What a debugger would be started on, and how private it is
for word; do printf '%s\\n' "$word"; done > {out}/arguments
core=$(sed -n 's/^--core=//p' {out}/arguments)
dirname "$core" > {out}/directory
stat -c %a "$(dirname "$core")" "$core" "$(dirname "$core")/sysroot" > {out}/modes
{more}
"""


def fake_debugger(tmp_path: Path, more: str = "exit 7") -> dict[str, str]:
    """A gdb that writes down what it is given; the environment in which it is the first."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gdb"
    program.write_text(FAKE.format(out=shlex.quote(str(tmp_path)), more=more))
    program.chmod(0o755)
    return environment() | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "KGCORE_VMCORE": "/dev/null"}


def fake(*words: object, env: dict[str, str] | None = None, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fake_source", *map(str, words)]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, cwd=ROOT, env=env or environment(), capture_output=True, text=True, timeout=60, **more
    )


# Arguments


def test_what_stands_behind_two_dashes_is_the_debuggers(tmp_path: Path) -> None:
    words = ["--debugger", "lldb", "12", "--", "-batch", "--keep", "--", "-f"]
    command = debug.parse(words, {"KGCORE_VMCORE": "/dev/null"})
    assert command.arguments == ("-batch", "--keep", "--", "-f")
    assert (command.debugger, command.task.pid, command.keep, command.mask) == ("lldb", 12, False, 0x33)


def test_without_a_pid_it_is_the_current_process() -> None:
    environ = {"KGCORE_VMCORE": "/dev/null"}
    assert debug.parse([], environ).task == TaskRef.current()
    assert bt.parse([], environ).tasks == (TaskRef.current(),)
    assert [task.text for task in bt.parse(["1", "0xff", "--kernel-stack"], environ).tasks] == ["1", "0xff"]


@pytest.mark.parametrize(
    "words",
    [["1", "2"], ["--debugger", "ddd"], ["--directory", "/nonexistent"], ["x"], ["--print", "--print"], ["-f", "128"]],
)
def test_debug_usage(words: list[str]) -> None:
    with pytest.raises(UsageError):
        debug.parse(words, {"KGCORE_VMCORE": "/dev/null"})


@pytest.mark.parametrize("words", [["x"], ["--all-threads", "--all-threads"], ["-f", "1", "2"]])
def test_bt_usage(words: list[str]) -> None:
    with pytest.raises(UsageError):
        bt.parse(words, {"KGCORE_VMCORE": "/dev/null"})


# What debuggers are given


def test_gdb_runs_nothing_that_the_files_hold() -> None:
    words = command_line("gdb", Session("/d/core.1", "/d/sysroot", "/d/sysroot/bin/a b"), ["-q"])
    before = [words[number + 1] for number, word in enumerate(words) if word == "-iex"]
    assert before.index("set auto-load off") < before.index("set auto-load libthread-db on")
    assert "set libthread-db-search-path $sdir" in before
    assert "set sysroot /d/sysroot" in before
    assert words[0] == "gdb"
    assert words[-3:] == ["--core=/d/core.1", "--se=/d/sysroot/bin/a b", "-q"]
    assert not any("debuginfod" in word for word in words)


def test_lldb_runs_nothing_that_the_files_hold() -> None:
    words = command_line("lldb", Session("/d/core.1", '/d "x"/sysroot', None), [])
    assert "settings set target.load-script-from-symbol-file false" in words
    assert 'platform select remote-linux --sysroot "/d \\"x\\"/sysroot"' in words
    assert words[-2:] == ["--core", "/d/core.1"]


def image(*vmas: Vma, entry: int) -> ProcessImage:
    ids = TaskIds(1, 0, 1, 1)
    psinfo = PsInfo(state=1, nice=0, flags=0, uid=0, gid=0, ids=ids, comm=b"x", psargs=b"x")
    return ProcessImage(
        tgid=1,
        arch="x86_64",
        page_size=0x1000,
        threads=(),
        psinfo=psinfo,
        vmas=vmas,
        auxv=((9, entry), (0, 0)),
        dump_filter=0x33,
    )


def test_the_program_is_where_it_began() -> None:
    files = [Vma(at, at + 0x1000, 5, file=MappedFile(path, 1, 0o100755, 1)) for at, path in ((0x1000, b"/lib/x"),)]
    files.append(Vma(0x5000, 0x6000, 5, file=MappedFile(b"/bin/a (deleted)", 0, 0o100755, 1)))
    process = image(*files, entry=0x5123)
    whole = SysrootFile(b"/bin/a", 8192, None, (), {}, deleted=True)
    headless = SysrootFile(b"/bin/a", 8192, None, (FileGap(0, 4096, "file", ""),), {}, deleted=True)
    headed = SysrootFile(b"/bin/a", 8192, None, (FileGap(4096, 8192, "file", ""),), {}, deleted=True)
    assert program_of(process, [whole], "/s") == "/s/bin/a"
    assert program_of(process, [headed], "/s") == "/s/bin/a"
    assert program_of(process, [headless], "/s") is None
    assert program_of(process, [], "/s") is None
    assert program_of(image(*files, entry=0), [whole], "/s") is None


# Running them


def test_the_files_are_private_and_gone_afterwards(tmp_path: Path) -> None:
    done = fake("debug", COMPLETE, "--directory", tmp_path, "--", "-ex", "a b", env=fake_debugger(tmp_path))
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "modes").read_text().split() == ["700", "600", "700"]
    directory = Path((tmp_path / "directory").read_text().strip())
    assert directory.parent == tmp_path
    assert not directory.exists()
    assert (tmp_path / "arguments").read_text().splitlines()[-2:] == ["-ex", "a b"]


def test_keep(tmp_path: Path) -> None:
    done = fake("debug", INCOMPLETE, "--keep", "--directory", tmp_path, env=fake_debugger(tmp_path))
    assert done.returncode == 7
    directory = Path((tmp_path / "directory").read_text().strip())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == {f"core.{INCOMPLETE}", "sysroot"}
    assert f"kgcore: the files are in {directory}\n" in done.stderr


def test_it_says_what_is_missing_before(tmp_path: Path) -> None:
    done = fake("debug", INCOMPLETE, env=fake_debugger(tmp_path, "echo started >&2"))
    lines = done.stderr.splitlines()
    assert lines[-1] == "started"
    assert any("not in the core: 4.00 KiB swapped" in line for line in lines)
    assert any("/lib/" in line and "4.00 KiB of" in line for line in lines)
    assert "\x1b" not in done.stderr
    assert len(lines) <= 8


def test_print(tmp_path: Path) -> None:
    done = fake("debug", COMPLETE, "--print", "--directory", tmp_path, "--", "-ex", "print 'x'")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[0] == "gdb"
    assert words[-1] == "print 'x'"
    (core,) = (word.removeprefix("--core=") for word in words if word.startswith("--core="))
    assert Path(core).exists()


def test_print_is_one_line_whatever_the_names_hold(tmp_path: Path) -> None:
    odd = tmp_path / "a\n\x1b[31m'b"
    odd.mkdir()
    done = fake("debug", COMPLETE, "--print", "--directory", odd)
    assert done.stdout.count("\n") == 1
    assert "\x1b" not in done.stdout
    # bash gives the name back as it is
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {done.stdout}"], capture_output=True, text=True)
    core = next(word for word in shown.stdout.split("\0") if word.startswith("--core="))
    assert Path(core.removeprefix("--core=")).exists()


@pytest.mark.parametrize("name", ["gdb", "lldb"])
def test_no_debugger(tmp_path: Path, name: str) -> None:
    done = fake("debug", COMPLETE, "--debugger", name, "--directory", tmp_path, env=environment() | {"PATH": "/none"})
    assert (done.returncode, done.stderr) == (1, f"kgcore: {name} is not installed (apt install {name})\n")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_cannot_be_written(tmp_path: Path) -> None:
    done = fake("debug", KERNEL_THREAD, "--keep", "--directory", tmp_path / "", env=fake_debugger(tmp_path))
    assert done.returncode == 1
    assert "kernel thread" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)])
def test_a_signal_takes_the_files_away(tmp_path: Path, number: signal.Signals, status: int) -> None:
    env = fake_debugger(tmp_path, f"touch {shlex.quote(str(tmp_path / 'ready'))}; exec sleep 60")
    command = [sys.executable, "-m", "tests.fake_source", "debug", str(COMPLETE), "--directory", str(tmp_path)]
    with subprocess.Popen(
        command,
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=ROOT,
        env=env,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(tmp_path / "ready")
        process.send_signal(number)
        assert process.wait(30) == status
    assert not Path((tmp_path / "directory").read_text().strip()).exists()


def test_ctrl_c_is_the_debuggers(tmp_path: Path) -> None:
    ready = shlex.quote(str(tmp_path / "ready"))
    env = fake_debugger(tmp_path, f"trap 'echo caught > {ready}2; exit 5' INT; touch {ready}; sleep 60 & wait")
    command = [sys.executable, "-m", "tests.fake_source", "debug", str(COMPLETE)]
    with subprocess.Popen(
        command,
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=ROOT,
        env=env,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(tmp_path / "ready")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 5
    assert (tmp_path / "ready2").read_text() == "caught\n"


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


# bt


def test_hostile_names() -> None:
    pytest.importorskip("drgn")
    done = fake("bt", INCOMPLETE)
    assert done.returncode == 3, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert r"Process 200 (\x1b[31m[red]\xff\n): 1 thread" in done.stdout
    assert json.loads(fake("bt", "--json", INCOMPLETE).stdout)["processes"][0]["comm"].startswith("\x1b[31m")


def test_one_that_fails_does_not_stop_the_next() -> None:
    pytest.importorskip("drgn")
    done = fake("bt", KERNEL_THREAD, COMPLETE, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"]) == (1, 1)
    assert [failure["task"] for failure in found["failures"]] == [str(KERNEL_THREAD)]
    assert [process["tgid"] for process in found["processes"]] == [COMPLETE]
    assert found["processes"][0]["other_threads"] == 1
