# SPDX-License-Identifier: LGPL-2.1-or-later
"""Somebody's drgn Program stays as it is when a core is taken out of it; and load_types() gives it types on purpose."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

drgn = pytest.importorskip("drgn")

from drgn.helpers.linux.pid import find_task

from kgcore import KgcoreError, gcore, load_types
from kgcore.sources.vmcore.opening import foreign
from kgcore.sources.vmcore.symbols import finders as symbols
from tests.vmcore.conftest import need
from tests.vmcore.tools import ROOT, TIMEOUT

CRASHED = ROOT / "tests/vmcore_fixtures/k61-crash-small/vmcore"
SMALL = ["k510-small", "k61-small", "k612-small", "k72-small"]
FINDERS = ("type", "object", "symbol", "debug_info")


def opened(path: Path) -> Any:
    prog = drgn.Program()
    prog.set_core_dump(path)
    return prog


def fails(ask: Any) -> type[Exception] | None:
    try:
        ask()
    except Exception as error:  # noqa: BLE001  (whatever drgn raises)
        return type(error)
    return None


def state(prog: Any) -> dict[str, object]:
    """All that can be asked of a Program about what it knows."""
    known: dict[str, object] = {}
    for kind in FINDERS:
        known[f"registered {kind}"] = getattr(prog, f"registered_{kind}_finders")()
        known[f"enabled {kind}"] = getattr(prog, f"enabled_{kind}_finders")()
    known["modules"] = [
        (type(module).__name__, module.name, module.debug_file_status, module.debug_file_path, module.loaded_file_path)
        for module in prog.modules()
    ]
    options = prog.debug_info_options
    known["options"] = [str(getattr(options, name)) for name in dir(options) if not name.startswith("_")]
    for name in ("struct task_struct", "struct zram", "pid_t"):
        known[name] = fails(lambda name=name: prog.type(name)) or str(prog.type(name))
    for name in ("init_task", "runqueues", "PIDTYPE_MAX", "init_pid_ns"):
        known[name] = fails(lambda name=name: prog[name]) or str(prog[name].type_)
    for what in (0, 8, 1 << 12, "init_task", "__per_cpu_start", "_text"):
        known[f"symbol {what}"] = fails(lambda what=what: prog.symbol(what)) or str(prog.symbol(what))
    known["symbols"] = len(prog.symbols())
    known["null"] = str(drgn.Object(prog, prog.pointer_type(prog.void_type()), 0))
    known["memory at 0"] = fails(lambda: prog.read(0, 8))
    known["config"] = dict(prog.config)
    known["flags"], known["platform"] = prog.flags, prog.platform
    return known


def written(prog: Any, pid: int, **keywords: Any) -> bytes:
    stream = io.BytesIO()
    gcore(prog, pid, output=stream, jobs=1, **keywords)
    return stream.getvalue()


@pytest.mark.parametrize("name", SMALL)
def test_a_program_without_types_stays_as_it_is(name: str) -> None:
    fixture = need(name)
    prog = opened(fixture.dump("vmcore"))
    before = state(prog)
    victim = next(victim for victim in fixture.victims.values() if victim.pid)
    first = written(prog, victim.pid)
    assert state(prog) == before
    assert before["struct task_struct"] is drgn.ObjectNotFoundError or before["struct task_struct"] is LookupError
    assert written(prog, victim.pid) == first


def test_a_program_with_debug_information_stays_as_it_is() -> None:
    """Swapped to zram, too, whose module's types are looked for."""
    fixture = need("k510-zram", committed=False)
    prog = opened(fixture.dump())
    prog.load_debug_info([fixture.vmlinux], main=True)
    before = state(prog)
    for victim in list(fixture.victims.values())[:3]:
        if victim.pid:
            written(prog, victim.pid)
    assert state(prog) == before


def test_the_commands_leave_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pytest.importorskip("drgn.commands")
    monkeypatch.chdir(tmp_path)
    prog = opened(CRASHED)
    before = state(prog)
    commands.run_command(prog, "gcore -v 0 110")
    commands.run_command(prog, "gcore -v 0 --dry-run --all > plan")
    assert state(prog) == before


def test_the_kernel_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over all tasks does not read the types anew for each."""
    prog = opened(CRASHED)
    first = written(prog, 110)

    def fail(*_: object) -> None:
        raise AssertionError("again")

    monkeypatch.setattr(symbols, "load_btf", fail)
    monkeypatch.setattr(foreign, "opened", fail)
    assert written(prog, 110) == first
    load_types(prog)


def test_a_program_that_nobody_could_open_again() -> None:
    """Its memory comes from a function, as it may from a server: gcore() reads through it."""
    whole = opened(need("k61-small").dump("vmcore"))
    text = whole["VMCOREINFO"].string_()
    pid = next(victim.pid for victim in need("k61-small").victims.values() if victim.pid)
    prog = drgn.Program(whole.platform, vmcoreinfo=text)
    with open(os.memfd_create("empty"), "wb") as empty:
        from kgcore.sources.vmcore.opening.drgnmemory import _header

        empty.write(_header(()))
        empty.flush()
        prog.set_core_dump(os.dup(empty.fileno()))
    prog.add_memory_segment(0, 1 << 52, lambda at, n, _o, _p: whole.read(at, n, physical=True), True)
    before = state(prog)
    core = written(prog, pid)
    assert core[:4] == b"\x7fELF"
    assert len(core) > 4096
    assert state(prog) == before


@pytest.mark.parametrize("name", SMALL)
def test_load_types(name: str) -> None:
    fixture = need(name)
    prog = opened(fixture.dump("vmcore"))
    before = state(prog)
    load_types(prog)
    after = state(prog)
    for kind in ("type", "object", "symbol"):
        assert after[f"enabled {kind}"] == [*before[f"enabled {kind}"], "kgcore"]  # type: ignore[misc]
    assert after["enabled debug_info"] == before["enabled debug_info"]
    victim = next(victim for victim in fixture.victims.values() if victim.pid)
    assert find_task(prog, victim.pid).pid == victim.pid
    assert prog.symbol("init_task").address == prog["init_task"].address_
    assert prog.symbol(prog["init_task"].address_ + 1).name == "init_task"
    for address in (0, 8, 0x1000, 0x2000, 1 << 20, 1 << 47, (1 << 64) - 1):
        with pytest.raises(LookupError):
            prog.symbol(address)
    assert prog.symbol("__per_cpu_start"), "by its name it is found"
    assert after["null"] == before["null"] == "(void *)0x0"
    load_types(prog)
    assert state(prog) == after


def test_load_types_and_debug_information() -> None:
    """Whichever comes first, debug information counts, and the cores are the same."""
    fixture = need("k61", committed=False)
    pid = fixture.victims["identity"].pid
    plain, early, late, only = (opened(fixture.dump()) for _ in range(4))
    load_types(early)
    assert written(early, pid) == written(plain, pid)
    for prog in (only, early, late):
        prog.load_debug_info([fixture.vmlinux], main=True)
    load_types(late)
    real = only.symbol("init_task")
    for prog in (early, late):
        assert prog.symbol("init_task") == real
        assert prog.symbol(real.address + 8) == real
        assert str(prog["jiffies"].type_) == str(only["jiffies"].type_)
        assert str(prog.type("struct task_struct")) == str(only.type("struct task_struct"))
        assert prog.type("struct task_struct").members[0].offset == 0
        assert written(prog, pid) == written(only, pid)


def test_what_has_no_types_to_give_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KgcoreError, match="not a Linux kernel"):
        load_types(drgn.Program())
    with pytest.raises(KgcoreError, match="32-bit"):
        load_types(_on_platform(need("k61-686pae-small").dump("vmcore"), drgn.Platform(drgn.Architecture.I386)))
    prog = opened(CRASHED)
    before = state(prog)
    monkeypatch.setattr(symbols, "_read_btf", lambda *_: b"no BTF at all")
    with pytest.raises(KgcoreError, match="does not start with a BTF header"):
        load_types(prog)
    assert state(prog) == before


def _on_platform(path: Path, platform: Any) -> Any:
    prog = drgn.Program(platform)
    prog.set_core_dump(path)
    return prog


# In crash mode


def session(tmp_path: Path, code: str) -> str:
    """What a script on drgn's standard input prints, both streams."""
    program = Path(sys.executable).with_name("drgn")
    done = subprocess.run(
        [program, "-q", "-c", CRASHED],
        input=f"from drgn.commands import run_command\nprog.config['crash_pager'] = None\n{code}",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        timeout=TIMEOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_gcore_as_the_first_command_of_crash_mode(tmp_path: Path) -> None:
    pytest.importorskip("drgn.commands._crash")
    assert "Saved core.110\n" in session(tmp_path, "run_command(prog, 'crash gcore')")


def test_crash_mode_with_types(tmp_path: Path) -> None:
    """``set PID`` is drgn's own command, and takes types."""
    pytest.importorskip("drgn.commands._crash")
    code = """
run_command(prog, 'crash load_types')
run_command(prog, 'crash set 118')
run_command(prog, 'crash gcore -v 0')
run_command(prog, 'crash load_types')
run_command(prog, 'load_types')
"""
    said = session(tmp_path, code)
    assert "PID: 118" in said
    assert "Saved core.118\n" in said
    assert os.path.exists(tmp_path / "core.118")


# What libraries say

LIBRARIES = ("kdump", "drgn:", "memory segment", "libkdumpfile")
LEVEL = """\
import sys
from drgn.commands import run_command
for level in (0, 4, 5):
    try:
        run_command(prog, f"gcore -v {level} --force --all -D {sys.argv[1]}")
    except Exception as error:
        print(error)
print("WITH", file=sys.stderr, flush=True)
try:
    run_command(prog, f"gcore -v 2 --force --all -D {sys.argv[1]}")
except Exception as error:
    print(error)
"""


def test_level_2_alone_shows_what_libraries_say(tmp_path: Path) -> None:
    """drgn with a vmlinux, on a dump without most of the memory that processes are made of: libkdumpfile reads it."""
    pytest.importorskip("drgn.commands")
    fixture = need("k72-disk", committed=False)
    dump = fixture.dump("vmcore.d31-zlib")
    (tmp_path / "script.py").write_text(LEVEL)
    (tmp_path / "cores").mkdir()
    program = Path(sys.executable).with_name("drgn")
    done = subprocess.run(
        [program, "-q", "-c", dump, "-s", fixture.vmlinux, tmp_path / "script.py", tmp_path / "cores"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    without, with_ = done.stdout.split("WITH\n")
    assert "page frame excluded" in without
    assert [line for line in without.splitlines() if any(sign in line for sign in LIBRARIES)] == []
    assert "drgn: WARNING: could not read memory from kdump: Excluded page" in with_
