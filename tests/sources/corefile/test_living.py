# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores of processes of this machine, as kgcore, gdb and this kernel write them, against what the kernel writes of the
same process with another filter, and against what debuggers see in them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources.corefile.cores import filtered
from tests.sources.live.test_kernels_core import changing
from tests.victims_here import Running, live_core, ptrace_or_skip, running
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare


@pytest.fixture(autouse=True)
def traceable() -> None:
    ptrace_or_skip()


def kgcore(*words: object) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "kgcore", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def set_filter(victim: Running, mask: int) -> None:
    Path(f"/proc/{victim.pid}/coredump_filter").write_text(f"{mask:#x}")


@pytest.mark.parametrize(("name", "mask"), [("memory", 0x33), ("memory", 0x01), ("memory", 0x12), ("dynamic", 0x10)])
def test_our_core_becomes_the_kernels(tmp_path: Path, name: str, mask: int) -> None:
    """All memory, filtered, is what the kernel writes of the same process with that filter."""
    with running(tmp_path, name, "0x7f") as victim:
        ours = live_core(victim.pid, tmp_path / "all", "-f", "127")
        set_filter(victim, mask)
        kernel = Core(victim.kernel_core())
    new = tmp_path / "new"
    done = kgcore("filter", ours.path, "-f", f"{mask:#x}", "--no-kgcore-note", "-o", new)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = Core(new)
    expected = Expected(proc_times=True, interrupted=True, pages=changing(found))
    assert [*compare(kernel, found, expected)] == []
    assert new.stat().st_size < ours.path.stat().st_size


@pytest.mark.parametrize(("name", "mask"), [("memory", 0x7F), ("memory", 0x33), ("threads", 0x01), ("dynamic", 0x33)])
def test_this_kernels_core_is_given_back(tmp_path: Path, name: str, mask: int) -> None:
    with running(tmp_path, name, f"{mask:#x}") as victim:
        core = victim.kernel_core()
    new = tmp_path / "new"
    done = kgcore("filter", core, "-f", f"{mask:#x}", "-o", new)
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmp", core, new], check=True)
    piped = tmp_path / "piped"
    with subprocess.Popen(["cat", core], stdout=subprocess.PIPE) as cat:
        argv = [sys.executable, "-m", "kgcore", "filter", "-", "-f", f"{mask:#x}", "-o", str(piped)]
        assert subprocess.run(argv, stdin=cat.stdout, capture_output=True, check=False).returncode == 0
    subprocess.run(["cmp", core, piped], check=True)


def seen_by(debugger: str, program: Path, core: Path) -> str:
    """The backtraces of all threads, as another program shows them."""
    if shutil.which(debugger) is None:
        pytest.skip(f"no {debugger}")
    gdb = "gdb", "-q", "-nx", "-batch", "-ex", "thread apply all bt", "-ex", "info registers", str(program), str(core)
    words = gdb if debugger == "gdb" else ("eu-stack", f"--core={core}", f"--executable={program}")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "#0 " in done.stdout, done.stderr
    # Which library helps gdb with threads is no matter of theirs
    return "\n".join(line for line in done.stdout.splitlines() if re.match("#|r[a-z0-9]{2} ", line))


@pytest.mark.parametrize("debugger", ["gdb", "eu-stack"])
def test_debuggers_see_the_same_threads(tmp_path: Path, debugger: str) -> None:
    with running(tmp_path, "dynamic", "0x7f") as victim:
        core = victim.kernel_core()
        program = tmp_path / "sources" / "dynamic"
    before = seen_by(debugger, program, core)
    for number, words in enumerate((["-f", "1", "--exclude", "file:*.cache"], ["--profile", "mini"])):
        new = tmp_path / f"new{number}"
        done = kgcore("filter", core, "-o", new, *words)
        assert done.returncode == 0, done.stderr
        assert new.stat().st_blocks < core.stat().st_blocks
        assert seen_by(debugger, program, new) == before
        assert kgcore("check", new).returncode == 0


@pytest.mark.parametrize("way", ["as it is", "filtered"])
def test_gdbs_cores(tmp_path: Path, way: str) -> None:
    """gdb puts notes behind memory, and segments where they come; its notes have an order of their own."""
    if shutil.which("gcore") is None:
        pytest.skip("no gcore")
    with running(tmp_path, "threads", "0x7f") as victim:
        program = tmp_path / "sources" / "threads"
        subprocess.run(["gcore", "-o", tmp_path / "gdb", str(victim.pid)], check=True, capture_output=True)
        core = tmp_path / f"gdb.{victim.pid}"
    new, theirs = tmp_path / "new", Core(core)
    pointers = {notes.regs["sp"] for notes in theirs.threads.values()}
    secret = max(
        (load for load in theirs.loads if not any(load.p_vaddr <= sp < load.p_vaddr + load.p_memsz for sp in pointers)),
        key=lambda load: load.p_filesz,
    )
    rule = f"addr:{secret.p_vaddr:x}-{secret.p_vaddr + secret.p_memsz:x}"
    done = kgcore("filter", core, "-o", new, *([] if way == "as it is" else ["--redact", rule]))
    assert done.returncode == 0, done.stderr
    if way == "as it is":
        subprocess.run(["cmp", core, new], check=True)
        return
    ours = Core(new)
    assert ours.notes == theirs.notes
    for load in theirs.loads:
        held = ours.read(load.p_vaddr, load.p_filesz)
        assert held == (bytes(load.p_filesz) if load is secret else theirs.read(load.p_vaddr, load.p_filesz))
    assert seen_by("gdb", program, new) == seen_by("gdb", program, core)
    # What the check says of gdb's core is about gdb
    problems = [re.sub("^.*?: ", "", line) for line in kgcore("check", core).stdout.splitlines() if "problem" in line]
    found = kgcore("check", new).stdout
    assert all(line in problems for line in re.findall("problem: (.*)", found)), found


def test_a_map_and_a_backtrace_of_a_core(tmp_path: Path) -> None:
    with running(tmp_path, "dynamic", "0x33") as victim:
        core = victim.kernel_core()
        maps = (tmp_path / "sources" / "dynamic").name
    for words in ([core], ["-c", core], ["-c", core, victim.pid]):
        done = kgcore("map", *words)
        assert done.returncode == 0, done.stderr
        assert f"process {victim.pid} " in done.stdout
        assert maps in done.stdout
    pytest.importorskip("drgn")
    done = kgcore("bt", "--all-threads", core)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGABRT" in done.stdout
    assert re.search(r"#\d+ +0x[0-9a-f]+ main", done.stdout), done.stdout
    assert kgcore("files", core).returncode == 1
    assert filtered(core)[0] == core.read_bytes()


def test_files_of_our_core(tmp_path: Path) -> None:
    with running(tmp_path, "dynamic", "0x33") as victim:
        ours = live_core(victim.pid, tmp_path / "core")
        fds = {int(path.name) for path in Path(f"/proc/{victim.pid}/fd").iterdir()}
    done = kgcore("files", "--list", "-", ours.path)
    assert done.returncode == 0, done.stderr
    assert {int(line.partition(" ")[0]) for line in done.stdout.splitlines()} == fds
