# SPDX-License-Identifier: LGPL-2.1-or-later
"""The drgn side: gcore(), %gcore and crash mode's gcore, on an empty kernel program with made-up processes."""

import contextlib
import gzip
import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn.commands")  # where drgn is, or is too old for them

import drgn
from drgn.commands import CommandArgumentError, CommandError, run_command

import kgcore
from kgcore import plugin
from kgcore.errors import KernelThread, KgcoreError, NoCurrentTask
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles
from tests.fake_source import (
    COMPLETE,
    ELF,
    INCOMPLETE,
    KERNEL_THREAD,
    LARGE,
    MARKED,
    THREAD,
    UNKNOWN,
    FakeSource,
    task_address,
)

ROOT = Path(__file__).resolve().parents[1]

_VMCOREINFO = (
    b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff82a00000\nNUMBER(phys_base)=0\nKERNELOFFSET=0\n"
)
_VMCOREINFO += b"SYMBOL(swapper_pg_dir)=ffffffff82a10000\n"


@pytest.fixture
def prog(tmp_path: Path) -> drgn.Program:
    """A kernel of which only VMCOREINFO is known: enough for drgn to enable its kernel commands."""
    note = struct.pack("<III", 11, len(_VMCOREINFO), 0) + b"VMCOREINFO\0\0" + _VMCOREINFO
    note += bytes(-len(note) % 4)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 4)
    path = tmp_path / "kernel"
    path.write_bytes(header + note)
    program = drgn.Program()
    program.set_core_dump(path)
    return program


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeSource]:
    fake = FakeSource()

    @contextlib.contextmanager
    def opened(prog: drgn.Program, user_files: UserFiles = NO_USER_FILES) -> Iterator[Source]:
        fake.user_files = user_files
        yield fake

    monkeypatch.setattr(plugin, "_source", opened)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield fake
    assert fake.held == 0


def task_struct(prog: drgn.Program) -> drgn.Type:
    return prog.struct_type("task_struct", 8, (drgn.TypeMember(prog.int_type("int", 4, True), "pid"),))


def context(prog: drgn.Program, pid: int) -> drgn.Object:
    return drgn.Object(prog, prog.pointer_type(task_struct(prog)), task_address(pid))


# The function


def test_gcore_is_the_public_name() -> None:
    assert kgcore.gcore is plugin.gcore


def test_gcore_writes_a_core_and_returns_its_report(prog: drgn.Program, source: FakeSource) -> None:
    report = plugin.gcore(prog, THREAD)
    assert (report.tgid, report.path, report.complete) == (COMPLETE, "./core.100", True)
    assert os.listdir() == ["core.100"]
    assert not plugin.gcore(prog, INCOMPLETE).complete


@pytest.mark.parametrize("kind", ["int", "text", "address", "pointer", "const pointer", "struct", "pid_t"])
def test_a_process_has_many_names(prog: drgn.Program, source: FakeSource, kind: str) -> None:
    pointer = context(prog, LARGE)
    type_ = task_struct(prog)
    pid_t = prog.typedef_type("pid_t", prog.int_type("int", 4, True))
    pid = {
        "int": LARGE,
        "text": f"{task_address(LARGE):x}",
        "address": task_address(LARGE),
        "pointer": pointer,
        "const pointer": drgn.Object(
            prog,
            prog.pointer_type(prog.struct_type("task_struct", 8, (), qualifiers=drgn.Qualifiers.CONST)),
            pointer.value_(),
        ),
        "struct": drgn.Object(prog, type_, address=task_address(LARGE)),
        "pid_t": drgn.Object(prog, pid_t, LARGE),
    }[kind]
    assert plugin.gcore(prog, pid, output=io.BytesIO()).tgid == LARGE


def test_a_number_of_another_kind(prog: drgn.Program, source: FakeSource) -> None:
    class Number:
        def __index__(self) -> int:
            return THREAD

    assert plugin.gcore(prog, Number()).tgid == COMPLETE


def test_a_pipe_by_its_name(prog: drgn.Program, source: FakeSource) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert plugin.gcore(prog, COMPLETE, output="pipe").path is None
    assert os.read(reader, 4) == b"\x7fELF"
    os.close(reader)


def test_what_is_no_process(prog: drgn.Program, source: FakeSource) -> None:
    with pytest.raises(TypeError, match="not struct cred"):
        plugin.gcore(prog, drgn.Object(prog, prog.struct_type("cred", 8, ()), address=8))
    for value, word in ((3.5, "float"), (b"100", "bytes"), ([100], "list"), (prog, "Program")):
        with pytest.raises(TypeError, match=f"expected a PID or a struct task_struct \\*, not {word}"):
            plugin.gcore(prog, value)
    with pytest.raises(KgcoreError, match="neither a PID nor"):
        plugin.gcore(prog, "init")
    with pytest.raises(KernelThread):
        plugin.gcore(prog, KERNEL_THREAD)
    assert os.listdir() == []


def test_output_is_a_file_a_directory_or_a_stream(prog: drgn.Program, source: FakeSource, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert plugin.gcore(prog, COMPLETE, output=tmp_path / "d").path == str(tmp_path / "d" / "core.100")
    assert plugin.gcore(prog, COMPLETE, output="exact").path == "exact"
    stream = io.BytesIO()
    assert plugin.gcore(prog, COMPLETE, output=stream).path is None
    assert stream.getvalue() == Path("exact").read_bytes() == (tmp_path / "d" / "core.100").read_bytes()

    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(writer, "wb") as end:  # 16 KiB: fits into the pipe
        plugin.gcore(prog, COMPLETE, output=end)
        end.close()
        assert pipe.read() == stream.getvalue()


def test_supplies_and_sysroot(prog: drgn.Program, source: FakeSource, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    plugin.gcore(prog, COMPLETE, swap={"/dev/sda2": image}, root=tmp_path, sysroot=tmp_path / "dir")
    assert source.user_files == UserFiles({"/dev/sda2": str(image)}, str(tmp_path))
    assert (tmp_path / "dir/bin/work").read_bytes() == ELF
    (tmp_path / "dir/bin/work").write_text("precious")
    with pytest.raises(KgcoreError, match="bin/work exists"):
        plugin.gcore(prog, COMPLETE, force=False, output="other", sysroot=tmp_path / "dir")
    assert os.path.exists("other")
    run_command(prog, f"gcore --swap /dev/sda2={image} --root {tmp_path} --sysroot d2 -o third 100")
    assert source.user_files == UserFiles({"/dev/sda2": str(image)}, str(tmp_path))
    assert Path("d2/bin/work").read_bytes() == ELF


def test_nothing_is_overwritten_without_force(prog: drgn.Program, source: FakeSource) -> None:
    Path("core.100").write_text("precious")
    with pytest.raises(KgcoreError, match="exists"):
        plugin.gcore(prog, COMPLETE)
    assert Path("core.100").read_text() == "precious"
    plugin.gcore(prog, COMPLETE, force=True)
    assert Path("core.100").read_bytes()[:4] == b"\x7fELF"


def test_keywords_reach_the_core(prog: drgn.Program, source: FakeSource) -> None:
    def core(pid: int = INCOMPLETE, **keywords: object) -> bytes:
        stream = io.BytesIO()
        plugin.gcore(prog, pid, output=stream, **keywords)  # type: ignore[arg-type]
        return stream.getvalue()

    default = core()
    assert core(filter="process") == core(filter=51) == default
    assert len(core(filter=0)) < len(default)
    assert len(core(missing="zero")) == len(default) + 4096
    assert b"KGCORE\0" in default
    assert b"KGCORE\0" not in core(note=False)
    plain = len(core(MARKED, note=False))
    assert len(core(MARKED, note=False, dontdump=True)) == len(core(MARKED, note=False, dax=True)) == plain + 4096
    seen: list[tuple[int, int]] = []
    core(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8192, 8192), "of its three pages one is missing"
    with pytest.raises(ValueError, match="0x80"):
        core(filter=0x80)


def test_jobs_and_compression(prog: drgn.Program, source: FakeSource) -> None:
    plain = io.BytesIO()
    plugin.gcore(prog, LARGE, output=plain, jobs=1)
    assert plugin.gcore(prog, LARGE, compress="gzip", jobs=2).path == "./core.600.gz"
    assert gzip.decompress(Path("core.600.gz").read_bytes()) == plain.getvalue()
    for wrong in ({"jobs": 0}, {"compress": "xz"}):
        with pytest.raises(ValueError, match="expected"):
            plugin.gcore(prog, LARGE, **wrong)
    reports = run_command(prog, "gcore --match work --compress gzip --jobs 1 --max-size 1G --progress never")
    assert [report.tgid for report in reports] == [COMPLETE]
    assert Path("core.100.gz").exists()


def test_without_a_pid_it_is_the_current_context(prog: drgn.Program, source: FakeSource) -> None:
    with pytest.raises(NoCurrentTask):
        plugin.gcore(prog)
    source.current = COMPLETE
    assert plugin.gcore(prog).tgid == COMPLETE
    prog.config["crash_context"] = context(prog, LARGE)
    assert plugin.gcore(prog).tgid == LARGE


def test_another_program_is_refused() -> None:
    with pytest.raises(KgcoreError, match="not a Linux kernel"):
        plugin.gcore(drgn.Program(), 1)


# %gcore


def test_percent_gcore(prog: drgn.Program, source: FakeSource, capsys: pytest.CaptureFixture[str]) -> None:
    reports = run_command(prog, f"gcore 100 -v 4 {task_address(INCOMPLETE):#x} -f 51")
    assert [report.tgid for report in reports] == [COMPLETE, INCOMPLETE]
    out, err = capsys.readouterr()
    assert out == "Saved core.100\nSaved core.200\n"
    assert "gcore: " in err
    assert "swapped" in err
    assert sorted(os.listdir()) == ["core.100", "core.200"]


def test_percent_gcore_goes_on_and_tells_every_failure_once(
    prog: drgn.Program, source: FakeSource, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError) as caught:
        run_command(prog, f"gcore {KERNEL_THREAD} {UNKNOWN} {COMPLETE}")
    first, second = str(caught.value).splitlines()
    assert "kernel thread" in first
    assert "404" in second
    assert capsys.readouterr() == ("Saved core.100\n", "")


@pytest.mark.parametrize("words", ["-f 128", "-v 9", "-v 1 -v 1", "-o x 1 2", "-c vmcore 1", "init"])
def test_percent_gcore_refuses_mistakes(prog: drgn.Program, source: FakeSource, words: str) -> None:
    with pytest.raises(CommandArgumentError):
        run_command(prog, "gcore " + words)
    assert source.asked == []


def test_percent_gcore_help_does_not_end_drgn(
    prog: drgn.Program, source: FakeSource, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(prog, "gcore --help")
    assert capsys.readouterr().out.startswith("usage: %gcore ")


def test_percent_gcore_redirected(prog: drgn.Program, source: FakeSource) -> None:
    run_command(prog, "gcore 100")
    run_command(prog, "gcore -o - 100 > redirected")
    run_command(prog, "gcore -o - 100 | cat > piped")
    assert Path("redirected").read_bytes() == Path("piped").read_bytes() == Path("core.100").read_bytes()


# crash> gcore


def test_crash_gcore(prog: drgn.Program, source: FakeSource, capfd: pytest.CaptureFixture[str]) -> None:
    prog.config["crash_scroll"] = False
    with pytest.raises(CommandError, match="current"):
        run_command(prog, "crash gcore")
    run_command(prog, "crash gcore -v 4 100")
    prog.config["crash_context"] = context(prog, LARGE)
    run_command(prog, "crash gcore")
    assert capfd.readouterr().out == "Saved core.100\nSaved core.600\n"
    assert source.asked == ["current", "100", f"{task_address(LARGE):#x}"]


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "broken",
    [
        "sys.modules['drgn.commands._crash'] = None",  # a drgn without crash mode
        "import drgn.commands._crash.common as c; del c.crash_get_context",  # or with another one
        "import drgn.commands._crash.common as c; c.crash_custom_command = lambda: None",
    ],
)
def test_without_crash_mode_the_rest_works(broken: str) -> None:
    code = f"import sys; {broken}\nimport kgcore.plugin\n"
    code += "from drgn.commands import DEFAULT_COMMAND_NAMESPACE as n; print('gcore' in n._commands)"
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_plugin_is_light() -> None:
    """Every start of drgn imports it."""
    done = run_python(
        "import sys, drgn.commands._crash.common; before = set(sys.modules); import kgcore.plugin\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('kgcore')))\n"
        "print(sorted(name for name in sys.modules if name.startswith('kgcore.')))"
    )
    foreign, own = done.stdout.splitlines()
    assert foreign == "[]", done.stderr
    light = {"_version", "cli", "cli.console", "errors", "model", "model.dying", "model.memory", "model.process"}
    light |= {"model.kinds", "model.lost", "model.siginfo", "model.traces", "plugin", "sources", "sources.base", "text"}
    assert set(eval(own)) == {"kgcore." + name for name in light}
