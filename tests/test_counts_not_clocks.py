# SPDX-License-Identifier: LGPL-2.1-or-later
"""No test asserts how long something takes: a busy machine would make it fail. They count work (tests/counting.py)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "process_time_ns"}
# Files that look at a clock, and what for. That may end a wait which would never end, and not more.
ALLOWED = {
    "campaign/__main__.py": "how long a campaign is to run; what it took is shown",
    "campaign/trial.py": "the end of a command that hangs",
    "daemon/test_goes_on.py": "the end of a wait for a program that is not dumped",
    "ptrace/test_injection.py": "the end of a wait for a copy that does not go",
    "sources/live/test_goes_on.py": "the end of a wait for a program that is not let go",
    "victims_here.py": "the end of a wait for a victim that hangs",
    "restore/going_on.py": "the end of a wait for a program that hangs",
    "shells.py": "the end of a wait for a shell that hangs",
    "cli/test_debug.py": "the end of a wait for a debugger that hangs",
    "sources/live/test_state.py": "the clock is what is read",
    "vmcore/hostile.py": "what it took is shown",
    "vmcore/test_plugin_real.py": "the end of a wait for a prompt",
    "vmcore/test_signals.py": "a moment at which the command is still running is chosen",
    "vmcore_fixtures/make/gdbstub.py": "the end of a wait for QEMU",
    "vmcore_fixtures/make/progress.py": "what it took is shown",
    "vmcore_fixtures/make/qemu.py": "the end of a wait for a guest",
}
MODULES = sorted(TESTS.rglob("*.py"))


def clocks(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (alias.name for alias in node.names if alias.name in CLOCKS)


def test_no_clock_but_to_end_a_wait() -> None:
    users = {str(path.relative_to(TESTS)) for path in MODULES if any(clocks(ast.parse(path.read_bytes())))}
    assert users == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(TESTS)) for path in MODULES])
def test_made_up_inputs_have_no_deadline(path: Path) -> None:
    """Hypothesis gives each 200 ms, unless it is told otherwise."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef):
            calls = {ast.unparse(call.func): call for call in node.decorator_list if isinstance(call, ast.Call)}
            if "given" in calls:
                keywords = {each.arg: ast.unparse(each.value) for each in calls["settings"].keywords}
                assert keywords.get("deadline") == "None", node.name
