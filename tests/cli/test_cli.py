# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line from the outside: what is printed where, what is left on the disk, and the exit status."""

import gzip
import json
import os
import pty
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from kgcore import __version__
from kgcore.cli import commands
from kgcore.cli import main as cli
from kgcore.cli.commands import opening
from kgcore.cli.console import Console
from kgcore.cli.request import Channel
from kgcore.errors import BrokenDump, TargetError
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles
from kgcore.sources.location import DumpLocation
from tests.fake_source import (
    COMPLETE,
    DEFECT,
    ELF,
    ENDLESS,
    INCOMPLETE,
    KERNEL_THREAD,
    LARGE,
    LARGE_SIZE,
    MARKED,
    THREAD,
    UNKNOWN,
    ZOMBIE,
    FakeSource,
    task_address,
)
from tests.signals import heeds_signals

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    status: int
    out: str
    err: str


Kgcore = Callable[..., Result]


class Opener:
    """Stands for the opening of dumps, and remembers what it was asked to open."""

    def __init__(self) -> None:
        self.places: list[DumpLocation] = []
        self.user_files: list[UserFiles] = []
        self.source = FakeSource()
        self.seconds = 0.0

    @contextmanager
    def __call__(
        self, place: DumpLocation, show: Channel, console: Console, user_files: UserFiles = NO_USER_FILES
    ) -> Iterator[Source]:
        self.places.append(place)
        self.user_files.append(user_files)
        time.sleep(self.seconds)
        yield self.source


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """However a command ends, it has let go of its processes by then."""
    opener = Opener()
    monkeypatch.setattr(opening, "opened", opener)
    yield opener
    assert opener.source.held == 0


@pytest.fixture
def kgcore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], opener: Opener
) -> Kgcore:
    """kgcore on the fake source, in a directory of its own that holds a ``vmcore``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KGCORE_VMCORE", raising=False)
    (tmp_path / "vmcore").touch()

    def run(*words: object) -> Result:
        status = cli.main([str(word) for word in words])
        return Result(status, *capfd.readouterr())

    return run


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "tests.fake_source", *map(str, words)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def leftovers(directory: Path) -> list[str]:
    """Everything in the directory but the dump, hidden files too."""
    return sorted(set(os.listdir(directory)) - {"vmcore"})


# What stands on the command line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("-v 8 100", "8 is out of range"),
        ("-v -1 100", "-v"),
        ("-v four 100", "not a number"),
        ("-f 128 100", "128 is out of range"),
        ("-f 0x80 100", "0x80 is out of range"),
        ("-f 1_0 100", "not a number"),
        ("-f all 100", "not a number"),
        ("-v 1 -v 1 100", "given twice"),
        ("-f 1 100 -f 2", "given twice"),
        ("-c vmcore 100 -c vmcore", "given twice"),
        ("--core vmcore -c vmcore", "given twice"),
        ("-D . -D . 100", "given twice"),
        ("-o a -o a 100", "given twice"),
        ("--force 100 --force", "given twice"),
        ("--dontdump --dontdump", "given twice"),
        ("--dax --dax", "given twice"),
        ("--dry-run --dry-run", "given twice"),
        ("--no-kgcore-note --no-kgcore-note", "given twice"),
        ("--missing omit --missing omit", "given twice"),
        ("--report a --report b", "given twice"),
        ("--root . --root .", "given twice"),
        ("--sysroot a --sysroot a", "given twice"),
        ("--swap /dev/a=vmcore --swap /dev/b=vmcore --swap /dev/a=vmcore", "'/dev/a' is given twice"),
        ("--swap /dev/a 100", "'/dev/a' is not DEV=IMAGE"),
        ("--swap =vmcore 100", "'=vmcore' is not DEV=IMAGE"),
        ("--swap /dev/a= 100", "'/dev/a=' is not DEV=IMAGE"),
        ("--swap /dev/a=nowhere 100", "no such swap image: 'nowhere'"),
        ("--root nowhere 100", "--root: 'nowhere' is not a directory"),
        ("--root vmcore 100", "--root: 'vmcore' is not a directory"),
        ("--sysroot vmcore 100", "--sysroot: 'vmcore' is not a directory"),
        ("ps --swap /dev/a=vmcore", "unrecognized arguments: --swap"),
        ("--symbols-from btf --symbols-from btf", "given twice"),
        ("--architecture x86_64 --architecture x86_64", "given twice"),
        ("--vmcoreinfo vmcore --vmcoreinfo vmcore", "given twice"),
        ("--qemu a --qemu a", "given twice"),
        ("-k -k", "given twice"),
        ("ps --json --json", "given twice"),
        ("-D . -o x 100", "not allowed with"),
        ("-k -c vmcore", "not allowed with"),
        ("--qemu a -c vmcore", "not allowed with"),
        ("--qemu a -k", "not allowed with"),
        ("-o x 100 200", "-o takes one process"),
        ("-o x 100 --match a", "-o takes one process"),
        ("--all --all", "given twice"),
        ("--all --match a", "--all takes every process"),
        ("--all --uid 1", "--all takes every process"),
        ("--match", "expected one argument"),
        ("--uid nobody-here", "'nobody-here' is not a number"),
        ("--uid bin", "on this machine bin is 2"),
        ("-f 255 100", "use -f 127 --dontdump"),
        ("-f 512 100", "512 is out of range"),
        ("--uid 4294967295", "4294967295 is out of range"),
        ("--jobs 0 100", "argument --jobs: must be 1 to 1024"),
        ("--jobs -1 100", "--jobs"),
        ("--jobs 1025 100", "1025 is out of range"),
        ("--jobs 1 --jobs 1", "given twice"),
        ("--compress xz 100", "invalid choice"),
        ("--compress zstd --compress zstd", "given twice"),
        ("--max-size 0 100", "0 is too small"),
        ("--limit truncate 100", "--limit says what a limit costs: it takes --max-size or --max-time"),
        ("--limit smallest --max-size 1M 100", "invalid choice: 'smallest'"),
        ("--profile tiny 100", "invalid choice: 'tiny'"),
        ("--max-size 0.5 100", "0.5 is too small"),
        ("--max-size 1Q 100", "'1Q' is not a size"),
        ("--max-size 1MB 100", "'1MB' is not a size"),
        ("--max-size -1 100", "--max-size"),
        ("--max-size 1 --max-size 1", "given twice"),
        ("--max-time 0 100", "0 is too small"),
        ("--max-time 1d 100", "'1d' is not a duration"),
        ("--max-time inf 100", "'inf' is not a duration"),
        ("--max-time 1 --max-time 1", "given twice"),
        ("--progress loud 100", "invalid choice"),
        ("--progress json --progress json", "given twice"),
        ("-D nowhere 100", "not a directory"),
        ("-D vmcore 100", "not a directory"),
        ("--missing nothing 100", "invalid choice"),
        ("--symbols-from stabs 100", "invalid choice"),
        ("--architecture vax 100", "vax"),
        ("-s nowhere 100", "no such symbol file"),
        ("--debug-directory nowhere 100", "no such directory"),
        ("--kernel-directory nowhere 100", "no such directory"),
        ("--vmcoreinfo nowhere 100", "no such VMCOREINFO file"),
        ("--dry-run --report x 100", "--report"),
        ("--report vmcore 100", "exists"),
        ("--unknown 100", "unrecognized arguments: --unknown"),
        ("--forc 100", "unrecognized arguments: --forc"),
        ("init", "'init' is neither a PID nor"),
        ("100 0x", "'0x' is neither a PID nor"),
        ("-100", "'-100' is neither a PID nor"),
        ("ps 100", "unrecognized arguments: 100"),
        ("ps --force", "unrecognized arguments: --force"),
        ("check", "CORE"),
        ("check a b", "unrecognized arguments: b"),
        ("check nowhere", "no such core"),
    ],
)
def test_usage_errors_answer_before_the_dump_is_opened(
    kgcore: Kgcore, opener: Opener, tmp_path: Path, words: str, complaint: str
) -> None:
    status, out, err = kgcore(*words.split())
    assert (status, out, opener.places) == (2, "", [])
    assert complaint in err
    assert err.startswith("kgcore: ")
    assert err.count("\n") == 1
    assert leftovers(tmp_path) == []


def test_an_empty_name_is_an_unset_variable(kgcore: Kgcore, opener: Opener) -> None:
    assert kgcore("-c", "", COMPLETE).status == 2
    assert kgcore("-o", "", COMPLETE).status == 2
    assert opener.places == []


@pytest.mark.parametrize(
    "words",
    ["-v 4 -f 21 100 {task}", "100 -v 4 {task} -f 21", "100 {task} -v4 -f0x15", "-f 21 -- 100 {task}"],
)
def test_options_stand_anywhere(kgcore: Kgcore, opener: Opener, words: str) -> None:
    task = f"{task_address(LARGE):x}"
    status, out, _ = kgcore(*words.format(task=task).split())
    assert (status, out) == (0, "Saved core.100\nSaved core.600\n")
    assert opener.source.asked == ["100", task]


def test_all_place_options_reach_the_opener(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    for name in ("a", "b", "info", "d1", "d2", "k1"):
        (tmp_path / name).touch()
    kgcore(
        *"-c vmcore -s a -s b --symbols-from btf --debug-directory d1 --debug-directory d2".split(),
        *"--kernel-directory k1 --vmcoreinfo info --architecture X86_64 100".split(),
    )
    assert opener.places == [
        DumpLocation(
            core="vmcore",
            symbols=("a", "b"),
            symbols_from="btf",
            debug_directories=("d1", "d2"),
            kernel_directories=("k1",),
            vmcoreinfo="info",
            architecture="x86_64",
        )
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("-k 100", DumpLocation(live=True)), ("--qemu x:1 100", DumpLocation(qemu="x:1"))],
)
def test_a_live_kernel_needs_no_vmcore(
    kgcore: Kgcore, opener: Opener, tmp_path: Path, words: str, expected: DumpLocation
) -> None:
    (tmp_path / "vmcore").unlink()
    assert kgcore(*words.split()).status == 0
    assert opener.places == [expected]


def test_where_the_vmcore_is_looked_for(
    kgcore: Kgcore, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").touch()
    (tmp_path / "variable").touch()
    kgcore(COMPLETE)
    monkeypatch.setenv("KGCORE_VMCORE", "variable")
    kgcore(COMPLETE)
    kgcore("-c", "given", COMPLETE)
    assert [place.core for place in opener.places] == ["vmcore", "variable", "given"]
    assert [place.parts for place in opener.places] == [(), (), ()]


def test_a_split_set(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).touch()
    kgcore("-c", "one", COMPLETE, "--core", "two", "-c", "three")
    assert [(place.core, place.parts) for place in opener.places] == [("one", ("two", "three"))]
    assert kgcore("-c", "one", "-c", "nowhere", COMPLETE).status == 2


@pytest.mark.parametrize("words", ["-c nowhere 100", "100", "ps"])
def test_a_missing_vmcore_names_all_places_and_what_kdump_left(
    kgcore: Kgcore, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    (tmp_path / "vmcore").unlink()
    crashes = {"/var/crash/*/vmcore": ["/var/crash/2/vmcore"], "/var/crash/*/dump.*": ["/var/crash/1/dump.1"]}
    monkeypatch.setattr("glob.glob", lambda pattern: crashes[pattern])
    status, _, err = kgcore(*words.split())
    assert (status, opener.places) == (2, [])
    for name in ("-c", "$KGCORE_VMCORE", "./vmcore", "/var/crash/1/dump.1", "/var/crash/2/vmcore"):
        assert name in err


def test_the_variable_does_not_fall_back(kgcore: Kgcore, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGCORE_VMCORE", "/nowhere/vmcore")
    status, _, err = kgcore(COMPLETE)
    assert (status, opener.places) == (2, [])
    assert "'/nowhere/vmcore' (from $KGCORE_VMCORE)" in err


def test_version_and_help(kgcore: Kgcore, opener: Opener) -> None:
    assert kgcore("-V") == (0, f"kgcore {__version__}\n", "")
    status, out, err = kgcore(COMPLETE, "--help")
    assert (status, err, opener.places) == (0, "", [])
    for option in (
        *"-c -s -v -f -D -o -k -V --core --symbols --symbols-from --debug-directory --kernel-directory".split(),
        *"--vmcoreinfo --architecture --qemu --dontdump --dax --missing --force --dry-run --report".split(),
        *"--no-kgcore-note --swap --root --sysroot hugetlb".split(),
        *"--all --match --uid --jobs --compress --max-size --max-time --progress".split(),
    ):
        assert option in out
    assert "--json" in kgcore("ps", "-h").out
    assert "CORE" in kgcore("check", "-h").out


def test_every_command_is_named_in_the_help(kgcore: Kgcore) -> None:
    out = kgcore("--help").out
    for name in commands.COMMANDS:
        assert f"       kgcore {name} " in out
        assert f"\n  kgcore {name} " in out
        assert kgcore("-v", "0", name, "--help").out.startswith(f"usage: kgcore {name} ")


def test_a_command_loads_no_other(tmp_path: Path) -> None:
    """But the default one, whose options may stand in front of any name."""
    for name in commands.COMMANDS:
        program = (
            f"import sys; from kgcore.cli.main import main; main(['{name}', '--help']);"
            "print(*(name for name in sys.modules if name.startswith('kgcore.cli.commands.')), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), text=True)
        loaded = {f"kgcore.cli.commands.{one}" for one in ("dump", "dumping", "opening", name)}
        assert (done.returncode, set(done.stderr.split())) == (0, loaded)


def test_mistakes_need_neither_drgn_nor_rich() -> None:
    program = (
        "import sys; from kgcore.cli.main import main; main(['--help']); main(['-v', '8']);"
        "sys.exit(bool({'drgn', 'rich', 'construct', 'elftools'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment()).returncode == 0


# The order of work and the exit status


def test_arguments_are_worked_through_in_order_and_failures_do_not_stop(kgcore: Kgcore, opener: Opener) -> None:
    status, out, err = kgcore(KERNEL_THREAD, COMPLETE, ZOMBIE, UNKNOWN, DEFECT, f"{task_address(LARGE):#x}")
    assert status == 1
    assert out == "Saved core.100\nSaved core.600\n"
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "kgcore: 2",
        "kgcore: 300",
        "kgcore: no thread has the id 404",
        "kgcore: 666: unexpected RuntimeError: a defect",
    ]
    assert opener.source.asked == ["2", "100", "300", "404", "666", f"{task_address(LARGE):#x}"]


def test_library_errors_show_where_a_defect_lies(kgcore: Kgcore) -> None:
    assert "Traceback" in kgcore("-v", "2", DEFECT).err
    assert "Traceback" not in kgcore("-v", "2", UNKNOWN).err
    assert "Traceback" not in kgcore("-v", "5", DEFECT).err


@pytest.mark.parametrize(
    ("pids", "status"),
    [
        ([COMPLETE], 0),
        ([INCOMPLETE], 3),
        ([COMPLETE, INCOMPLETE], 3),
        ([UNKNOWN], 1),
        ([UNKNOWN, COMPLETE], 1),
        ([INCOMPLETE, UNKNOWN], 1),
    ],
)
def test_exit_status(kgcore: Kgcore, pids: list[int], status: int) -> None:
    assert kgcore(*pids).status == status


def test_a_dump_that_cannot_be_opened(kgcore: Kgcore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TargetError("vmcore is no dump", hint="try file vmcore")

    monkeypatch.setattr(opening, "opened", broken)
    assert kgcore(COMPLETE) == (1, "", "kgcore: vmcore is no dump (try file vmcore)\n")


def test_messages_are_harmless_lines(kgcore: Kgcore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TargetError("\x1b[31mred\nnot a line of its own")

    monkeypatch.setattr(opening, "opened", broken)
    assert kgcore(COMPLETE).err == "kgcore: \\x1b[31mred\\nnot a line of its own\n"


def test_a_defect_while_opening_gives_a_reason_and_no_traceback(
    kgcore: Kgcore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(opening, "opened", broken)
    status, _, err = kgcore(COMPLETE)
    assert (status, err.count("\n")) == (1, 1)
    assert "KeyError" in err
    assert "Traceback" in kgcore("-v", "2", COMPLETE).err


def test_no_argument_is_the_current_process(kgcore: Kgcore, opener: Opener) -> None:
    status, _, err = kgcore()
    assert status == 1
    assert "kgcore ps" in err
    opener.source.current = THREAD
    assert kgcore() == (0, "Saved core.100\n", "")


def test_what_is_missing_is_told_by_default_range_by_range(kgcore: Kgcore) -> None:
    _, out, err = kgcore(INCOMPLETE)
    assert out == "Saved core.200\n"
    assert "7f0000001000-7f0000002000" in err
    assert "swapped (swap 0)" in err
    _, _, quiet = kgcore("-v", "0", "--force", INCOMPLETE)
    assert "7f0000001000" not in quiet
    assert "MISSING" in quiet


def test_a_complete_core_needs_no_words(kgcore: Kgcore) -> None:
    assert kgcore("-v", "7", COMPLETE).err == ""


def test_options_reach_the_core(kgcore: Kgcore, tmp_path: Path) -> None:
    def core(*words: str) -> bytes:
        kgcore(*words, "--force", INCOMPLETE)
        return (tmp_path / f"core.{INCOMPLETE}").read_bytes()

    default = core()
    assert core("-f", "51", "--missing", "omit") == default
    assert core("-f", "process") == default
    assert len(core("-f", "0")) < len(default)
    assert len(core("-f", "process", "--missing", "zero")) == len(default) + 4096
    assert b"KGCORE\0" in default
    assert b"KGCORE\0" not in core("--no-kgcore-note")


def test_marked_memory_is_written_when_asked_for(kgcore: Kgcore, tmp_path: Path) -> None:
    def size(*words: str) -> int:
        kgcore(*words, "--no-kgcore-note", "--force", MARKED)
        return (tmp_path / f"core.{MARKED}").stat().st_size

    assert size("--dontdump") == size("--dax") == size() + 4096
    assert size("--dontdump", "--dax") == size() + 8192


# Files


def test_cores_are_private_files_in_the_directory_asked_for(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert kgcore("-D", "d", THREAD).out == "Saved core.100\n"
    core = tmp_path / "d" / "core.100"
    assert stat.S_IMODE(core.stat().st_mode) == 0o600
    assert core.read_bytes()[:4] == b"\x7fELF"
    kgcore("-o", "exact", COMPLETE)
    assert leftovers(tmp_path) == ["d", "exact"]
    assert leftovers(tmp_path / "d") == ["core.100"]


def test_existing_files_stay(kgcore: Kgcore, tmp_path: Path) -> None:
    core = tmp_path / "core.100"
    core.write_text("precious")
    status, out, err = kgcore(COMPLETE)
    assert (status, out, core.read_text()) == (1, "", "precious")
    assert "core.100 exists" in err
    assert kgcore("--force", COMPLETE).status == 0
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert leftovers(tmp_path) == ["core.100"]


def test_what_the_run_itself_wrote_may_be_overwritten(kgcore: Kgcore, tmp_path: Path) -> None:
    """The same process under two names: the second core has the other thread first."""
    assert kgcore(COMPLETE, THREAD) == (0, "Saved core.100\nSaved core.100\n", "")
    twice = (tmp_path / "core.100").read_bytes()
    kgcore("--force", THREAD)
    assert (tmp_path / "core.100").read_bytes() == twice


def test_what_the_run_failed_to_write_is_not_its_own(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "core.100").write_text("precious")
    status, out, err = kgcore(COMPLETE, THREAD)
    assert (status, out, err.count("exists")) == (1, "", 2)
    assert (tmp_path / "core.100").read_text() == "precious"


def test_a_core_written_does_not_permit_to_overwrite_another(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "core.600").write_text("precious")
    assert kgcore(COMPLETE, LARGE).status == 1
    assert (tmp_path / "core.600").read_text() == "precious"


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_symbolic_links_are_not_followed(kgcore: Kgcore, tmp_path: Path, force: list[str], target: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "core.100").symlink_to(target)
    assert kgcore(*force, COMPLETE).status == 1
    assert (tmp_path / "victim").read_text() == "precious"
    assert leftovers(tmp_path) == ["core.100", "victim"]


def test_dry_run_shows_the_plan_and_writes_nothing(kgcore: Kgcore, tmp_path: Path) -> None:
    status, out, _ = kgcore("--dry-run", INCOMPLETE, COMPLETE)
    assert status == 0
    assert re.search(r"^7f0000000000-7f0000003000 +rw-p +anon-private +8192 +4096 +0 +0$", out, re.MULTILINE)
    assert re.search(r"^process 100 .*core of 16.0 KiB$", out, re.MULTILINE)
    assert "Saved" not in out
    assert leftovers(tmp_path) == []
    assert kgcore("--dry-run", UNKNOWN).status == 1


def test_report(kgcore: Kgcore, tmp_path: Path) -> None:
    kgcore(INCOMPLETE, UNKNOWN, COMPLETE, "--report", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["version"], report["status"]) == (1, 1)
    assert [(one["tgid"], one["complete"]) for one in report["processes"]] == [(200, False), (100, True)]
    assert report["processes"][0]["missing"][0]["reason"] == "swapped"
    assert [failure["task"] for failure in report["failures"]] == ["404"]
    assert "no thread" in report["failures"][0]["reason"]
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o600
    assert kgcore(COMPLETE, "--force", "--report", "report.json").status == 0


def test_supplies_reach_the_source(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    """docs/cli.md: kgcore --swap /dev/sda2=sda2.img --root / 12345"""
    for name in ("sda2.img", "a=b"):
        (tmp_path / name).touch()
    assert kgcore("--swap", "/dev/sda2=sda2.img", "--root", "/", COMPLETE, "--swap", "/swap file=a=b").status == 0
    assert opener.user_files == [UserFiles({"/dev/sda2": "sda2.img", "/swap file": "a=b"}, "/")]
    kgcore("--force", COMPLETE)
    assert opener.user_files[1] == NO_USER_FILES


# Several processes


def test_all_that_have_memory(kgcore: Kgcore, tmp_path: Path) -> None:
    """Kernel threads and zombies are no failures."""
    status, out, err = kgcore("--all", "-v", "0")
    assert (status, out) == (3, "Saved core.100\nSaved core.200\n")
    assert "kthreadd" not in err
    assert leftovers(tmp_path) == ["core.100", "core.200"]


@pytest.mark.parametrize(
    ("words", "saved"),
    [
        ("--match work", [100]),
        ("--match [[]red]*", [100]),
        (r"--match \x1b*", [200]),
        ("--match work --match \\\\x1b*", [100, 200]),
        ("--uid 1000", [100]),
        ("--uid 0 --uid 1000", [100, 200]),
        ("--uid 1000 --match *", [100]),
        ("--match work 600", [600, 100]),
        ("--match work 100", [100]),
        ("--match work 101", [100]),
        ("101 --all 200", [100, 200]),
    ],
)
def test_patterns_and_users(kgcore: Kgcore, opener: Opener, words: str, saved: list[int]) -> None:
    """Those that are named come first, and each process once."""
    assert kgcore("-v", "0", *words.replace("\\\\", "\\").split()).out == "".join(
        f"Saved core.{pid}\n" for pid in saved
    )


@pytest.mark.parametrize("words", ["--match kthreadd", "--match dead", "--uid 7", "--match work --uid 0"])
def test_nothing_that_fits(kgcore: Kgcore, tmp_path: Path, words: str) -> None:
    status, out, err = kgcore(*words.split(), "--report", "r.json")
    assert (status, out) == (1, "")
    assert err == f"kgcore: no process matches {words} (kgcore ps lists the processes in the dump)\n"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [failure["task"] for failure in report["failures"]] == [words]


def test_one_of_a_pattern_may_go_to_a_file(kgcore: Kgcore, tmp_path: Path) -> None:
    assert kgcore("--match", "work", "-o", "exact").status == 0
    status, out, err = kgcore("--all", "-o", "none")
    assert (status, out) == (1, "")
    assert err.startswith("kgcore: -o takes one process, but 2 match --all: 100, 200 (use -D DIR")
    assert leftovers(tmp_path) == ["exact"]
    done = subprocess.run(command("-o", "-", "--match", "work"), cwd=tmp_path, env=environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (0, (tmp_path / "exact").read_bytes())


def test_a_list_that_breaks_off_costs_what_is_behind(
    kgcore: Kgcore, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(opener.source.processes())

    def broken(upto: int) -> Iterator[ProcessSummary]:
        yield from whole[:upto]
        raise BrokenDump("the list of processes is broken")

    monkeypatch.setattr(opener.source, "processes", lambda: broken(2))
    told = "kgcore: the list of processes is broken\n"
    assert kgcore("--all") == (1, "Saved core.100\n", told)
    monkeypatch.setattr(opener.source, "processes", lambda: broken(0))
    assert kgcore("--match", "work") == (1, "", told)


# Compressed


def test_compressed_cores(kgcore: Kgcore, tmp_path: Path) -> None:
    kgcore(LARGE, "--force")
    plain = (tmp_path / "core.600").read_bytes()
    assert kgcore("--compress", "gzip", LARGE) == (0, "Saved core.600.gz\n", "")
    assert gzip.decompress((tmp_path / "core.600.gz").read_bytes()) == plain
    kgcore("--compress", "gzip", "-o", "exact", LARGE, "--jobs", "2")
    assert (tmp_path / "exact").read_bytes() == (tmp_path / "core.600.gz").read_bytes()
    assert leftovers(tmp_path) == ["core.600", "core.600.gz", "exact"]
    assert stat.S_IMODE((tmp_path / "core.600.gz").stat().st_mode) == 0o600
    words = command("--compress", "gzip", "-o", "-", LARGE)
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True)
    assert (done.stdout, done.stderr) == ((tmp_path / "exact").read_bytes(), b"Saved core.600.gz\n")


def test_a_library_that_is_missing_is_told_at_once(
    kgcore: Kgcore, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    status, out, err = kgcore("--compress", "zstd", COMPLETE)
    assert (status, out, opener.places) == (2, "", [])
    assert "zstandard" in err
    assert "kgcore[formats]" in err


# Limits


def test_a_size_limit_cuts_a_core_and_says_so_in_a_line(kgcore: Kgcore, tmp_path: Path) -> None:
    status, out, err = kgcore("--max-size", "1M", "--report", "r.json", LARGE, COMPLETE)
    assert (status, out) == (1, "Saved core.600\n")
    assert [line for line in err.splitlines() if "limit" in line and "memory:" not in line] == [
        "kgcore: CUT SHORT: reached the size limit of 1.00 MiB: the file ends after 0.99 MiB and lacks 19.0 MiB of "
        "memory, 1 range; debuggers cannot read them",
        "kgcore: not written: 100: reached the size limit of 1.00 MiB",
    ]
    assert (tmp_path / "core.600").stat().st_size <= 1 << 20
    report = json.loads((tmp_path / "r.json").read_text())
    (core,) = report["processes"]
    assert core["size"] == (tmp_path / "core.600").stat().st_size > (1 << 20) - 4 * 4096
    assert core["limit"] == "reached the size limit of 1.00 MiB"
    assert [gap["reason"] for gap in core["missing"]] == ["limit"]
    assert core["account"]["missing"] == {"limit": core["missing_bytes"]}
    assert (
        sum(core["account"][key] for key in ("present", "zero", "filtered")) + core["missing_bytes"]
        == (core["account"]["total"])
    )
    assert report["failures"] == [{"task": "100", "reason": "not written: reached the size limit of 1.00 MiB"}]
    status, out, _ = kgcore("check", "core.600")
    assert status == 3
    assert "core.600: ok, INCOMPLETE" in out
    assert "limit: priority, at most 1.00 MiB of cores" in out
    assert "19.0 MiB: limit (reached the size limit of 1.00 MiB)" in out


def test_what_a_limit_costs_and_a_small_core(kgcore: Kgcore, tmp_path: Path) -> None:
    for rule, health in (("priority", "ok"), ("largest-first", "ok"), ("truncate", "CUT SHORT")):
        assert kgcore("--max-size", "1M", "--limit", rule, "--force", LARGE).status == 3
        _, out, _ = kgcore("check", "core.600")
        assert f"core.600: {health}, INCOMPLETE" in out
        assert f"limit: {rule}, at most 1.00 MiB of cores" in out
    assert kgcore("--profile", "mini", "--force", LARGE) == (0, "Saved core.600\n", "")
    assert (tmp_path / "core.600").stat().st_size < 1 << 16
    assert kgcore("check", "core.600").status == 0


def test_one_that_is_cut_is_incomplete(kgcore: Kgcore) -> None:
    assert kgcore("--max-size", "1M", LARGE).status == 3
    assert kgcore("--max-size", "21M", "--max-time", "1h", LARGE, "--force") == (0, "Saved core.600\n", "")


def test_what_a_limit_kept_from_being_begun_is_one_line(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    opener.seconds = 0.01  # they count, too
    status, out, err = kgcore("--max-time", "0.001", "--report", "r.json", *[COMPLETE] * 12, INCOMPLETE)
    assert (status, out) == (1, "")
    named = ", ".join(["100"] * 10)
    assert err == f"kgcore: not written: {named} and 3 more: reached the time limit of 0.001 s\n"
    assert len(json.loads((tmp_path / "r.json").read_text())["failures"]) == 13
    assert kgcore("--max-time", "0.001", "--dry-run", COMPLETE).status == 0


# Programs and libraries


def test_sysroot(kgcore: Kgcore, tmp_path: Path) -> None:
    """docs/cli.md: kgcore --sysroot dir 12345"""
    status, out, err = kgcore("--sysroot", "dir", COMPLETE)
    assert (status, out) == (0, "Saved core.100\n")
    assert err == "kgcore: sysroot dir: 1 file, all complete\n"
    assert (tmp_path / "dir/bin/work").read_bytes() == ELF
    assert stat.S_IMODE((tmp_path / "dir").stat().st_mode) == 0o700
    status, out, err = kgcore("check", "dir")
    assert (status, err) == (0, "")
    assert out == "dir: ok, complete\n1 file, 1 complete\ncomplete: /bin/work: 8.27 KiB, no symbols\n"


def test_a_sysroot_that_is_not_whole(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    status, out, err = kgcore("--sysroot", "dir", "--report", "r.json", INCOMPLETE, COMPLETE)
    assert (status, out) == (3, "Saved core.200\nSaved core.100\n")
    told = [line for line in err.splitlines() if "sysroot" in line or "/lib" in line]
    assert told == [
        "kgcore: sysroot dir: 2 files, 1 complete, 4.00 KiB missing",
        r"kgcore:   /lib/\x1b[31m[red]\xff\n: 4.00 KiB of 8.27 KiB missing: file",
        "kgcore: sysroot dir: 1 file, all as before",
    ]
    processes = json.loads((tmp_path / "r.json").read_text())["processes"]
    (first, second) = (process["sysroot"] for process in processes)
    assert (first["directory"], first["complete"], first["whole"], first["missing_bytes"]) == ("dir", False, 1, 4096)
    assert (second["complete"], second["whole"], second["missing_bytes"]) == (True, 1, 0)
    assert [file["missing"] for file in first["files"]] == [[], [[4096, 8192, "file", ""]]]
    assert kgcore("check", "dir").status == 3
    verdict = json.loads(kgcore("check", "--json", "dir").out)
    assert (verdict["version"], verdict["ok"], verdict["complete"]) == (1, True, False)
    assert [file["whole"] for file in verdict["files"]] == [True, False]
    quiet = kgcore("-v", "0", "--force", "--sysroot", "dir", INCOMPLETE)
    assert "sysroot dir: 2 files" in quiet.err
    assert "/lib/" not in quiet.err


def test_without_sysroot_the_report_has_none(kgcore: Kgcore, tmp_path: Path) -> None:
    kgcore("--report", "r.json", COMPLETE)
    assert "sysroot" not in json.loads((tmp_path / "r.json").read_text())["processes"][0]


def test_a_dry_run_writes_no_sysroot(kgcore: Kgcore, tmp_path: Path) -> None:
    assert kgcore("--dry-run", "--sysroot", "dir", COMPLETE).status == 0
    assert leftovers(tmp_path) == []


def test_a_sysroot_beside_a_pipe(kgcore: Kgcore, tmp_path: Path) -> None:
    words = command("--sysroot", "dir", "-o", "-", COMPLETE)
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0
    assert done.stdout[:4] == b"\x7fELF"
    assert done.stderr == b"Saved core.100\nkgcore: sysroot dir: 1 file, all complete\n"


def test_files_of_a_sysroot_are_not_overwritten(kgcore: Kgcore, tmp_path: Path) -> None:
    """The core is there all the same, and the rest of the sysroot too."""
    (tmp_path / "dir/bin").mkdir(parents=True)
    (tmp_path / "dir/bin/work").write_text("precious")
    status, out, err = kgcore("--sysroot", "dir", INCOMPLETE, COMPLETE)
    assert (status, out) == (1, "Saved core.200\nSaved core.100\n")
    assert err.count("dir/bin/work exists (--force replaces it)") == 2
    assert (tmp_path / "dir/bin/work").read_text() == "precious"
    assert len(leftovers(tmp_path / "dir/lib")) == 1
    assert kgcore("--sysroot", "dir", "--force", COMPLETE).status == 0
    assert (tmp_path / "dir/bin/work").read_bytes() == ELF


def test_a_directory_that_is_no_sysroot(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    status, out, err = kgcore("check", "dir")
    assert (status, out) == (1, "")
    assert err == (
        "kgcore: dir is not a sysroot: it has no kgcore-sysroot.json "
        "(kgcore check takes a core, or a directory that --sysroot wrote)\n"
    )
    (tmp_path / "dir/kgcore-sysroot.json").write_text("{}")
    assert "is invalid" in kgcore("check", "dir").err


# Sub-commands


def test_ps_in_a_pipe_is_plain_and_whole(kgcore: Kgcore) -> None:
    status, out, err = kgcore("ps")
    assert (status, err) == (0, "")
    rows = [line.split(maxsplit=9) for line in out.splitlines()]
    estimates = ["~CORE/KiB", "~HELD/KiB"]
    assert rows[0] == ["PID", "PPID", "UID", "THREADS", "RSS/KiB", *estimates, "S", "COMM", "COMMAND"]
    assert rows[1] == ["2", "0", "0", "1", "0", "0", "0", "S", "kthreadd", "[kthreadd]"]
    assert rows[2] == ["100", "1", "1000", "2", "12", "0", "0", "R", "[red]work", "/bin/work -x " + "long" * 60]
    assert rows[3] == ["200", "1", "0", "1", "4", "0", "0", "S", r"\x1b[31m[red]\xff\n", "?"]


def test_ps_json(kgcore: Kgcore, opener: Opener) -> None:
    status, out, _ = kgcore("-c", "vmcore", "ps", "--json")
    listing = json.loads(out)
    assert (status, listing["version"]) == (0, 1)
    assert [one["pid"] for one in listing["processes"]] == [2, 100, 200, 300]
    assert listing["processes"][1]["args"] == ["/bin/work", "-x", "long" * 60]
    assert listing["processes"][0]["args"] == []
    assert listing["processes"][2]["args"] is None
    assert "\x1b" not in out
    assert [place.core for place in opener.places] == ["vmcore"]


def test_ps_shows_what_it_has_of_a_broken_list(kgcore: Kgcore, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[ProcessSummary]:
        yield next(FakeSource().processes())
        raise TargetError("the task list is broken")

    monkeypatch.setattr(opener.source, "processes", broken)
    status, out, err = kgcore("ps")
    assert status == 1
    assert "kthreadd" in out
    assert "the task list is broken" in err


def test_a_file_may_be_called_like_a_sub_command(kgcore: Kgcore, tmp_path: Path) -> None:
    assert kgcore("-o", "ps", COMPLETE).status == 0
    assert leftovers(tmp_path) == ["ps"]


def test_check(kgcore: Kgcore, opener: Opener, tmp_path: Path) -> None:
    kgcore(COMPLETE, INCOMPLETE)
    opener.places.clear()
    assert kgcore("check", "core.100").status == 0
    assert kgcore("check", "core.200").status == 3
    assert json.loads(kgcore("check", "--json", "core.200").out)
    (tmp_path / "core.100").write_bytes(b"no core at all")
    assert kgcore("check", "core.100").status == 1
    assert opener.places == []


# Standard output, pipes, full disks, signals: processes of their own


def test_the_core_goes_to_standard_output_and_nothing_else_does(kgcore: Kgcore, tmp_path: Path) -> None:
    kgcore(COMPLETE)
    done = subprocess.run(command("-o", "-", COMPLETE), cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "core.100").read_bytes()
    assert done.stderr == b"Saved core.100\n"


def test_no_core_on_a_terminal(kgcore: Kgcore, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, out, err = kgcore("-o", "-", COMPLETE)
    assert (status, out, opener.places) == (2, "", [])
    assert "terminal" in err


def test_a_reader_that_goes_away(kgcore: Kgcore, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("-o", "-", LARGE), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(4) == b"\x7fELF"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(30) == 1
    assert "pipe" in err
    assert err.count("\n") == 1
    assert leftovers(tmp_path) == []


def test_a_listing_that_nobody_reads(kgcore: Kgcore, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("ps"), cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"kgcore: the reader of standard output closed it\n")


@pytest.mark.parametrize(
    "words", [["-o", "-", COMPLETE], ["ps"], ["ps", "--json"], ["--help"], ["--dry-run", COMPLETE]]
)
def test_a_full_device(kgcore: Kgcore, tmp_path: Path, words: list[object]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*words), cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_cannot_grow(kgcore: Kgcore, tmp_path: Path) -> None:
    """ulimit -f stands for the full disk: the write fails half-way. The process after it has room."""
    done = subprocess.run(
        command(LARGE, COMPLETE),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE_SIZE // 2, LARGE_SIZE // 2)),
    )
    assert (done.returncode, done.stdout) == (1, b"Saved core.100\n")
    assert b"core.600" in done.stderr
    assert leftovers(tmp_path) == ["core.100"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_only_whole_cores(kgcore: Kgcore, tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command(COMPLETE, ENDLESS, LARGE),
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "half-way\n"
    assert any(name.endswith(".tmp") for name in leftovers(tmp_path))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -number
    assert out == "Saved core.100\n"
    assert err == f"kgcore: stopped by {number.name}; removed the incomplete core\n"
    assert leftovers(tmp_path) == ["core.100"]


def test_a_signal_ends_the_progress(kgcore: Kgcore, tmp_path: Path) -> None:
    """For programs by its last line, on a terminal with the cursor, which the bar hides."""
    process = subprocess.Popen(
        command("--progress", "json", "--jobs", 1, ENDLESS),
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while process.stderr.readline() != "half-way\n":
        pass
    process.terminate()
    _, err = process.communicate(timeout=30)
    last = json.loads(next(line for line in err.splitlines() if line.startswith("{")))
    assert (process.returncode, last["event"], last["written"]) == (-signal.SIGTERM, "end", False)

    primary, secondary = pty.openpty()
    shown = subprocess.Popen(
        command("-v", 1, "--jobs", 1, ENDLESS),
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
        cwd=tmp_path,
        env=environment() | {"TERM": "xterm"},
        stderr=secondary,
    )
    os.close(secondary)
    seen = b""
    while b"half-way" not in seen:
        seen += os.read(primary, 65536)
    shown.terminate()
    with suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(primary, 65536):
            seen += piece
    os.close(primary)
    assert shown.wait(30) == -signal.SIGTERM
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")


def test_an_ignored_signal_stays_ignored(kgcore: Kgcore, tmp_path: Path) -> None:
    """nohup kgcore ... must survive the end of the session."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            command("--jobs", 1, ENDLESS),
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    process.communicate()


def test_no_escape_sequences_in_a_pipe(kgcore: Kgcore) -> None:
    for words in (["ps"], ["--dry-run", INCOMPLETE], ["-v", "7", INCOMPLETE, UNKNOWN]):
        _, out, err = kgcore(*words)
        assert "\x1b" not in out + err


def on_terminal(tmp_path: Path, *words: object, **variables: str) -> str:
    """Run with a terminal for standard output and standard error, and return what it saw."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment() | variables, stdout=secondary, stderr=secondary
    )
    os.close(secondary)
    seen = b""
    while True:
        try:
            piece = os.read(primary, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(primary)
    process.wait(30)
    return seen.decode()


def test_progress_on_a_terminal_only_when_asked(kgcore: Kgcore, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert "core.600" in on_terminal(tmp_path, "-v", "1", LARGE, TERM="xterm").replace("Saved core.600", "")
    assert "core.600" not in on_terminal(tmp_path, "-D", "d", LARGE, TERM="xterm").replace("Saved core.600", "")


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_for_programs(kgcore: Kgcore, jobs: int) -> None:
    """docs/progress.md"""
    status, out, err = kgcore("--progress", "json", "--jobs", jobs, UNKNOWN, LARGE, INCOMPLETE)
    assert (status, out) == (1, "Saved core.600\nSaved core.200\n")
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    ends = [line for line in lines if line["event"] != "progress"]
    assert [(line["event"], line["tgid"], line["index"], line["count"], line["done"]) for line in ends] == [
        ("start", 600, 2, 3, 0),
        ("end", 600, 2, 3, LARGE_SIZE),
        ("start", 200, 3, 3, 0),
        ("end", 200, 3, 3, 8192),
    ]
    assert [line["total"] for line in ends] == [LARGE_SIZE, LARGE_SIZE, 8192, 8192]
    assert ends[2]["comm"] == "\x1b[31m[red]\\xff\n"
    assert ends[1]["written"] is True
    document = (ROOT / "docs/progress.md").read_text()
    for key in ends[1]:
        assert f"`{key}`" in document
    others = [line for line in err.splitlines() if not line.startswith("{")]
    assert all(line.startswith(("kgcore: ", "Saved ")) for line in others)


def test_progress_of_what_fails(kgcore: Kgcore) -> None:
    lines = kgcore("--progress", "json", DEFECT).err.splitlines()
    assert [json.loads(line)["event"] for line in lines[:2]] == ["start", "end"]
    assert json.loads(lines[1])["written"] is False


def test_progress_on_a_terminal_does_not_keep_from_forking(kgcore: Kgcore, tmp_path: Path) -> None:
    """The bar says which one it is; and the writer may fork while it is there."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, kgcore.coredump.workers as w\nfork = os.fork\n"
        "def counted():\n    open('forks', 'a').write('x')\n    return fork()\nos.fork = counted\n"
    )
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    seen = on_terminal(tmp_path, "-v", "1", "--jobs", "2", LARGE, COMPLETE, TERM="xterm", PYTHONPATH=path)
    assert "core.600 (1 of 2)" in seen
    assert (tmp_path / "forks").read_text() == "xx"
    (tmp_path / "forks").unlink()
    seen = on_terminal(tmp_path, "-v", "1", "--progress", "never", "--force", LARGE, TERM="xterm", PYTHONPATH=path)
    assert "core.600" not in seen.replace("Saved core.600", "")


def test_hostile_names_on_a_terminal(kgcore: Kgcore, tmp_path: Path) -> None:
    seen = on_terminal(tmp_path, "ps", TERM="xterm", COLUMNS="200", NO_COLOR="1")
    assert r"\x1b[31m[red]\xff\n" in seen
    assert "[red]work" in seen
    assert "\x1b[31m" not in seen
