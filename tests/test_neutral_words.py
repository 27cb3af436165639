# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does not know where a process comes from does not say that it is a dump: it is as true of a live process."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kgcore"
NEUTRAL = ("arch", "binaries", "coredump", "elf", "filters", "model", "sinks", "views")
WORDS = re.compile(r"dump|vmcore|crash", re.IGNORECASE)

ALLOWED = {
    # The kernel's names of what a process and its core have
    "VM_DONTDUMP",
    "CLD EXITED KILLED DUMPED TRAPPED STOPPED CONTINUED",
    "coredump_filter",
    "dumping-core",
    "dontdump",
    # A member in JSON: that the kernel crashed in this thread
    "crashed",
    # A hint: which sources have what this one lacks
    "a vmcore has them",
    # Names of our own, in __all__
    "CoredumpFilter",
    "Dump",
    "dump",
}


def docstrings(tree: ast.Module) -> set[ast.AST]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Strings that somebody may read, with their lines; not those that explain the code."""
    tree = ast.parse(path.read_text())
    explaining = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explaining:
            yield node.lineno, node.value


@pytest.mark.parametrize("room", NEUTRAL)
def test_neutral_rooms_do_not_speak_of_dumps(room: str) -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for line, text in texts(path)
        if WORDS.search(text) and text not in ALLOWED
    }
    assert not found


def test_what_is_allowed_is_there() -> None:
    said = {text for room in NEUTRAL for path in (PACKAGE / room).rglob("*.py") for _, text in texts(path)}
    assert said >= ALLOWED


def test_it_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Of a dump."""\n\ndef f(x):\n    """A vmcore."""\n    return f"{x} is not in the dump"\n')
    assert [(line, text) for line, text in texts(path) if WORDS.search(text)] == [(5, " is not in the dump")]
