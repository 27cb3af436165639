# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore debug`` on real dumps: the debugger that it starts shows what one shows of the kernel's own core."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.vmcore.conftest import COMMITTED, MAIN, Victim, need
from tests.vmcore.tools import gdb, kgcore, run, tool

LEVELS = ["level5", "level4", "level3", "level2", "level1"]
SMALL = COMMITTED / "k61-crash-small"
BACKTRACES = ("-nx", "-batch", "-ex", "set width 0", "-ex", "thread apply all backtrace")


def frames(text: str) -> dict[int, list[str]]:
    """Thread id -> the lines of its backtrace in what gdb printed."""
    blocks = re.findall(r"^Thread \d+ \(.*LWP (\d+)\)\)?.*:\n((?:#.*\n?)+)", text, re.MULTILINE)
    return {int(tid): block.splitlines() for tid, block in blocks}


def truth(victim: Victim) -> dict[int, list[str]]:
    assert victim.core is not None
    sysroot = victim.fixture.path / "sysroot"
    return frames(gdb(victim.core, sysroot, f"victims/{victim.name}", "thread apply all backtrace"))


@pytest.mark.parametrize("victim", ["dynamic", "threads"])
@pytest.mark.parametrize("name", MAIN)
def test_gdb_shows_what_it_shows_of_the_kernels_core(name: str, victim: str, tmp_path: Path) -> None:
    tool("gdb")
    one = need(name).victims[victim]
    done = kgcore("debug", one.pid, "--directory", tmp_path, "--", *BACKTRACES, cwd=tmp_path, vmcore=one.fixture.dump())
    assert done.status == 0, done.remarks
    found, expected = frames(done.raw.decode()), truth(one)
    assert sorted(found) == sorted(expected) == sorted(one.tids)
    # How gdb prints arguments differs with a setting of tests' own.
    assert {tid: calls(lines) for tid, lines in found.items()} == {tid: calls(lines) for tid, lines in expected.items()}
    assert list(tmp_path.iterdir()) == []


def calls(lines: list[str]) -> list[tuple[str, ...]]:
    return [tuple(re.findall(r"^#\d+ +(0x\w+ in )?(\S+) |at (\S+)$", line)[0]) for line in lines]


def test_the_dump_that_comes_with_the_source(tmp_path: Path) -> None:
    tool("gdb")
    done = kgcore("debug", "--root", "sysroot", "--directory", tmp_path, "--", *BACKTRACES, cwd=SMALL)
    assert done.status == 0
    found = frames(done.raw.decode())
    assert sorted(found) == [110, 111, 112]
    assert [call[1] for call in calls(found[111])] == ["block_now", "thread_main", "start_thread", "clone3"]
    assert done.remarks[0] == "kgcore: process 110 (crasher): core of 16.4 MiB"
    assert list(tmp_path.iterdir()) == []


def test_32_bit_programs() -> None:
    tool("gdb")
    victim = need("k61").victims["ia32"]
    done = kgcore("debug", victim.pid, "--", *BACKTRACES, cwd=SMALL, vmcore=victim.fixture.dump())
    assert calls(frames(done.raw.decode())[victim.pid])[0][1] == "ia32_main"


def test_the_printed_command(tmp_path: Path) -> None:
    victim = need("k61").victims["dynamic"]
    fixture = victim.fixture
    odd = tmp_path / "a directory's $HOME"
    odd.mkdir()
    done = kgcore("debug", victim.pid, "--print", "--directory", odd, cwd=tmp_path, vmcore=fixture.dump())
    words = shlex.split(done.raw.decode())
    tool("gdb")
    found = frames(run(words[0], *words[1:], *BACKTRACES))
    assert {tid: calls(lines) for tid, lines in found.items()} == {
        tid: calls(lines) for tid, lines in truth(victim).items()
    }


def test_lldb(tmp_path: Path) -> None:
    tool("lldb")
    victim = need("k61").victims["dynamic"]
    words = ("--debugger", "lldb", "--directory", tmp_path, victim.pid, "--", "--no-lldbinit", "--batch")
    done = kgcore("debug", *words, "-o", "thread backtrace all", cwd=tmp_path, vmcore=victim.fixture.dump())
    traces = re.split(r"^[* ] thread #", done.raw.decode(), flags=re.MULTILINE)[1:]
    traced = [trace for trace in traces if "level5" in trace]
    assert len(traced) == len(victim.tids)
    for trace in traced:
        assert re.findall(r"`(level\d)\(", trace) == LEVELS


def test_scripts_of_a_stranger_do_not_run(tmp_path: Path) -> None:
    """The program has a Python script inside, as gdb takes it, and beside it another; and the user trusts all files, as
    many do. (Debian's lldb 14 runs no Python at all.)"""
    tool("objcopy")
    tool("gdb")
    victim = need("k61").victims["dynamic"]
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').close()\n"
    done = kgcore(
        "debug", "--print", "--directory", tmp_path, victim.pid,
        cwd=tmp_path, vmcore=victim.fixture.dump(),
    )  # fmt: skip
    words = shlex.split(done.raw.decode())
    (program,) = (Path(word.removeprefix("--se=")) for word in words if word.endswith("/victims/dynamic"))
    script = tmp_path / "script"
    script.write_bytes(b"\x04kgcore\n" + code.encode() + b"\0")  # SECTION_SCRIPT_ID_PYTHON_TEXT
    run("objcopy", "--add-section", f".debug_gdb_scripts={script}", program)
    (program.parent / "dynamic-gdb.py").write_text(code)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gdbinit").write_text("set auto-load safe-path /\n")
    assert "level5" in run("env", f"HOME={home}", *words, "-batch", "-ex", "backtrace")
    assert not marker.exists()
    # And without us it would have.
    run("env", f"HOME={home}", "gdb", f"--se={program}", "-batch", "-ex", "info functions level5")
    assert marker.exists()
    shutil.rmtree(program.parents[2])
