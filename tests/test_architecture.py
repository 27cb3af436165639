# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/architecture.md and CONTRIBUTING.md speak of what is there: modules, functions, rooms."""

import ast
import re
from pathlib import Path

import pytest

import kgcore
from tests.test_imports import MODULES, ROOMS, VMCORE_ROOMS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORDS = ("run", "leaf", "stretch", "extent", "piece", "gap", "account", "provenance")


def tree() -> set[str]:
    """Modules and packages; that of a package's ``__init__`` is the package."""
    paths = {path.relative_to(ROOT) for path in MODULES.values()}
    found = {f"{path.parent}/" if path.name == "__init__.py" else str(path) for path in paths}
    return found | {"kgcore/schemas/"}


def listing() -> dict[str, str]:
    """The lines of the page's folder listing: path to description."""
    blocks = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    found: dict[str, str] = {}
    above: list[str] = []
    for line in blocks[0].splitlines():
        fits = re.fullmatch(r"( *)(\S+)(?: {1,}(\S.*))?", line)
        assert fits is not None, line
        depth = len(fits[1]) // 2
        del above[depth:]
        above.append(fits[2])
        path = "".join(above)
        assert path not in found, path
        found[path] = fits[3] or ""
    return found


def test_the_listing_is_the_tree() -> None:
    listed = set(listing())
    assert tree() - listed == set(), "not in the listing of docs/architecture.md"
    assert listed - tree() == set(), "in the listing of docs/architecture.md, but not there"


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.relative_to(ROOT / "kgcore") for path in MODULES.values()}
    # On real dumps, or on damaged ones; and what is not Python.
    apart = {Path("campaign"), Path("vmcore"), Path("vmcore_fixtures"), Path("contrib")}
    tests = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path for path in tests if Path(path.parts[0] if path.parts else ".") not in apart} - rooms == set()


def test_every_line_of_the_listing_says_what_it_is() -> None:
    assert [path for path, words in listing().items() if not words] == []


def names(text: str) -> list[str]:
    return re.findall(r"`((?:\w+\.)?\w+)\(\)`", text)


DEFINED = {
    f"{parent.name}.{node.name}" if isinstance(parent, ast.ClassDef) else node.name
    for path in MODULES.values()
    for parent in ast.walk(ast.parse(path.read_text()))
    for node in ast.iter_child_nodes(parent)
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
}
METHODS = {name.rpartition(".")[2] for name in DEFINED}


@pytest.mark.parametrize("name", sorted(set(names(PAGE))))
def test_functions_of_the_page_exist(name: str) -> None:
    assert name in DEFINED or ("." not in name and name in METHODS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", PAGE))))
def test_classes_of_the_page_exist(name: str) -> None:
    assert name in DEFINED


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_paths_in_documents_exist(document: str) -> None:
    """A module is named by its path or the end of one, a package likewise."""
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    files = {
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for place in ("kgcore", "tests", "tools", "benchmarks")
        for path in [ROOT / place, *(ROOT / place).rglob("*")]
    }
    named = set(re.findall(r"[`\[]([\w./]+\.py|(?:kgcore|tests|tools|sources|cli)/(?:\w+/)*)[`\]]", text))
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("kgcore", "tests", "tools", "benchmarks")
    for path in (ROOT / place).rglob("*.py")
)


def test_paths_in_comments_and_docstrings_exist() -> None:
    lost = []
    for name in [*SOURCES, "dev", "pyproject.toml"]:
        text = (ROOT / name).read_text()
        for path in re.findall(r"(?<![\w./-])(?:kgcore|tests|tools|benchmarks|sources)/[\w/]+\.py\b", text):
            if not {path, f"kgcore/{path}", f"tests/{path}"} & set(SOURCES):
                lost.append(f"{name}: {path}")
    assert lost == []


def test_references_in_docstrings_lead_somewhere() -> None:
    """``:mod:`` and its like, with a whole name: the module is there, and what is named in it."""
    lost = []
    for name in SOURCES:
        text = (ROOT / name).read_text()
        for reference in re.findall(r":(?:mod|class|func|meth|data|attr):`~?(kgcore\.[\w.]+)`", text):
            parts = reference.split(".")
            above = [".".join(parts[:at]) for at in range(1, len(parts) + 1)]
            module = [name for name in above if name in MODULES][-1]
            first = reference.removeprefix(module).removeprefix(".").partition(".")[0]
            if module == "kgcore" and first in kgcore.__all__:
                continue
            if first and not re.search(rf"^(?:class |def )?{first}\b", MODULES[module].read_text(), re.MULTILINE):
                lost.append(f"{name}: {reference}")
    assert lost == []


def test_every_room_has_its_border() -> None:
    borders = CONTRIBUTING.partition("\n## The borders\n")[2].partition("\n## ")[0]
    rooms = [room for room in ROOMS if f"`{room}`" not in borders and f"`{room}/`" not in borders]
    assert rooms == []
    inner = [room for room in VMCORE_ROOMS if f"`{room}`" not in borders and f"`{room}/`" not in borders]
    assert inner == []


def test_the_glossary_has_its_words() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", PAGE.partition("\n## Eight words\n")[2], re.MULTILINE)
    assert [word for word, _ in rows if word != "word"] == list(WORDS)
