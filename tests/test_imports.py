# SPDX-License-Identifier: LGPL-2.1-or-later
"""The borders of the design: data flow forward only, and drgn stays where it belongs.

``source -> ProcessImage + Memory -> filter -> CorePlan -> writer -> sink``
"""

import ast
import fnmatch
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "kgcore"

VALUES = ["kgcore", "kgcore.account", "kgcore.errors", "kgcore.model", "kgcore.memory", "kgcore.text"]
VALUES += ["kgcore.regular", "kgcore.traces", "kgcore.dying", "kgcore.siginfo"]
ARCH = ["kgcore.arch", "kgcore.arch.*"]
FORWARD = [*VALUES, *ARCH, "kgcore.elf", "kgcore.filters.*", "kgcore.sinks", "kgcore.notes", "kgcore.vendor"]
FORWARD += ["kgcore.compress", "kgcore.limits", "kgcore.plan", "kgcore.report", "kgcore.writer"]
MAP = ["kgcore.addressmap", "kgcore.maplayout", "kgcore.mappage"]
COMMANDS = [*FORWARD, *MAP, "kgcore.sources.*", "kgcore.pipeline", "kgcore.check", "kgcore.linkmap", "kgcore.sysroot*"]
COMMANDS += ["kgcore.arguments", "kgcore.commands.opening", "kgcore.console", "kgcore.extract", "kgcore.render"]
COMMANDS += [
    "kgcore.request",
    "kgcore.backtrace",
    "kgcore.completion",
    "kgcore.debugger",
    "kgcore.substitutes",
    "kgcore.contents",
    "kgcore.openfiles",
    "kgcore.selection",
    "kgcore.workers",
    "kgcore.addressmap",
    "kgcore.mappage",
    "kgcore.drgnversion",
    "kgcore.librarylog",
    "kgcore.outputs",
    "kgcore.privatedir",
    "kgcore.stopping",
]

# Which modules of kgcore a module may import. The first pattern that fits counts. "kgcore" alone is __version__.
MAY_IMPORT = {
    "kgcore": [  # for type checkers
        *VALUES,
        "kgcore.check",
        "kgcore.library",
        "kgcore.pipeline",
        "kgcore.plugin",
        "kgcore.report",
        "kgcore.sinks",
        "kgcore.sources.base",
    ],
    "kgcore.library": ["kgcore", "kgcore.drgnversion", "kgcore.sources.*"],
    "kgcore.errors": [],
    "kgcore.text": [],
    "kgcore.regular": [],
    "kgcore.traces": ["kgcore.text"],
    "kgcore.account": ["kgcore.memory", "kgcore.text"],
    "kgcore.siginfo": [],
    "kgcore.dying": ["kgcore.siginfo"],
    "kgcore.model": ["kgcore.dying", "kgcore.errors"],
    "kgcore.memory": ["kgcore.errors", "kgcore.model"],
    "kgcore.elf": VALUES,
    "kgcore.limits": ["kgcore.text"],
    "kgcore.stopping": [],
    "kgcore.librarylog": ["kgcore.console", "kgcore.request"],
    "kgcore.standard": [],
    "kgcore.privatedir": ["kgcore.errors", "kgcore.stopping"],
    "kgcore.workers": ["kgcore.errors", "kgcore.stopping"],
    "kgcore.directfile": [],
    "kgcore.sinks": [*VALUES, "kgcore.directfile", "kgcore.stopping"],
    "kgcore.compress": [*VALUES, "kgcore.sinks"],
    "kgcore.filters*": [*VALUES, "kgcore.filters.*"],
    "kgcore.arch*": [*VALUES, *ARCH, "kgcore.elf"],
    "kgcore.notes": [*VALUES, *ARCH, "kgcore.elf"],
    "kgcore.vendor": [*VALUES, "kgcore.elf", "kgcore.filters.base"],
    "kgcore.sharing": [*VALUES],
    "kgcore.plan": [
        *VALUES,
        *ARCH,
        "kgcore.elf",
        "kgcore.filters.base",
        "kgcore.notes",
        "kgcore.sharing",
        "kgcore.vendor",
    ],
    "kgcore.report": [*VALUES, "kgcore.notes", "kgcore.plan"],
    "kgcore.writer": [
        *VALUES,
        "kgcore.limits",
        "kgcore.plan",
        "kgcore.report",
        "kgcore.sinks",
        "kgcore.workers",
    ],
    # How large a core would be about, which kgcore ps tells, depends on what the default filter keeps.
    "kgcore.sources.vmcore.estimates": [*VALUES, "kgcore.filters.coredump", "kgcore.sources.*"],
    "kgcore.sources.vmcore*": ["kgcore.drgnversion", *VALUES, *ARCH, "kgcore.sources.*"],
    "kgcore.sources.corefile*": [*VALUES, "kgcore.sources.plugins"],
    "kgcore.sources*": VALUES,
    "kgcore.pipeline": [*FORWARD, "kgcore.sources.base"],  # it is handed a Source
    "kgcore.unpack": [*VALUES],
    "kgcore.check": [*VALUES, "kgcore.checknotes", "kgcore.unpack"],  # apart from all that writes
    "kgcore.checknotes": [*VALUES],
    "kgcore.sysrootcheck": [*VALUES],  # so is this
    "kgcore.contents": ["kgcore.memory"],
    "kgcore.openfiles": [*VALUES, "kgcore.contents", "kgcore.sinks", "kgcore.sources.base"],
    "kgcore.linkmap": [*VALUES, *ARCH],
    "kgcore.manifest": [*VALUES, "kgcore.sinks"],
    "kgcore.sysroot": [
        *VALUES,
        "kgcore.contents",
        "kgcore.linkmap",
        "kgcore.manifest",
        "kgcore.sinks",
        "kgcore.sources.base",
        "kgcore.sources.buildid",
    ],
    "kgcore.addressmap": [*VALUES, "kgcore.plan", "kgcore.report"],
    "kgcore.maplayout": [*VALUES, *MAP[:1], "kgcore.plan"],
    "kgcore.mappage": [*VALUES, *MAP[:2], "kgcore.plan"],
    "kgcore.request": ["kgcore.sources.base"],
    "kgcore.selection": ["kgcore.model", "kgcore.request", "kgcore.sources.base", "kgcore.text"],
    "kgcore.progress": ["kgcore.stopping", "kgcore.text", "kgcore.writer"],
    "kgcore.arguments": ["kgcore", "kgcore.errors", "kgcore.outputs", "kgcore.request", "kgcore.sources.base"],
    "kgcore.commands": ["kgcore.console"],  # the commands themselves are imported by name, when they are chosen
    "kgcore.commands.*": COMMANDS,  # not one another
    "kgcore.*": ["kgcore", "kgcore.*"],  # the command line, the plugin and what they share
}

# Foreign packages that belong to few modules.
ONLY_IN = {
    "drgn": ["kgcore.drgnversion", "kgcore.sources.vmcore*", "kgcore.sources.corefile.unwind", "kgcore.plugin"],
    "_drgn": ["kgcore.sources.vmcore*", "kgcore.plugin"],
    "rich": ["kgcore.render"],
    "construct": ["kgcore.elf", "kgcore.arch*"],
    "elftools": ["kgcore.check", "kgcore.sysrootcheck", "kgcore.sources.vmcore*"],
}


class Import(NamedTuple):
    module: str
    line: int
    runtime: bool  # at import, not inside a function or for type checkers alone


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[Import]:
    path = MODULES[name]
    return walk(ast.parse(path.read_text()), name, path.name == "__init__.py", True)


def walk(node: ast.AST, name: str, package: bool, runtime: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, runtime)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parents = name.split(".")[: len(name.split(".")) - child.level + package]
                base = ".".join([*parents, base] if base else parents)
            for alias in child.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in MODULES else base, child.lineno, runtime)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from walk(child, name, package, runtime and not later)


def fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("name", MODULES)
def test_only_forward(name: str) -> None:
    allowed = next(allowed for pattern, allowed in MAY_IMPORT.items() if fnmatch.fnmatchcase(name, pattern))
    for imported in imports(name):
        if imported.module.split(".")[0] == "kgcore":
            assert fits(imported.module, allowed), f"{name}:{imported.line} imports {imported.module}"


@pytest.mark.parametrize("name", MODULES)
def test_foreign_packages_stay_where_they_belong(name: str) -> None:
    for imported in imports(name):
        homes = ONLY_IN.get(imported.module.split(".")[0])
        assert homes is None or fits(name, homes), f"{name}:{imported.line} imports {imported.module}"


@pytest.mark.parametrize("name", set(MODULES) - {"kgcore.cli", "kgcore.stopping"})
def test_only_the_command_line_exits(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Raise) else ""
        assert not text.startswith(("sys.exit(", "exit(", "quit(", "os._exit(", "raise SystemExit")), f"{name}: {text}"


def test_no_cycles() -> None:
    graph = {
        name: {imported.module for imported in imports(name) if imported.runtime and imported.module in MODULES}
        for name in MODULES
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_file_names_its_licence() -> None:
    for path in [*MODULES.values(), *Path(__file__).parent.rglob("*.py")]:
        lines = path.read_text().splitlines()
        assert not lines or "# SPDX-License-Identifier: LGPL-2.1-or-later" in lines[:2], path


def test_everything_but_the_vmcore_source_loads_without_drgn() -> None:
    names = [name for name in MODULES if not fits(name, [*ONLY_IN["drgn"], "kgcore.__main__"])]
    code = "import sys; sys.modules['drgn'] = sys.modules['_drgn'] = None\n"
    code += "\n".join(f"import {name}" for name in names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
