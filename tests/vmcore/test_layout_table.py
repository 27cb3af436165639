# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of layouts says all that kgcore relies on in kernels, and nothing else."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kgcore.cli.main import main
from kgcore.sources.vmcore.kernel.layouts import ROWS, Kind
from kgcore.sources.vmcore.kernel.machine import MACHINES
from tests.vmcore.conftest import main_dump, need, some
from tests.vmcore.lookups import Names, declared, watching

PACKAGE = Path(__file__).parent.parent.parent / "kgcore"
VMCORE = PACKAGE / "sources" / "vmcore"
TABLE = [*(VMCORE / "kernel" / "layouts").glob("*.py"), VMCORE / "kernel" / "machine" / "x86layouts.py"]
ALL_ROWS = (*ROWS, *(row for machine in MACHINES.values() for row in machine.layouts))
DECLARED = declared(ALL_ROWS)

HOW_TO_DECLARE = """
The table of layouts lacks what kgcore asked of this kernel. Add it to the row of the thing that it is for (or to a new
one), in kgcore/sources/vmcore/kernel/layouts/ (opening, tasks, cpus, memory, swap, files) or, if only x86 kernels have
it, in kgcore/sources/vmcore/kernel/machine/x86layouts.py: in a Way, if kernels of that way all have it; else in also.
"""

OF_DRGN = {"VMCOREINFO"}
"""What drgn makes up for every kernel."""

COMMITTED = ("k510-small", "k61-small", "k612-small", "k72-small", "k61-crash-small", "k61-abi-small")
BUILT = ("k510-zram", "k72-zram", "k510-zswap", "k612-zswap")
COMMANDS = (["ps", "--json"], ["info", "--json"], ["bt", "--all-threads", "--kernel-stack", "--json"], ["files"])


def run(fixture_name: str, folder: Path, capfd: Any) -> dict[str, Any]:
    """What all commands say of a dump, and the cores of processes in it: some, where their memory is large."""
    fixture = need(fixture_name)
    place = ["-c", str(fixture.dump(main_dump(fixture))), "--symbols-from", "btf"]
    pids = [str(victim.pid) for victim in fixture.victims.values()][:4]
    said: dict[str, Any] = {}
    for words in COMMANDS:
        for names in [[]] if words[0] in ("ps", "info") else [[pid] for pid in pids]:
            status = main([words[0], *place, *words[1:], *names])
            said[" ".join((*words, *names))] = status, *capfd.readouterr()
    folder.mkdir()
    which = ["--all"] if fixture.path.parent.name == "vmcore_fixtures" else pids
    status = main([*place, "--jobs", "1", "-f", "127", "-D", str(folder), *which])
    said["cores"] = status, capfd.readouterr().err.replace(str(folder), "")
    return said | {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def asked() -> Names:
    """All that the tests below have seen to be asked."""
    return Names()


@pytest.mark.parametrize("name", [*COMMITTED, *BUILT])
def test_all_that_is_asked_of_a_kernel_is_declared(name: str, asked: Names, tmp_path: Path, capfd: Any) -> None:
    with watching() as seen:
        said = run(name, tmp_path / "cores", capfd)
    assert {result[0] for result in said.values() if isinstance(result, tuple)} <= {0, 1, 3}
    assert any(file.startswith("core.") for file in said)
    assert not (lacking := seen.minus(DECLARED)), HOW_TO_DECLARE + "\n".join(lacking)
    asked.add(seen)


@pytest.mark.parametrize(
    "name", some(["k61-small", "k72-small", "k612-zram", "k510-zswap"], ["k72-small", "k510-zswap"])
)
def test_a_kernel_with_only_what_is_declared_gives_the_same(name: str, tmp_path: Path, capfd: Any) -> None:
    """What takes but the offset of a member is not seen above: without the row it would fail here."""
    whole = run(name, tmp_path / "whole", capfd)
    with watching(DECLARED):
        trimmed = run(name, tmp_path / "trimmed", capfd)
    assert {key for key in whole if whole[key] != trimmed.get(key)} == set()
    assert trimmed.keys() == whole.keys()


def test_without_a_row_something_is_lost(tmp_path: Path, capfd: Any) -> None:
    """So the two tests above do see what they should."""
    whole = run("k61-small", tmp_path / "whole", capfd)
    for lost in (("struct vm_area_struct", "anon_vma"), ("struct xa_node", "shift"), ("struct rq", "curr")):
        names = Names(DECLARED.types, DECLARED.members - {lost}, DECLARED.symbols, DECLARED.lines)
        with watching(names):
            assert run("k61-small", tmp_path / lost[1], capfd) != whole, lost


def asked_in_source(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """What code asks a kernel by literal names: (member, type), (type,) or (symbol,); none that it makes up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1] in ("prog", "_prog"):
            texts = [node.slice]
            called = "symbol"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            texts = node.args
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        else:
            continue
        words = [one.value for one in texts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        match called, words:
            case "has_member", [type_name, member]:
                yield member, type_name
            case "has_type" | "type", [type_name] if re.match(r"(struct|union|enum) \w+$|\w+_t$", type_name):
                yield (type_name,)
            case "number", [name]:
                yield (name,)
            case "symbol" | "function" | "symbol_address" | "constant" | "read_word" | "read_u64" | "read_u32", [name]:
                yield (name,)


def test_every_name_that_the_source_spells_out_is_declared() -> None:
    """Also on paths that no dump here takes, such as those of old kernels."""
    lacking = set()
    found = 0
    names = DECLARED.types | DECLARED.symbols | DECLARED.lines
    for path in VMCORE.rglob("*.py"):
        for name, *of in asked_in_source(ast.parse(path.read_text())):
            found += 1
            known = (of[0], name) in DECLARED.members if of else name in names
            if not known and f"SYMBOL({name})" not in DECLARED.lines and name not in OF_DRGN:
                lacking.add(f"{path.relative_to(VMCORE)}: {'.'.join((*of, name))}")
    assert found > 100
    assert not lacking, HOW_TO_DECLARE + "\n".join(sorted(lacking))


def source_words() -> set[str]:
    """All names in the source of kgcore's vmcore, and words in its strings: not in docstrings, nor in the table."""
    words: set[str] = set()
    for path in (*VMCORE.rglob("*.py"), *(PACKAGE / "arch").rglob("*.py")):
        if path in TABLE:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                words.update(re.findall(r"\w+", node.value))
            elif isinstance(node, ast.Attribute):
                words.add(node.attr)
    return words


def source_patterns() -> re.Pattern[str]:
    """What the source makes of pieces: ``f"i_{name}_sec"``."""
    patterns = set()
    for path in VMCORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in node.values
                ]
                if re.fullmatch(r"[\w\\+]+", "".join(parts)) and sum(len(part) for part in parts if part != r"\w+") > 1:
                    patterns.add("".join(parts))
    return re.compile("|".join(sorted(patterns)))


def test_every_name_is_used(asked: Names) -> None:
    """By kgcore's source, or by a helper of drgn's that was seen above to ask for it."""
    if not asked.types:
        pytest.skip("needs the tests above to have run")
    words, patterns = source_words(), source_patterns()
    unused = []
    for name in (name for row in ALL_ROWS for name in row.names):
        match name.kind:
            case Kind.MEMBER:
                used = set(name.member.split(".")) <= words or (name.name, name.member) in asked.members
            case Kind.LINE:
                used = set(re.findall(r"\w+", name.name)) - {"NUMBER", "SYMBOL", "OFFSET", "LENGTH", "SIZE"} <= words
            case Kind.TYPE:
                used = name.name.split()[-1] in words or name.name in asked.types
            case _:
                used = name.name in words or name.name in asked.symbols
        if not used and not patterns.fullmatch(name.member or name.name):
            unused.append(str(name))
    assert not unused, unused


def test_rows_are_told_apart() -> None:
    for machine in MACHINES.values():
        twice = [what for what, times in Counter(row.what for row in (*ROWS, *machine.layouts)).items() if times > 1]
        assert twice == []


def test_rows_say_what_is_lost() -> None:
    for row in ALL_ROWS:
        assert row.ways or row.also, row.what
        assert not (row.needed and not row.without), row.what
        for way in row.ways:
            assert way.names or way.lacks or way.how, f"{row.what}: a way that says nothing"
            assert re.match(r"\d+\.\d+|RHEL \d", way.since), f"{row.what}: {way.since}"
