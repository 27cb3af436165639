# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore bt`` on real dumps. The truth is what gdb shows of the kernel's own core of the same process, and, of kernel
stacks, what drgn makes of them with debug information."""

import json
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("drgn")

from kgcore.errors import KgcoreError
from kgcore.model.traces import Frame, grouped
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.kernel.machine import orc
from kgcore.views.backtrace import Backtrace, backtrace
from tests.vmcore.conftest import COMMITTED, KERNELS, MAIN, Extractor, Fixture, Victim, main_dump, need
from tests.vmcore.tools import ROOT, gdb, kgcore, lwps, serving

SCHEMA = json.loads((ROOT / "kgcore" / "schemas" / "bt.schema.json").read_text())
LEVELS = ["level5", "level4", "level3", "level2", "level1"]
LIBC = "93ac61ec5a8eb1396f9fbd350e3169a558528a40"  # the build id of the guests' C library
SMALL = COMMITTED / "k61-crash-small"


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


def ours(extract: Extractor, victim: Victim, dump: str = "", *, pid: int = 0, **options: Any) -> Backtrace:
    """All threads of a victim."""
    fixture = victim.fixture
    source = extract.source(fixture.dump(dump or main_dump(fixture)), symbols=options.pop("symbols", ()))
    return backtrace(source, TaskRef.parse(str(pid or victim.pid)), all_threads=True, **options)


def names(frames: tuple[Frame, ...], *, inline: bool = True) -> list[str | None]:
    return [bare(frame.function) for frame in frames if inline or not frame.inline]


def bare(function: str | None) -> str | None:
    """gdb and drgn choose other ones of a function's names: ``clone3`` and ``__clone3``, with versions or without."""
    return None if function in (None, "??") else function.lstrip("_").partition("@")[0]


def gdbs(victim: Victim, *, skip: int = 0) -> Mapping[int, list[tuple[int, str]]]:
    """Thread id -> frames of the kernel's own core: address (0: inlined) and function."""
    assert victim.core is not None
    sysroot = victim.fixture.path / "sysroot"
    text = gdb(
        victim.core,
        sysroot,
        victim.said["exe"].lstrip("/") if "exe" in victim.said else f"victims/{victim.name}",
        "set backtrace past-main on",
        "set backtrace past-entry off",
        "info threads",
        "thread apply all backtrace",
    )
    ids = lwps(text)
    traces = {}
    for number, block in re.findall(r"^Thread (\d+) \(.*\):\n((?:#.*\n?)+)", text, re.MULTILINE):
        found = re.findall(r"^#\d+ +(?:(0x\w+) in )?(\S+) \(", block, re.MULTILINE)
        traces[ids[int(number)]] = [(int(address or "0", 16), function) for address, function in found]
    return traces


# User stacks


@pytest.mark.parametrize("name", [*MAIN, *KERNELS])
def test_the_same_calls_as_in_the_kernels_core(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    found, truth = ours(extract, victim), gdbs(victim)
    assert sorted(truth) == sorted(victim.tids) == sorted(thread.tid for thread in found.threads)
    assert found.complete
    for thread in found.threads:
        mine = [(frame.ip, bare(frame.function)) for frame in thread.frames]
        theirs = [(address or mine[number][0], bare(function)) for number, (address, function) in enumerate(
            truth[thread.tid]
        )]  # fmt: skip
        assert mine == theirs
        assert [name for name in names(thread.frames) if name in LEVELS] == LEVELS
        lines = [frame.source for frame in thread.frames if frame.function in LEVELS]
        assert {path for path, _ in filter(None, lines)} == {"./victims/dynamic.c"}
        assert None not in lines


@pytest.mark.parametrize("name", [*MAIN, *KERNELS])
def test_as_far_as_there_is_unwind_information(name: str, extract: Extractor) -> None:
    """Assembly without any: gdb goes on from there, by looking at the code. We say so, and stop."""
    victim = need(name).victims["threads"]
    truth = gdbs(victim)
    found = ours(extract, victim)
    assert sorted(truth) == sorted(thread.tid for thread in found.threads)
    for thread in found.threads:
        (frame,) = thread.frames
        assert (frame.ip, frame.function) == (truth[thread.tid][0][0] or frame.ip, truth[thread.tid][0][1])
        assert frame.module == b"/victims/threads"
        assert thread.end.kind == "unwind-information"
        assert "block_now" in thread.end.text
        assert thread.comm.decode() == next(
            (one["comm"] for one in victim.said["threads"] if one["tid"] == thread.tid and "comm" in one),
            thread.comm.decode(),
        )
    assert not found.complete


def test_a_program_without_debug_information(extract: Extractor) -> None:
    """Debian's Python: its functions are those of its symbol table, and all calls are there."""
    victim = need("k61").victims["python"]
    (leader, other) = ours(extract, victim).threads
    assert (leader.end.kind, other.end.kind) == ("outermost", "outermost")
    assert names(leader.frames)[-1] == "start"
    assert names(other.frames)[-2:] == ["start_thread", "clone3"]
    assert "Py_RunMain" in names(leader.frames)
    unnamed = [frame for frame in leader.frames if frame.function is None]
    assert unnamed
    assert all(frame.module == b"/usr/bin/python3.11" and frame.build_id and frame.module_offset for frame in unnamed)


def test_only_the_thread_that_is_named(extract: Extractor) -> None:
    victim = need("k61").victims["dynamic"]
    source = extract.source(victim.fixture.dump(), symbols=())
    found = backtrace(source, TaskRef.parse(str(victim.tids[2])))
    assert ([thread.tid for thread in found.threads], found.others) == ([victim.tids[2]], 2)
    whole = {thread.tid: thread for thread in ours(extract, victim).threads}
    assert found.threads == (whole[victim.tids[2]],)


def test_many_threads(extract: Extractor) -> None:
    victim = need("k61-many").victims["manythreads"]
    found = ours(extract, victim)
    (group,) = grouped(found.threads)
    assert sorted(thread.tid for thread in group) == sorted(victim.tids)
    assert len(victim.tids) == 2000


@pytest.mark.parametrize("name", [*MAIN, *KERNELS])
def test_which_thread_was_running(name: str, extract: Extractor) -> None:
    victim = need(name).victims["spin"]
    found = {thread.tid: thread for thread in ours(extract, victim, kernel=True).threads}
    spinner = next(thread["tid"] for thread in victim.said["threads"] if thread["role"] == "spin")
    assert {tid: thread.cpu for tid, thread in found.items()} == dict.fromkeys(victim.tids) | {spinner: 1}
    assert not any(thread.crashed for thread in found.values())  # nothing crashed there
    assert names(found[spinner].frames) == ["spin_now"]
    kernel = found[spinner].kernel
    assert kernel is not None
    assert (kernel.end.kind, kernel.frames) == ("outermost", ())


def test_a_running_thread_inside_an_interrupt(extract: Extractor) -> None:
    victim = need("k61-la57").victims["spin"]
    found = {thread.tid: thread for thread in ours(extract, victim, "vmcore-2.elf", kernel=True).threads}
    spinner = found[next(thread["tid"] for thread in victim.said["threads"] if thread["role"] == "spin")]
    assert names(spinner.frames) == ["spin_now"]
    assert spinner.kernel is not None
    assert spinner.kernel.end.kind == "outermost"
    assert spinner.kernel.frames


# Why stacks end


def test_a_stack_that_is_not_in_the_dump(extract: Extractor) -> None:
    victim = need("k61").victims["dynamic"]
    for thread in ours(extract, victim, "vmcore.d31-zstd").threads:
        assert len(thread.frames) == 1
        assert thread.end.kind == "memory"
        assert "excluded" in thread.end.text


@pytest.mark.parametrize("name", [f"{name}-disk" for name in MAIN])
def test_a_file_that_lacks_its_unwind_tables(name: str, extract: Extractor) -> None:
    """The C library is in the page cache in parts. Its pause() keeps no frame pointer, so by that one would get past
    level5(), from which it was called."""
    victim = need(name).victims["dynamic"]
    for thread in ours(extract, victim).threads:
        assert len(thread.frames) == 1
        assert thread.frames[0].build_id == LIBC
        assert thread.end.kind == "unwind-information"
        assert f"/lib/x86_64-linux-gnu/libc.so.6 (build id {LIBC}) lacks " in thread.end.text


@pytest.mark.parametrize("name", [f"{name}-disk" for name in MAIN])
def test_with_the_files_of_the_machine(name: str, extract: Extractor) -> None:
    victim = need(name).victims["dynamic"]
    fixture, root = victim.fixture, str(victim.fixture.path / "sysroot")
    source = extract.source(fixture.dump(), root=root, symbols=())
    found = backtrace(source, TaskRef.parse(str(victim.pid)), all_threads=True, root=root)
    assert found.complete
    for thread in found.threads:
        assert [name for name in names(thread.frames) if name in LEVELS] == LEVELS


@pytest.mark.parametrize("name", [f"{name}-disk" for name in MAIN])
def test_with_a_debuginfod_server(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the C library, of which the dump has but parts."""
    victim = need(name).victims["dynamic"]
    fixture = victim.fixture
    library = fixture.path / "sysroot/lib/x86_64-linux-gnu/libc.so.6"
    with serving({f"/buildid/{LIBC}/executable": library.read_bytes()}) as (url, asked):
        monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "cache"))
        words = ("bt", "-c", fixture.dump(), "--all-threads", "--json", victim.pid)
        assert kgcore(*words, cwd=tmp_path).status == 3
        assert not asked
        monkeypatch.setenv("DEBUGINFOD_URLS", url)
        done = kgcore(*words, cwd=tmp_path)
        assert done.status == 0
        (process,) = json.loads(done.raw)["processes"]
        assert len(process["threads"]) == len(victim.tids)
        for thread in process["threads"]:
            assert [frame["function"] for frame in thread["frames"] if frame["function"] in LEVELS] == LEVELS
        assert f"/buildid/{LIBC}/executable" in asked


@pytest.mark.parametrize("name", MAIN)
def test_32_bit_programs_are_for_gdb(name: str, extract: Extractor) -> None:
    victim = need(name).victims["ia32"]
    with pytest.raises(KgcoreError, match=r"ia32 process, which drgn cannot unwind \(kgcore debug"):
        ours(extract, victim)


# Kernel stacks


@pytest.mark.parametrize("types", ["dwarf", "btf"])
@pytest.mark.parametrize("name", [*MAIN, "k61-kexec", "k72-kexec"])
def test_kernel_stacks(name: str, types: str) -> None:
    """Of all tasks: the same calls as by the debug information, with it and without."""
    fixture = need(name)
    if not fixture.manifest["vmlinux"]:
        pytest.skip("there is no vmlinux")
    assert compare_kernel_stacks(fixture, types) > 40


def compare_kernel_stacks(fixture: Fixture, types: str, given: tuple[str, ...] = ()) -> int:
    """All kernel stacks with what drgn makes of them by DWARF; how many there were to compare.

    :param given: what to give with -s if the types are not those of DWARF.
    """
    from drgn import FaultError, Object
    from drgn.helpers.linux.pid import for_each_task

    from kgcore.sources.location import DumpLocation
    from kgcore.sources.vmcore.kernel.kernel import Kernel
    from kgcore.sources.vmcore.opening.target import open_target
    from kgcore.sources.vmcore.task.cpus import Cpus
    from kgcore.sources.vmcore.task.kernelstack import KernelStacks

    core = str(fixture.dump(main_dump(fixture)))
    vmlinux = (str(fixture.vmlinux),)
    mine = vmlinux if types == "dwarf" else given
    with (
        open_target(DumpLocation(core=core, symbols=vmlinux)) as full,
        open_target(DumpLocation(core=core, symbols=mine, symbols_from=types)) as other,  # type: ignore[arg-type]
    ):
        kernel = Kernel(other)
        stacks = KernelStacks(kernel, Cpus(kernel))
        compared = 0
        for task in for_each_task(full.prog):
            found = stacks.of(Object(other.prog, "struct task_struct *", task.value_()), task.pid.value_())
            if not task.stack:
                assert found.end.text == "it has exited: its kernel stack is gone"
                continue
            try:
                truth = [(frame.pc, frame.name, frame.is_inline) for frame in full.prog.stack_trace(task)]
            except LookupError:  # beyond the outermost one
                truth = known(full.prog.stack_trace(task))
            except FaultError:  # drgn gives up on those that have exited, whose stack may be gone or not
                assert task.exit_state
                continue
            truth = [call for call in truth if call[0] >> 63]
            # drgn looks for the name in front of a function's first instruction, where a task begins that never ran.
            truth = [(ip, full.prog.symbol(ip).name if name == hex(ip) else name, inline) for ip, name, inline in truth]
            calls = [(frame.ip, frame.function, frame.inline) for frame in found.frames]
            if types == "btf":
                calls, truth = [call[:1] for call in calls], [call[:1] for call in truth if not call[2]]  # type: ignore[misc]
            assert calls == truth, task.comm
            assert found.end.kind == "outermost"
            compared += 1
    return compared


def known(trace: Any) -> list[tuple[int, str, bool]]:
    """The frames before one without an address."""
    calls = []
    for frame in trace:
        try:
            calls.append((frame.pc, frame.name, frame.is_inline))
        except LookupError:
            break
    return calls


@pytest.mark.parametrize("name", ["k61-kexec", "k72-kexec"])
def test_the_thread_that_crashed(name: str, extract: Extractor) -> None:
    victim = need(name).victims["crasher"]
    found = ours(extract, victim, kernel=True)
    (crashed,) = (thread for thread in found.threads if thread.crashed)
    assert crashed.tid == victim.tids[1]
    assert crashed.cpu == 0
    assert crashed.kernel is not None
    called = names(crashed.kernel.frames)
    assert "sysrq_handle_crash" in called  # Documentation/admin-guide/sysrq.rst
    assert called.index("panic") < called.index("sysrq_handle_crash") < called.index("ksys_write")
    assert crashed.kernel.end.kind == "outermost"


@pytest.mark.parametrize("name", ["k61-kexec", "k72-kexec"])
def test_the_thread_that_crashed_near_the_end_of_its_stack(
    name: str, extract: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How near is chance (randomize_kstack_offset). As much is looked at as there is."""
    victim = need(name).victims["crasher"]
    usual = ours(extract, victim, kernel=True)
    monkeypatch.setattr(orc, "_SCANNED", 16 << 10)  # the whole of a stack, and so something beyond its end
    assert ours(extract, victim, kernel=True) == usual


# As it is used


def test_json_is_as_its_schema_says(tmp_path: Path) -> None:
    assert json.loads((files("kgcore.schemas") / "bt.schema.json").read_text()) == SCHEMA
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["kgcore"]
    assert any(fnmatch("schemas/bt.schema.json", pattern) for pattern in patterns)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(closed(SCHEMA))
    done = kgcore("bt", "--json", "--all-threads", "--kernel-stack", "110", "118", "2", cwd=SMALL)
    found = json.loads(done.raw)
    validator.validate(found)
    assert (done.status, found["status"]) == (1, 1)
    assert [process["tgid"] for process in found["processes"]] == [110, 118]
    assert [failure["task"] for failure in found["failures"]] == ["2"]
    crashed = [thread["tid"] for process in found["processes"] for thread in process["threads"] if thread["crashed"]]
    assert crashed == [111]


def test_json_of_whole_stacks(tmp_path: Path) -> None:
    fixture = need("k61")
    victim = fixture.victims["dynamic"]
    done = kgcore("bt", "--json", "--kernel-stack", victim.pid, cwd=tmp_path, vmcore=fixture.dump())
    found = json.loads(done.raw)
    jsonschema.Draft202012Validator(closed(SCHEMA)).validate(found)
    (process,) = found["processes"]
    assert (done.status, process["complete"], process["other_threads"]) == (0, True, 2)
    assert process["threads"][0]["kernel"]["frames"][-1]["function"].startswith("entry_SYSCALL_64")


def closed(schema: Any) -> Any:
    """The schema with no other keys than those that it describes."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(part) for key, part in schema.items()}
    return found | {"additionalProperties": False} if isinstance(found.get("properties"), dict) else found


def test_the_dump_that_comes_with_the_source() -> None:
    done = kgcore("bt", "--all-threads", "--root", "sysroot", cwd=SMALL)
    assert done.status == 3
    crash, others = "\n".join(done.lines).split("\n\n")[1:]
    assert crash.splitlines()[0] == "Thread 111: crasher; running on CPU 0; the kernel crashed here"
    assert others.splitlines()[0] == "Threads 110, 112 (2): crasher"
    for block in (crash, others):
        assert re.match(r"#0  0x0{10}401831 block_now\+0x19c in /victims/crasher$", block.splitlines()[1])


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = kgcore("bt", "--all-threads", cwd=SMALL)
    assert done.status == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["k61-kexec", "k72-kexec"])
def test_kernel_stacks_without_the_kernels_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the debug information: of a running thread from the registers of its CPU, whichever drgn takes for it."""
    from kgcore.sources.location import DumpLocation
    from kgcore.sources.vmcore.kernel.machine.orc import OrcUnwinder
    from kgcore.sources.vmcore.opening.target import open_target
    from kgcore.sources.vmcore.source import VmcoreSource

    fixture = need(name)
    options = DumpLocation(core=str(fixture.dump(main_dump(fixture))), symbols=(str(fixture.vmlinux),))
    with open_target(options) as target:
        pids = [fixture.victims[name].pid for name in ("crasher", "spin")]
        processes = [VmcoreSource(target).process(pid) for pid in pids]
        threads = [thread for process in processes for thread in process.image.threads]
        stacks = [process.kernel_stack(thread) for process in processes for thread in process.image.threads]
        monkeypatch.setattr(OrcUnwinder, "available", False)
        processes = [VmcoreSource(target).process(pid) for pid in pids]
        others = [process.kernel_stack(thread) for process in processes for thread in process.image.threads]
    assert sum(thread.cpu is not None for thread in threads) == 2
    for stack, other in zip(stacks, others, strict=True):
        assert [frame.function for frame in other.frames] == [frame.function for frame in stack.frames]
        assert other.end.kind == "outermost"
