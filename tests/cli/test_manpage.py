# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man page, the other files that are made of the parsers, and what readers of man pages say of it."""

import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from kgcore import __version__
from kgcore.cli import commands
from kgcore.cli.parser import Parser
from tools.generate import generated

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "man" / "kgcore.1"


def parsers() -> dict[str, Parser]:
    modules = {"": "kgcore.cli.commands.dump"} | commands.COMMANDS
    return {name: import_module(module).make_parser() for name, module in modules.items()}


def rendered(command: list[str]) -> str:
    """What a program shows of the page, without a word on standard error."""
    if shutil.which(command[0]) is None:
        if os.environ.get("KGCORE_REQUIRE_VMCORES"):
            pytest.fail(f"{command[0]} is not installed")
        pytest.skip(f"{command[0]} is not installed")
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "300", "MANROFFOPT": "-ww"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08", "", done.stdout)


def test_the_committed_files_are_what_the_parsers_make() -> None:
    for path, text in generated().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is old: ./dev generate"


@pytest.mark.parametrize(
    "command",
    [
        ["groff", "-man", "-ww", "-z", str(PAGE)],
        ["mandoc", "-T", "lint", "-W", "warning", str(PAGE)],
    ],
)
def test_nobody_warns(command: list[str]) -> None:
    assert rendered(command) == ""


READERS = [["man", "-l", str(PAGE)], ["mandoc", "-T", "utf8", "-O", "width=300", str(PAGE)]]


@pytest.mark.parametrize("command", READERS)
def test_every_option_of_every_command_is_in_it(command: list[str]) -> None:
    text = rendered(command)
    middle = text.partition("\nCOMMANDS\n")[2].partition("\nEXIT STATUS\n")[0]
    parts = re.split(r"^   (?=kgcore \w+$)", middle, flags=re.MULTILINE)
    sections = {part.split("\n")[0].removeprefix("kgcore "): " ".join(part.split()) for part in parts if part.strip()}
    sections[""] = " ".join(text.partition("\nOPTIONS\n")[2].partition("\nCOMMANDS\n")[0].split())
    assert set(sections) == {"", *commands.COMMANDS}
    for name, parser in parsers().items():
        for action in parser._actions:
            for flag in action.option_strings:
                assert re.search(rf"(^|[\s,]){flag}($|[\s,.])", sections[name]), f"{name}: {flag}"
            told = " ".join((action.help or "").replace("%%", "%").split())
            assert told in sections[""] + sections[name], f"{name}: {action.dest}"
        for line in (parser.epilog or "").splitlines():
            if re.match("  kgcore .*[0-9]", line):
                assert " ".join(line.split()) in " ".join(text.split()), "an example"


@pytest.mark.parametrize("command", READERS)
def test_it_has_what_a_page_has(command: list[str]) -> None:
    text = rendered(command)
    titles = re.findall(r"^[A-Z][A-Z ]+$", text, re.MULTILINE)
    wanted = "NAME,SYNOPSIS,DESCRIPTION,OPTIONS,COMMANDS,EXIT STATUS,ENVIRONMENT,FILES,EXAMPLES,SEE ALSO"
    assert titles == wanted.split(",")
    assert re.search(r"^NAME\n +kgcore [-\u2013] write processes", text, re.MULTILINE)
    assert f"kgcore {__version__}" in text
    for word in ("KGCORE_VMCORE", "NO_COLOR", "core.<tgid>", "/dev/sda2=sda2.img", "'nginx*'"):
        assert word in text


@pytest.mark.parametrize("command", READERS)
def test_options_can_be_copied(command: list[str]) -> None:
    """A hyphen that roff makes a typographic one of, or breaks a line at, is no option any more."""
    text = rendered(command)
    assert "--no-kgcore-note" in text
    assert not re.search(r"[\u2010\u2011\u2212]", text)
