# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be said of the documents without a vmcore: their links, the commands in them, and the messages they explain.

Their sessions and examples are run by tests/vmcore/test_readme.py and tests/vmcore/test_api_document.py.
"""

import argparse
import ast
import os
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from kgcore.cli import commands
from kgcore.cli.commands.dump import parse_drgn
from kgcore.cli.parser import Answer
from kgcore.sinks import compressed as compress

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "contrib/*/*.md", "benchmarks/*.md", "tests/*/README.md")
    for path in ROOT.glob(pattern)
)
TROUBLES = ROOT / "docs" / "troubleshooting.md"


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


def test_the_readme_is_short() -> None:
    """What an option, a dump or a column means stands in docs/."""
    assert (ROOT / "README.md").stat().st_size < 8 << 10


@pytest.mark.parametrize("name", DOCUMENTS)
def test_prose_wraps(name: str) -> None:
    """At 100, for those who read it in a terminal; a table's row and what a program prints are as wide as they are."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]


def options() -> Iterator[tuple[str, str]]:
    """Each command and each of its options, the longest spelling."""
    for name in ("dump", *commands.COMMANDS):
        for action in import_module(f"kgcore.cli.commands.{name}").make_parser()._actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                yield name, max(action.option_strings, key=len)


@pytest.mark.parametrize(("command", "option"), [*options()])
def test_an_option_is_documented(command: str, option: str) -> None:
    """In docs/cli.md, or on the page of its command."""
    page = ROOT / "docs" / f"{command}.md"
    text = (ROOT / "docs" / "cli.md").read_text() + (page.read_text() if page.exists() else "")
    assert re.search(rf"`{re.escape(option)}\b|[\[ ]{re.escape(option)}\b", text)


# Commands

PLACEHOLDERS = {"PID": "12345", "TASK": "0xffff880136d72040"}


def pieces(line: str) -> Iterator[list[str]]:
    """The words of each command in a line of shell, without redirections."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    words.whitespace_split = True
    words.commenters = "#"
    piece: list[str] = []
    for word in words:
        if set(word) <= set("|;&"):
            yield piece
            piece = []
        elif set(word) <= set("<>&"):
            if piece and piece[-1] == "2":
                piece.pop()
            next(words, None)
        else:
            piece.append(word)
    yield piece


def kgcore_commands(text: str) -> Iterator[list[str]]:
    """Those of a document: in its blocks of shell and sessions, and in code within sentences and tables."""
    lines = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "sh":
            lines += block.splitlines()
        elif kind == "console":
            lines += [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(kgcore [^`]+)`", outside)
    for line in lines:
        if "kgcore" in line:
            for words in pieces(line.replace("\\|", "|")):
                named = len(words) == 2 and words[1] in commands.COMMANDS  # perhaps only spoken of
                if words and words[0] == "kgcore" and not named:
                    yield words[1:]


@pytest.fixture
def _everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that documents name as examples, and what is installed for some options."""
    monkeypatch.setattr(compress, "require", lambda compression: None)
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)


@pytest.mark.usefixtures("_everything_is_there")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_are_accepted(name: str) -> None:
    for words in kgcore_commands((ROOT / name).read_text()):
        words = [PLACEHOLDERS.get(word, word) for word in words if word != "..."]
        command, rest = commands.chosen(words)
        try:
            command.parse(rest, {})
        except Answer:
            assert {"--help", "--version"} & set(rest)


class Task(NamedTuple):
    name: str
    command: str
    link: str


def tasks() -> list[Task]:
    """The table at the top of README.md."""
    rows = re.findall(r"^\| ([^|]+) \| `(.+?)` \| \[[^]]+\]\(([^)]+)\) \|$", (ROOT / "README.md").read_text(), re.M)
    return [Task(name, command.replace("\\|", "|"), link) for name, command, link in rows]


def test_ten_tasks_of_a_newcomer() -> None:
    names = [task.name for task in tasks()]
    assert names == [
        "Find the process",
        "Get its core",
        "See its threads",
        "See why a page is missing",
        "Get its binaries",
        "Choose which memory",
        "From drgn",
        "From Python",
        "Into a pipe",
        "From a kdump hook",
    ]


@pytest.mark.usefixtures("_everything_is_there")
@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_command_of_a_task(task: Task) -> None:
    """Accepted by what is to run it. (That its link leads somewhere, test_links_lead_somewhere says.)"""
    first = next(pieces(task.command))
    if task.name == "From drgn":
        assert first[0] == "%gcore"
        assert parse_drgn(first[1:], "%gcore").tasks[0].pid == 12345
    elif task.name == "From Python":
        (statement,) = ast.parse(task.command).body
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        source = (ROOT / "kgcore" / "plugin.py").read_text()  # it needs drgn
        (function,) = (
            node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "gcore"
        )
        assert len(statement.value.args) <= len(function.args.args)
        keywords = {keyword.arg for keyword in statement.value.keywords}
        assert keywords <= {argument.arg for argument in function.args.kwonlyargs}
    elif task.name == "From a kdump hook":
        assert first[:3] == ["install", "-m", "755"]
        assert os.access(ROOT / first[3], os.X_OK)
    else:
        assert first[0] == "kgcore"
        command, rest = commands.chosen(first[1:])
        command.parse(rest, {})


@pytest.mark.parametrize("task", [task for task in tasks() if task.command.startswith("kgcore")], ids=lambda t: t.name)
def test_help_knows_a_task(task: Task) -> None:
    """Each option and command of a task stands in --help."""
    words = next(pieces(task.command))[1:]
    command, _ = commands.chosen([])
    with pytest.raises(Answer) as answer:
        command.parse(["--help"], {})
    text = str(answer.value)
    for word in words:
        if word.startswith("-") and word != "-" and words[0] not in commands.COMMANDS:
            assert re.search(rf"(^|[ ,]){re.escape(word)}\b", text, re.MULTILINE), word
    if words[0] in commands.COMMANDS:
        assert f"kgcore {words[0]}" in text


# Messages


def texts(node: ast.AST) -> Iterator[str]:
    """The strings in an expression; what is filled in stands as an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # type: ignore[misc]
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def source_texts() -> set[str]:
    """All strings of kgcore's modules."""
    return {
        re.sub(r"\s+", " ", text)
        for path in (ROOT / "kgcore").rglob("*.py")
        for text in texts(ast.parse(path.read_text()))
    }


def explained() -> list[str]:
    """The messages that troubleshooting.md lists: in the first column of its tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", TROUBLES.read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if not message.startswith("#")]


def test_messages_exist() -> None:
    """Whatever is filled in, the words around it are in one string of the source."""
    known = source_texts()
    for message in explained():
        words = [word for word in message.split("...") if word.strip()]
        pattern = re.compile(".*".join(map(re.escape, words)))
        assert any(pattern.search(text) for text in known), message


def raised() -> Iterator[tuple[str, str]]:
    """Place and message of every error that the modules raise on purpose, as far as it stands there."""
    names = {"KgcoreError", "TargetError", "OutputError", "UsageError", "NoSuchTask", "BadTask", "KernelThread"}
    names |= {"NoUserMemory", "NoCurrentTask", "StoodStillTooLong"}
    for path in sorted((ROOT / "kgcore").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names and node.args:
                for text in texts(node.args[0]):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", re.sub(r"\s+", " ", text)


SEPARATORS = {"", "; ", "...: ...", "... ...: ...", " with build id ..."}
"""What is no message by itself: its words stand elsewhere, or the system says them."""


def test_every_error_is_explained() -> None:
    patterns = [re.compile(".*".join(map(re.escape, message.split("...")))) for message in explained()]
    unknown = {
        f"{place}: {message}"
        for place, message in raised()
        if message not in SEPARATORS and not any(pattern.fullmatch(message) for pattern in patterns)
    }
    assert not unknown


def test_the_errors_are_found_at_all() -> None:
    found = {message for _, message in raised()}
    assert {"no thread has the id ...", "... exists", "it is an ELF file, but not a core"} <= found
