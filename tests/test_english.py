# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages, docstrings and documents are for a tired reader whose language is the field's: no phrase of these."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    r"to be (had|found|seen|told)": "missing, not found, unknown",
    r"(is|are) told": "say who tells it",
    r"in a circle": "is circular",
    r"is another( one\b|$)": "does not match, differs",
    r"(is|are) none\b": "say what it is: not supported, not a number",
    r"nobody here": "not supported",
    r"whatever": "any",
    r"by what": "by its ...",
    r"(?<!\b[Nn]o )(?<!no-)such (?!as\b)": "this, these",
    r"(not|cannot) be understood": "is invalid, is not supported",
    r"do(es)? nothing: it": "must be ...",
    r"is absurd": "is invalid, is implausible",
    r"taken is": "kgcore uses",
    r"is said to (be|have)": "is listed as",
}
"""Patterns, and what to write instead. In Python code None, with a capital letter, is not meant."""


def strings() -> Iterator[tuple[str, str]]:
    """Each string of the package, docstrings among them, each document and schema, and the hook, with its place."""
    for path in sorted((ROOT / "kgcore").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", " ".join(node.value.split())
    others = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "kgcore" / "schemas").iterdir(),
        ROOT / "contrib/kdump/kgcore-kdump",
    ]
    for path in [ROOT / "README.md", ROOT / "man" / "kgcore.1", *sorted(others)]:
        yield str(path.relative_to(ROOT)), " ".join(path.read_text().split())


@pytest.mark.parametrize("phrase", FORBIDDEN)
def test_no_document_and_no_message_has_it(phrase: str) -> None:
    pattern = re.compile(rf"\b{phrase}")
    found = [
        f"{place}: ...{text[max(found.start() - 40, 0) : found.end() + 40]}... (write: {FORBIDDEN[phrase]})"
        for place, text in strings()
        for found in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "the file is not to be had",
        "the list runs in a circle",
        "its page at offset 0x1000 is another",
        "the page at 0 is another one",
        "'1Q' is none: it takes bytes",
        "0 processes do nothing: it takes 1 to 1024",
        "a mapping of such files",
        "the kernel cannot be understood",
    ],
)
def test_the_patterns_find_them(sentence: str) -> None:
    assert any(re.search(rf"\b{phrase}", sentence) for phrase in FORBIDDEN)
