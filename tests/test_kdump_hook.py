# SPDX-License-Identifier: LGPL-2.1-or-later
"""The script of contrib/kdump with programs that misbehave in kgcore's place: it ends in time, says why, exits with 0.

With the real kgcore in a real capture kernel: tests/vmcore/test_kdump.py.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from kgcore.cli.values import duration, size
from tests.signals import dumps_no_core

HOOK = Path(__file__).parent.parent / "contrib" / "kdump" / "kgcore-kdump"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "ash"]}
SHELL = SHELLS["dash" if shutil.which("dash") else "bash"]
# What a program in kgcore's place begins with: the directory of -D.
DIRECTORY = 'while [ "$1" != -D ]; do shift; done; cd "$2" || exit 9\n'


@dataclass
class Hook:
    """A hook that is configured, and tried on a machine that runs.

    :ivar programs: a directory that comes first in PATH.
    """

    folder: Path
    programs: Path

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def configure(self, *lines: str) -> None:
        usual = (f"kgcore={self.programs}/kgcore", f"directory={self.folder}/crash", f"vmcore={self.folder}/vmcore",
                 "keep_free=0K")  # fmt: skip
        (self.folder / "conf").write_text("".join(f"{line}\n" for line in (*usual, *lines)))

    def run(self, shell: list[str] = SHELL, **environment: str) -> list[str]:
        """What it says; its exit status is always 0."""
        path = f"{self.programs}:{os.environ['PATH']}"
        done = subprocess.run(
            [*shell, str(HOOK)],
            preexec_fn=dumps_no_core,
            env={"PATH": path, "KGCORE_KDUMP_CONF": str(self.folder / "conf"), **environment},
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode, done.stdout) == (0, b"")
        lines = done.stderr.decode(errors="replace").split("\n")
        assert lines.pop() == ""
        assert all(line.startswith("kgcore-kdump: ") for line in lines), lines
        return [line.removeprefix("kgcore-kdump: ") for line in lines]

    @property
    def target(self) -> Path:
        (found,) = (self.folder / "crash").iterdir()
        return found


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    (tmp_path / "programs").mkdir()
    (tmp_path / "vmcore").write_text("a dump")
    made = Hook(tmp_path, tmp_path / "programs")
    made.configure()
    made.program("sleep", "exec /usr/bin/sleep 0.05")
    made.program("kgcore", f'echo "$@" > {tmp_path}/words; {DIRECTORY} echo core > core.1.zst; echo Saved core.1.zst')
    return made


def words(hook: Hook) -> list[str]:
    return (hook.folder / "words").read_text().split()


def test_shellcheck() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", HOOK], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", SHELLS)
def test_what_kgcore_is_asked_for(hook: Hook, name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    hook.configure("# a comment", "match=mysql*", "match=[ab]?", "uid=33", "max_time=2m", "max_size=3M", "filter=0x33")
    lines = hook.run(SHELLS[name])
    assert words(hook) == [
        *f"-c {hook.folder}/vmcore --symbols-from btf -v 0 --match=mysql* --match=[ab]? --uid=33".split(),
        *"--compress zstd -f 0x33 --max-time 120s --max-size 3072K".split(),
        *f"-D {hook.target} --report {hook.target}/report.json".split(),
    ]
    assert lines[1:] == ["Saved core.1.zst", "done"]
    assert re.fullmatch(r"kgcore-\d{14}-\w{6}", hook.target.name)
    assert hook.target.stat().st_mode & 0o777 == 0o700


def test_nothing_named(hook: Hook) -> None:
    """Then kgcore takes the process that was current; and here without compression."""
    hook.configure("compress=none")
    hook.run()
    assert not any(word.startswith("--match") for word in words(hook))
    assert "--compress" not in words(hook)


def test_debians_directory(hook: Hook) -> None:
    (hook.folder / "conf").write_text(f"kgcore={hook.programs}/kgcore\nvmcore={hook.folder}/vmcore\nkeep_free=0K\n")
    hook.run(KDUMP_COREDIR=str(hook.folder / "crash"))
    assert (hook.target / "core.1.zst").exists()


def test_limits_hold_for_kgcore(hook: Hook) -> None:
    """It is the first that the kernel kills, and its memory is limited to less than there is."""
    hook.program("kgcore", "cat /proc/self/oom_score_adj; ulimit -d")
    score, memory = hook.run()[1:3]
    total = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    assert total is not None
    assert score == "1000"
    assert 0 < int(memory) <= int(total[1]) * 3 // 4  # of what was available then, which others change all the time


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo wrong >&2; exit 1", ["wrong", "kgcore failed with status 1"]),
        ("exit 3", ["done, but not every core is complete"]),
        ("kill -9 $$", ["kgcore was stopped after"]),
        ("kill -SEGV $$", ["kgcore failed with status 139"]),
        ("printf '\\377 \\\\x1b \\\\c'", ["\ufffd \\x1b \\c", "done"]),
        ("seq 1000", ["981", "982"]),
    ],
)
def test_kgcore_fails(hook: Hook, text: str, said: list[str]) -> None:
    hook.program("kgcore", text)
    lines = hook.run()[1:]
    assert len(lines) < 25
    for line, start in zip(lines, said, strict=False):
        assert line.startswith(start)


def test_no_kgcore(hook: Hook) -> None:
    (hook.programs / "kgcore").unlink()
    assert hook.run()[-1] == "kgcore failed with status 127"


def test_no_timeout_program(hook: Hook) -> None:
    hook.program("timeout", "exit 127")
    assert hook.run()[-1] == "kgcore failed with status 127"


def test_kgcore_does_not_end(hook: Hook) -> None:
    """timeout(1) ends it, also when it does not listen; what it had begun to write is gone."""
    hook.program("kgcore", f"trap '' TERM; {DIRECTORY} echo begun > .core.1.0123abcd.tmp; while :; do sleep 1; done")
    hook.program("timeout", 'echo "$1 $2 $3"; shift 3; exec /usr/bin/timeout -k 0.2 0.5 "$@"')
    hook.configure("max_time=7s")
    lines = hook.run()
    assert lines[1] == "-k 10 37"
    assert lines[-1].startswith("kgcore was stopped after")
    assert [path.name for path in hook.target.iterdir()] == ["log"]


def test_kgcore_hangs_in_the_kernel(hook: Hook) -> None:
    """Not even SIGKILL helps then, and waiting for it would hang too."""
    hook.program("timeout", f"echo $$ > {hook.folder}/pid; exec /usr/bin/sleep 50")
    hook.configure("max_time=1s")
    try:
        assert hook.run()[-1] == "kgcore was stopped after 61 s"
    finally:
        os.kill(int((hook.folder / "pid").read_text()), 9)


@pytest.mark.parametrize(
    "line",
    [
        *("nonsense", "exit 1", "$(touch x)", "'", "max_time=08s", "max_time=5", "max_time=$((1/0))s", "max_time=0s"),
        *("max_size=1234567T", "max_size=1P", "max_time=1234567890h", "uid=root", "uid=-1", "filter=128", "filter=-x"),
        *(
            "filter=0x80",
            "filter=",
            "uid=",
            "filter=051",
            "max_size=-1K",
            "max_size=K",
            "keep_free=12345678901234567K",
            "compress=lzma",
            "kgcore=relative",
            "match=",
        ),
    ],
)
def test_configuration_that_is_not_understood(hook: Hook, line: str) -> None:
    """It is said, and the defaults hold."""
    hook.configure(line)
    lines = hook.run()
    assert lines[0] == f"{hook.folder}/conf: not understood: {line}"
    assert lines[-1] == "done"
    assert "--compress zstd -f 51 --max-time 120s --max-size 2097152K" in " ".join(words(hook))


@pytest.mark.parametrize("name", SHELLS)
def test_words_that_look_like_options(hook: Hook, name: str) -> None:
    """A name is a name, whatever it begins with."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    hook.configure("match=-foo", "match=--force", "match=a b", "filter=process", "uid=4294967294")
    hook.program("kgcore", f'for word; do echo "<$word>"; done > {hook.folder}/words')
    hook.run(SHELLS[name])
    asked = (hook.folder / "words").read_text().splitlines()
    assert asked[5:10] == ["<0>", "<--match=-foo>", "<--match=--force>", "<--match=a b>", "<--uid=4294967294>"]
    assert asked[asked.index("<-f>") + 1] == "<process>"


@pytest.mark.parametrize(
    ("line", "most"),
    [
        *(("max_size=1T", 1 << 40), ("max_size=99999T", None), ("max_size=99999999G", None)),
        *(("max_size=99999999999M", None), ("max_size=999999999999999K", None)),
        *(("max_time=1s", 1), ("max_time=999999999h", None)),
    ],
)
def test_all_that_is_understood_kgcore_understands(hook: Hook, line: str, most: int | None) -> None:
    hook.program("df", "echo; echo disk 1 0 999999999999999 0% /")
    hook.configure(line)
    lines = hook.run()
    assert lines[-1] == "done"
    assert "not understood" not in lines[0]
    name, read = ("--max-size", size) if line.startswith("max_size") else ("--max-time", duration)
    value = read(words(hook)[words(hook).index(name) + 1])
    assert value == most if most else value > 1 << 40


def test_no_size_at_all(hook: Hook) -> None:
    hook.configure("max_size=0T")
    assert hook.run() == [f"{hook.folder}/conf: max_size is 0: nothing is taken"]
    assert not (hook.folder / "crash").exists()


def test_configuration_of_anything(hook: Hook) -> None:
    with (hook.folder / "conf").open("ab") as conf:
        conf.write(bytes(range(1, 256)))  # and no end of line
    assert hook.run()[-1] == "done"


def test_no_configuration(hook: Hook) -> None:
    (hook.folder / "conf").unlink()
    assert hook.run() == [f"there is no {hook.folder}/conf: nothing is taken"]


def test_no_capture_kernel(hook: Hook) -> None:
    """Debian's unit is started by an ordinary boot too: not a word then."""
    assert not os.path.exists("/proc/vmcore")
    assert hook.run(KGCORE_KDUMP_CONF="") == []


def test_disk_is_wanted_for_the_dump(hook: Hook) -> None:
    hook.configure("keep_free=99999999G")
    (line,) = hook.run()
    assert line.endswith("are for the dump: nothing is taken")
    assert list((hook.folder / "crash").iterdir()) == []


def test_size_is_what_may_be_used(hook: Hook) -> None:
    """Less than was allowed, if else too little would be left for the dump."""
    hook.program("df", 'echo "F B U Available C M"; echo "/dev/x 99999999 1 30720 1% /"')
    hook.configure("keep_free=20M", "max_size=1G")
    hook.run()
    assert words(hook)[words(hook).index("--max-size") + 1] == "10240K"


class TestDirectoryOfOthers:
    """What an ordinary user may have prepared before root comes along."""

    @pytest.fixture
    def crash(self, hook: Hook) -> Path:
        (hook.folder / "crash").mkdir()
        (hook.folder / "precious").write_text("precious")
        return hook.folder / "crash"

    @pytest.mark.parametrize("name", SHELLS)
    def test_planted_names(self, hook: Hook, crash: Path, name: str) -> None:
        """Of every second that may come: a directory with links in it, or a link, as long as names can be guessed."""
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")
        crash.chmod(0o1777)
        planted = {crash / f"kgcore-{date}" for date in ("20260102030405", "20260102030406")}
        for path in planted:
            path.mkdir()
            (path / "log").symlink_to(hook.folder / "precious")
            (path / "report.json").symlink_to(hook.folder / "precious")
        hook.program("date", "echo 20260102030405")
        hook.program("kgcore", "echo overwritten")
        assert hook.run(SHELLS[name])[-1] == "done"
        (target,) = set(crash.iterdir()) - planted
        assert (target / "log").read_text() == "overwritten\n"
        assert target.stat().st_mode & 0o7777 == 0o700
        assert (hook.folder / "precious").read_text() == "precious"

    def test_writable_without_the_sticky_bit(self, hook: Hook, crash: Path) -> None:
        for mode in (0o777, 0o775, 0o757, 0o2775):
            crash.chmod(mode)
            assert hook.run() == [f"others may change {crash}: nothing is taken"]
            assert list(crash.iterdir()) == []

    def test_above(self, hook: Hook, crash: Path) -> None:
        (crash / "deep" / "er").mkdir(parents=True)
        crash.chmod(0o777)
        hook.configure(f"directory={crash}/deep/er")
        assert hook.run() == [f"others may change {crash}: nothing is taken"]
        hook.configure(f"directory={crash}/deep/new")
        assert hook.run() == [f"others may change {crash}: nothing is taken"]
        assert [path.name for path in (crash / "deep").iterdir()] == ["er"]

    def test_through_a_link(self, hook: Hook, crash: Path) -> None:
        """It is the place that counts, not the name."""
        (hook.folder / "link").symlink_to(crash)
        hook.configure(f"directory={hook.folder}/link/")
        assert hook.run()[-1] == "done"
        assert len(list(crash.iterdir())) == 1
        crash.chmod(0o777)
        assert hook.run() == [f"others may change {crash}: nothing is taken"]

    def test_of_another_user(self, hook: Hook, crash: Path) -> None:
        if os.getuid():
            pytest.skip("root alone can give files away")
        os.chown(crash, 65534, 65534)
        assert hook.run() == [f"others may change {crash}: nothing is taken"]

    def test_configuration(self, hook: Hook) -> None:
        """It names the program that root runs."""
        (hook.folder / "conf").chmod(0o666)
        assert hook.run() == [f"others may change {hook.folder}/conf: nothing is taken"]
        (hook.folder / "conf").unlink()
        os.mkfifo(hook.folder / "conf")
        assert hook.run() == [f"there is no {hook.folder}/conf: nothing is taken"]


def test_no_directory(hook: Hook) -> None:
    hook.configure("directory=/proc/nowhere")
    (line,) = hook.run()
    assert line.endswith("No such file or directory: nothing is taken")


def test_no_disk_free(hook: Hook) -> None:
    hook.program("df", "exit 1")
    assert hook.run()[-1].endswith("has 0 KiB free, and 0 are for the dump: nothing is taken")
