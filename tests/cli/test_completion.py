# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completion, as the shells themselves do it."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from kgcore.cli import commands
from kgcore.cli.commandline import METAVARS
from kgcore.cli.completion import script
from kgcore.cli.parser import Parser
from kgcore.sources.location import DumpLocation
from tests.shells import SHELLS, Shell

ROOT = Path(__file__).resolve().parents[2]

Complete = Callable[..., list[str]]

TEXT = {"GLOB", "RULE", "UID", "LEVEL", "FILTER", "N", "SIZE", "DURATION", "ARCH", "FD", "SHELL", "TASK", "PROGRAM"}
TEXT |= {"COLUMN", "NAME", "N=WHAT", "OLD=NEW", "WORD,..."}
"""Values that are no files, and that nobody but the user knows."""


def parsers() -> dict[str, Parser]:
    """By the command's name."""
    modules = {"": "kgcore.cli.commands.dump"} | commands.COMMANDS
    return {name: import_module(module).make_parser() for name, module in modules.items()}


def flags(name: str) -> set[str]:
    return {flag for action in parsers()[name]._actions for flag in action.option_strings}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A shell in an empty directory, whose kgcore prints the file ``processes``."""
    program = tmp_path / "bin" / "kgcore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\ncat {tmp_path}/processes\n')
    program.chmod(0o755)
    (tmp_path / "processes").write_text("12\tinit\n110\tvictim\n118\tspin two\n")
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "KGCORE_COMPLETION_TIMEOUT": "50"}
    return Shell(request.param, script(request.param), tmp_path, environment)


def values(found: list[str]) -> list[str]:
    """Without the descriptions that follow in zsh and fish, and around PIDs in bash."""
    return sorted({re.split(r"\t| \(", line)[0].removesuffix("=") for line in found})


def asked(shell: Shell) -> list[str]:
    return (shell.directory / "asked").read_text().splitlines()


def test_every_option_of_every_command(shell: Shell) -> None:
    for name in parsers():
        words = [name] if name else []
        long = {flag for flag in flags(name) if flag.startswith("--")}
        assert set(values(shell.complete("kgcore", *words, "--"))) == long
        short = {flag for flag in flags(name) if re.fullmatch("-[a-zA-Z]", flag)}
        assert {flag for flag in values(shell.complete("kgcore", *words, "-")) if len(flag) == 2} == short
    assert shell.said.count("rror") == 0


def test_an_option_of_one_command_is_none_of_another(shell: Shell) -> None:
    assert values(shell.complete("kgcore", "--dry")) == ["--dry-run"]
    assert values(shell.complete("kgcore", "ps", "--dry")) == []
    assert values(shell.complete("kgcore", "ps", "--js")) == ["--json"]
    assert values(shell.complete("kgcore", "--js")) == []


def test_every_choice(shell: Shell) -> None:
    for name, parser in parsers().items():
        for action in parser._actions:
            if action.choices and action.option_strings:
                words = ["kgcore", *([name] if name else []), action.option_strings[-1], ""]
                assert values(shell.complete(*words)) == sorted(action.choices), words
    if shell.name == "bash":  # takes it for three words
        assert values(shell.complete("kgcore", "--missing", "=", "z")) == ["zero"]
        assert values(shell.complete("kgcore", "--missing", "=")) == ["omit", "zero"]
    else:
        assert [word.rpartition("=")[2] for word in values(shell.complete("kgcore", "--missing=z"))] == ["zero"]


def test_commands_stand_first(shell: Shell) -> None:
    names = set(commands.COMMANDS)
    assert set(values(shell.complete("kgcore", ""))) == names | {"12", "110", "118"}
    assert values(shell.complete("kgcore", "inf")) == ["info"]
    assert values(shell.complete("kgcore", "-f", "21", "inf")) == ["info"], "21 is no operand"
    assert values(shell.complete("kgcore", "-c", "ps", "inf")) == ["info"], "ps is a file here"
    assert values(shell.complete("kgcore", "12", "inf")) == []
    assert "--json" in values(shell.complete("kgcore", "-c", "dump", "info", "-c", "other", "--"))
    assert "--force" not in values(shell.complete("kgcore", "-c", "dump", "info", "--"))
    assert values(shell.complete("kgcore", "completion", "")) == ["bash", "fish", "zsh"]


def test_files_where_files_are_taken(shell: Shell) -> None:
    (shell.directory / "some").mkdir()
    (shell.directory / "some" / "dir").mkdir()
    (shell.directory / "some" / "file").touch()
    if shell.name == "bash":
        pytest.skip("readline completes them: test_bash_leaves_files_to_readline")
    for words in (["-c"], ["--report"], ["-s"], ["check"]):
        found = [Path(word).name for word in values(shell.complete("kgcore", *words, "some/"))]
        assert found == ["dir", "file"], words
    for words in (["-D"], ["--root"]):
        assert [Path(word).name for word in values(shell.complete("kgcore", *words, "some/"))] == ["dir"], words
    found = values(shell.complete("kgcore", "--swap", "/dev/sda2=some/"))
    assert [Path(word).name for word in found] == ["dir", "file"]
    assert values(shell.complete("kgcore", "--max-size", "")) == []


def test_bash_leaves_files_to_readline(tmp_path: Path) -> None:
    """In a terminal, with quotes where a name needs them."""
    (tmp_path / "some dir").mkdir()
    (tmp_path / "some dump").touch()
    (tmp_path / "any dump").touch()
    shell = Shell("bash", script("bash"), tmp_path, {"PS1": "$ ", "INPUTRC": os.devnull})
    assert shell.typed("kgcore -c any\t") == ["-c", "any dump"]
    assert shell.typed("kgcore --core=any\t") == ["--core=any dump"]
    assert shell.typed("kgcore -D some\t") == ["-D", "some dir/"]
    assert shell.typed("kgcore --swap /dev/sda=any\t") == ["--swap", "/dev/sda=any dump"]
    assert shell.typed("kgcore check 'any\t") == ["check", "any dump"]
    assert shell.typed("kgcore --max-size any\t") == ["--max-size", "any"]
    assert shell.typed("kgcore --missing=o\t") == ["--missing=omit"]
    assert shell.typed("kgcore --dry\t ch\t any\t") == ["--dry-run", "check", "any dump"]


def test_processes(shell: Shell) -> None:
    found = shell.complete("kgcore", "-c", "some.dump", "--core=x", "1")
    assert values(found) == ["110", "118", "12"]
    assert any("victim" in line for line in found)
    assert asked(shell) == ["completion", "processes", "--", "-c", "some.dump", "--core=x"]
    assert values(shell.complete("kgcore", "-f", "21", "5", "11")) == ["110", "118"]
    found = shell.complete("kgcore", "12")
    assert values(found) == ["12"]
    if shell.name == "bash":
        assert found == ["12"], "it would be inserted as a whole"


def test_no_processes_where_none_are_taken(shell: Shell) -> None:
    shell.complete("kgcore", "ps", "")
    shell.complete("kgcore", "--jobs", "1")
    shell.complete("kgcore", "completion", "1")
    assert not (shell.directory / "asked").exists()


def test_silence_on_failure(shell: Shell) -> None:
    program = shell.directory / "bin" / "kgcore"
    for text in ("#!/bin/sh\necho something is wrong >&2\nexit 1\n", "#!/bin/sh\necho nonsense\n", "#!/nowhere\n"):
        program.write_text(text)
        assert [line for line in values(shell.complete("kgcore", "77", "1")) if line != "nonsense"] == []
        assert "wrong" not in shell.said
        assert "nowhere" not in shell.said


def test_a_dump_that_opens_slowly_is_given_up(shell: Shell) -> None:
    program = shell.directory / "bin" / "kgcore"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho 123\nexec sleep 600\n")
    shell.environment["KGCORE_COMPLETION_TIMEOUT"] = "0.3"
    assert values(shell.complete("kgcore", "77", "1")) in ([], ["123"])
    assert "illed" not in shell.said


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned #',
    "a) touch pwned",
    "%F{red}%n",
    "*",
]


def test_hostile_names_are_only_text(shell: Shell) -> None:
    lines = [f"1{number}\t{name}\n" for number, name in enumerate(HOSTILE)]
    lines += ["$(touch pwned)\tx\n", "19\t\\x1b[2J\n", "`touch pwned`\n", "13;touch pwned\tx\n"]
    (shell.directory / "processes").write_text("".join(lines))
    found = shell.complete("kgcore", "5", "1")
    assert not (shell.directory / "pwned").exists()
    assert {f"1{number}" for number in range(len(HOSTILE))} <= set(values(found))
    if shell.name == "bash":
        # menu-complete may insert what is displayed.
        assert all(re.fullmatch(r"1\d \([\w./:@+-]*\)", line) for line in found), found
        shell.environment["TYPE"] = "37"
        assert all(re.fullmatch(r"1\d", line) for line in shell.complete("kgcore", "5", "1"))
    if shell.name == "zsh":
        assert "$(touch pwned)" in "".join(found)


def test_every_value_has_a_kind() -> None:
    """A new name for a value is either in the table of files and processes, or nothing to complete."""
    for name, parser in parsers().items():
        for action in parser._actions:
            for word in str(action.metavar or "").split(" | ") if action.metavar else ():
                assert word in METAVARS or word in TEXT, f"{name}: {word}"


# The processes


def place_of(*line: str) -> DumpLocation | None:
    return import_module("kgcore.cli.commands.completion").parse(["processes", "--", *line], {}).place  # type: ignore[no-any-return]


def test_the_dump_on_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("vmcore", "my dump", "it's"):
        Path(name).touch()

    def core(*line: str) -> str | None:
        place = place_of(*line)
        return place.core if place else None

    assert core() == core("--match", "x", "-f", "21", "12") == "vmcore"
    assert core("-c", "my dump") == core("-c", "'my dump'") == core("-c", "my\\ dump") == core("-cmy dump") == "my dump"
    assert core("bt", "--core=my dump", "--unheard-of", "--all") == "my dump"
    assert core("-c", "it's") == "it's"
    assert core("-c", "~/vmcore") == str(tmp_path / "vmcore")
    assert core("-h", "--version") == "vmcore"
    for line in (["-c", "nothing"], ["-c"], ["-k"], ["--qemu", "socket"], ["-s", "nothing"], ["-c", "$(touch pwned)"]):
        assert core(*line) is None, line
    assert not Path("pwned").exists()


SMALL = ROOT / "tests" / "vmcore_fixtures" / "k61-crash-small" / "vmcore"


@pytest.mark.parametrize("name", SHELLS)
def test_the_processes_of_a_real_dump(name: str, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    program = tmp_path / "bin" / "kgcore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m kgcore "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    shell = Shell(name, script(name), tmp_path, environment | {"KGCORE_COMPLETION_TIMEOUT": "50"})
    # As ps in the guest saw them: truth/ is not ours.
    found = shell.complete("kgcore", "-c", str(SMALL), "1")
    assert {"110", "118"} <= set(values(found))
    assert any("crasher" in line for line in found if line.startswith("110"))
    assert "2" not in values(shell.complete("kgcore", "-c", str(SMALL), "")), "a kernel thread has no core"
    assert shell.complete("kgcore", "-c", str(ROOT / "README.md"), "77", "1") == []
