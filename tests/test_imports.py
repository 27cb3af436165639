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

BASE = ["_version", "errors", "text"]
VALUES = [*BASE, "cstruct", "system", "model", "elf", "filters", "arch"]
LINE = [*VALUES, "sinks", "sources.base", "sources.inroot"]

# What the modules of a room may import besides their own room: each only what stands above it in this table.
ROOMS: dict[str, list[str]] = {
    "_version": [],
    "errors": [],
    "text": [],
    "cstruct": [],
    "system": ["errors"],
    "elf": ["cstruct"],
    "model": ["errors", "text"],
    "ptrace": ["system"],
    "filters": ["model"],
    "arch": ["errors", "cstruct", "elf", "model"],
    "sinks": [*BASE, "system"],
    "sources": [*VALUES, "ptrace"],
    "restore": [*VALUES, "ptrace", "sources.live", "sources.corefile"],
    "check": [*BASE, "system"],  # shares nothing with what wrote the core or the sysroot
    "coredump": LINE,
    "binaries": LINE,
    "views": [*LINE, "sources.corefile", "coredump", "binaries"],
    "library": [*BASE, "sources"],
    "saving": [*LINE, "coredump", "binaries"],
    "coredumper": [*LINE, "sources", "coredump", "library", "saving"],
    "daemon": [*LINE, "sources", "coredump", "coredumper"],
    "client": ["daemon.protocol", "coredumper.permission"],
    "cli": [*LINE, "sources", "restore", *"check coredump binaries views library saving daemon client".split()],
    "plugin": ["*"],
}

# The rooms inside of sources/vmcore, in the same way.
VMCORE_ROOMS = ["kernelreads", "damage", "dumpfile", "symbols", "opening", "kernel", "task", "memory", "process"]
VMCORE_ROOMS += ["facts", "source"]

# Foreign packages that belong to few modules.
ONLY_IN = {
    "drgn": ["kgcore.sources.drgnversion", "kgcore.sources.vmcore*", "kgcore.sources.corefile.unwind", "kgcore.plugin"],
    "_drgn": ["kgcore.sources.vmcore*", "kgcore.plugin"],
    "rich": ["kgcore.cli.render"],
    "construct": ["kgcore.elf.layout"],
    "elftools": ["kgcore.check.segments", "kgcore.check.sysroot", "kgcore.sources.vmcore*"],
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


def within(name: str, room: str) -> bool:
    """Whether a module is a room, or stands in it; all are named from the package they are in."""
    return room == "*" or name == room or name.startswith(f"{room}.")


def inside(name: str) -> str:
    return name.removeprefix("kgcore").removeprefix(".")


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"kgcore", "kgcore.__main__"}))
def test_a_room_imports_what_stands_below_it(name: str) -> None:
    room = inside(name).split(".")[0]
    for imported in imports(name):
        if imported.module.split(".")[0] == "kgcore":
            allowed = any(within(inside(imported.module), other) for other in [room, *ROOMS[room]])
            assert allowed, f"{name}:{imported.line} imports {imported.module}"


def test_the_table_of_rooms_is_in_order() -> None:
    for number, (room, allowed) in enumerate(ROOMS.items()):
        later = list(ROOMS)[number:]
        assert not [other for other in allowed if other.split(".")[0] in later], room
    assert {inside(name).split(".")[0] for name in MODULES} - {"", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("kgcore.sources.vmcore.")])
def test_the_rooms_of_vmcore(name: str) -> None:
    room = name.split(".")[3]
    for imported in imports(name):
        parts = imported.module.split(".")
        if parts[:3] == ["kgcore", "sources", "vmcore"] and len(parts) > 3:
            other = parts[3]
            assert VMCORE_ROOMS.index(other) <= VMCORE_ROOMS.index(room), f"{name}:{imported.line} imports {other}"


def test_commands_do_not_know_one_another() -> None:
    package = "kgcore.cli.commands"
    for name in MODULES:
        if name.startswith(f"{package}."):
            others = {imported.module for imported in imports(name) if imported.module.startswith(f"{package}.")}
            assert others <= {f"{package}.opening", f"{package}.dumping"}, name


@pytest.mark.parametrize("name", [name for name in MODULES if within(inside(name), "sources")])
def test_sources_know_nothing_of_each_other(name: str) -> None:
    kinds = {"vmcore", "live"}
    mine = kinds & set(name.split("."))
    for imported in imports(name):
        parts = imported.module.split(".")
        assert not (mine and kinds - mine & set(parts)) or not (kinds - mine) & set(parts), imported
        assert "ptrace" not in parts or mine == {"live"}, f"{name}:{imported.line} stops processes"


@pytest.mark.parametrize("name", MODULES)
def test_foreign_packages_stay_where_they_belong(name: str) -> None:
    for imported in imports(name):
        homes = ONLY_IN.get(imported.module.split(".")[0])
        assert homes is None or fits(name, homes), f"{name}:{imported.line} imports {imported.module}"


EXITING = {"kgcore.cli.main", "kgcore.system.stopping", "kgcore.system.children"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - EXITING))
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
